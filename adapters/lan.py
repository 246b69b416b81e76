"""What networks are made of, between database, DHCP servers and hosts: frozen values.

They are in the journal, as those of `adapters.types`: new fields have defaults.
"""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import count
from typing import Self
from uuid import UUID

from pydantic import Field, field_validator, model_validator

from adapters.types import Value

MAC = r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$"
LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
MTU = 1500  # what every switch can
_LINK_LOCAL = IPv6Network("fe80::/64")


class NetworkKind(StrEnum):
    """Whose a network is, and what of it is ours to give."""

    PRIVATE = "private"  # a virtual datacenter's own, with addresses
    EXTERNAL = "external"  # the operator's, for one enterprise or for all
    PUBLIC = "public"  # the operator's, whose addresses are bought
    UNMANAGED = "unmanaged"  # without addresses of ours
    RESTRICTED = "restricted"  # QEMU's own, that reaches nobody


def macs(nic: UUID) -> Iterator[str]:
    """The MACs that a NIC may have, of QEMU's range: the first that no other has is its own."""
    for attempt in count():
        word = hashlib.sha256(nic.bytes + attempt.to_bytes(4, "big")).digest()
        yield "52:54:00:" + word[:3].hex(":")


def stateless(range6: IPv6Network, mac: str) -> IPv6Address:
    """The address that a card gives itself in a range that routers announce (RFC 4291, A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    own = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return range6.network_address + int.from_bytes(own, "big")


class Route(Value):
    """Where packets to some network go."""

    to: IPv4Network
    by: IPv4Address


class Subnet(Value):
    """A network, as its DHCP server is to know it."""

    id: UUID  # the network's
    number: int = Field(ge=1, lt=2**32 - 1)  # the server's word for it; unique in an installation
    range: IPv4Network
    gateway: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()
    suffix: str = Field(default="", max_length=253, pattern=rf"^({LABEL}(\.{LABEL})*)?$")
    routes: tuple[Route, ...] = ()
    relay: IPv4Address | None = None  # whose requests are for it; else whoever has one of its own
    mtu: int = Field(default=MTU, ge=68, le=65535)
    installation: UUID

    @model_validator(mode="after")
    def _holds_its_gateway(self) -> Self:
        if self.gateway is not None and self.gateway not in self.range:
            raise ValueError(f"the gateway {self.gateway} is not in {self.range}")
        return self


class Reservation(Value):
    """The right of one card to one address."""

    id: UUID  # the NIC's
    subnet: UUID
    mac: str = Field(pattern=MAC)
    address: IPv4Address
    hostname: str = Field(default="", pattern=rf"^({LABEL})?$")
    is_default: bool = True  # whether its guest's packets leave by this subnet's gateway


class WaitFor(StrEnum):
    """What a deployment may wait for, once its guests are on."""

    LEASE = "lease"  # each has been told its addresses
    NOTHING = "nothing"  # it is done once they are on, whatever their blueprint says


class Lease(Value):
    """What a DHCP server has told a guest."""

    mac: str
    address: IPv4Address
    hostname: str = ""
    expires_at: datetime | None = None  # None: never


class LinkKind(StrEnum):
    """How a host has a network."""

    BRIDGE = "bridge"
    OVS = "ovs"
    PORT_GROUP = "port-group"
    DISTRIBUTED = "distributed"  # a port group that all hosts of a switch have in common


GUARDED = {LinkKind.BRIDGE, LinkKind.OVS}  # where cards have guards of ours


class Link(Value):
    """A network on a host, for VMs to be plugged into."""

    network: UUID
    tag: int | None = Field(default=None, ge=1, le=4094)  # None: the uplink's untagged packets
    uplink: str
    mtu: int = Field(default=MTU, ge=68, le=65535)
    kind: LinkKind = LinkKind.BRIDGE
    switch: str = ""  # an OVS bridge, a vSwitch, or a distributed one
    installation: UUID

    @property
    def name(self) -> str:
        """On every host the same, and another for every installation.

        At most 15 characters, which is what Linux has room for; of a port group it says all, as
        that has no other place to say whose it is.
        """
        if self.kind in {LinkKind.PORT_GROUP, LinkKind.DISTRIBUTED}:
            return f"cl-{self.network}.{self.installation}"
        whose = hashlib.sha256(self.installation.bytes + self.network.bytes).hexdigest()
        return f"cl{self.tag or ''}-{whose}"[: 15 if self.tag else 13]


class LinkAbilities(Value):
    """What a host can do in layer 2, of one kind of link."""

    kind: LinkKind = LinkKind.BRIDGE
    without: str = ""  # why it has no such links at all; empty: it has
    untagged_only: str = ""  # why it makes no tagged uplinks itself; empty: it does
    tags: frozenset[int] = frozenset()  # of tagged interfaces that its operator has made
    unguarded: str = ""  # why cards cannot be guarded; empty: they can
    unlasting: str = ""  # why links are gone when it has been off; empty: they are not


class Guard(Value):
    """What may be heard of one card."""

    nic: UUID
    mac: str = Field(pattern=MAC)
    addresses: tuple[IPv4Address | IPv6Address, ...] | None = None  # None: any; not ours to give
    switch: str = ""  # the OVS bridge that has its port
    tag: int | None = Field(default=None, ge=1, le=4094)  # of that port
    installation: UUID

    @field_validator("addresses")
    @classmethod
    def _in_order(
        cls, said: tuple[IPv4Address | IPv6Address, ...] | None
    ) -> tuple[IPv4Address | IPv6Address, ...] | None:
        return None if said is None else tuple(sorted(said, key=lambda x: (x.version, int(x))))

    @property
    def addresses6(self) -> tuple[IPv6Address, ...]:
        """Its IPv6 addresses, with the one that it gives itself wherever it is."""
        own = [each for each in self.addresses or () if isinstance(each, IPv6Address)]
        return (stateless(_LINK_LOCAL, self.mac), *own)

    @property
    def card(self) -> str:
        """The host's end of it."""
        return card_of(self.nic)


def card_of(nic: UUID) -> str:
    """What the host's end of a NIC is called where cards are guarded: 15 characters."""
    return f"ct{nic.hex[:13]}"
