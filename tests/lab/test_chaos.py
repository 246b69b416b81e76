"""Chaos on the lab: real guests and targets, MariaDB; and whatever there is dies, at random."""

import subprocess
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt
import psutil
import pytest
from sqlalchemy import select

from adapters.database import models
from adapters.storage.tgt import Tgt
from adapters.types import Power
from api.client import Client
from deployments.lab.cloudloom import Cloudloom
from deployments.lab.kvm_host import KvmHost
from deployments.lab.mariadb import MariaDb
from deployments.lab.tgtd import Tgtd
from flows.cloud import cloud
from tests import agreement, chaos

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(1800)]

# How far apart, on average, each kind of request and of death comes, in seconds.
REQUESTS = {
    "compose": 12, "deploy": 6, "undeploy": 12, "power": 10, "create_volume": 12, "attach": 8,
    "detach": 9, "delete_volume": 15, "upload": 40, "convert": 10, "cancel": 10, "scrap": 40,
}  # fmt: skip
OURS = {"child": 12, "worker": 40, "api": 45, "prefect": 60}
AWAY_S = 20.0
STATES = {
    libvirt.VIR_DOMAIN_RUNNING: Power.ON,
    libvirt.VIR_DOMAIN_SHUTOFF: Power.OFF,
    libvirt.VIR_DOMAIN_PAUSED: Power.PAUSED,
}


@dataclass
class Lab:
    """An installation and what is real around it."""

    folder: Path
    kvm: KvmHost
    tgtd: Tgtd
    mariadb: MariaDb
    served: Cloudloom

    def inventory(self) -> agreement.Inventory:
        """What libvirt, tgt and the directories say, asked without our adapters."""
        connection = libvirt.open(self.kvm.uri)
        domains = connection.listAllDomains()
        vms = {each.UUIDString(): STATES[each.state()[0]] for each in domains}
        disks = {(x.UUIDString(), iqn) for x in domains for iqn in targets_of(x)}
        assert len(connection.listSecrets()) == len(disks)
        connection.close()
        tgt = Tgt(self.tgtd.control, "127.0.0.1", self.tgtd.port)
        files = list((self.folder / "pool").iterdir())
        volumes = [each for each in files if each.suffix == ".img"]
        assert set(files) == {*volumes, *(each.with_suffix(".json") for each in volumes)}
        return {
            "vms": vms,
            "disks": {str(each) for each in (self.folder / "datastore").iterdir()},
            "volumes": {x.stem.removeprefix("vol-"): x.stat().st_size // 2**20 for x in volumes},
            "exports": set(tgt.targets()),
            "connections": disks,
        }


def targets_of(domain: libvirt.virDomain) -> set[str]:
    """The targets that a domain uses: as it runs, and as it will start."""

    def used(flags: int) -> set[str]:
        sources = ET.fromstring(domain.XMLDesc(flags)).iterfind(".//disk/source[@protocol]")
        return {source.get("name", "").partition("/")[0] for source in sources}

    kept = used(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert used(0) == kept
    return kept


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    kvm, tgtd, mariadb = KvmHost(tmp_path / "k"), Tgtd(tmp_path / "t"), MariaDb(tmp_path / "m")
    with chaos.torn_down(tmp_path, mariadb.stop, tgtd.stop, kvm.stop):
        tgtd.start()
        kvm.start()
        served = Cloudloom(
            tmp_path / "home",
            database_url=mariadb.start(),
            lease_s="8",
            backend_timeout_s="5",
            power_off_timeout_s="5",
            retry_delay_s="0.5",
        )
        with chaos.torn_down(served.home, served.stop):
            served.start()
            made = Lab(tmp_path, kvm, tgtd, mariadb, served)
            with Client(served.url, served.token) as ask:
                register(ask, made)
            agreement.look_from_outside(served)
            agreement.watch_journal()
            yield made
            cloud.database.engine.dispose()


def register(ask: Client, lab: Lab) -> None:
    for name in ("repository", "datastore", "pool"):
        (lab.folder / name).mkdir()
    ask.post("/v1/datacenters", {"name": "main", "repository": str(lab.folder / "repository")})
    host = {"datacenter": "main", "name": "host-1", "family": "kvm", "address": lab.kvm.uri}
    ask.post("/v1/hosts", host | {"datastores": [str(lab.folder / "datastore")]})
    device = {"datacenter": "main", "name": "san", "technology": "directory"}
    portal = {"host": "127.0.0.1", "port": lab.tgtd.port, "control": lab.tgtd.control}
    ask.post("/v1/storage-devices", device | portal)
    pool = {"storage_device": "san", "name": "p", "directory": str(lab.folder / "pool")}
    ask.post("/v1/storage-pools", pool | {"total_mib": 4096})
    ask.post("/v1/virtual-datacenters", {"name": "demo", "datacenter": "main", "family": "kvm"})


def images(lab: Lab, picture: Path) -> list[Path]:
    """The appliance, as it boots and as it has to be converted first."""
    made = [lab.folder / "foreign.vmdk", lab.folder / "native.qcow2"]
    for image, more in zip(made, (["-o", "subformat=streamOptimized"], []), strict=True):
        convert = ["qemu-img", "convert", "-f", "raw", "-O", image.suffix[1:], *more, "--"]
        subprocess.run([*convert, picture, image], check=True, capture_output=True)
    return made


def test_whatever_dies_everything_ends_and_every_inventory_agrees(lab, appliance_image):
    shop = chaos.Shop(
        images(lab, appliance_image), most_vms=4, ram_mib=96, formats=["qcow2", "raw", "vdi"]
    )

    def crash(what: KvmHost | Tgtd, now: chaos.Moment) -> None:
        what.crash()
        time.sleep(now.dice * AWAY_S / 2)
        what.start()

    def stall(now: chaos.Moment) -> None:
        with lab.mariadb.stalled():
            time.sleep(now.dice * AWAY_S)

    deaths = chaos.of_its_own(lab.served, OURS) | {
        "libvirtd": (40, lambda now: crash(lab.kvm, now)),
        "tgtd": (45, lambda now: crash(lab.tgtd, now)),
        "database": (45, stall),
    }
    with chaos.named_by_its_seed(lab.served.complaints):
        outcome = chaos.rage(
            shop,
            lambda: chaos.Customer(lab.served.url, lab.served.token),
            REQUESTS,
            deaths,
            chaos.seconds(300),
        )
        lab.kvm.restart()  # one that was killed may keep a job of its former self for ever
        chaos.calm(agreement.at_rest)
        assert outcome.surprises == []
        agreement.assert_settled(outcome.operations)
        agreement.assert_agreement(lab.inventory)
        agreement.assert_nothing_repeated()
        with Client(lab.served.url, lab.served.token) as ask:
            agreement.assert_sweep_finds_nothing(ask)
        assert_no_start_without_an_attempt(lab)
        assert_processes(lab)


def assert_no_start_without_an_attempt(lab: Lab) -> None:
    """No guest was started more often than the journal says that somebody began to."""
    begun: Counter[str] = Counter()
    with cloud.database.read() as db:
        for line in db.scalars(select(models.Step).filter_by(name="switch-vm")):
            if Power.ON in {line.arguments["power"], line.arguments["former"]}:
                begun[line.arguments["vm"]] += line.attempts
    for log in (lab.kvm.folder / "log" / "qemu").glob("vm-*.log"):
        starts = log.read_text(errors="replace").count(": starting up libvirt")
        assert starts <= begun[log.stem.removeprefix("vm-")], log.stem


def assert_processes(lab: Lab) -> None:
    """A process for each guest that is not off, and no image tool at work."""
    running: Counter[str] = Counter()
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(lab.folder) in " ".join(words):
            running.update(word.split(",")[0] for word in words if word.startswith("guest=vm-"))
            running["qemu-img"] += "qemu-img" in words
    on = {
        f"guest=vm-{row.id}"
        for row in agreement.rows(models.VirtualMachine)
        if row.state in {"ON", "PAUSED"}
    }
    assert +running == Counter(on)
