"""Lanes: a few at a time at each host, whichever worker has the operation; one task a host."""

import threading
import time
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from adapters.database import models
from adapters.database.operations import LeaseLost
from adapters.database.places import Places
from adapters.database.runners import this_runner
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.database.session import utc_now
from adapters.errors import Transient
from adapters.types import OperationState
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.steps import STEPS


def leased(world):
    return cloud.operations.claim(world.accept("deploy_vm", uuid4()).id, this_runner())


def test_a_host_has_so_many_places_for_all_runners(world):
    first, second = leased(world), leased(world)
    assert cloud.places.take("host:1", 2, first) == 0
    assert cloud.places.take("host:1", 2, second) == 1
    assert cloud.places.take("host:1", 2, second) is None
    assert cloud.places.take("host:2", 2, second) == 0
    cloud.places.leave("host:1", 0, second)  # not its own
    assert cloud.places.take("host:1", 2, second) is None
    cloud.places.leave("host:1", 0, first)
    assert cloud.places.take("host:1", 2, second) == 0


def test_who_has_lost_its_lease_holds_no_place(world):
    silent, other = leased(world), leased(world)
    assert cloud.places.take("host:1", 1, silent) == 0
    with cloud.database.write() as db:
        late = update(models.Operation).where(models.Operation.id == silent.operation)
        db.execute(late.values(due_at=utc_now(-1)))
    assert cloud.places.take("host:1", 1, other) == 0
    with pytest.raises(LeaseLost):
        cloud.places.take("host:1", 1, silent)


def test_an_operation_that_has_ended_holds_no_place(world):
    done, other = leased(world), leased(world)
    assert cloud.places.take("host:1", 1, done) == 0
    cloud.operations.end(done, OperationState.SUCCEEDED)
    cloud.receipts.settle(done, [], None)
    assert cloud.places.take("host:1", 1, other) == 0


@pytest.mark.parametrize("vms", [4, 8])
def test_no_more_vms_at_once_than_a_host_has_places(vms, world, monkeypatch):
    """With eight, Prefect is shown a batch a host: the limit is the same."""
    together: dict[str, int] = {}
    most: dict[str, int] = {}
    counting = threading.Lock()
    step = STEPS["define-vm"]
    do = step.do

    def slowly(vm, host):
        with counting:
            together[str(host)] = together.get(str(host), 0) + 1
            most[str(host)] = max(most.get(str(host), 0), together[str(host)])
        time.sleep(0.1)
        do(vm=vm, host=host)
        with counting:
            together[str(host)] -= 1

    monkeypatch.setattr(step, "do", slowly)
    appliance = world.appliance(*[f"vm-{n}" for n in range(vms)])
    asked = [str(vm.id) for vm in cloud.inventory.vms_of(appliance)]
    operation = world.run("deploy_appliance", appliance, vms=asked)
    assert set(most.values()) == {cloud.settings.sessions_per_host}
    lines = cloud.journal.lines(operation.id)
    assert {line.host for line in lines if line.lane} == {str(host) for host in world.hosts}


def test_no_more_conversions_at_once_than_a_repository_has_places(world):
    repository = f"conversions:{world.datacenter}"
    leases = [leased(world) for _ in range(cloud.settings.conversions_per_repository)]
    taken = [cloud.places.take(repository, len(leases), lease) for lease in leases]
    assert None not in taken
    operation = world.accept("convert_image", world.template, format="vmdk")
    thread = threading.Thread(target=FLOWS["convert_image"], args=(operation.id,))
    thread.start()
    thread.join(1)
    assert thread.is_alive()
    assert cloud.journal.lines(operation.id) == []
    cloud.places.leave(repository, taken[0], leases[0])
    thread.join(90)
    assert cloud.operations.read(operation.id).state == OperationState.SUCCEEDED


def of_enterprise(world, enterprise):
    lease = leased(world)
    with cloud.database.write() as db:
        db.get_one(models.Operation, lease.operation).enterprise_id = enterprise
    return lease


def served(thing, waiting):
    """In which order those get the one place, each giving it back for the next."""
    order = []
    while len(order) < len(waiting):
        for name, (lease, ticket) in waiting.items():
            if name not in order and cloud.places.take(thing, 1, lease, ticket) is not None:
                order.append(name)
                cloud.places.leave(thing, 0, lease)
    return order


def test_enterprises_take_turns(world):
    """Who asks for many things holds up nobody who asks for one."""
    other = uuid4()
    with cloud.database.write() as db:
        db.add(models.Enterprise(id=other, name="other"))
    waiting = {}
    for name, enterprise in {
        **{f"many {n}": FIRST_ENTERPRISE for n in range(4)},
        "late 1": other,
        "late 2": other,
    }.items():
        lease = of_enterprise(world, enterprise)
        waiting[name] = lease, cloud.places.line_up("conversions:1", lease)
    expected = ["many 0", "late 1", "many 1", "late 2", "many 2", "many 3"]
    assert served("conversions:1", dict(reversed(waiting.items()))) == expected
    first, last = of_enterprise(world, other), of_enterprise(world, FIRST_ENTERPRISE)
    tickets = [cloud.places.line_up("conversions:1", each) for each in (last, first)]
    assert cloud.places.take("conversions:1", 1, first, tickets[1]) is None
    cloud.places.step_out(tickets[0])
    assert cloud.places.take("conversions:1", 1, first, tickets[1]) == 0


def test_who_has_lost_its_lease_waits_no_more(world):
    silent, other = leased(world), leased(world)
    cloud.places.line_up("conversions:1", silent)
    ticket = cloud.places.line_up("conversions:1", other)
    assert cloud.places.take("conversions:1", 1, other, ticket) is None
    with cloud.database.write() as db:
        late = update(models.Operation).where(models.Operation.id == silent.operation)
        db.execute(late.values(due_at=utc_now(-1)))
    assert cloud.places.take("conversions:1", 1, other, ticket) == 0
    cloud.places.line_up("conversions:1", other)
    with cloud.database.read() as db:
        assert len(db.scalars(select(models.Waiter)).all()) == 1


def test_an_answer_that_was_lost_holds_up_nobody(world):
    """As when the database goes while it commits: who asks once more has one ticket, one place."""
    asks_again, other = leased(world), leased(world)
    cloud.places.line_up("conversions:1", asks_again)
    ticket = cloud.places.line_up("conversions:1", asks_again)
    behind = cloud.places.line_up("conversions:1", other)
    for _ in range(2):
        assert cloud.places.take("conversions:1", 1, asks_again, ticket) == 0
    cloud.places.leave("conversions:1", 0, asks_again)
    assert cloud.places.take("conversions:1", 1, other, behind) == 0


def test_a_conversion_that_is_cancelled_while_it_waits_leaves_the_line(world):
    holder = leased(world)
    assert cloud.places.take(f"conversions:{world.datacenter}", 1, holder) == 0
    operation = world.accept("convert_image", world.template, format="vmdk")
    thread = threading.Thread(target=FLOWS["convert_image"], args=(operation.id,))
    thread.start()
    while not waiters():
        time.sleep(0.01)
    cloud.operations.want(operation.id, "cancel")
    thread.join(90)
    assert cloud.operations.read(operation.id).state == OperationState.CANCELLED
    assert waiters() == []


def waiters():
    with cloud.database.read() as db:
        return list(db.scalars(select(models.Waiter.operation_id)))


def test_a_lane_that_fails_stops_those_that_wait_for_a_place(world, monkeypatch):
    appliance = world.appliance(*[f"vm-{n}" for n in range(10)])
    asked = [str(vm.id) for vm in cloud.inventory.vms_of(appliance)]
    begun, do = [], STEPS["define-vm"].do

    def refuse(vm, host):
        begun.append(vm["name"])
        if len(begun) == 2:
            raise ValueError("no")
        time.sleep(0.1)
        do(vm=vm, host=host)

    monkeypatch.setattr(STEPS["define-vm"], "do", refuse)
    operation = world.accept("deploy_appliance", appliance, vms=asked)
    ended = FLOWS["deploy_appliance"](operation.id)
    assert (ended.state, ended.left_behind) == (OperationState.FAILED, False)
    assert len(begun) < 10
    assert not cloud.world.all("vm")


@pytest.mark.parametrize("method", ["take", "leave"])
def test_a_database_that_stumbles_over_a_place_fails_no_deployment(method, world, monkeypatch):
    whole, stumbled = getattr(Places, method), []

    def stumbling(places, *arguments):
        if len(stumbled) < 5:
            stumbled.append(arguments)
            raise Transient("a deadlock")
        return whole(places, *arguments)

    monkeypatch.setattr(Places, method, stumbling)
    appliance = world.appliance("db", "web")
    asked = [str(vm.id) for vm in cloud.inventory.vms_of(appliance)]
    world.run("deploy_appliance", appliance, vms=asked)
    assert len(stumbled) == 5
