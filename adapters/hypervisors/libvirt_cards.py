"""Cards that come to a libvirt host's domains, and go, while their guests run.

A running domain has two definitions, of what runs and of its next start. Both change, and what was
done to one of them only is found, and made whole. Cards are told apart by their MACs.
"""

import xml.etree.ElementTree as ET
from functools import partial

import libvirt

from adapters.errors import InUse, Unsupported
from adapters.guests import NicKind
from adapters.hypervisors import domain_xml
from adapters.hypervisors.libvirt_nics import free_slot, slot_of, slots_of
from adapters.hypervisors.libvirt_releases import LIVE, NEXT, Releases, described, detach, views
from adapters.types import Nic, Vm


class LibvirtCards:
    """The cards of one libvirt host's VMs."""

    def __init__(self, release_s: float) -> None:
        self._releases = Releases(release_s)

    def change(self, domain: libvirt.virDomain, former: Vm, vm: Vm) -> None:
        """Take the cards away that `vm` has not, and give those that `former` had not.

        Raises `Unsupported`, and `Transient`, in the end `InUse`, while a guest keeps one.
        """
        had, has = ({nic.id: nic for nic in each.nics} for each in (former, vm))
        gone = [nic for key, nic in had.items() if key not in has]
        come = {key for key in has if key not in had}
        if any(nic.kind is NicKind.USER for nic in (*gone, *(has[key] for key in come))):
            text = f"VM {vm.id} is on: a restricted card is of QEMU's command line"
            raise Unsupported(text, code="nic-not-hot")
        for nic in gone:
            self._take(domain, nic)
        for slot, nic in zip(slots_of(vm.nics), vm.nics, strict=True):
            if nic.id in come:
                _give(domain, nic, slot)
        _mark(domain, vm)

    def has(self, domain: libvirt.virDomain, nic: Nic, *, whole: bool) -> bool:
        """Whether it has the card, now or at its next start; or, `whole`, both."""
        there = [_find(domain, nic, view) is not None for view in views(domain)]
        return all(there) if whole else any(there)

    def _take(self, domain: libvirt.virDomain, nic: Nic) -> None:
        """Take a card away, from a running guest first."""
        if domain.isActive():
            find, users = partial(_find, domain, nic, LIVE), (domain.UUIDString(),)
            kept = InUse(f"the guest keeps NIC {nic.id}", users=users, code="nic-in-use")
            self._releases.take(domain, nic.id, find, kept)
        if (device := _find(domain, nic, NEXT)) is not None:
            detach(domain, device)


def _give(domain: libvirt.virDomain, nic: Nic, wished: int) -> None:
    """Plug a card in where it is lacking: at the same slot now and at the next start."""
    there = {view: _find(domain, nic, view) for view in views(domain)}
    known = next((slot_of(each) for each in there.values() if each is not None), None)
    slot = known or free_slot([described(domain, view) for view in there], wished)
    lacking = sum(view for view, device in there.items() if device is None)
    if lacking:
        domain.attachDeviceFlags(domain_xml.card_xml(nic, slot), lacking)


def _mark(domain: libvirt.virDomain, vm: Vm) -> None:
    """Write down as what it is defined by now."""
    domain.setMetadata(
        libvirt.VIR_DOMAIN_METADATA_ELEMENT, domain_xml.mark_xml(vm), "cloudloom",
        domain_xml.NAMESPACE, sum(views(domain)),
    )  # fmt: skip


def _find(domain: libvirt.virDomain, nic: Nic, view: int) -> ET.Element | None:
    every = described(domain, view).iterfind("devices/interface")
    return next((x for x in every if _mac(x) == nic.mac), None)


def _mac(device: ET.Element) -> str | None:
    mac = device.find("mac")
    return None if mac is None else mac.get("address")
