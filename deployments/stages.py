"""Where the demo plays: on a private libvirt host and iSCSI server, or on pretended ones."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import SubprocessError
from typing import Any, ClassVar, Protocol
from uuid import UUID

from adapters.errors import AdapterError
from adapters.images.memory import write_image
from adapters.types import Format
from adapters.world import World
from deployments.lab import appliance
from deployments.lab.cloudloom import Cloudloom
from deployments.lab.kvm_host import KvmHost
from deployments.lab.lan import TAG, Lan
from deployments.lab.process import wait_for
from deployments.lab.tgtd import Tgtd

_PROGRAMS = ("libvirtd", "virsh", "qemu-img", "qemu-system-x86_64", "tgtd", "tgtadm", "unshare")
_IMPOSSIBLE = (AdapterError, SubprocessError, RuntimeError, OSError)  # a time-out is an OSError
_BOOT_S = 120
_IMAGE_MIB = 16
DATA_MIB = 64

Claims = Iterator[tuple[object, str]]  # whether a sentence holds, and the sentence


class Stage(Protocol):
    """The actors besides Cloudloom, and what they tell about themselves."""

    opening: str
    closing: str
    family: str
    cloudloom: Cloudloom
    image: Path
    subformat: str
    datastore: Path
    pool: Path

    @property
    def address(self) -> str:
        """The host's."""

    @property
    def device(self) -> dict[str, Any]:
        """The iSCSI server, as it is registered."""

    @property
    def uplink(self) -> str | None:
        """By which the host has networks, a DHCP server telling addresses; else it has none."""

    @property
    def without(self) -> str:
        """Why it has none."""

    @property
    def rack(self) -> dict[str, Any] | None:
        """The host's, as it is registered: its VLANs are those that there are."""

    @property
    def dhcp(self) -> dict[str, Any]:
        """The DHCP server, as it is registered."""

    def starts(self) -> dict[str, Callable[[], object]]:
        """What has to be started or made, by name; all at once."""

    def stop(self) -> None:
        """End what was started."""

    def deployed(self, vms: dict[str, UUID]) -> Claims:
        """What runs after the deployment."""

    def met(self, vms: dict[str, UUID], volume: UUID) -> Claims:
        """What the guests say; the first of the VMs has the volume."""

    def reached(self, vms: dict[str, UUID], addresses: dict[str, str]) -> Claims:
        """That they have these addresses, and answer there."""

    def persisted(self) -> Claims:
        """That there is a disk less, where a VM has a volume instead of its own."""

    def booted_from(self, vm: UUID, volume: UUID) -> Claims:
        """What a VM booted from."""

    def left(self) -> Claims:
        """That nothing is."""

    def commands(self) -> list[str]:
        """Look around by these."""


def missing() -> str:
    """What the real stage lacks here; nothing where it can be set up."""
    if not Path("/etc/debian_version").exists():
        return "a Debian: this is another system"
    if os.geteuid() != 0:
        return "root, for a private libvirt host: sudo make demo"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    programs = [name for name in _PROGRAMS if shutil.which(name, path=path) is None]
    if programs:
        return f"{', '.join(programs)}: `make demo` installs what deployments/packages.txt lists"
    return ""


class RealStage:
    """A libvirt host with QEMU guests and a tgtd, the machine's own ones untouched."""

    opening = "A private libvirt host, a private iSCSI server, Cloudloom, and an image to use"
    closing = "The private host, iSCSI server and Cloudloom are gone, too"
    family = "kvm"
    subformat = "streamOptimized"
    rack: ClassVar = {"name": "rack-1", "vlan_min": TAG, "vlan_max": TAG, "vlans_reserved": 0}

    def __init__(self, folder: Path) -> None:
        self.lan = Lan(folder)
        self.without = ""
        self.kvm = KvmHost(folder / "kvm", self.lan.namespace)
        self.tgtd = Tgtd(folder / "tgtd")
        settings = {"domain_type": "qemu", "datacenter": "main", "host_root": str(folder / "root")}
        self.cloudloom = Cloudloom(folder / "home", **settings)
        self.datastore, self.pool = folder / "datastore", folder / "pool"
        self.image = folder / "tiny-linux.vmdk"
        self._disks, self._root = 0, ""

    @property
    def address(self) -> str:
        """The host's."""
        return self.kvm.uri

    @property
    def device(self) -> dict[str, Any]:
        """The iSCSI server, whose port is known once it runs."""
        portal = {"host": "127.0.0.1", "port": self.tgtd.port, "control": self.tgtd.control}
        return {"technology": "directory", **portal}

    @property
    def uplink(self) -> str | None:
        """By which the host has networks, where this machine lets it."""
        return None if self.without else self.lan.uplink

    @property
    def dhcp(self) -> dict[str, Any]:
        """A Kea of its own."""
        return {"kind": "kea", "address": str(self.lan.dhcp)}

    def starts(self) -> dict[str, Callable[[], object]]:
        return {
            "iSCSI server and libvirt host": self._start_host,
            "image, as streamOptimized VMDK": self._make_image,
        }

    def stop(self) -> None:
        with ExitStack() as actors:
            actors.callback(self.lan.stop)
            actors.callback(self.tgtd.stop)
            actors.callback(self.kvm.stop)

    def deployed(self, vms: dict[str, UUID]) -> Claims:
        running = self._virsh("list", "--name")
        self._disks = len(list(self.datastore.iterdir()))
        yield len(running) == len(vms), f"libvirt runs {' and '.join(sorted(vms))}"

    def met(self, vms: dict[str, UUID], volume: UUID) -> Claims:
        for name, vm in vms.items():
            yield self._line(vm, "APPLIANCE-READY"), f"{name} says it is ready"
        first, last = vms
        sectors = DATA_MIB * 2**20 // 512
        seen = self._line(vms[first], "DISK /dev/vdb")
        wanted = f"DISK /dev/vdb {sectors} {volume.hex[:20]}"
        yield seen == wanted, f"{first} sees its volume of {sectors} sectors: {seen}"
        yield len(self._targets()) == 1, "tgt has one target, the volume's"
        self._root = self._line(vms[last], "ROOT")

    def reached(self, vms: dict[str, UUID], addresses: dict[str, str]) -> Claims:
        for name, vm in vms.items():
            told, address = self._line(vm, "NET"), addresses[name]
            yield told.endswith(f" {address}"), f"{name} was told its address: {told}"
            yield self.lan.answers(address), f"and answers there: ping {address}"

    def persisted(self) -> Claims:
        yield (
            len(list(self.datastore.iterdir())) == self._disks - 1,
            "its disk on the host is gone",
        )

    def booted_from(self, vm: UUID, volume: UUID) -> Claims:
        yield self._line(vm, "APPLIANCE-READY"), "web says it is ready again"
        root = self._line(vm, "ROOT")
        wanted = f"ROOT {volume.hex[:20]}"
        yield root == wanted != self._root, f"and that it booted from it: {root}"

    def left(self) -> Claims:
        yield not self._virsh("list", "--all", "--name"), "libvirt knows no domain"
        yield not self._virsh("secret-list"), "and no secret"
        yield not self._targets(), "tgt has no target"
        yield not list(self.datastore.iterdir()), "the host's datastore is empty"
        yield not list(self.pool.iterdir()), "the storage pool is empty"
        if self.uplink:
            yield not self.lan.links(), "the host has no bridge"
            yield not self.lan.networks(), "Kea knows no network"

    def commands(self) -> list[str]:
        inside = [f"ip netns exec {self.lan.switch} bash  # where VMs are to be reached"]
        return [
            *(inside if self.uplink else ()),
            f"virsh -c '{self.kvm.uri}' list --all",
            f"tgtadm -C {self.tgtd.control} --op show --mode target",
            f"tail -f {self.cloudloom.home}/consoles/*.log",
        ]

    def _start_host(self) -> None:
        """In a network namespace with a network, where that can be; else, without any."""
        portal, _ = self.tgtd.start()
        try:
            self.lan.start(portal)
        except _IMPOSSIBLE as error:
            self.lan.stop()
            self.without = " ".join(str(error).split())[:200]
            self.kvm = KvmHost(self.kvm.folder)
        self.kvm.start()

    def _make_image(self) -> None:
        image = appliance.build()
        to = ("-O", "vmdk", "-o", "subformat=streamOptimized")
        files = (str(image), str(self.image))
        convert = ("qemu-img", "convert", "-f", "raw", *to, "--", *files)
        subprocess.run(convert, check=True, capture_output=True)

    def _line(self, vm: UUID, start: str) -> str:
        """The first line on a VM's console that starts so, once it has printed all."""
        console = self.cloudloom.home / "consoles" / f"vm-{vm}.log"

        def lines() -> list[str]:
            return console.read_bytes().decode(errors="replace").split("\r\n")

        def printed() -> bool:
            return any(line.startswith("APPLIANCE-READY ") for line in lines()[:-1])

        wait_for(printed, _BOOT_S, f"ready marker of VM {vm} ({console})", every_s=0.1)
        return next((line for line in lines() if line.startswith(start)), "")

    def _virsh(self, *command: str) -> list[str]:
        return _words("virsh", "--quiet", "--connect", self.kvm.uri, *command)

    def _targets(self) -> list[str]:
        show = ("tgtadm", "-C", str(self.tgtd.control), "--op", "show", "--mode", "target")
        return [line for line in _words(*show) if line.startswith("Target ")]


class PretendedStage:
    """Hosts and storage that exist in a file only: what Cloudloom does to them can be seen there.

    The API, Prefect, the worker and the flows are the real ones.
    """

    opening = "Cloudloom, a pretended host, a pretended iSCSI server, and a pretended image"
    closing = "The pretended world and Cloudloom are gone, too"
    family = address = "memory"
    subformat = ""
    uplink, without, rack = "up0", "", None
    dhcp: ClassVar = {"kind": "memory", "address": "memory"}
    device: ClassVar = {"technology": "memory", "host": "127.0.0.1", "port": 3260}

    def __init__(self, folder: Path) -> None:
        self.cloudloom = Cloudloom(folder / "home", image_tool="memory", datacenter="main")
        self.datastore, self.pool = folder / "datastore", folder / "pool"
        self.image = folder / "tiny-linux.vmdk"
        self._disks = 0

    @property
    def world(self) -> World:
        """Where all that is pretended is kept."""
        return World(self.cloudloom.home / "world.sqlite")

    def starts(self) -> dict[str, Callable[[], object]]:
        size = _IMAGE_MIB * 2**20
        return {"image": lambda: write_image(self.image, Format.VMDK, size, "tiny-linux")}

    def stop(self) -> None:
        """Nothing of it runs."""

    def deployed(self, vms: dict[str, UUID]) -> Claims:
        on = {key for key, vm in self.world.all("vm").items() if vm["power"] == "on"}
        names = " and ".join(sorted(vms))
        self._disks = len(self.world.all("disk"))
        yield on == {str(vm) for vm in vms.values()}, f"the pretended host runs {names}"

    def met(self, vms: dict[str, UUID], volume: UUID) -> Claims:
        for name, vm in vms.items():
            said = (self.world.find("vm", vm) or {"console": ""})["console"]
            yield "APPLIANCE-READY" in said, f"{name} says it is ready"
        first = next(iter(vms))
        connected = self.world.find("connection", f"{vms[first]}.{volume}")
        yield connected, f"{first} is connected to its volume"
        yield len(self.world.all("export")) == 1, "there is one export, the volume's"

    def reached(self, vms: dict[str, UUID], addresses: dict[str, str]) -> Claims:
        told = {each["address"] for each in self.world.all("reservation").values()}
        wanted = {addresses[name] for name in vms}
        yield told == wanted, "a pretended DHCP server tells just these"

    def persisted(self) -> Claims:
        yield len(self.world.all("disk")) == self._disks - 1, "its disk on the host is gone"

    def booted_from(self, vm: UUID, volume: UUID) -> Claims:
        found = self.world.find("vm", vm) or {"power": "lost", "disks": {}}
        yield found["power"] == "on", "web is on again"
        boot = self.world.find("connection", f"{vm}.{volume}") or {"position": None}
        yield (boot["position"], found["disks"]) == (0, {}), "and that it booted from it"

    def left(self) -> Claims:
        for kind in ("vm", "disk", "connection", "export", "volume", "link", "reservation"):
            yield not self.world.all(kind), f"no {kind} is left"

    def commands(self) -> list[str]:
        return [f"sqlite3 {self.world.path} 'TABLE things'"]


def _words(*command: str) -> list[str]:
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line for line in answer.stdout.splitlines() if line.strip()]
