"""Copying and moving appliances between virtual datacenters: what has to fit, and what is new."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.amounts import Force
from adapters.database import models
from adapters.database.addressing import free_addresses
from adapters.database.appliances import copy_vm, copy_volume
from adapters.database.labels import label
from adapters.database.ledger import Ledger
from adapters.database.session import Joined, utc_now
from adapters.database.vms import volume_of
from adapters.errors import Conflict
from adapters.privileges import Privilege
from adapters.types import TemplateState
from api import finding
from api.dependencies import NAME_LENGTH
from api.networking import usable_networks
from api.permissions import require
from api.tokens import Caller
from flows.addresses import reserve
from flows.choose_pool import choose_pool
from flows.cloud import cloud
from flows.policies.limits import within


def destination(
    db: Session, caller: Caller, row: models.Appliance, ref: str | None
) -> models.VirtualDatacenter:
    """Where it is to be, which stays meanwhile: of the same datacenter and family.

    Raises `Conflict` otherwise.
    """
    here = db.get_one(models.VirtualDatacenter, row.virtual_datacenter_id)
    there = finding.virtual_datacenter(db, caller, ref) if ref else here
    there = finding.held(db, there, shared=True)
    if there.datacenter_id != here.datacenter_id:
        text = f"virtual datacenters {here.name} and {there.name} are in different datacenters"
        raise Conflict(text, code="other-datacenter")
    if there.family != here.family:
        text = f"virtual datacenter {there.name} is of family {there.family}, not {here.family}"
        raise Conflict(text, code="other-family")
    return there


def staying(db: Session, row: models.Appliance) -> list[models.VirtualMachine]:
    """The VMs of an appliance but those that leave it, in their order."""
    table = models.VirtualMachine
    query = select(table).where(table.appliance_id == row.id, ~table.leaving)
    return list(db.scalars(query.order_by(table.position)))


def volumes_of(db: Session, vms: Sequence[models.VirtualMachine]) -> list[models.VolumeRow]:
    """The volumes of VMs."""
    table = models.VolumeRow
    query = select(table).where(table.vm_id.in_([vm.id for vm in vms]))
    return list(db.scalars(query.order_by(table.name)))


class Copier:
    """Writes an appliance down once more, under another name or elsewhere."""

    def __init__(self, caller: Caller, appliance: UUID, name: str, where: str | None) -> None:
        """Refuse what can be refused without writing, and choose pools for new volumes."""
        self.id = uuid4()
        self._caller, self._appliance, self._name, self._where = caller, appliance, name, where
        with cloud.database.read() as db:
            row = finding.appliance(db, caller, appliance)
            datacenter = destination(db, caller, row, where).datacenter_id
            vms = staying(db, row)
            _require_no_persistent(db, vms)
            wanted = {each.id: (_tier(db, each), each.size_mib) for each in volumes_of(db, vms)}
            if wanted:
                require(caller, Privilege.VAPP_ASSIGN_VOLUME)
                require(caller, Privilege.VDC_MANAGE_STORAGE)
        self._pools = {key: choose_pool(datacenter, *each) for key, each in wanted.items()}

    def write(self, db: Session, row: models.Appliance) -> models.Appliance:
        """Write the copy of an appliance whose row is locked."""
        there = destination(db, self._caller, row, self._where)
        vms = staying(db, row)
        _require_no_persistent(db, vms)
        _require_available(db, self._caller, vms)
        networks = networks_there(db, vms, there)
        copy = models.Appliance(
            id=self.id,
            virtual_datacenter_id=there.id,
            name=self._name,
            approval=row.approval,
            wait_for=row.wait_for,
            created_at=utc_now(),
        )
        try:
            with db.begin_nested():
                db.add(copy)
        except IntegrityError as error:
            text = f"there is an appliance called {self._name}"
            raise Conflict(text, code="name-taken") from error
        label(db, copy, row.labels)
        made = {vm.id: copy_vm(db, vm, copy.id, networks) for vm in vms}
        cards = select(models.NicRow).where(models.NicRow.vm_id.in_(made.values()))
        reserve(db, in_order(db.scalars(cards)), there.id)
        for volume in volumes_of(db, vms):
            self._copy_volume(db, volume, made, there.id)
        return copy

    def _copy_volume(
        self, db: Session, volume: models.VolumeRow, made: dict[UUID, UUID], there: UUID
    ) -> None:
        pool = self._pools.get(volume.id)
        if pool is None or volume.vm_id is None:
            raise Conflict(f"volume {volume.name} is new", code="changed-meanwhile")
        name = self._name_of(db, volume, there)
        try:
            with db.begin_nested():
                copy_volume(db, volume, made[volume.vm_id], there, pool, name)
        except IntegrityError as error:
            raise Conflict(f"there is a volume called {name}", code="name-taken") from error

    def _name_of(self, db: Session, volume: models.VolumeRow, there: UUID) -> str:
        """Its own, where nobody has that; else with the new appliance's before it."""
        table = models.VolumeRow
        mine = select(table.id).where(table.virtual_datacenter_id == there)
        if db.scalar(mine.where(table.name == volume.name)) is None:
            return volume.name
        name = f"{self._name}-{volume.name}"
        if len(name) > NAME_LENGTH:
            text = f"a volume's name has at most {NAME_LENGTH} letters, unlike {name}"
            raise Conflict(text, code="name-too-long")
        return name


def move(
    db: Session,
    row: models.Appliance,
    vms: Sequence[models.VirtualMachine],
    there: models.VirtualDatacenter,
    force: Force | None,
) -> None:
    """Let an appliance, with its volumes, be in another virtual datacenter, within its limits."""
    networks = networks_there(db, vms, there)
    cards = in_order(db.scalars(_nics(vms)))
    moved = [nic for nic in cards if networks[nic.network_id] != nic.network_id]
    free_addresses(db, [nic.id for nic in moved])
    for nic in moved:
        nic.network_id = networks[nic.network_id]
    db.flush()
    reserve(db, moved, there.id)
    volumes = volumes_of(db, vms)
    try:
        with db.begin_nested():
            row.virtual_datacenter_id = there.id
            for each in volumes:
                each.virtual_datacenter_id = there.id
    except IntegrityError as error:
        text = f"virtual datacenter {there.name} has an appliance or a volume of such a name"
        raise Conflict(text, code="name-taken") from error
    ledger = Ledger(Joined(db))
    charges = ledger.of_volumes(volume_of(each) for each in volumes if each.carved)
    ledger.charge(charges, partial(within, forced=force is not None), force)


def networks_there(
    db: Session, vms: Sequence[models.VirtualMachine], there: models.VirtualDatacenter
) -> dict[UUID, UUID]:
    """For each network that VMs use, the one of the same name elsewhere. Raises `Conflict`."""
    table = models.Network
    used = {nic.network_id for nic in db.scalars(_nics(vms))}
    known = {name: row.id for name, row in usable_networks(db, there.id).items()}
    needed = {row.id: row.name for row in db.scalars(select(table).where(table.id.in_(used)))}
    if missing := sorted({*needed.values()} - {*known}):
        text = f"virtual datacenter {there.name} has no network {', '.join(missing)}"
        refusal = Conflict(text, code="networks-differ")
        refusal.details = {"networks": missing}
        raise refusal
    return {key: known[name] for key, name in needed.items()}


def in_order(nics: Iterable[models.NicRow]) -> list[models.NicRow]:
    """NICs so that the same ones get the same addresses."""
    return sorted(nics, key=lambda nic: (nic.vm_id, nic.position))


def _nics(vms: Sequence[models.VirtualMachine]) -> Any:
    return select(models.NicRow).where(models.NicRow.vm_id.in_([vm.id for vm in vms]))


def _tier(db: Session, volume: models.VolumeRow) -> str:
    pool = db.get_one(models.StoragePool, volume.pool_id)
    return db.get_one(models.Tier, pool.tier_id).name


def _require_no_persistent(db: Session, vms: Sequence[models.VirtualMachine]) -> None:
    """Raise `Conflict` for a VM with a volume for a disk: no other VM may have that."""
    table = models.VmDisk
    held = select(table.vm_id).where(
        table.vm_id.in_([vm.id for vm in vms]), table.volume_id.is_not(None)
    )
    persistent = {*db.scalars(held)}
    if names := [vm.name for vm in vms if vm.id in persistent]:
        refusal = Conflict(f"VM {names[0]} boots from a volume of its own", code="persistent-vm")
        refusal.details = {"vms": names}
        raise refusal


def _require_available(db: Session, caller: Caller, vms: Sequence[models.VirtualMachine]) -> None:
    """Raise `Conflict` for a template that no VM can be made of, or not by the caller."""
    mine = finding.templates(caller).with_only_columns(models.Template.id)
    usable = {*db.scalars(mine.where(models.Template.id.in_([vm.template_id for vm in vms])))}
    for key in sorted({vm.template_id for vm in vms}):
        row = finding.held(db, db.get_one(models.Template, key), shared=True)
        if row.state is not TemplateState.AVAILABLE:
            text = f"template {row.name} is {row.state}"
            raise Conflict(text, code="template-not-available")
        if key not in usable:
            text = f"template {row.name} is shared no more"
            raise Conflict(text, code="template-not-available")
