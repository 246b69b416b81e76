"""What a VM's cards are plugged into: its networks, as the host that it is on has them."""

from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from adapters.guests import NicKind
from adapters.lan import MTU, Guard, Link, LinkKind
from adapters.types import Nic, Value


class Uplink(Value):
    """How a host has networks."""

    interface: str
    kind: LinkKind = LinkKind.BRIDGE
    switch: str = ""


class Plug(Value):
    """The network that a NIC is to be in, as that is by now; a restricted one is none."""

    nic: UUID
    network: UUID
    tag: int | None = None
    mtu: int = MTU
    server: UUID | None = None  # which tells the guest its address
    address: IPv4Address | None = None
    address6: IPv6Address | None = None  # that it gives itself


class NewNic(Value):
    """A NIC that a VM is to have more; without an address, the next of its network is its own."""

    id: UUID
    network: UUID
    address: IPv4Address | None = None
    model: str = ""


class Promise(Value):
    """An address that a DHCP server is to tell a card."""

    server: UUID
    network: UUID
    mac: str
    address: IPv4Address


def link_of(plug: Plug, uplink: Uplink, installation: UUID) -> Link:
    """The network as a host with this uplink has it."""
    return Link(
        network=plug.network,
        tag=plug.tag,
        uplink=uplink.interface,
        mtu=plug.mtu,
        kind=uplink.kind,
        switch=uplink.switch,
        installation=installation,
    )


def plugged(nic: Nic, link: Link) -> Nic:
    """The card in that network: of Open vSwitch a port with the network's tag."""
    is_port = link.kind is LinkKind.OVS
    where = {
        "kind": NicKind(link.kind),
        "bridge": link.switch if is_port else link.name,
        **({"tag": link.tag} if is_port and link.tag else {}),
        **({"mtu": link.mtu} if link.mtu != MTU else {}),
    }
    return nic.model_copy(update=where)


def guard_of(nic: Nic, plug: Plug, uplink: Uplink, installation: UUID) -> Guard:
    """What may be heard of the card: where addresses are ours to give, its own alone."""
    own = tuple(each for each in (plug.address, plug.address6) if each)
    addresses = own if plug.address else None
    port = {"switch": uplink.switch, "tag": plug.tag} if uplink.kind is LinkKind.OVS else {}
    return Guard(nic=nic.id, mac=nic.mac, addresses=addresses, installation=installation, **port)
