"""The laws of sagas on a real libvirt host and a real iSCSI server: killed, and half-failed.

What only an ESXi host does otherwise, on a simulated vCenter, too.
"""

import multiprocessing
import signal

import pytest

from adapters.errors import Refused
from adapters.types import OperationState
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.flows.breaking import Breaker, run_and_die
from tests.flows.scenarios import SCENARIOS
from tests.flows.test_sagas import assert_unlocked, every_step, no_way_back
from tests.lab import real_world, vsphere_world

pytestmark = pytest.mark.lab

# Forked from a process that knows libvirt's modules but has no thread of it: locks that one has at
# the moment of a fork stay locked in the child.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.flows.breaking"])
REAL = ("create_iscsi_volume", "deploy_vm", "persist_vm")
# Of flows whose other steps are alike, the one that changes a host or a pool.
AT_HOSTS = {
    ("resize_vm", "define-anew"),
    ("resize_volume", "grow-volume"),
    ("persist_template", "pour-image"),
    ("capture_volume", "read-volume"),
    ("add_disk", "make-disk"),
    ("add_disk", "define-anew"),
    ("delete_disk", "remove-disk"),
    ("redefine_vm", "define-anew"),
    ("deploy_vm-seeded", "make-seed"),
    ("undeploy_vm-seeded", "remove-seed"),
}
AT_ESXI = {("attach_volume", "connect-volume"), ("detach_volume", "disconnect-volume")}
SENT = {
    ("capture_image-sent-on", "open-stills"),
    ("capture_image-sent-on", "fetch-disk"),
    ("persist_vm-sent", "fetch-disk"),
    ("persist_vm-sent", "fill-volume"),
    ("persist_vm-sent", "redefine-vm"),
}
ON_VSPHERE = ("deploy_vm", "undeploy_vm")
NOT_THERE = ("open-scratch", "convert-disk")  # its images fit
DONE_OTHERWISE = (
    "open-stills",
    "fetch-disk",
    "hold-base",
    "make-disk",
    "define-vm",
    "connect-volume",
    "switch-vm",
    "undefine-vm",
)


def are_of_interest(where: str, name: str, step: str) -> bool:
    if (name, step) in AT_HOSTS:
        return True
    if (name, step) in {("resize_vm-on", "set-size"), *SENT, *AT_ESXI}:
        return where == "vsphere"
    if where == "kvm":
        return name in REAL
    return name in ON_VSPHERE and step not in NOT_THERE


CASES = [
    pytest.param(
        where,
        *each.values,
        id=f"{where}-{each.id}",
        marks=() if where == "kvm" or each.values[1].step in DONE_OTHERWISE else pytest.mark.slow,
    )
    for each in every_step()
    for where in ("kvm", "vsphere")
    if are_of_interest(where, each.values[0], each.values[1].step)
]


@pytest.fixture
def world(request, tmp_path, tgtd):
    if request.param == "kvm":
        kvm_host = request.getfixturevalue("kvm_host")
        made = real_world.build(tmp_path / "home", kvm_host, tgtd, power_off_timeout_s=0)
        yield made
        real_world.clear(made)
    else:
        vcenter = request.getfixturevalue("vcenter")
        made = vsphere_world.build(tmp_path / "home", vcenter, tgtd, power_off_timeout_s=0)
        yield made
        vsphere_world.clear(made)
    cloud.database.engine.dispose()


@pytest.mark.parametrize(("world", "name", "place"), CASES, indirect=["world"])
def test_commits_then_fails(name, place, world, monkeypatch):
    scenario = SCENARIOS[name]
    operation = scenario.accept(world)
    before = world.photograph(scenario)
    broken = Breaker(monkeypatch, operation)

    def refuse(do, arguments):
        do(**arguments)
        raise Refused("broken after its effect")

    broken.at(place, refuse)
    ended = broken.run()
    if no_way_back(name, place):
        assert ended.state is OperationState.STUCK
        cloud.operations.resume(ended.id)
        broken.resumed()
    else:
        assert ended.state is OperationState.FAILED
        assert world.photograph(scenario) == before
    assert not cloud.operations.read(ended.id).left_behind
    assert_unlocked()


@pytest.mark.parametrize("then", ["resumed", "unwound"])
@pytest.mark.parametrize(("world", "name", "place"), CASES, indirect=["world"])
def test_killed(name, place, then, world, tmp_path):
    """A runner of its own dies by SIGKILL right after the effect."""
    words = tmp_path / "last-words"
    scenario = SCENARIOS[name]
    operation = scenario.accept(world)
    before = world.photograph(scenario)
    settings = cloud.settings
    child = FORKS.Process(target=run_and_die, args=(settings, operation, place, words))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL, words.read_text()
    cloud.become(settings)
    cloud.operations.bury(lambda runner: runner.alive_here() is None)
    if then == "unwound":
        cloud.operations.want(operation.id, "unwind")
    ended = FLOWS[operation.kind](operation.id)
    if then == "unwound" and not no_way_back(name, place):
        assert ended.state is OperationState.CANCELLED, ended.error
        assert world.photograph(scenario) == before
    else:
        assert ended.state is OperationState.SUCCEEDED, ended.error
    assert not ended.left_behind
    assert_unlocked()
