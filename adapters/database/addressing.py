"""Networks as values, the tags that they take, and the addresses that NICs have of them.

A tag is taken with the datacenter's row locked, as placements lock it; an address with that of
its network. Who uses a tag are claims (`tag:<network>`): the last user frees it.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from adapters.database import models, vlans
from adapters.database.records import DhcpServerRecord, NetworkRecord, hostname
from adapters.database.session import Database, insert_missing, utc_now
from adapters.database.vms import parts
from adapters.errors import Conflict, NotFound
from adapters.lan import Reservation, Subnet

Choose = Callable[[Collection[int], Collection[int], str], int]
_ADDRESS = models.AddressRow
_NIC = models.NicRow
_VM = models.VirtualMachine
_COLUMNS = tuple(NetworkRecord.model_fields)


class Networks:
    """Every network there is."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.read() as db:
            self.installation = db.scalars(select(models.Installation.id)).one()

    # --- rows ---------------------------------------------------------------------------------

    def network(self, network: UUID) -> NetworkRecord:
        """A network. Raises `NotFound`."""
        return self.networks([network])[0]

    def networks(self, networks: Sequence[UUID]) -> list[NetworkRecord]:
        """These networks, in this order. Raises `NotFound`."""
        with self._database.read() as db:
            found = {row.id: network_of(row) for row in _having(db, models.Network.id, networks)}
        if missing := [each for each in networks if each not in found]:
            raise NotFound(f"no network {missing[0]}")
        return [found[each] for each in networks]

    def has(self, network: UUID) -> bool:
        """Whether there is such a row."""
        with self._database.read() as db:
            return db.get(models.Network, network) is not None

    def enter(self, network: NetworkRecord) -> None:
        """Write a new network down. Raises `Conflict` when its name or tag is taken."""
        with self._database.write() as db:
            if db.get(models.Network, network.id) is None:
                enter_network(db, network)

    def forget(self, network: UUID) -> None:
        """Remove a network's row, with the addresses that nobody has; absent is success."""
        with self._database.write() as db:
            db.execute(delete(_ADDRESS).where(_ADDRESS.network_id == network))
            db.execute(delete(models.Network).where(models.Network.id == network))

    def dhcp_server(self, server: UUID) -> DhcpServerRecord:
        """A DHCP server. Raises `NotFound`."""
        with self._database.read() as db:
            if (row := db.get(models.DhcpServer, server)) is None:
                raise NotFound(f"no DHCP server {server}")
            fields = DhcpServerRecord.model_fields
            return DhcpServerRecord(**{name: getattr(row, name) for name in fields})

    def dhcp_servers(self, datacenter: UUID | None = None) -> tuple[UUID, ...]:
        """Every DHCP server, or a datacenter's, by name."""
        query = select(models.DhcpServer.id).order_by(models.DhcpServer.name)
        if datacenter:
            query = query.filter_by(datacenter_id=datacenter)
        with self._database.read() as db:
            return tuple(db.scalars(query))

    # --- what DHCP servers are to know --------------------------------------------------------

    def of_vms(self, vms: Sequence[UUID]) -> dict[UUID, NetworkRecord]:
        """The networks that these VMs' NICs are in, by NIC."""
        with self._database.read() as db:
            nics = _having(db, _NIC.vm_id, vms)
            used = sorted({nic.network_id for nic in nics})
            networks = {row.id: network_of(row) for row in _having(db, models.Network.id, used)}
            return {nic.id: networks[nic.network_id] for nic in nics}

    def subnets(self, vms: Sequence[UUID]) -> dict[UUID, list[Subnet]]:
        """The subnets that these VMs need, by DHCP server."""
        found: dict[UUID, list[Subnet]] = {}
        every = {each.id: each for each in self.of_vms(vms).values()}
        for _, each in sorted(every.items()):
            if each.dhcp_server_id and (subnet := each.subnet(self.installation)):
                found.setdefault(each.dhcp_server_id, []).append(subnet)
        return found

    def reservations(self, vms: Sequence[UUID]) -> dict[UUID, list[Reservation]]:
        """What is to be reserved for these VMs, by DHCP server."""
        found: dict[UUID, list[Reservation]] = {}
        with self._database.read() as db:
            for some in parts(vms):
                _gather(db, _NIC.vm_id.in_(some), found)
        return found

    def content(self, server: UUID) -> tuple[list[Subnet], list[Reservation]]:
        """What a DHCP server should know: its subnets, and what VMs that have a host need."""
        found: dict[UUID, list[Reservation]] = {}
        query = select(models.Network).filter_by(dhcp_server_id=server)
        with self._database.read() as db:
            rows = [network_of(row) for row in db.scalars(query.order_by(models.Network.number))]
            mine = models.Network.dhcp_server_id == server
            _gather(db, mine & _VM.host_id.is_not(None), found)
        subnets = [each for row in rows if (each := row.subnet(self.installation))]
        return subnets, found.get(server, [])

    # --- tags ---------------------------------------------------------------------------------

    def take_tag(self, network: UUID, holder: str, host: UUID, choose: Choose) -> int | None:
        """Have a network's tag at a host while the holder needs it; None: it has none.

        Raises `Conflict` where the network's tag is none of the host's rack, and what `choose`
        raises, which is told what may be used there, what is taken, and where that is.
        """

        def taken(db: Session) -> int | None:
            where = db.get_one(models.Network, network).datacenter_id
            db.get(models.Datacenter, where, with_for_update=True)
            row = db.get_one(models.Network, network, populate_existing=True)
            if network_of(row).takes_tags:
                usable, rack = usable_tags(db, where, host)
                if row.tag is None:
                    row.tag = choose(usable, tags_taken(db, where), rack)
                if row.tag not in usable:
                    text = f"network {row.name} has VLAN {row.tag}, which is none of {rack}"
                    raise Conflict(text, code="vlan-elsewhere")
                db.execute(insert_missing(models.SharedThing), {"name": _tag(network)})
                claim = {"thing": _tag(network), "holder": holder}
                db.execute(insert_missing(models.Claim), claim)
            tag: int | None = row.tag
            return tag

        return self._database.alone(taken)

    def release_tag(self, network: UUID, holder: str) -> None:
        """Need it no more: the last holder frees it; absent is success."""

        def released(db: Session) -> None:
            if (row := db.get(models.Network, network)) is None:
                return
            db.get(models.Datacenter, row.datacenter_id, with_for_update=True)
            claim, its = models.Claim, models.Claim.thing == _tag(network)
            db.execute(delete(claim).where(its, claim.holder == holder))
            if db.scalars(select(claim.holder).where(its)).first() is None:
                thing = models.SharedThing
                db.execute(delete(thing).where(thing.name == _tag(network)))
                if network_of(row).takes_tags:
                    row.tag = None

        self._database.alone(released)

    def has_tag(self, network: UUID, holder: str) -> bool:
        """Whether this one needs the network's tag."""
        with self._database.read() as db:
            return db.get(models.Claim, (_tag(network), holder)) is not None


def usable_tags(db: Session, datacenter: UUID, host: UUID) -> tuple[set[int], str]:
    """The tags that networks of virtual datacenters may have at a host, and whose they are."""
    racks = {
        row.id: row for row in db.scalars(select(models.Rack).filter_by(datacenter_id=datacenter))
    }
    row = db.get_one(models.Host, host)
    if row.rack_id:
        rack = racks[row.rack_id]
        own = vlans.usable(rack.vlan_min, rack.vlan_max, rack.vlans_avoided)
        return own - _operators_tags(db, datacenter), f"rack {rack.name}"
    theirs = [vlans.within(each.vlan_min, each.vlan_max) for each in racks.values()]
    left = {*vlans.within(vlans.FIRST, vlans.LAST)}.difference(*theirs)
    return left - _operators_tags(db, datacenter), f"host {row.name}, which is in no rack"


def tags_taken(db: Session, datacenter: UUID) -> set[int]:
    """The tags that any network of the datacenter has."""
    table = models.Network
    query = select(table.tag).where(table.datacenter_id == datacenter, table.tag.is_not(None))
    return {*db.scalars(query)} - {None}


def network_of(row: Any) -> NetworkRecord:
    """A network's row as a value."""
    return NetworkRecord.model_validate({name: getattr(row, name) for name in _COLUMNS})


def enter_network(db: Session, network: NetworkRecord) -> None:
    """Write a new network down. Raises `Conflict` when its name or its tag is taken."""
    db.get(models.Datacenter, network.datacenter_id, with_for_update=True)
    require_new(db, network)
    values = network.model_dump(mode="json")
    keys = {
        name: getattr(network, name) for name in values if name == "id" or name.endswith("_id")
    }
    number = _number(db, network.id) if network.range else None
    db.add(models.Network(**{**values, **keys, "kind": network.kind, "number": number}))
    db.flush()


def require_new(db: Session, network: NetworkRecord) -> None:
    """Raise `Conflict` when another network has its name, or its tag."""
    table = models.Network
    others = select(table).where(table.id != network.id)
    named = others.where(table.name == network.name)
    named = named.filter_by(
        datacenter_id=network.datacenter_id, virtual_datacenter_id=network.virtual_datacenter_id
    )
    if db.scalars(named).first():
        raise Conflict(f"there is a network called {network.name}", code="name-taken")
    if network.tag is None:
        return
    tagged = others.filter_by(datacenter_id=network.datacenter_id, tag=network.tag)
    if (other := db.scalars(tagged).first()) is not None:
        is_operators = other.virtual_datacenter_id is None
        text = f"VLAN {network.tag} is of {'network ' + other.name if is_operators else 'another'}"
        raise Conflict(text, code="tag-of-external" if is_operators else "tag-taken")


def free_addresses(db: Session, nics: Iterable[UUID]) -> None:
    """NICs have their addresses no more; bought ones stay bought, others rest, or are free."""
    for some in parts([*nics]):
        rows = db.execute(
            select(_ADDRESS, models.Network)
            .join(models.Network, models.Network.id == _ADDRESS.network_id)
            .where(_ADDRESS.nic_id.in_(some))
        ).all()
        for row, network in rows:
            row.nic_id = None
            if row.virtual_datacenter_id is None:
                let_rest(db, row, network)
    db.flush()


def let_rest(db: Session, row: models.AddressRow, network: models.Network) -> None:
    """Let an address that nobody has wait for as long as its network says."""
    if network.quarantine_s:
        row.quarantined_until = db.scalar(select(utc_now(network.quarantine_s)))
    else:
        db.delete(row)


def _gather(db: Session, which: Any, found: dict[UUID, list[Reservation]]) -> None:
    """Add the reservations of which this holds to those of their servers."""
    network = models.Network
    query = (
        select(
            *(_NIC.id, _NIC.mac, _NIC.is_default, _ADDRESS.address, _VM.name),
            *(network.id.label("subnet"), network.dhcp_server_id),
        )
        .join(_ADDRESS, (_ADDRESS.nic_id == _NIC.id) & (_ADDRESS.network_id == _NIC.network_id))
        .join(network, network.id == _NIC.network_id)
        .join(_VM, _VM.id == _NIC.vm_id)
        .where(which, network.dhcp_server_id.is_not(None))
        .order_by(_VM.position, _NIC.position)
    )
    for row in db.execute(query):
        reservation = Reservation(
            id=row.id,
            subnet=row.subnet,
            mac=row.mac,
            address=IPv4Address(row.address),
            hostname=hostname(row.name).replace(".", "-"),
            is_default=row.is_default,
        )
        found.setdefault(row.dhcp_server_id, []).append(reservation)


def _operators_tags(db: Session, datacenter: UUID) -> set[int]:
    table = models.Network
    query = select(table.tag).where(
        table.datacenter_id == datacenter,
        table.virtual_datacenter_id.is_(None),
        table.tag.is_not(None),
    )
    return {*db.scalars(query)} - {None}


def _number(db: Session, network: UUID) -> int:
    """How servers know a network: a number that no other has, and not soon one that has gone."""
    number = network.int % (2**31 - 1) + 1
    while db.scalars(select(models.Network.id).filter_by(number=number)).first():
        number += 1
    return number


def _tag(network: UUID) -> str:
    return f"tag:{network}"


def _having(db: Session, column: Any, keys: Sequence[UUID]) -> list[Any]:
    found: list[Any] = []
    for some in parts(keys):
        found += db.scalars(select(column.class_).where(column.in_(some)))
    return found
