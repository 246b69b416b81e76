"""A domain's network cards: what they are plugged into, and where they are on its PCI bus.

Each has a slot of its own, from the last one downwards: guests name cards by their places.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from adapters.errors import Unsupported
from adapters.guests import MOST_NICS, NicKind
from adapters.hypervisors.libvirt_buses import pci_slot
from adapters.lan import card_of
from adapters.types import Nic

QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_NO_VLAN = "4095"  # the tag that no VLAN has
_LAST_SLOT = 0x1F  # of the first NIC; the next ones downwards
_ADDRESS = re.compile(r"bus=pci\.0,addr=(0x[0-9a-f]+)")

_CARDS = {
    "": "virtio-net-pci",
    "pcnet32": "pcnet",
    **{name: name for name in ("e1000", "e1000e", "vmxnet3", "rtl8139")},
}

ET.register_namespace("qemu", QEMU)


def add_nics(domain: ET.Element, devices: ET.Element, nics: Sequence[Nic]) -> None:
    """Add the cards. Raises `Unsupported`."""
    slots = slots_of(nics)
    for slot, nic in zip(slots, nics, strict=True):
        if nic.kind is not NicKind.USER:
            devices.append(interface(nic, slot))
    if any(nic.kind is NicKind.USER for nic in nics):
        command = ET.SubElement(domain, f"{{{QEMU}}}commandline")
        for index, (slot, nic) in enumerate(zip(slots, nics, strict=True)):
            for word in _user_nic(nic, index, slot) if nic.kind is NicKind.USER else ():
                ET.SubElement(command, f"{{{QEMU}}}arg", value=word)


def slots_of(nics: Sequence[Nic]) -> list[int]:
    """Where each card is to be: at its place, or at the first that is free."""
    own = [nic.place for nic in nics]
    free = (n for n in range(MOST_NICS) if n not in own)
    return [_LAST_SLOT - (next(free) if place is None else place) for place in own]


def free_slot(domains: Sequence[ET.Element], wished: int) -> int:
    """The slot that is wished for, or the next of cards that is free in all of these domains."""
    taken = {slot for domain in domains for slot in _taken(domain)}
    every: list[int] = [wished, *range(_LAST_SLOT, _LAST_SLOT - MOST_NICS, -1)]
    return next(slot for slot in every if slot not in taken)


def slot_of(device: ET.Element) -> int | None:
    """Where a device of a domain is on the PCI bus, if it is there."""
    place = device.find("address[@type='pci'][@bus='0x00']")
    return None if place is None else int(place.attrib["slot"], 16)


def _taken(domain: ET.Element) -> set[int | None]:
    """The slots that devices have, those of QEMU's command line among them."""
    words = " ".join(x.attrib["value"] for x in domain.iter(f"{{{QEMU}}}arg"))
    told = (int(slot, 16) for slot in _ADDRESS.findall(words))
    return {*map(slot_of, domain.iterfind("devices/*")), *told}


def interface(nic: Nic, slot: int) -> ET.Element:
    """Describe a card in one of the host's networks. Raises `Unsupported`.

    Of Open vSwitch it is in the VLAN that its port is in, which is made before; else in none.
    """
    if nic.kind not in {NicKind.BRIDGE, NicKind.OVS}:
        raise Unsupported(f"libvirt plugs no card into a {nic.kind}")
    found = ET.Element("interface", type="bridge")
    ET.SubElement(found, "mac", address=nic.mac)
    ET.SubElement(found, "source", bridge=nic.bridge)
    if nic.kind is NicKind.OVS:
        ET.SubElement(found, "virtualport", type="openvswitch")
        nowhere = ET.SubElement(found, "vlan", trunk="yes")
        ET.SubElement(nowhere, "tag", id=_NO_VLAN)
    ET.SubElement(found, "target", dev=card_of(nic.id))
    ET.SubElement(found, "model", type=_card(nic).removesuffix("-net-pci"))
    if nic.mtu is not None:
        ET.SubElement(found, "mtu", size=str(nic.mtu))
    ET.SubElement(found, "rom", enabled="no")
    found.append(pci_slot(slot))
    return found


def _user_nic(nic: Nic, index: int, slot: int) -> tuple[str, ...]:
    """A network that reaches neither host nor outside, which libvirt has no word for: QEMU's."""
    return (
        "-netdev",
        f"user,id=user{index},restrict=on",
        "-device",
        f"{_card(nic)},netdev=user{index},mac={nic.mac},bus=pci.0,addr={slot:#x},romfile=",
    )


def _card(nic: Nic) -> str:
    """QEMU's name of a card. Raises `Unsupported`."""
    if nic.model not in _CARDS:
        raise Unsupported(f"QEMU has no card {nic.model}")
    return _CARDS[nic.model]
