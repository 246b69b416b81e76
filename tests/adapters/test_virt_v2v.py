"""virt-v2v, as far as it can be had: what it is asked, what is made of its answer, and none.

A script stands for the real one: `tests/lab/test_adapted_guest.py` runs that where it is there.
"""

from pathlib import Path

import pytest
from defusedxml.ElementTree import parse

from adapters.errors import BadImage, Refused, Unsupported
from adapters.guests import Bus, Firmware
from adapters.images import virt_v2v
from adapters.images.virt_v2v import VirtV2v
from adapters.packages import Adapted
from adapters.types import Format

ANSWER = """<domain><devices>
<disk device='disk'><source file='/x/guest-sda'/><target dev='vda' bus='virtio'/></disk>
<disk device='disk'><source file='/x/{second}'/><target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='cdrom'/><interface><model type='virtio'/></interface>
</devices></domain>"""
SCRIPT = """#!/bin/sh
echo "$@" >{said}
cp "$3" {said}.xml
cat /proc/net/dev >{said}.net
env >{said}.env
{then}
"""


@pytest.fixture
def disks(tmp_path: Path) -> list[tuple[Path, Format]]:
    return [(tmp_path / "a & b.vmdk", Format.VMDK), (tmp_path / "data.qcow2", Format.QCOW2)]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a script in the program's place."""

    def write(then: str) -> Path:
        program, said = tmp_path / "bin" / "virt-v2v", tmp_path / "said"
        program.parent.mkdir()
        program.write_text(SCRIPT.format(said=said, then=then))
        program.chmod(0o755)
        for each in ("nbdkit", "nbdcopy"):
            program.with_name(each).symlink_to("virt-v2v")
        path = f"{program.parent}:{virt_v2v._PATH}"
        monkeypatch.setattr(virt_v2v, "_PATH", path)
        monkeypatch.setattr("adapters.programs._PATH", path)
        return said

    return write


def makes(folder: Path, second: str = "guest-sdb") -> str:
    answer = ANSWER.format(second=second)
    return f"cd {folder}; touch guest-sda guest-sdb; cat >guest.xml <<END\n{answer}\nEND"


def test_without_it_no_guest_is_adapted(tmp_path, disks, monkeypatch):
    monkeypatch.setattr(virt_v2v, "_PATH", str(tmp_path))
    for ask in (
        VirtV2v().require,
        lambda: VirtV2v().adapt(disks, Firmware.BIOS, tmp_path / "out"),
    ):
        with pytest.raises(Unsupported, match="virt-v2v is not installed"):
            ask()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["virt-v2v", "nbdkit", "nbdcopy"])
def test_nor_is_it_without_what_it_needs(tmp_path, stand_in, monkeypatch, missing):
    stand_in("exit 0")
    (tmp_path / "bin" / missing).unlink()
    monkeypatch.setattr(virt_v2v, "_PATH", str(tmp_path / "bin"))
    with pytest.raises(Unsupported, match=missing):
        VirtV2v().require()


def test_it_is_told_what_its_operator_says_of_the_machine(tmp_path, disks, stand_in, monkeypatch):
    monkeypatch.setenv("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
    monkeypatch.setenv("CLOUDLOOM_SECRET_KEYS", "not for programs")
    out = tmp_path / "out"
    said = stand_in(makes(out))
    VirtV2v().adapt(disks, Firmware.BIOS, out)
    told = dict(x.partition("=")[::2] for x in Path(f"{said}.env").read_text().splitlines())
    assert told["LIBGUESTFS_BACKEND_SETTINGS"] == "force_tcg"
    assert told["LIBGUESTFS_BACKEND"] == "direct"
    assert told["VIRT_V2V_TMPDIR"] == str(out)
    assert not Path(told["TMPDIR"]).exists()
    assert "CLOUDLOOM_SECRET_KEYS" not in told


def test_it_is_told_the_formats_and_has_no_network(tmp_path, disks, stand_in):
    out = tmp_path / "out"
    said = stand_in(makes(out))
    assert VirtV2v().adapt(disks, Firmware.EFI, out) == Adapted(bus=Bus.VIRTIO, nic="virtio")
    assert sorted(path.name for path in out.iterdir()) == ["disk-0.qcow2", "disk-1.qcow2"]
    words = said.read_text().split()
    assert words[:2] == ["-i", "libvirtxml"]
    assert words[3:] == ["-o", "local", "-os", str(out), "-of", "qcow2", "-on", "guest"]
    asked = parse(f"{said}.xml")
    assert [x.get("type") for x in asked.iterfind("devices/disk/driver")] == ["vmdk", "qcow2"]
    assert [x.get("file") for x in asked.iterfind("devices/disk/source")] == [
        str(path) for path, _ in disks
    ]
    assert asked.find("os").get("firmware") == "efi"
    interfaces = Path(f"{said}.net").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] in ([], ["lo"])


@pytest.mark.parametrize(
    ("then", "kind"),
    [
        ("echo 'virt-v2v: error: no operating system was found' >&2; exit 1", BadImage),
        ("exit 3", BadImage),
    ],
)
def test_a_guest_that_it_does_not_know_is_refused(tmp_path, disks, stand_in, then, kind):
    stand_in(then)
    with pytest.raises(kind) as refused:
        VirtV2v().adapt(disks, Firmware.BIOS, tmp_path / "out")
    assert refused.value.code == "guest-not-adapted"


def test_what_it_makes_besides_is_not_taken(tmp_path, disks, stand_in):
    out = tmp_path / "out"
    stand_in(makes(out, second="../elsewhere"))
    with pytest.raises(Refused) as refused:
        VirtV2v().adapt(disks, Firmware.BIOS, out)
    assert refused.value.code == "guest-not-adapted"
