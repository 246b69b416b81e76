"""Composing: a blueprint becomes the rows of an appliance, all in one transaction."""

from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Address
from typing import cast
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.database.appliances import new_mac
from adapters.database.labels import label
from adapters.database.locks import Locked
from adapters.database.persistent import require_no_templates
from adapters.database.session import utc_now
from adapters.errors import Conflict, NotFound
from adapters.packages import Hardware, WishedNic
from adapters.privileges import Privilege
from adapters.types import MOST_DISKS, TemplateState, VmState, VolumeState
from api import finding
from api.blueprint import Blueprint, PlannedVm, WantedNic, WantedVolume, planned
from api.errors import Problem
from api.networking import usable_networks
from api.permissions import require
from api.tokens import Caller
from api.user_data import kept
from flows.addresses import reserve
from flows.choose_pool import choose_pool
from flows.cloud import cloud
from flows.policies.guests import disk_bus
from flows.policies.layers import layers_of
from flows.policies.nics import nic_model


class Composer:
    """Writes one blueprint down."""

    def __init__(self, caller: Caller, blueprint: Blueprint, there: Collection[str] = ()) -> None:
        """Refuse what can be refused without writing, and choose pools for new volumes.

        `there` are VMs of the appliance that have been written down before.
        """
        self.appliance = uuid4()
        self._caller = caller
        self._blueprint = blueprint
        self._vms = planned(blueprint, there)
        layers_of(self._vms)
        with cloud.database.read() as db:
            vdc = finding.virtual_datacenter(db, caller, blueprint.virtual_datacenter)
            self._vdc, self._datacenter, self._family = vdc.id, vdc.datacenter_id, vdc.family
            for vm in self._vms:
                self._template(db, vm)
                self._tier(db, vm)
            wanted = [volume for vm in self._vms for volume in vm.volumes]
            if wanted:
                require(caller, Privilege.VAPP_ASSIGN_VOLUME)
            new = [volume for volume in wanted if self._existing(db, volume) is None]
            if new:
                require(caller, Privilege.VDC_MANAGE_STORAGE)
        self._nics: list[models.NicRow] = []
        self._picked: dict[UUID, IPv4Address] = {}
        self._pools = {volume.name: self._pool(volume) for volume in new}

    def write(self, db: Session) -> None:
        """Write the appliance, its VMs, their disks and NICs, and new volumes."""
        vdc = finding.virtual_datacenter(db, self._caller, self._vdc)
        finding.held(db, vdc, shared=True)
        appliance = models.Appliance(
            id=self.appliance,
            virtual_datacenter_id=self._vdc,
            name=self._blueprint.appliance,
            approval=self._blueprint.approval,
            wait_for=self._blueprint.wait_for,
            created_at=utc_now(),
        )
        try:
            with db.begin_nested():
                db.add(appliance)
        except IntegrityError as error:
            text = f"there is an appliance called {appliance.name}"
            raise Conflict(text, code="name-taken") from error
        label(db, appliance, self._blueprint.labels)
        self._write_vms(db, 0)

    def add(self, db: Session, appliance: models.Appliance) -> list[str]:
        """Write the VMs into an appliance whose row is locked; answers their names."""
        table = models.VirtualMachine
        columns = select(table.name, table.position, table.leaving)
        rows = db.execute(columns.where(table.appliance_id == appliance.id)).all()
        self._vms = planned(self._blueprint, [row.name for row in rows if not row.leaving])
        names = [vm.name for vm in self._vms]
        if taken := sorted({row.name for row in rows} & {*names}):
            text = f"appliance {appliance.name} has a VM called {taken[0]}"
            raise Conflict(text, code="name-taken")
        self.appliance = appliance.id
        self._write_vms(db, 1 + max((row.position for row in rows), default=-1))
        return names

    def _write_vms(self, db: Session, first: int) -> None:
        networks = usable_networks(db, self._vdc)
        self._nics, self._picked = [], {}
        for position, vm in enumerate(self._vms, first):
            self._write_vm(db, vm, position, networks)
        reserve(db, self._nics, self._vdc, self._picked)

    def _write_vm(
        self, db: Session, vm: PlannedVm, position: int, networks: dict[str, models.Network]
    ) -> None:
        template, vm_id = self._template(db, vm, writing=True), uuid4()
        expected = Hardware.model_validate(template.hardware or {})
        row = models.VirtualMachine(
            id=vm_id,
            appliance_id=self.appliance,
            template_id=template.id,
            name=vm.name,
            position=position,
            depends_on=list(vm.depends_on),
            cpu=vm.wanted.cpu or template.cpu,
            ram_mib=vm.wanted.ram_mib or template.ram_mib,
            state=VmState.NOT_ALLOCATED,
            tier_id=self._tier(db, vm),
            affinity=vm.wanted.affinity,
            anti_affinity=vm.wanted.anti_affinity,
            protected=vm.wanted.protected,
            user_data_id=kept(db, vm.wanted.user_data),
            boot=vm.wanted.boot,
            screen_id=kept(db, vm.wanted.vnc_password),
            firmware=vm.wanted.firmware or expected.firmware,
            bus=disk_bus(self._family, [vm.wanted.bus] if vm.wanted.bus else expected.buses),
            guest_system=expected.system or None,
            wait_for=vm.wanted.wait_for,
        )
        db.add(row)
        db.flush()
        if vm.wanted.labels:
            label(db, row, vm.wanted.labels)
        images = list(
            db.scalars(
                select(models.TemplateDisk)
                .where(models.TemplateDisk.template_id == template.id)
                .order_by(models.TemplateDisk.position)
            )
        )
        for image in images:
            if image.volume_id:
                self._occupy(db, template, image, vm_id)
            db.add(
                models.VmDisk(
                    id=uuid4(),
                    vm_id=vm_id,
                    position=image.position,
                    template_disk_id=image.id,
                    size_mib=image.virtual_size_mib,
                    volume_id=image.volume_id,
                )
            )
        beyond = max(1, len(images))
        if beyond + len(vm.wanted.disks) + len(vm.volumes) > MOST_DISKS:
            text = f"VM {vm.name} would have more than {MOST_DISKS} disks"
            raise Conflict(text, code="too-many-disks")
        for place, disk in enumerate(vm.wanted.disks, start=beyond):
            size_mib = disk.size_mib
            db.add(models.VmDisk(id=uuid4(), vm_id=vm_id, position=place, size_mib=size_mib))
        for index, card in enumerate(vm.wanted.cards):
            self._write_nic(db, vm, vm_id, index, networks, card, expected.nics)
        for index, volume in enumerate(vm.volumes, start=beyond + len(vm.wanted.disks)):
            self._assign(db, volume, vm_id, index)

    def _write_nic(
        self,
        db: Session,
        vm: PlannedVm,
        vm_id: UUID,
        index: int,
        networks: Mapping[str, models.Network],
        card: WantedNic,
        expected: Sequence[WishedNic],
    ) -> None:
        if card.name not in networks:
            raise NotFound(f"there is no network {card.name}", code="unknown-network")
        wished = [WishedNic(model=card.model)] if card.model else expected
        default = next((n for n, x in enumerate(vm.wanted.cards) if x.default), 0)
        nic = uuid4()
        row = models.NicRow(
            id=nic,
            vm_id=vm_id,
            network_id=networks[card.name].id,
            position=index,
            mac=new_mac(db, nic),
            model=nic_model(self._family, wished, 0 if card.model else index) or None,
            is_default=index == default,
        )
        db.add(row)
        db.flush()
        self._nics.append(row)
        if card.address:
            self._picked[nic] = card.address

    def _occupy(
        self, db: Session, template: models.Template, disk: models.TemplateDisk, vm: UUID
    ) -> None:
        """Give the VM the volume that a persistent template's disk is, unless another has it."""
        require(self._caller, Privilege.VAPP_ASSIGN_VOLUME)
        key, table = cast(UUID, disk.volume_id), models.VolumeRow
        row = finding.held(db, db.get_one(table, key))
        if held := db.get(models.Lock, row.id):
            raise Locked("volume", row.id, held.operation_id)
        if row.virtual_datacenter_id != self._vdc:
            text = f"template {template.name} is of another virtual datacenter"
            raise Conflict(text, code="elsewhere")
        if row.vm_id is not None:
            seen = finding.vms(self._caller).where(models.VirtualMachine.id == row.vm_id)
            users = [uses.User(kind="vm", id=x.id, name=x.name) for x in db.scalars(seen)]
            raise uses.in_use(template, users)
        row.vm_id, row.position, row.state = vm, disk.position, VolumeState.ATTACHED
        db.flush()

    def _assign(self, db: Session, volume: WantedVolume, vm: UUID, position: int) -> None:
        row = found = self._existing(db, volume)
        if row is None:
            row = models.VolumeRow(
                id=uuid4(),
                virtual_datacenter_id=self._vdc,
                pool_id=self._pools.get(volume.name) or self._gone(volume),
                name=volume.name,
                size_mib=volume.size_mib,
                carved=False,
            )
            db.add(row)
        row.vm_id, row.position, row.state = vm, position, VolumeState.ATTACHED
        db.flush()
        if volume.labels and found is None:
            label(db, row, volume.labels)

    def _existing(self, db: Session, volume: WantedVolume) -> models.VolumeRow | None:
        query = select(models.VolumeRow).filter_by(
            virtual_datacenter_id=self._vdc, name=volume.name
        )
        row = db.scalars(query).first()
        if row is None:
            return None
        if held := db.get(models.Lock, row.id):
            raise Locked("volume", row.id, held.operation_id)
        if row.vm_id is not None:
            raise Conflict(f"volume {row.name} is attached", code="volume-in-use")
        require_no_templates(db, row)
        if volume.size_mib not in {None, row.size_mib}:
            text = f"volume {row.name} has {row.size_mib} MiB, not {volume.size_mib}"
            raise Conflict(text, code="volume-size-differs")
        return row

    def _pool(self, volume: WantedVolume) -> UUID:
        if volume.size_mib is None:
            text = f"there is no volume {volume.name}, and no size to make one of"
            raise Problem(422, "volume-size-missing", text)
        return choose_pool(self._datacenter, volume.tier, volume.size_mib)

    def _gone(self, volume: WantedVolume) -> UUID:
        raise Conflict(f"volume {volume.name} went away", code="changed-meanwhile")

    def _template(self, db: Session, vm: PlannedVm, *, writing: bool = False) -> models.Template:
        row = finding.template(db, self._caller, vm.wanted.template, self._datacenter)
        if writing:
            row = finding.held(db, row, shared=True)  # it stays until the VM is there
        if row.state is not TemplateState.AVAILABLE:
            text = f"template {row.name} is {row.state}"
            raise Conflict(text, code="template-not-available")
        return row

    def _tier(self, db: Session, vm: PlannedVm) -> UUID | None:
        if vm.wanted.tier is None:
            return None
        within = {"datacenter_id": self._datacenter}
        return finding.shared(db, models.Tier, vm.wanted.tier, **within).id
