"""Whether what no row explains may be removed: rather not, where the rows may be what is wrong."""

from collections.abc import Collection


def refusal(
    *,
    removes: bool,
    lost_marks: Collection[str],
    never_heard_of: Collection[str],
    orphans: int,
    seen: int,
    max_percent: float,
) -> str:
    """Say why nothing may be removed; empty when it may."""
    if not removes:
        return "removal is off"
    if lost_marks:
        return f"the database is older than operation {min(lost_marks)}, which it does not know"
    if never_heard_of:
        return f"the database has never heard of {min(never_heard_of)}: is it an old one?"
    if orphans * 100 > max_percent * seen:
        return f"{orphans} of {seen} things would go, which is more than {max_percent:g} %"
    return ""
