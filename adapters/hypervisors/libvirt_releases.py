"""Devices that running guests are asked to release: libvirt's asking, and our waiting."""

import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from uuid import UUID

import libvirt

from adapters.errors import InUse, Transient

LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
NEXT = libvirt.VIR_DOMAIN_AFFECT_CONFIG
SHOWS = {LIVE: 0, NEXT: libvirt.VIR_DOMAIN_XML_INACTIVE}
_POLL_S = 0.05
_ATTEMPTS = 4  # a guest is waited for in so many parts, between which its operation may stop
_ASKED_ALREADY = "in the process of unplug"  # QEMU's words; libvirt has no code for it


class Releases:
    """What the guests of one host were asked to release, and since when."""

    def __init__(self, release_s: float) -> None:
        self._release_s = release_s
        self._asked: dict[tuple[UUID, UUID], float] = {}

    def take(
        self,
        domain: libvirt.virDomain,
        thing: UUID,
        find: Callable[[], ET.Element | None],
        kept: InUse,
    ) -> None:
        """Ask the guest to release the device that `find` finds, and wait until it is gone.

        Raises `Transient`, and in the end that it was `kept`.
        """
        vm = UUID(domain.UUIDString())
        key = (vm, thing)
        if (device := find()) is not None:
            first = self._asked.setdefault(key, time.monotonic())
            try:
                domain.detachDeviceAlias(alias_of(device), LIVE)
            except libvirt.libvirtError as error:
                if _ASKED_ALREADY not in str(error):
                    raise
            end = time.monotonic() + self._release_s / _ATTEMPTS
            while domain.isActive() and find() is not None:
                now = time.monotonic()
                if now > first + self._release_s:
                    self._asked.pop(key, None)  # who asks once more begins anew
                    raise kept
                if now > end:
                    raise Transient(f"VM {vm} has not released {thing} yet")
                time.sleep(_POLL_S)
        self._asked.pop(key, None)


def views(domain: libvirt.virDomain) -> tuple[int, ...]:
    """The definitions that it has: of what runs, and of its next start."""
    return (LIVE, NEXT) if domain.isActive() else (NEXT,)


def described(domain: libvirt.virDomain, view: int = NEXT) -> ET.Element:
    """One of its definitions."""
    return ET.fromstring(domain.XMLDesc(SHOWS[view]))  # noqa: S314 - libvirt's own words


def alias_of(device: ET.Element) -> str | None:
    """What a device is called while its domain runs."""
    alias = device.find("alias")
    return None if alias is None else alias.get("name")


def detach(domain: libvirt.virDomain, device: ET.Element) -> None:
    """Take a device away from what the domain starts with the next time."""
    domain.detachDeviceFlags(ET.tostring(device, encoding="unicode"), NEXT)
