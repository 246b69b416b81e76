"""Chaos on memory adapters: everything that runs is killed, and backends fail, at random."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from adapters.images.memory import write_image
from adapters.types import Format
from adapters.world import World
from api.client import Client
from deployments.lab.cloudloom import Cloudloom
from flows.cloud import cloud
from tests import agreement, chaos
from tests.flows.conftest import made_folder
from tests.worlds import require_ledger_exact

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

# How far apart, on average, each kind of request comes, in seconds.
REQUESTS = {
    "compose": 2, "deploy": 1, "undeploy": 3, "power": 2, "create_volume": 3, "attach": 2,
    "detach": 3, "delete_volume": 4, "upload": 6, "convert": 2, "cancel": 2, "scrap": 8,
}  # fmt: skip
# What each step's do calls, once an attempt.
EFFECTS = {
    "carve-volume": ["storage.ensure_volume"],
    "define-vm": ["hypervisors.ensure_vm"],
    "make-disk": ["hypervisors.ensure_disk"],
    "remove-volume": ["storage.delete_volume"],
    "connect-volume": ["hypervisors.connect"],
}
MAY_REFUSE = ["storage.ensure_volume", "hypervisors.ensure_vm", "hypervisors.connect"]
MAY_FAIL = [
    *MAY_REFUSE, "hypervisors.delete_vm", "hypervisors.delete_disk", "hypervisors.disconnect",
    "hypervisors.ensure_disk", "hypervisors.set_power", "storage.delete_export", "images.convert",
    "storage.delete_volume", "storage.discard_volume", "storage.ensure_export", "images.inspect",
    "repository.publish",
]  # fmt: skip


@pytest.fixture
def served(monkeypatch) -> Iterator[Cloudloom]:
    """An installation with two pretended hosts and a pretended pool."""
    folder = made_folder()
    served = Cloudloom(
        folder / "home",
        image_tool="memory",
        lease_s="5",
        backend_timeout_s="1",
        retry_delay_s="0.1",
    )
    with chaos.torn_down(folder, served.stop):
        served.start()
        with Client(served.url, served.token) as ask:
            register(ask, folder)
        agreement.look_from_outside(served)
        agreement.watch_journal()
        yield served


def register(ask: Client, folder: Path) -> None:
    for name in ("repository", "stores-0", "stores-1"):
        (folder / name).mkdir()
    ask.post("/v1/datacenters", {"name": "main", "repository": str(folder / "repository")})
    for n in range(2):
        host = {"datacenter": "main", "name": f"host-{n}", "family": "memory", "address": "memory"}
        ask.post("/v1/hosts", host | {"datastores": [str(folder / f"stores-{n}")]})
    device = {"datacenter": "main", "name": "san", "technology": "memory", "host": "127.0.0.1"}
    ask.post("/v1/storage-devices", device)
    ask.post("/v1/storage-pools", {"storage_device": "san", "name": "p", "total_mib": 65536})
    ask.post("/v1/virtual-datacenters", {"name": "demo", "datacenter": "main", "family": "memory"})


def images(folder: Path) -> list[Path]:
    made = [folder / "foreign.vmdk", folder / "native.qcow2"]
    for image in made:
        write_image(image, Format(image.suffix[1:]), 16 * 2**20, image.name)
    return made


def in_the_world() -> agreement.Inventory:
    world = cloud.world
    stores = cloud.settings.home.parent.glob("stores-*")
    return {
        "vms": {vm: found["power"] for vm, found in world.all("vm").items()},
        "disks": {str(file) for store in stores for file in store.iterdir()},
        "volumes": {volume: found["size_mib"] for volume, found in world.all("volume").items()},
        "exports": {found["iqn"] for found in world.all("export").values()},
        "connections": {(x["vm"], x["target"]["iqn"]) for x in world.all("connection").values()},
    }


def fail_a_backend(world: World, moment: chaos.Moment) -> None:
    """Let the next calls of a method be slow, fail, or fail after their effect; some refuse."""
    fates = ["", "fails", "commits-then-fails", "refuses"]
    fate = fates[int(moment.chance("fate") * len(fates))]
    method = moment.choice(MAY_REFUSE if fate == "refuses" else MAY_FAIL)
    times = 1 if fate == "refuses" else 1 + int(moment.chance("times") * 3)
    world.set_fate(method, fate, times=times, delay_s=moment.chance("delay") * 2)


def test_whatever_dies_everything_ends_and_every_inventory_agrees(served):
    world, folder = cloud.world, served.home.parent
    shop = chaos.Shop(images(folder), most_vms=60, ram_mib=64, formats=["qcow2", "raw", "vdi"])

    deaths = chaos.of_its_own(served, {"child": 3, "worker": 15, "api": 15, "prefect": 20})
    deaths["backend"] = 0.7, lambda now: fail_a_backend(world, now)
    with chaos.named_by_its_seed(served.complaints):
        outcome = chaos.rage(
            shop,
            lambda: chaos.Customer(served.url, served.token),
            REQUESTS,
            deaths,
            chaos.seconds(30),
        )
        world.forget_fates()
        chaos.calm(agreement.at_rest)
        assert outcome.surprises == []
        agreement.assert_settled(outcome.operations)
        agreement.assert_agreement(in_the_world)
        require_ledger_exact()
        agreement.assert_nothing_repeated()
        with Client(served.url, served.token) as ask:
            agreement.assert_sweep_finds_nothing(ask)
        assert_no_call_without_an_attempt()


def assert_no_call_without_an_attempt() -> None:
    """The world was called no more often than the journal says that somebody began to."""
    with closing(sqlite3.connect(cloud.world.path)) as db:
        calls = db.execute("SELECT method, thing, COUNT(*) FROM calls GROUP BY method, thing")
        called = {(method, thing): number for method, thing, number in calls}
    wrong: Counter[tuple[str, str]] = Counter()
    for step, methods in EFFECTS.items():
        begun = agreement.attempts(step)
        for method in methods:
            for (name, thing), number in called.items():
                if name == method and number > begun.get(thing, 0):
                    wrong[method, thing] = number - begun.get(thing, 0)
    assert not wrong
