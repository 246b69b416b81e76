"""Plans: a flow run by somebody who takes no step shows what taking them leads to."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.allocation import Pin
from adapters.amounts import Amounts
from adapters.database.operations import Operation, Request
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.plans import Outlook
from adapters.types import Format, OperationState
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.downloads import look_at, source_of
from flows.fetching import Wanted
from flows.planning import look_ahead, with_pins
from flows.unpacking import package_in
from tests.flows.scenarios import SCENARIOS, rows
from tests.worlds import World, photograph

LESS = {"capture_image", "capture_volume"}  # how large an image becomes, only making it tells
PLANNED = [name for name, each in SCENARIOS.items() if FLOWS[each.kind].planned]


def asked(world: World, kind: str, target: UUID, arguments: dict[str, Any]) -> Request:
    flow = FLOWS[kind]
    return Request(
        id=uuid4(),
        kind=kind,
        version=flow.version,
        target_kind=flow.target,
        target_id=target,
        target_name="it",
        arguments=arguments,
        enterprise_id=FIRST_ENTERPRISE,
        datacenter_id=world.datacenter,
        requested_by="tests",
        locks=((flow.target, target),),
    )


def known_of(request: Request) -> dict[str, Any]:
    """What whoever plans tells of what is not there yet."""
    sent: dict[str, Any] = {"size_mib": 1} if request.kind.startswith("import") else {}
    if request.kind == "import_from_url":
        wanted = Wanted.model_validate(request.arguments["wanted"])
        sent = look_at(source_of(wanted.source), wanted.format).foreseen
    if request.kind == "import_package":
        scratch = cloud.repository(request.datacenter_id).find_scratch(request.arguments["upload"])
        sent |= {"ova": package_in(scratch)}
    return sent


def looked(request: Request) -> Outlook:
    return look_ahead(FLOWS[request.kind].body, request, **known_of(request))


def carried_out(request: Request, outlook: Outlook) -> Operation:
    accepted = cloud.operations.accept(with_pins(request, outlook.pins))
    return FLOWS[request.kind](accepted.id)


@pytest.mark.parametrize("name", PLANNED)
def test_what_is_done_is_what_was_planned(name, world):
    scenario = SCENARIOS[name]
    request = asked(world, scenario.kind, *scenario.prepare(world))
    outlook = looked(request)
    ended = carried_out(request, outlook)
    assert ended.state is OperationState.SUCCEEDED, ended.error
    lines = cloud.journal.lines(request.id)
    planned = {f"{x.name}[{x.what}]" if x.what else x.name: x.lane for x in outlook.steps}
    assert {line.key: line.lane for line in lines} == planned
    for lane in {line.lane for line in lines}:
        in_order = [line.name for line in lines if line.lane == lane]
        assert in_order == [step.name for step in outlook.steps if step.lane == lane]
    for vm, where in outlook.placement.items():
        record = cloud.inventory.vm(vm)
        assert (record.host_id, record.datastore) == (where.host, where.directory)
    for charge in outlook.charges:
        left = [charge] if any(n for _, n in charge.amounts.items()) else []
        charged = cloud.ledger.charged([charge])
        if scenario.kind in LESS:
            assert [x.amounts.beyond(charge.amounts) for x in charged] == [Amounts()]
        else:
            assert charged == left


@pytest.mark.parametrize("name", PLANNED)
def test_planning_changes_nothing(name, world):
    scenario = SCENARIOS[name]
    request = asked(world, scenario.kind, *scenario.prepare(world))
    known = known_of(request)
    before = rows(), photograph()
    look_ahead(FLOWS[request.kind].body, request, **known)
    assert (rows(), photograph()) == before


def test_what_is_planned_again_is_the_same_and_stays_where_it_was_planned(world):
    request = asked(world, "deploy_appliance", *SCENARIOS["deploy_appliance"].prepare(world))
    shown = looked(request)
    now = looked(with_pins(request, shown.pins))
    assert now.steps == shown.steps
    assert now.pins == shown.pins
    assert (now.copies, now.charges) == (shown.copies, shown.charges)


def test_a_vm_goes_where_it_was_planned_though_another_host_is_better_by_now(world):
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    request = asked(world, "deploy_vm", vm, {})
    pins = looked(request).pins
    others = {host for host in world.hosts if host != pins[vm].host}
    for _ in range(4):  # by now the other host has the most room
        other = cloud.inventory.vms_of(world.appliance("web"))[0].id
        more = asked(world, "deploy_vm", other, {})
        where = Pin(host=pins[vm].host, datastore=pins[vm].datastore)
        accepted = cloud.operations.accept(with_pins(more, {other: where}))
        assert FLOWS["deploy_vm"](accepted.id).state is OperationState.SUCCEEDED
    anew = looked(replace_id(request))
    assert anew.pins[vm].host in others
    accepted = cloud.operations.accept(with_pins(request, pins))
    assert FLOWS["deploy_vm"](accepted.id).state is OperationState.SUCCEEDED
    assert cloud.inventory.vm(vm).host_id == pins[vm].host


def test_an_operation_whose_host_has_no_room_any_more_fails_as_outdated(world):
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    request = asked(world, "deploy_vm", vm, {})
    pins = looked(request).pins
    accepted = cloud.operations.accept(with_pins(request, pins))
    maintain(pins[vm].host)
    ended = FLOWS["deploy_vm"](accepted.id)
    assert ended.state is OperationState.FAILED
    assert ended.error
    assert ended.error["code"] == "plan-outdated"
    assert ended.error["changed"] == [f"{host_name(pins[vm].host)}: is in maintenance"]
    assert cloud.inventory.vm(vm).host_id is None


def test_a_plan_says_why_a_vm_goes_to_its_host_and_why_to_no_other(world):
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    maintain(world.hosts[1])
    where = looked(asked(world, "deploy_vm", vm, {})).placement[vm]
    assert (where.name, where.host, where.host_name) == ("db", world.hosts[0], "host-0")
    assert "room for" in where.because
    assert where.others == {"host-1": "is in maintenance"}


def test_what_several_vms_need_is_copied_once_and_what_is_there_not_at_all(world, monkeypatch):
    foreign = world.image("foreign", Format.VMDK)
    vms = cloud.inventory.vms_of(world.appliance("db", "web", template=foreign))
    arguments = {"vms": [str(vm.id) for vm in vms]}
    request = asked(world, "deploy_appliance", vms[0].appliance_id, arguments)
    source = vms[0].disks[0].image.identity.size_bytes
    outlook = looked(request)
    conversions = [x for x in outlook.copies if x.what.startswith("conversions/")]
    assert [each.size_bytes for each in conversions] == [source]
    ended = carried_out(request, outlook)
    assert ended.state is OperationState.SUCCEEDED
    more = cloud.inventory.vms_of(world.appliance("more", template=foreign))[0].id
    pins = {more: outlook.pins[vms[0].id]}
    assert looked(with_pins(asked(world, "deploy_vm", more, {}), pins)).copies == ()


def maintain(host: UUID) -> None:
    from adapters.database import models

    with cloud.database.write() as db:
        db.get_one(models.Host, host).maintenance = True


def host_name(host: UUID) -> str:
    return cloud.inventory.host(host).name


def replace_id(request: Request) -> Request:
    return request.model_copy(update={"id": uuid4()})
