"""What a guest writes is there through a persistent template: on any host, whoever dies."""

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from adapters.database import models
from adapters.database.operations import Operation
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.hypervisors.domain_xml import serial
from adapters.images.qemu_img import QemuImg
from adapters.settings import Settings
from adapters.types import OperationState
from deployments.lab.kvm_host import KvmHost
from deployments.lab.tgtd import Tgtd
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.flows.breaking import Place, places, run_and_die
from tests.flows.test_sagas import assert_unlocked
from tests.guest import Guest
from tests.lab import real_world
from tests.lab.real_world import RealWorld

pytestmark = pytest.mark.lab

# As in test_real_sagas.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.flows.breaking"])
THEN = ["resumed", pytest.param("unwound", marks=pytest.mark.slow)]


@pytest.fixture
def world(
    tmp_path: Path, kvm_host: KvmHost, tgtd: Tgtd, appliance_image: Path
) -> Iterator[RealWorld]:
    with real_world.with_guest(tmp_path / "home", kvm_host, tgtd, appliance_image) as made:
        yield made


def persisting(world: RealWorld) -> tuple[UUID, dict[str, Any]]:
    """What is asked for to make the world's template persistent."""
    (image,) = cloud.library.images(world.template)
    template, volume = instance(world), uuid4()
    wanted = {
        "id": str(volume),
        "name": f"root-{volume}",
        "virtual_datacenter_id": str(world.vdc),
        "pool_id": str(world.pool),
        "size_mib": image.virtual_size_mib,
    }
    asked = {"template": template, "source": str(world.template), "volumes": [wanted]}
    return UUID(template["id"]), asked


def capturing(world: RealWorld, template: UUID) -> tuple[UUID, dict[str, Any]]:
    """What is asked for to make an ordinary template of a persistent one."""
    made = instance(world)
    volumes = [str(volume.id) for volume in cloud.persistent.volumes(template)]
    return UUID(made["id"]), {"template": made, "volumes": volumes, "wishes": {"ram_mib": 96}}


def instance(world: RealWorld) -> dict[str, str]:
    made = uuid4()
    return {
        "id": str(made),
        "enterprise_id": str(FIRST_ENTERPRISE),
        "datacenter_id": str(world.datacenter),
        "name": f"made-{made}",
    }


def persisted(world: RealWorld) -> UUID:
    template, asked = persisting(world)
    assert not world.run("persist_template", template, **asked).left_behind
    return template


def vm_of(world: RealWorld, template: UUID, name: str) -> UUID:
    (record,) = cloud.inventory.vms_of(world.appliance(name, template=template))
    with cloud.database.write() as db:
        db.execute(update(models.VirtualMachine).values(ram_mib=96))
    return record.id


def deploy(world: RealWorld, vm: UUID, uri: str = "") -> Guest:
    """Deploy a VM, on its only host or the one at that address, and wait until its guest is up."""
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(address=uri or world.uri))
    cloud.become(cloud.settings)  # it knew the host's address
    assert not world.run("deploy_vm", vm).left_behind
    guest = Guest(cloud.hypervisor(cloud.inventory.vm(vm).host), uri or world.uri, vm)
    guest.boot()
    return guest


def write(guest: Guest, text: str) -> None:
    command = f"mount /dev/vda /mnt; echo {text} >/mnt/told; umount /mnt; echo WRITTEN {text}"
    guest.tell(command, f"WRITTEN {text}")


def read(guest: Guest, text: str) -> str:
    return guest.tell("mount /dev/vda /mnt; cat /mnt/told; umount /mnt", text)


def in_volume(world: RealWorld, template: UUID) -> str:
    """The file on a persistent template's disk, read without any guest."""
    (volume,) = cloud.persistent.volumes(template)
    return told(world.home / "pool" / f"vol-{volume.id}.img")


def in_library(world: RealWorld, template: UUID) -> str:
    """The file on an ordinary template's disk."""
    (image,) = cloud.library.images(template)
    source, raw = cloud.repository(world.datacenter).path(image.path), world.home / "read.raw"
    convert = ["qemu-img", "convert", "-f", image.format, "-O", "raw", source, raw]
    subprocess.run(convert, check=True)
    try:
        return told(raw)
    finally:
        raw.unlink()


def told(disk: Path) -> str:
    typed = ["mtype", "-i", disk, "::/told"]
    done = subprocess.run(typed, check=False, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def die(world: RealWorld, words: Path, operation: Operation, target: Any, *arguments: Any) -> None:
    """Have a process of its own carry an operation out, and be killed."""
    child = FORKS.Process(target=target, args=(cloud.settings, operation, *arguments, words))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL, words.read_text()
    cloud.become(cloud.settings)
    cloud.operations.bury(lambda runner: runner.alive_here() is None)


def die_comparing(settings: Settings, operation: Operation, words: Path) -> None:
    """Be killed when all is copied, and nobody knows of it yet."""
    QemuImg.equals_target = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign]
    run_and_die(settings, operation, Place("offer-template", "", 0), words)


def gone_on(operation: Operation, then: str) -> Operation:
    if then == "unwound":
        cloud.operations.want(operation.id, "unwind")
    ended = FLOWS[operation.kind](operation.id)
    expected = OperationState.CANCELLED if then == "unwound" else OperationState.SUCCEEDED
    assert ended.state is expected, ended.error
    assert not ended.left_behind
    assert_unlocked()
    return ended


def steps_of(operation: Operation) -> list[Place]:
    return [place for place in places(operation) if not place.step.startswith("survey")]


def exports(world: RealWorld) -> list[str]:
    assert world.tgt is not None
    return sorted(world.tgt.targets())


def test_a_file_is_there_on_another_host_and_in_the_template_that_is_made_of_it(
    world: RealWorld, second_host: KvmHost
) -> None:
    template = persisted(world)
    vm = vm_of(world, template, "web")
    guest = deploy(world, vm)
    (volume,) = cloud.persistent.volumes(template)
    assert f"ROOT {serial(volume.id)}" in guest.lines()
    write(guest, "first")
    assert not world.run("undeploy_vm", vm).left_behind
    assert exports(world) == []
    assert in_volume(world, template) == "first"

    guest = deploy(world, vm, second_host.uri)
    assert read(guest, "first") == "first"
    write(guest, "second")
    world.run("change_power", vm, power="off", former="ON")
    made, asked = capturing(world, template)
    assert not world.run("capture_volume", made, **asked).left_behind
    assert in_library(world, made) == "second"
    assert not world.run("undeploy_vm", vm).left_behind
    assert in_volume(world, template) == "second"

    ordinary = vm_of(world, made, "copy")
    assert read(deploy(world, ordinary), "second") == "second"
    assert not world.run("undeploy_vm", ordinary).left_behind


@pytest.mark.parametrize("then", THEN)
def test_no_step_of_persisting_loses_either_copy(
    world: RealWorld, tmp_path: Path, then: str
) -> None:
    template, asked = persisting(world)
    every = steps_of(world.run("persist_template", template, **asked))
    (image,) = cloud.library.images(world.template)
    repository = cloud.repository(world.datacenter)
    for number, place in enumerate([*every, None]):
        template, asked = persisting(world)
        operation = world.accept("persist_template", template, **asked)
        how = (run_and_die, place) if place else (die_comparing,)
        die(world, tmp_path / f"words-{number}", operation, *how)
        assert repository.digest(repository.path(image.path)) == image.digest
        gone_on(operation, then)
        assert exports(world) == []
        file = world.home / "pool" / f"vol-{asked['volumes'][0]['id']}.img"
        if then == "unwound":
            assert cloud.library.template_state(template) is None
            assert not file.exists()
            continue
        same = ["qemu-img", "compare", "-f", image.format, "-F", "raw"]
        subprocess.run([*same, repository.path(image.path), file], check=True)


@pytest.mark.parametrize("then", THEN)
def test_no_step_of_capturing_loses_either_copy(
    world: RealWorld, tmp_path: Path, then: str
) -> None:
    template = persisted(world)
    vm = vm_of(world, template, "web")
    write(deploy(world, vm), "kept")
    world.run("change_power", vm, power="off", former="ON")
    its = exports(world)
    made, asked = capturing(world, template)
    every = steps_of(world.run("capture_volume", made, **asked))
    for number, place in enumerate([*every, None]):
        made, asked = capturing(world, template)
        operation = world.accept("capture_volume", made, **asked)
        how = (run_and_die, place) if place else (die_comparing,)
        die(world, tmp_path / f"words-{number}", operation, *how)
        assert in_volume(world, template) == "kept"
        late = place is not None and place.step == "lower-template"
        gone_on(operation, "resumed" if late else then)
        assert exports(world) == its
        if then == "unwound" and not late:
            assert cloud.library.template_state(made) is None
            assert not list((world.home / "repository").rglob(f"*{made}*"))
        else:
            assert in_library(world, made) == "kept"
    assert in_volume(world, template) == "kept"
    world.run("change_power", vm, power="on", former="OFF")
    guest = Guest(cloud.hypervisor(cloud.inventory.vm(vm).host), world.uri, vm)
    guest.boot()
    assert read(guest, "kept") == "kept"


@pytest.mark.slow
def test_no_step_of_its_vms_life_loses_the_file(world: RealWorld, tmp_path: Path) -> None:
    template = persisted(world)
    vm = vm_of(world, template, "web")
    write(deploy(world, vm), "kept")
    taken = steps_of(world.run("undeploy_vm", vm))
    brought = steps_of(world.run("deploy_vm", vm))
    world.run("undeploy_vm", vm)
    for kind, every in (("deploy_vm", brought), ("undeploy_vm", taken)):
        for place in every:
            if kind == "undeploy_vm":
                world.run("deploy_vm", vm)
            operation = world.accept(kind, vm)
            die(world, tmp_path / f"{kind}-{place.step}", operation, run_and_die, place)
            gone_on(operation, "resumed")
            if kind == "deploy_vm":
                world.run("undeploy_vm", vm)
            assert exports(world) == []
            assert in_volume(world, template) == "kept"
    guest = deploy(world, vm)
    assert read(guest, "kept") == "kept"
