"""Guests are given what they need on KVM by virt-v2v, where that is installed.

It reads what is in a guest's file systems, by a small machine of its own (libguestfs): behind
limits, without a network, on disks that were inspected; what it writes is inspected, too.
Run with 2.2 of Debian 12, which does not ask for all the programs that it needs.
"""

import os
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from defusedxml.ElementTree import fromstring

from adapters import programs
from adapters.errors import AdapterError, BadImage, OutOfSpace, Refused, Unsupported
from adapters.guests import Bus, Firmware
from adapters.images.repository import speaking_directory
from adapters.packages import Adapted
from adapters.programs import ProgramFailed
from adapters.types import Format

_PROGRAM = "virt-v2v"
_NEEDS = (_PROGRAM, "nbdkit", "nbdcopy")
_SETTINGS = ("LIBGUESTFS_", "SUPERMIN_")  # by which an operator tells it about his machine
_NAME = "guest"
_MEMORY_MIB = 8192  # of addresses: its machine is a QEMU
_CPU_S = 3600.0
_STALLED_S = 600.0
_BUSES = {"virtio": Bus.VIRTIO, "sata": Bus.SATA, "ide": Bus.IDE}
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class VirtV2v:
    """The guest tool for real guests."""

    def require(self) -> None:
        if missing := [each for each in _NEEDS if shutil.which(each, path=_PATH) is None]:
            raise Unsupported(f"{missing[0]} is not installed: no guest is given drivers")

    def adapt(
        self, disks: Sequence[tuple[Path, Format]], firmware: Firmware, folder: Path
    ) -> Adapted:
        self.require()
        with speaking_directory(folder):
            folder.mkdir()
            described = folder / "source.xml"
            described.write_text(_source(disks, firmware))
        try:
            self._run(described, folder)
            return _result(folder, len(disks))
        except ProgramFailed as error:
            raise _meaning(error) from error
        finally:
            described.unlink(missing_ok=True)

    @staticmethod
    def _run(described: Path, folder: Path) -> None:
        alone = ["--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        wanted = ["-o", "local", "-os", str(folder), "-of", Format.QCOW2.value, "-on", _NAME]
        settings = {k: v for k, v in os.environ.items() if k.startswith(_SETTINGS)}
        with TemporaryDirectory(prefix="v2v-") as sockets:  # whose paths have to be short
            programs.run(
                "unshare",
                *alone,
                *("--", _PROGRAM, "-i", "libvirtxml", str(described), *wanted),
                env={
                    "LIBGUESTFS_BACKEND": "direct",
                    **settings,
                    "TMPDIR": sockets,
                    "VIRT_V2V_TMPDIR": str(folder),  # what may be large
                },
                stalled_s=_STALLED_S,
                cpu_s=_CPU_S,
                memory_mib=_MEMORY_MIB,
            )


def _source(disks: Sequence[tuple[Path, Format]], firmware: Firmware) -> str:
    """Describe the guest as libvirt would; formats are named, never guessed."""
    domain = ET.Element("domain", type="kvm")
    for tag, text in (("name", _NAME), ("memory", str(2**20)), ("vcpu", "1")):
        ET.SubElement(domain, tag).text = text
    system = ET.SubElement(domain, "os", {"firmware": "efi"} if firmware is Firmware.EFI else {})
    ET.SubElement(system, "type", arch="x86_64").text = "hvm"
    devices = ET.SubElement(domain, "devices")
    for position, (path, format_) in enumerate(disks):
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type=format_.value)
        ET.SubElement(disk, "source", file=str(path.absolute()))
        ET.SubElement(disk, "target", dev=f"sd{_letter(position)}", bus="scsi")
    return ET.tostring(domain, encoding="unicode")


def _result(folder: Path, disks: int) -> Adapted:
    """What it has made, under the names that a template's disks have."""
    with speaking_directory(folder):
        described = folder / f"{_NAME}.xml"
        domain = fromstring(described.read_bytes(), forbid_dtd=True)
        found = [x for x in domain.iterfind("devices/disk") if x.get("device") == "disk"]
        names = [_file_of(each) for each in found]
        made = [f"{_NAME}-sd{_letter(position)}" for position in range(disks)]
        if names != made:
            raise Refused(f"{_PROGRAM} made {names}, not {made}", code="guest-not-adapted")
        for position, name in enumerate(made):
            (folder / name).rename(folder / Format.QCOW2.disk_name(position))
        described.unlink()
    target, model = found[0].find("target"), domain.find("devices/interface/model")
    bus = "" if target is None else target.get("bus", "")
    return Adapted(
        bus=_BUSES.get(bus, Bus.SATA), nic="" if model is None else model.get("type", "")
    )


def _file_of(disk: ET.Element) -> str:
    source = disk.find("source")
    return "" if source is None else PurePosixPath(source.get("file", "")).name


def _letter(position: int) -> str:
    return chr(ord("a") + position)


def _meaning(error: ProgramFailed) -> AdapterError:
    if "No space left on device" in error.stderr:
        return OutOfSpace("there is no room for the guest's disks")
    said = [line for line in error.stderr.splitlines() if f"{_PROGRAM}: error" in line]
    return BadImage(said[-1] if said else str(error), code="guest-not-adapted")
