"""What libvirt is told, word for word: a change of these files is a change of running VMs.

`GOLDEN=write pytest tests/adapters/test_domain_xml.py` writes them anew, to be read and committed.
"""

import os
import xml.etree.ElementTree as ET
from pathlib import Path
from uuid import UUID

import pytest

from adapters.guests import Bus, Firmware
from adapters.hypervisors import domain_xml
from adapters.hypervisors.libvirt_nics import free_slot
from adapters.types import (
    Base,
    Connection,
    Disk,
    Format,
    Nic,
    Owner,
    Seed,
    Settings,
    Target,
    Vm,
)

GOLDEN = Path(__file__).parent / "golden"
OURS = UUID("10000000-0000-4000-8000-000000000000")
VM = UUID("20000000-0000-4000-8000-000000000000")
VOLUME = UUID("30000000-0000-4000-8000-000000000000")
BASE = Base(path="/library/tiny.qcow2", format=Format.QCOW2, digest="ab" * 32)
BOOT = Disk(
    id=UUID("40000000-0000-4000-8000-000000000000"),
    vm=VM, size_mib=64, datastore="/datastore", base=BASE, installation=OURS,
)  # fmt: skip
DATA = Disk(
    id=UUID("50000000-0000-4000-8000-000000000000"),
    vm=VM, position=1, size_mib=32, datastore="/datastore", installation=OURS,
)  # fmt: skip
NICS = tuple(Nic(id=UUID(int=number), mac=f"52:54:00:00:00:{number:02x}") for number in (1, 2))
FULL = Vm(
    id=VM, name="shop's <db> & co", cpu=2, ram_mib=128, disks=(DATA, BOOT), nics=NICS,
    installation=OURS,
)  # fmt: skip
PLUGGED = (
    NICS[0],
    Nic(id=UUID(int=3), mac="52:54:00:00:00:03", kind="bridge", bridge="cl101-0a1b2c3d4"),
    Nic(id=UUID(int=4 << 100), mac="52:54:00:00:00:04", kind="ovs", bridge="br0", tag=102,
        model="pcnet32", mtu=9000),
)  # fmt: skip
DISKLESS = Vm(id=VM, name="bare", cpu=1, ram_mib=96, installation=OURS)


SEED = Seed(
    id=VM, hostname="guest", secret=VOLUME, datastore="/datastore", installation=OURS
)  # fmt: skip


def expecting(bus: Bus, **more: object) -> Vm:
    settings = Settings(bus=bus, **more)
    return FULL.model_copy(update={"nics": (), "seed": SEED, "settings": settings})


def connection(position: int, bus: Bus | None = None) -> Connection:
    target = Target(host="127.0.0.1", port=3260, iqn="iqn.2026-11.org.cloudloom:x")
    return Connection(
        volume=VOLUME, vm=VM, initiator="iqn.2026-11.org.cloudloom:vm", target=target,
        position=position, bus=bus,
    )  # fmt: skip


SECRET = domain_xml.secret_id(VOLUME, VM)
CASES = {
    "vm-full": domain_xml.domain_xml(FULL, "qemu", "/consoles/vm.log"),
    "vm-plugged": domain_xml.domain_xml(
        DISKLESS.model_copy(update={"nics": PLUGGED}), "kvm", "/consoles/vm.log"
    ),
    "vm-diskless-kvm": domain_xml.domain_xml(DISKLESS, "kvm", "/consoles/vm.log"),
    "vm-efi-sata": domain_xml.domain_xml(
        expecting(Bus.SATA, firmware=Firmware.EFI), "kvm", "/consoles/vm.log"
    ),
    "vm-ide": domain_xml.domain_xml(expecting(Bus.IDE), "kvm", "/consoles/vm.log"),
    "vm-lsisas": domain_xml.domain_xml(expecting(Bus.LSISAS), "kvm", "/consoles/vm.log"),
    "vm-pvscsi": domain_xml.domain_xml(expecting(Bus.PVSCSI), "kvm", "/consoles/vm.log"),
    "connection-beyond-ide": domain_xml.connection_xml(connection(3, Bus.IDE), SECRET, "user"),
    "connection-lsisas": domain_xml.connection_xml(connection(14, Bus.LSISAS), SECRET, "user"),
    "connection": domain_xml.connection_xml(connection(1), SECRET, "user & co"),
    "connection-at-the-front": domain_xml.connection_xml(connection(0), SECRET, "user"),
    "disk": domain_xml.volume_xml("disk.qcow2", BOOT, 64 * 2**20),
    "disk-empty": domain_xml.volume_xml("disk.qcow2", DATA, 32 * 2**20),
    "pool": domain_xml.pool_xml("cloudloom-x", "/data & store"),
    "secret": domain_xml.secret_xml(SECRET, Owner(installation=OURS, id=VOLUME)),
}


@pytest.mark.parametrize("name", CASES)
def test_is_as_written(name):
    file = GOLDEN / f"{name}.xml"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(CASES[name])
    assert CASES[name] == file.read_text()


def test_every_golden_file_has_a_case():
    assert {file.stem for file in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", ["]]></title><evil/>", "a\nb\x00c", "<&>\"'", "Ünï ☃"])
def test_a_name_stays_a_name(name):
    named = DISKLESS.model_copy(update={"name": name})
    parsed = ET.fromstring(domain_xml.domain_xml(named, "qemu", "/log"))
    assert parsed.find(".//evil") is None
    assert parsed.findtext("title") == name.replace("\n", " ").replace("\x00", " ")


def test_serials_fit_into_virtio_and_differ():
    assert len(domain_xml.serial(VM)) == 20
    assert domain_xml.serial(VM) != domain_xml.serial(VOLUME)


def test_each_connection_has_a_secret_of_its_own():
    secrets = {domain_xml.secret_id(a, b) for a in (VM, VOLUME) for b in (VM, VOLUME)}
    assert len(secrets) == 4


def test_a_card_that_comes_is_where_no_other_card_is():
    """Be they libvirt's, or words of QEMU's command line; in what runs, or at the next start."""
    plugged, full = (ET.fromstring(CASES[name]) for name in ("vm-plugged", "vm-full"))
    assert free_slot([plugged], 0x1F) == 0x1C
    assert free_slot([full, plugged], 0x1E) == free_slot([plugged, full], 0x1D) == 0x1C
    assert free_slot([full], 0x1A) == 0x1A
