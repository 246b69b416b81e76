"""Addresses and tags: each NIC has one that nobody else has, for as long as it is there."""

from ipaddress import IPv4Address, IPv4Network
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update

from adapters.database import models
from adapters.database.addressing import free_addresses, network_of
from adapters.database.records import NetworkRecord
from adapters.database.session import utc_now
from adapters.errors import Conflict, OutOfSpace, Refused
from adapters.lan import NetworkKind
from flows.addresses import enter, reserve
from flows.cloud import cloud
from tests.worlds import World, build

RANGE = IPv4Network("10.0.0.0/29")


@pytest.fixture
def world(tmp_path):
    return build(tmp_path / "home")


def network(world: World, kind: NetworkKind = NetworkKind.PRIVATE, **fields) -> UUID:
    own = kind in {NetworkKind.PRIVATE, NetworkKind.RESTRICTED}
    record = NetworkRecord(
        id=uuid4(),
        name=fields.pop("name", f"net-{uuid4().hex[:6]}"),
        kind=kind,
        datacenter_id=world.datacenter,
        virtual_datacenter_id=world.vdc if own else None,
        **{"range": RANGE, "gateway": IPv4Address("10.0.0.1"), **fields},
    )
    cloud.networks.enter(record)
    return record.id


def put_into(network: UUID, *vms: UUID) -> list[UUID]:
    with cloud.database.write() as db:
        db.execute(
            update(models.NicRow).where(models.NicRow.vm_id.in_(vms)).values(network_id=network)
        )
        return [db.scalars(select(models.NicRow.id).filter_by(vm_id=vm)).one() for vm in vms]


def reserved(world: World, nics: list[UUID], **wanted: str) -> dict[UUID, str]:
    picked = {nics[int(n.removeprefix("nic"))]: IPv4Address(x) for n, x in wanted.items()}
    with cloud.database.write() as db:
        reserve(db, [db.get_one(models.NicRow, each) for each in nics], world.vdc, picked)
    return addresses()


def addresses() -> dict[UUID, str]:
    with cloud.database.read() as db:
        rows = db.scalars(select(models.AddressRow).order_by(models.AddressRow.place))
        return {row.nic_id: row.address for row in rows if row.nic_id}


def vms(world: World, count: int) -> list[UUID]:
    return [
        vm.id for vm in cloud.inventory.vms_of(world.appliance(*(f"v{n}" for n in range(count))))
    ]


def test_nics_get_what_is_picked_and_else_the_next_ones(world):
    nics = put_into(network(world, excluded=("10.0.0.3",)), *vms(world, 3))
    found = reserved(world, nics, nic1="10.0.0.2")
    assert [found[nic] for nic in nics] == ["10.0.0.4", "10.0.0.2", "10.0.0.5"]
    with cloud.database.write() as db:
        free_addresses(db, [nics[0]])
    assert {*addresses()} == {*nics[1:]}
    assert reserved(world, nics[:1])[nics[0]] == "10.0.0.4"


def test_a_range_that_is_exhausted_gives_none_of_what_is_asked(world):
    nics = put_into(network(world), *vms(world, 6))
    with pytest.raises(OutOfSpace) as refusal:
        reserved(world, nics)
    assert refusal.value.code == "range-exhausted"
    assert addresses() == {}
    assert len(reserved(world, nics[:5])) == 5


def test_addresses_that_are_taken_or_not_given_are_refused(world):
    nics = put_into(network(world), *vms(world, 2))
    reserved(world, nics[:1], nic0="10.0.0.4")
    for address, code in (("10.0.0.4", "address-taken"), ("10.0.0.1", "address-not-given")):
        with pytest.raises(Refused) as refusal:
            reserved(world, nics[1:], nic0=address)
        assert refusal.value.code == code


def test_what_has_a_quarantine_rests(world):
    key = network(world, quarantine_s=3600)
    nics = put_into(key, *vms(world, 1))
    reserved(world, nics)
    with cloud.database.write() as db:
        free_addresses(db, nics)
    assert reserved(world, nics)[nics[0]] == "10.0.0.3"
    with cloud.database.write() as db:
        free_addresses(db, nics)
        db.execute(update(models.AddressRow).values(quarantined_until=utc_now(-1)))
    assert reserved(world, nics)[nics[0]] == "10.0.0.2"


def test_of_public_ones_only_those_are_had_that_were_bought(world):
    key = network(world, NetworkKind.PUBLIC)
    nics = put_into(key, *vms(world, 2))
    with pytest.raises(Conflict) as refusal:
        reserved(world, nics)
    assert refusal.value.code == "address-not-bought"
    with cloud.database.write() as db:
        record = network_of(db.get_one(models.Network, key))
        for place in (3, 5):
            enter(db, record, place, virtual_datacenter_id=world.vdc)
    found = reserved(world, nics, nic1="10.0.0.3")
    assert [found[nic] for nic in nics] == ["10.0.0.5", "10.0.0.3"]
    with cloud.database.write() as db:
        free_addresses(db, nics)
        assert len(db.scalars(select(models.AddressRow)).all()) == 2


def test_a_network_without_addresses_has_none_to_pick(world):
    nics = put_into(
        network(world, NetworkKind.RESTRICTED, range=None, gateway=None), *vms(world, 1)
    )
    assert reserved(world, nics) == {}
    with pytest.raises(Conflict) as refusal:
        reserved(world, nics, nic0="10.0.0.4")
    assert refusal.value.code == "network-without-addresses"


def test_a_tag_is_one_networks(world):
    network(world, NetworkKind.EXTERNAL, tag=12)
    with pytest.raises(Conflict) as refusal:
        network(world, NetworkKind.EXTERNAL, tag=12)
    assert refusal.value.code == "tag-of-external"
    own = network(world)
    with cloud.database.write() as db:
        db.get_one(models.Network, own).tag = 13
    with pytest.raises(Conflict) as refusal:
        network(world, NetworkKind.EXTERNAL, tag=13)
    assert refusal.value.code == "tag-taken"
