"""Addresses: those that VMs have, and public ones, which are bought and released."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.addressing import charge_of, let_rest, network_of
from adapters.database.events import tell
from adapters.database.ledger import Ledger
from adapters.database.session import Joined
from adapters.errors import Conflict, InUse
from adapters.lan import NetworkKind
from adapters.privileges import Privilege
from api import finding, infrastructure
from api.dependencies import Caller, Once, Pages, Reference, chosen
from api.forcing import Forcing
from api.matching import Match
from api.once import Answer
from api.permissions import needs
from flows import addresses
from flows.charges import charge
from flows.cloud import cloud
from flows.policies.addressing import next_places, picked

router = APIRouter(prefix="/addresses", tags=["networks"])


class Purchase(Forcing):
    """A public address to be bought, for a virtual datacenter's VMs."""

    network: Reference = Field(examples=["internet"])
    virtual_datacenter: Reference = Field(examples=["demo"])
    address: IPv4Address | None = Field(None, description="Else the next one.")


class AddressState(StrEnum):
    """What has become of an address."""

    RESERVED = "reserved"  # a NIC has it
    BOUGHT = "bought"  # and no NIC has it
    RESTING = "resting"


class Address(BaseModel):
    """An address that is not simply free, and whose it is."""

    id: UUID
    network_id: UUID
    address: str
    state: AddressState
    nic_id: UUID | None
    mac: str | None
    vm_id: UUID | None
    virtual_datacenter_id: UUID | None = Field(description="That has bought it.")
    quarantined_until: datetime | None


@router.get("", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def list_addresses(
    caller: Caller,
    page: Pages,
    network_id: UUID | None = None,
    virtual_datacenter_id: UUID | None = None,
    nic_id: UUID | None = None,
    address: str | None = None,
) -> list[Address]:
    """List the addresses that VMs have, or that were bought."""
    query = chosen(
        finding.addresses(caller),
        network_id=network_id,
        virtual_datacenter_id=virtual_datacenter_id,
        nic_id=nic_id,
        address=address,
    )
    with cloud.database.read() as db:
        return _shown(db, page.rows(db, query, models.AddressRow, "place", "address"))


@router.get("/{address_id}", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def read_address(address_id: UUID, caller: Caller) -> Address:
    """Read an address."""
    with cloud.database.read() as db:
        return _address(db, finding.address(db, caller, address_id))


@router.post(
    "",
    status_code=201,
    responses={201: {"model": Address}},
    dependencies=[needs(Privilege.VDC_MANAGE_NETWORK)],
)
def buy_address(wish: Purchase, caller: Caller, once: Once) -> Response:
    """Buy an address of a public network: it stays the virtual datacenter's until released."""
    force = wish.by(caller)

    def act(db: Session) -> Answer:
        vdc = finding.virtual_datacenter(db, caller, wish.virtual_datacenter)
        named = finding.network(db, caller, wish.network)
        row = finding.held(db, named)
        network = network_of(row)
        if network.kind is not NetworkKind.PUBLIC:
            raise Conflict(f"network {row.name} is {row.kind}, not public", code="not-public")
        if network.datacenter_id != vdc.datacenter_id:
            text = f"network {row.name} and virtual datacenter {vdc.name} are not in one place"
            raise Conflict(text, code="other-datacenter")
        space, taken = addresses.space_of(network), addresses.taken_places(db, row.id)
        if wish.address:
            place = picked(space, taken, wish.address, row.name)
        else:
            (place,) = next_places(space, taken, 1, row.name)
        made = addresses.enter(db, network, place, virtual_datacenter_id=vdc.id)
        db.flush()
        bought = charge_of(db, "address", made.id, vdc.id)
        charge([bought], force, Ledger(Joined(db)))
        tell(db, "address.bought", made)
        return infrastructure.created("addresses", _address(db, made))

    return once.answer(act).response()


@router.delete(
    "/{address_id}", status_code=204, dependencies=[needs(Privilege.VDC_MANAGE_NETWORK)]
)
def release_address(address_id: UUID, caller: Caller, match: Match) -> None:
    """Release an address that was bought, and that no VM has."""

    def released(db: Session) -> None:
        row = finding.held(db, finding.address(db, caller, address_id))
        match.require_same(_address(db, row))
        if row.nic_id is not None:
            raise InUse(f"address {row.address} is a VM's", users=[str(row.nic_id)])
        tell(db, "address.released", row)
        row.virtual_datacenter_id = None
        let_rest(db, row, db.get_one(models.Network, row.network_id))
        db.flush()
        Ledger(Joined(db)).refund("address", [address_id])

    cloud.database.alone(released)


def _address(db: Session, row: models.AddressRow) -> Address:
    (found,) = _shown(db, [row])
    return found


def _shown(db: Session, rows: Sequence[models.AddressRow]) -> list[Address]:
    nic = models.NicRow
    query = select(nic.id, nic.mac, nic.vm_id).where(nic.id.in_([row.nic_id for row in rows]))
    nics = {key: (mac, vm) for key, mac, vm in db.execute(query)}
    found = []
    for row in rows:
        mac, vm = nics.get(row.nic_id, (None, None))
        state = AddressState.RESERVED if row.nic_id else AddressState.BOUGHT
        if not (row.nic_id or row.virtual_datacenter_id):
            state = AddressState.RESTING
        known = ("id", "network_id", "address", "nic_id", "virtual_datacenter_id")
        fields = {name: getattr(row, name) for name in (*known, "quarantined_until")}
        found.append(Address(**fields, state=state, mac=mac, vm_id=vm))
    return found
