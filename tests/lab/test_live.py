"""What is done to a VM that runs, through its flows: the real guest says that it was."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import libvirt
import pytest
from sqlalchemy import update
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import ClientConnection, connect

from adapters.database import models
from adapters.errors import Refused
from adapters.types import Format, OperationState, VmState
from api import tokens
from api.app import create_app
from deployments.lab.kvm_host import KvmHost
from deployments.lab.process import wait_for
from deployments.lab.tgtd import Tgtd
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.steps import STEPS
from tests.api.test_consoles import drain, served
from tests.guest import Guest
from tests.lab import real_world
from tests.lab.real_world import RealWorld

pytestmark = pytest.mark.lab


@pytest.fixture
def world(
    tmp_path: Path, kvm_host: KvmHost, tgtd: Tgtd, appliance_image: Path
) -> Iterator[RealWorld]:
    made = real_world.build(tmp_path / "home", kvm_host, tgtd, power_off_timeout_s=0)
    made.picture = appliance_image
    yield made
    real_world.clear(made)
    cloud.database.engine.dispose()


def booted(world: RealWorld) -> Guest:
    """A deployed VM that is ready."""
    vms = cloud.inventory.vms_of(world.appliance("db", template=world.image("os", Format.QCOW2)))
    with cloud.database.write() as db:
        db.execute(update(models.VirtualMachine).values(ram_mib=96))
    world.run("deploy_vm", vms[0].id)
    vm = cloud.inventory.vm(vms[0].id)
    guest = Guest(cloud.hypervisor(vm.host), world.uri, vm.id)
    guest.boot()
    return guest


def test_a_volume_comes_to_a_running_guest_and_goes(world):
    guest = booted(world)
    volume = world.volume("data")
    attached = world.run("attach_volume", volume, vm=str(guest.vm), position=1)
    assert guest.wait_for("PLUGGED").startswith(f"PLUGGED /dev/vdb {8 * 2048} ")
    guest.tell("echo our data >/dev/vdb; sync; echo WRITTEN $?", "WRITTEN 0")

    detached = world.run("detach_volume", volume, vm=str(guest.vm))
    assert guest.wait_for("UNPLUGGED") == "UNPLUGGED /dev/vdb"
    assert not any(each.left_behind for each in (attached, detached))
    assert_nothing_leads_to(world, volume, guest.vm)
    written = world.home / "pool" / f"vol-{volume}.img"
    assert written.read_bytes().startswith(b"our data\n")


def assert_nothing_leads_to(world: RealWorld, volume: UUID, vm: UUID) -> None:
    connection = libvirt.open(world.uri)
    domain = connection.lookupByUUID(vm.bytes)
    shown = domain.XMLDesc() + domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    secrets = connection.listSecrets()
    connection.close()
    assert "iscsi" not in shown
    assert not secrets
    assert world.tgt is not None
    assert not world.tgt.targets()
    assert cloud.inventory.volume(volume).vm_id is None


def test_what_cannot_be_attached_leaves_a_running_guest_as_it_was(world, monkeypatch):
    """Undone while the guest runs: it is asked, and lets go."""
    guest = booted(world)
    volume = world.volume("data")
    operation = world.accept("attach_volume", volume, vm=str(guest.vm), position=1)
    do = STEPS["connect-volume"].do

    def refuse(**arguments):
        do(**arguments)
        guest.wait_for("PLUGGED")
        raise Refused("broken after its effect")

    monkeypatch.setattr(STEPS["connect-volume"], "do", refuse)
    ended = FLOWS[operation.kind](operation.id)
    assert ended.state is OperationState.FAILED
    assert not ended.left_behind
    assert guest.wait_for("UNPLUGGED") == "UNPLUGGED /dev/vdb"
    assert_nothing_leads_to(world, volume, guest.vm)
    assert cloud.inventory.state(guest.vm) is VmState.ON


def test_a_guest_answers_at_its_console_and_shows_its_screen(world):
    guest = booted(world)
    headers = {"Authorization": f"Bearer {tokens.first_token(cloud.database)}"}
    with (
        served(create_app(), "on") as gateway,
        httpx.Client(headers=headers, timeout=60) as client,
    ):

        def opened(kind: str) -> ClientConnection:
            path = f"{gateway}/v1/vms/{guest.vm}/console"
            told = client.post(path, json={"kind": kind}).raise_for_status().json()
            return connect(told["url"], proxy=None, subprotocols=["binary"])

        with opened("display") as screen:
            greeting = screen.recv(timeout=30)
            assert greeting == b"RFB 003.008\n"
            screen.send(greeting)
            assert screen.recv(timeout=30)  # the kinds of authentication that it takes
        with opened("serial") as terminal:
            terminal.send(b"echo sum $((20 + 22))\n")
            heard = b""
            while b"\nsum 42\r" not in heard:
                heard += terminal.recv(timeout=30)
        with opened("serial") as again:  # it was freed
            world.run("change_power", guest.vm, power="off", former="ON")
            with pytest.raises(ConnectionClosedOK):
                drain(again)


def test_a_guest_that_is_reset_starts_anew(world):
    guest = booted(world)
    world.run("reset_vm", guest.vm)

    def starts() -> int:
        return sum(line.startswith("APPLIANCE-READY") for line in guest.lines())

    wait_for(lambda: starts() == 2, 90, "its second start", every_s=0.1)
    assert cloud.inventory.state(guest.vm) is VmState.ON
