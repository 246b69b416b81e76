"""What a flow is told of the inventory once, and keeps: a resumed run is told the same."""

from uuid import UUID

from adapters.database.records import VmRecord, VolumeRecord
from adapters.types import Connection
from flows.attach_volume import connection_of, export_for
from flows.cloud import cloud
from flows.planning import planning
from flows.steps import step


@step("survey-vm")
def survey_vm(vm: UUID) -> VmRecord:
    return cloud.inventory.vm(vm)


@survey_vm.plan
def _(vm: UUID) -> VmRecord:
    return planning().placed(cloud.inventory.vm(vm))


@step("survey-vms")
def survey_vms(target: UUID, vms: list[UUID]) -> list[VmRecord]:
    return cloud.inventory.vms(vms)


@survey_vms.plan
def _(target: UUID, vms: list[UUID]) -> list[VmRecord]:
    return [planning().placed(vm) for vm in cloud.inventory.vms(vms)]


@step("survey-volume")
def survey_volume(volume: UUID) -> VolumeRecord:
    return cloud.inventory.volume(volume)


survey_volume.plan(survey_volume.do)


@step("survey-volumes")
def survey_volumes(target: UUID, volumes: list[UUID]) -> list[VolumeRecord]:
    return [cloud.inventory.volume(volume) for volume in volumes]


survey_volumes.plan(survey_volumes.do)


@step("survey-connection")
def survey_connection(volume: VolumeRecord, vm: VmRecord) -> Connection:
    export = export_for(volume.id, vm)
    target = cloud.inventory.target(export.id)
    return connection_of(volume, vm, export.initiator, target)


survey_connection.plan(survey_connection.do)
