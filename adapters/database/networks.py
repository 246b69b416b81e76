"""The tables of networks: what they are, which addresses of them are in use, who leases them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from adapters.database.conventions import Base, table
from adapters.database.labels import Labelled
from adapters.lan import NetworkKind


class DhcpServer(Labelled, Base):
    """A DHCP server of a datacenter; `address` is its socket, URL or directory, as its kind has.

    What it wants to know who asks is a secret of its own id.
    """

    __tablename__ = "dhcp_servers"
    __table_args__ = table(UniqueConstraint("datacenter_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("datacenters.id"))
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(String(16))
    address: Mapped[str] = mapped_column(String(400))


class Network(Labelled, Base):
    """A network: a virtual datacenter's own, or the operator's, for one enterprise or for all.

    The tag of a private one is taken when it is first needed, and freed with its last user. Of the
    range, `excluded` ones are never given (`10.0.0.2`, `10.0.0.2-10.0.0.9`). `number` is how a
    server knows it, `relay` the address that its requests come from.
    """

    __tablename__ = "networks"
    __table_args__ = table(
        UniqueConstraint("virtual_datacenter_id", "name"),
        UniqueConstraint("datacenter_id", "tag"),
        UniqueConstraint("number"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True)
    virtual_datacenter_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("virtual_datacenters.id")
    )
    datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("datacenters.id"))
    enterprise_id: Mapped[UUID | None] = mapped_column(ForeignKey("enterprises.id"))
    name: Mapped[str]
    kind: Mapped[NetworkKind]
    tag: Mapped[int | None]
    range: Mapped[str | None] = mapped_column(String(64))
    gateway: Mapped[str | None] = mapped_column(String(45))
    dns: Mapped[list[str]] = mapped_column(default=list)
    suffix: Mapped[str] = mapped_column(default="")
    routes: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    excluded: Mapped[list[str]] = mapped_column(default=list)
    range6: Mapped[str | None] = mapped_column(String(64))
    mtu: Mapped[int] = mapped_column(default=1500)
    number: Mapped[int | None]
    relay: Mapped[str | None] = mapped_column(String(45))
    dhcp_server_id: Mapped[UUID | None] = mapped_column(ForeignKey("dhcp_servers.id"))
    quarantine_s: Mapped[int] = mapped_column(default=0)


class AddressRow(Base):
    """An address of a network that is not simply free: a NIC's, bought, or resting until a time.

    `place` is how far it is from the beginning of its range, by which addresses are sorted.
    """

    __tablename__ = "addresses"
    __table_args__ = table(
        UniqueConstraint("network_id", "place"), UniqueConstraint("nic_id", "network_id")
    )
    id: Mapped[UUID] = mapped_column(primary_key=True)
    network_id: Mapped[UUID] = mapped_column(ForeignKey("networks.id"))
    place: Mapped[int] = mapped_column(BigInteger)
    address: Mapped[str] = mapped_column(String(45))
    nic_id: Mapped[UUID | None] = mapped_column(ForeignKey("nics.id"))
    virtual_datacenter_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("virtual_datacenters.id"), index=True
    )
    quarantined_until: Mapped[datetime | None]

    @property
    def name(self) -> str:
        """What it is called: itself."""
        return self.address
