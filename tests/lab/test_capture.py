"""What a guest has written is there in a VM that is deployed from its captured image."""

import multiprocessing
import os
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import libvirt
import pytest
from sqlalchemy import update

from adapters.database import models
from adapters.database.operations import Operation
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.forms import Form
from adapters.settings import Settings
from adapters.types import OperationState
from deployments.lab.kvm_host import KvmHost
from deployments.lab.tgtd import Tgtd
from flows.abilities import stilling
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.flows.breaking import Place, run_and_die
from tests.guest import Guest
from tests.lab import real_world
from tests.lab.real_world import RealWorld

pytestmark = pytest.mark.lab

# As in test_real_sagas.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.flows.breaking"])
STEPS = (
    *("measure-disks", "charge-template", "enter-template", "open-stills", "copy-disk"),
    *("equip-template", "offer-template", "publish-report", "lower-template"),
)


@pytest.fixture
def world(
    tmp_path: Path, kvm_host: KvmHost, tgtd: Tgtd, appliance_image: Path
) -> Iterator[RealWorld]:
    with real_world.with_guest(tmp_path / "home", kvm_host, tgtd, appliance_image) as made:
        yield made


def deployed(world: RealWorld, template: UUID, name: str = "web") -> UUID:
    (record,) = cloud.inventory.vms_of(world.appliance(name, template=template))
    with cloud.database.write() as db:
        db.execute(update(models.VirtualMachine).values(ram_mib=96))
    world.run("deploy_vm", record.id)
    return record.id


def booted(world: RealWorld, vm: UUID, uri: str = "") -> Guest:
    guest = Guest(cloud.hypervisor(cloud.inventory.vm(vm).host), uri or world.uri, vm)
    guest.boot()
    return guest


def wanted(world: RealWorld, vm: UUID) -> dict[str, Any]:
    template = {
        "id": str(uuid4()),
        "enterprise_id": str(FIRST_ENTERPRISE),
        "datacenter_id": str(world.datacenter),
        "name": f"captured-{uuid4()}",
    }
    record = cloud.inventory.vm(vm)
    disks = [str(disk.id) for disk in (*record.local_disks, *record.volumes)]
    return {"template": template, "disks": disks, "wishes": {"cpu": 1, "ram_mib": 96}}


def captured(world: RealWorld, vm: UUID) -> UUID:
    asked = wanted(world, vm)
    assert not world.run("capture_image", vm, **asked).left_behind
    return UUID(asked["template"]["id"])


def has(world: RealWorld, template: UUID, file: str) -> str:
    """A file on the captured disk, read without any guest."""
    (image,) = cloud.library.images(template)
    repository = cloud.repository(world.datacenter)
    raw = world.home / f"{template}.raw"
    source = repository.path(image.path)
    subprocess.run(
        ["qemu-img", "convert", "-f", image.format, "-O", "raw", source, raw], check=True
    )
    told = subprocess.run(
        ["mtype", "-i", raw, f"::/{file}"], check=True, capture_output=True, text=True
    )
    raw.unlink()
    return told.stdout.strip()


def chain(world: RealWorld, vm: UUID) -> tuple[list[str], list[str]]:
    """What the VM's disks are, with how it is marked; and all files beside them."""
    connection = libvirt.open(world.uri)
    running = ET.fromstring(connection.lookupByUUID(vm.bytes).XMLDesc())
    connection.close()
    told = [*running.iterfind("metadata"), *running.iterfind("devices/disk")]
    files = sorted(path.name for path in Path(world.datastores[0]).iterdir())
    return [ET.tostring(each, encoding="unicode") for each in told], files


def write(guest: Guest, text: str) -> None:
    command = f"mount /dev/vda /mnt; echo {text} >/mnt/told; umount /mnt; echo WRITTEN {text}"
    guest.tell(command, f"WRITTEN {text}")


def test_a_file_is_in_a_vm_of_the_capture_on_another_host(
    world: RealWorld, second_host: KvmHost
) -> None:
    vm = deployed(world, world.template)
    guest = booted(world, vm)
    write(guest, "while-on")
    before = chain(world, vm)
    template = captured(world, vm)
    assert [line for line in guest.lines() if line.startswith("AGENT")] == [
        "AGENT freeze",
        "AGENT thaw",
    ]
    assert chain(world, vm) == before
    write(guest, "later")  # it goes on
    assert has(world, template, "told") == "while-on"
    world.run("change_power", vm, power="off", former="ON")
    assert has(world, captured(world, vm), "told") == "later"
    assert not world.run("undeploy_vm", vm).left_behind
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(address=second_host.uri))
    cloud.become(cloud.settings)  # it knew the host's address
    (home,) = world.datastores
    assert not list(Path(home).glob("still-*"))
    other = deployed(world, template, "other")
    told = booted(world, other, second_host.uri).tell(
        "mount /dev/vda /mnt; cat /mnt/told", "while-on"
    )
    assert told == "while-on"
    assert not world.run("undeploy_vm", other).left_behind


def test_a_persistent_vm_is_captured_off_and_on(world: RealWorld) -> None:
    vm = deployed(world, world.template)
    write(booted(world, vm), "kept")
    world.run("change_power", vm, power="off", former="ON")
    volume = {
        "id": str(uuid4()),
        "name": "boot",
        "virtual_datacenter_id": str(world.vdc),
        "pool_id": str(world.pool),
        "size_mib": 16,
    }
    world.run("persist_vm", vm, volume=volume)
    assert has(world, captured(world, vm), "told") == "kept"
    world.run("change_power", vm, power="on", former="OFF")
    write(booted(world, vm), "more")
    before = chain(world, vm)
    assert has(world, captured(world, vm), "told") == "more"
    assert chain(world, vm) == before


@pytest.mark.parametrize("then", ["resumed", "unwound"])
def test_killed_at_every_step(world: RealWorld, tmp_path: Path, then: str) -> None:
    vm = deployed(world, world.template)
    guest = booted(world, vm)
    before = chain(world, vm)
    for step in STEPS:
        write(guest, step)
        asked, words = wanted(world, vm), tmp_path / f"{step}.words"
        operation = world.accept("capture_image", vm, **asked)
        child = FORKS.Process(
            target=run_and_die, args=(cloud.settings, operation, Place(step, "", 0), words)
        )
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL, words.read_text()
        cloud.become(cloud.settings)
        cloud.operations.bury(lambda runner: runner.alive_here() is None)
        back = then == "unwound" and step != "lower-template"
        if back:
            cloud.operations.want(operation.id, "unwind")
        ended = FLOWS["capture_image"](operation.id)
        assert ended.state is (OperationState.CANCELLED if back else OperationState.SUCCEEDED)
        assert not ended.left_behind
        assert chain(world, vm) == before
        template = UUID(asked["template"]["id"])
        if back:
            assert cloud.library.template_state(template) is None
            assert not list(Path(cloud.repository(world.datacenter).root).rglob(f"*{template}*"))
        else:
            assert has(world, template, "told") == step
    write(guest, "it-goes-on")
    assert guest.lines().count("AGENT freeze") == guest.lines().count("AGENT thaw")


def test_a_guest_that_was_left_frozen_is_thawed(world: RealWorld, tmp_path: Path) -> None:
    vm = deployed(world, world.template)
    guest = booted(world, vm)
    before = chain(world, vm)
    operation = world.accept("capture_image", vm, **wanted(world, vm))
    words = tmp_path / "last-words"
    child = FORKS.Process(target=freeze_and_die, args=(cloud.settings, operation, words))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL, words.read_text()
    assert guest.lines().count("AGENT freeze") == 1
    assert "AGENT thaw" not in guest.lines()
    cloud.become(cloud.settings)
    cloud.operations.bury(lambda runner: runner.alive_here() is None)
    cloud.operations.want(operation.id, "unwind")
    ended = FLOWS["capture_image"](operation.id)
    assert (ended.state, ended.left_behind) == (OperationState.CANCELLED, False)
    guest.wait_for("AGENT thaw", 10)
    assert chain(world, vm) == before


def freeze_and_die(settings: Settings, operation: Operation, words: Path) -> None:
    """Be killed when the guest holds still, and nothing has begun."""
    libvirt.virDomain.backupBegin = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    run_and_die(settings, operation, Place("offer-template", "", 0), words)


def test_no_agent_is_told_and_does_no_harm(world: RealWorld) -> None:
    vm = deployed(world, world.template)
    guest = booted(world, vm)
    guest.tell("killall agent; echo KILLED $?", "KILLED 0")
    asked = wanted(world, vm)
    ended = world.run("capture_image", vm, **asked)
    (opened,) = [line for line in cloud.journal.lines(ended.id) if line.name == "open-stills"]
    assert opened.result["quiet"] is False
    assert not ended.left_behind


def test_libvirtd_that_dies_meanwhile_takes_the_stills_up_again(
    world: RealWorld, kvm_host: KvmHost
) -> None:
    vm = deployed(world, world.template)
    guest = booted(world, vm)
    write(guest, "before")
    before = chain(world, vm)
    record = cloud.inventory.vm(vm)
    host, disks = stilling(record.host), [record.disks[0].id]
    stills = host.open_stills(vm, disks, record.datastore)
    kvm_host.crash()
    kvm_host.start()
    assert host.has_stills(vm, disks, record.datastore)
    image = world.home / "still.qcow2"
    cloud.images.convert_still(stills, disks[0], image, Form.QCOW2, lambda _percent: None)
    host.close_stills(vm, disks, record.datastore)
    assert chain(world, vm) == before
