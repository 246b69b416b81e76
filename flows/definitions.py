"""A VM that is off is defined anew where its hypervisor is to know it otherwise."""

from uuid import UUID

from adapters.database.records import VmRecord
from adapters.errors import Conflict
from adapters.types import Connection, Vm
from flows.cloud import cloud
from flows.screens import opens
from flows.steps import step
from flows.survey import survey_connection


def redefine(former: VmRecord, now: VmRecord) -> None:
    """Define a VM as it is to be now, its volumes as they were."""
    connections = [survey_connection(each, former) for each in former.volumes]
    define_anew(former.definition(), now.definition(), connections, former.host)


@step("define-anew")
def define_anew(former: Vm, vm: Vm, connections: list[Connection], host: UUID) -> None:
    write_definition(vm, connections, host)


@define_anew.undo
def _(former: Vm, vm: Vm, connections: list[Connection], host: UUID) -> None:
    if not is_defined(former, connections, host):
        write_definition(former, connections, host)


@define_anew.look
def _(former: Vm, vm: Vm, connections: list[Connection], host: UUID) -> bool:
    return is_defined(vm, connections, host)


def write_definition(vm: Vm, connections: list[Connection], host: UUID) -> None:
    """Let a VM that is off be defined so, with these volumes and no others."""
    hypervisor = cloud.hypervisor(host)
    hypervisor.delete_vm(vm.id)
    hypervisor.ensure_vm(vm, opens(vm))
    for each in connections:
        hypervisor.connect(each, cloud.secrets.read(each.export))


def is_defined(vm: Vm, connections: list[Connection], host: UUID) -> bool:
    """Whether it is defined so, with at least these volumes."""
    hypervisor = cloud.hypervisor(host)
    try:
        return hypervisor.has_vm(vm) and all(map(hypervisor.has_connection, connections))
    except Conflict:  # it is defined otherwise
        return False
