"""A domain's network cards: what they are plugged into, and where they are on its PCI bus.

Each has a slot of its own, from the last one downwards: guests name cards by their places.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from adapters.errors import Unsupported
from adapters.guests import NicKind
from adapters.hypervisors.libvirt_buses import pci_slot
from adapters.lan import card_of
from adapters.types import Nic

QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_NO_VLAN = "4095"  # the tag that no VLAN has
_LAST_SLOT = 0x1F  # of the first NIC; the next ones downwards

_CARDS = {
    "": "virtio-net-pci",
    "pcnet32": "pcnet",
    **{name: name for name in ("e1000", "e1000e", "vmxnet3", "rtl8139")},
}

ET.register_namespace("qemu", QEMU)


def add_nics(domain: ET.Element, devices: ET.Element, nics: Sequence[Nic]) -> None:
    """Add the cards. Raises `Unsupported`."""
    for index, nic in enumerate(nics):
        if nic.kind is not NicKind.USER:
            devices.append(interface(nic, index))
    restricted = [(index, nic) for index, nic in enumerate(nics) if nic.kind is NicKind.USER]
    if restricted:
        command = ET.SubElement(domain, f"{{{QEMU}}}commandline")
        for index, nic in restricted:
            for word in _user_nic(nic, index):
                ET.SubElement(command, f"{{{QEMU}}}arg", value=word)


def interface(nic: Nic, index: int) -> ET.Element:
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
    found.append(pci_slot(_LAST_SLOT - index))
    return found


def _user_nic(nic: Nic, index: int) -> tuple[str, ...]:
    """A network that reaches neither host nor outside, which libvirt has no word for: QEMU's."""
    slot = f"{_LAST_SLOT - index:#x}"
    return (
        "-netdev",
        f"user,id=user{index},restrict=on",
        "-device",
        f"{_card(nic)},netdev=user{index},mac={nic.mac},bus=pci.0,addr={slot},romfile=",
    )


def _card(nic: Nic) -> str:
    """QEMU's name of a card. Raises `Unsupported`."""
    if nic.model not in _CARDS:
        raise Unsupported(f"QEMU has no card {nic.model}")
    return _CARDS[nic.model]
