"""Networks as DHCP servers are to know them: subnets, and the addresses of NICs."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.addressing import network_of
from adapters.database.records import DhcpRecord, NetworkRecord, VmRecord, hostname
from adapters.database.session import Database
from adapters.database.vms import parts, rows_having, whole_vms
from adapters.errors import NotFound
from adapters.lan import Reservation, Subnet

_NIC, _VM, _ADDRESS, _NETWORK = (
    models.NicRow,
    models.VirtualMachine,
    models.AddressRow,
    models.Network,
)
Known = tuple[list[Subnet], list[Reservation]]


class Lans:
    """What the platform knows of addresses, and of who is in networks."""

    def __init__(self, database: Database, installation: UUID) -> None:
        self._database = database
        self._installation = installation

    def server(self, server: UUID) -> DhcpRecord:
        """A DHCP server. Raises `NotFound`."""
        with self._database.read() as db:
            if (row := db.get(models.DhcpServer, server)) is None:
                raise NotFound(f"no DHCP server {server}")
            return DhcpRecord(**{name: getattr(row, name) for name in DhcpRecord.model_fields})

    def servers(self, datacenter: UUID) -> list[DhcpRecord]:
        """A datacenter's DHCP servers, by name."""
        table = models.DhcpServer
        query = select(table).filter_by(datacenter_id=datacenter).order_by(table.name)
        with self._database.read() as db:
            return [
                DhcpRecord(**{name: getattr(row, name) for name in DhcpRecord.model_fields})
                for row in db.scalars(query)
            ]

    def of_vms(self, server: UUID, vms: Sequence[UUID]) -> Known:
        """What a server is to know for these VMs; for those that are gone nothing."""
        rows: list[Any] = []
        with self._database.read() as db:
            for some in parts(vms):
                rows += db.execute(_cards(server).where(_VM.id.in_(some)))
            return self._known(db, rows)

    def of_server(self, server: UUID) -> Known:
        """What a server is to know for all VMs that have a host."""
        with self._database.read() as db:
            return self._known(db, db.execute(_cards(server).where(_VM.host_id.is_not(None))))

    def idle_at(self, host: UUID) -> list[VmRecord]:
        """The VMs that have a host which no operation has, nor their appliance."""
        held = select(models.Lock.object_id)
        idle = _VM.id.not_in(held) & _VM.appliance_id.not_in(held)
        with self._database.read() as db:
            return whole_vms(db, (_VM.host_id == host) & idle, self._installation)

    def under_way(self, nics: Iterable[UUID]) -> set[UUID]:
        """Those of these NICs whose VM, or its appliance, an operation has."""
        owners = select(_NIC.id, _VM.id, _VM.appliance_id).join(_VM, _VM.id == _NIC.vm_id)
        held = select(models.Lock.object_id)
        found: set[UUID] = set()
        with self._database.read() as db:
            for some in parts([*nics]):
                taken = _VM.id.in_(held) | _VM.appliance_id.in_(held)
                found.update(row[0] for row in db.execute(owners.where(_NIC.id.in_(some), taken)))
        return found

    def _known(self, db: Session, rows: Iterable[Any]) -> Known:
        found = [*rows]
        wanted = [*{row.network_id for row in found}]
        networks = [network_of(row) for row in rows_having(db, _NETWORK.id, wanted)]
        sites = rows_having(db, models.Datacenter.id, [*{x.datacenter_id for x in networks}])
        relays = {row.id: row.relays for row in sites}
        subnets = [
            subnet for x in networks if (subnet := self._subnet(x, relays[x.datacenter_id]))
        ]
        served = {subnet.id for subnet in subnets}
        reservations = [_reservation(row) for row in found if row.network_id in served]
        return sorted(subnets, key=lambda each: each.number), reservations

    def _subnet(self, network: NetworkRecord, relays: str | None) -> Subnet | None:
        if network.range is None or network.number is None:
            return None
        relay = network.relay
        if relay is None and relays and network.tag:
            relay = IPv4Network(relays).network_address + network.tag
        said = ("id", "number", "range", "gateway", "dns", "suffix", "routes", "mtu")
        values = {name: getattr(network, name) for name in said}
        return Subnet(**values, relay=relay, installation=self._installation)


def _cards(server: UUID) -> Select[Any]:
    return (
        select(
            *(_NIC.id, _NIC.mac, _NIC.network_id, _NIC.is_default),
            *(_ADDRESS.address, _VM.name),
        )
        .join(_VM, _VM.id == _NIC.vm_id)
        .join(_NETWORK, _NETWORK.id == _NIC.network_id)
        .join(_ADDRESS, _ADDRESS.nic_id == _NIC.id)
        .where(_NETWORK.dhcp_server_id == server)
        .order_by(_NIC.id)
    )


def _label(name: str) -> str:
    """A VM's name as one word of a DNS name."""
    return hostname(name).replace(".", "-")[:63].strip("-")


def _reservation(row: Any) -> Reservation:
    return Reservation(
        id=row.id,
        subnet=row.network_id,
        mac=row.mac,
        address=IPv4Address(row.address),
        hostname=_label(row.name),
        is_default=row.is_default,
    )
