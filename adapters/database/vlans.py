"""VLAN ids as racks have them: a range, but for those avoided, such as `100` and `200-210`."""

from collections.abc import Iterable

from adapters.errors import Refused

FIRST, LAST = 2, 4094


def usable(least: int, most: int, avoided: Iterable[str]) -> set[int]:
    """The ids of a range that are not avoided. Raises `Refused` on what is no range."""
    return {*range(least, most + 1)}.difference(*map(ids, avoided))


def ids(text: str) -> range:
    """`100` or `200-210`, in either order, as ids. Raises `Refused`."""
    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise Refused(f"{text!r} is no VLAN id, nor a range of them", code="invalid-vlans")
    return within(*sorted((int(first), int(last or first))))


def within(least: int, most: int) -> range:
    """A range of ids. Raises `Refused` when it is none."""
    if not FIRST <= least <= most <= LAST:
        text = f"VLANs {least}-{most} are no range within {FIRST}-{LAST}"
        raise Refused(text, code="invalid-vlans")
    return range(least, most + 1)
