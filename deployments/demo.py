"""The demo: an image becomes a running appliance with an iSCSI volume, and goes without a trace.

Told as a story; every sentence with a tick has been checked, and one that does not hold ends it
with status 1. Nothing of the machine's own libvirt, tgt or Cloudloom is touched.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from adapters.images.repository import MARKER, MARKS
from adapters.types import OperationState
from api.client import Client, Operation, Refusal
from api.progress import operation_table, step_table, watch
from deployments.lab import appliance
from deployments.lab.cloudloom import Cloudloom
from deployments.lab.kvm_host import KvmHost
from deployments.lab.process import wait_for
from deployments.lab.scratch import scratch
from deployments.lab.tgtd import Tgtd

_PROGRAMS = ("libvirtd", "virsh", "qemu-img", "qemu-system-x86_64", "tgtd", "tgtadm", "unshare")
_BOOT_S = 120
_INTERRUPTED = 130
_DATA_MIB = 64
_BLUEPRINT = f"""\
appliance: shop
virtual_datacenter: demo
vms:
  - name: db
    template: tiny-linux
    cpu: 1
    ram_mib: 128
    volumes: [{{name: data, size_mib: {_DATA_MIB}}}]
  - name: web
    template: tiny-linux
    cpu: 1
    ram_mib: 128
    depends_on: [db]"""


class Broken(Exception):
    """A sentence of the story does not hold."""


def main(*, keep: bool = False) -> int:
    """Tell the story; answer the exit status."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    if missing := _missing():
        console.print(f"The demo needs {missing}.")
        return 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with scratch("cloudloom-demo") as folder:
            Demo(folder, console).run(keep=keep)
    except KeyboardInterrupt:
        console.print("Interrupted; nothing is left of it.")
        return _INTERRUPTED
    except (Broken, Refusal, RuntimeError, TimeoutError, OSError) as error:
        console.print(f"[red]✗[/red] {error}", markup=True)
        return 1
    console.print("[green]✓[/green] The private host, iSCSI server and Cloudloom are gone, too")
    return 0


def _missing() -> str:
    if not Path("/etc/debian_version").exists():
        return "Debian: this is another system"
    if os.geteuid() != 0:
        return "root, for a private libvirt host: sudo make demo"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    programs = [name for name in _PROGRAMS if shutil.which(name, path=path) is None]
    if programs:
        return f"{', '.join(programs)}: `make demo` installs what deployments/packages.txt lists"
    return ""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Interrupt once: the cleaning up that follows is not to be interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    raise KeyboardInterrupt


class Demo:
    """The actors, and the story's state."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.console = console
        self.folder = folder
        self.kvm = KvmHost(folder / "kvm")
        self.tgtd = Tgtd(folder / "tgtd")
        self.cloudloom = Cloudloom(folder / "home", domain_type="qemu", datacenter="main")
        self.repository, self.datastore, self.pool = (
            folder / name for name in ("repository", "datastore", "pool")
        )
        self.image = folder / "tiny-linux.vmdk"
        self.client: Client
        self.done: list[Operation] = []

    def run(self, *, keep: bool) -> None:
        """Set the stage, tell the story, and clear the stage again."""
        with ExitStack() as stage:
            for actor in (self.tgtd, self.kvm, self.cloudloom):
                stage.callback(actor.stop)
            self._start()
            self.client = stage.enter_context(Client(self.cloudloom.url, self.cloudloom.token))
            try:
                self._tell(keep=keep)
            except (Broken, Refusal, TimeoutError):
                self.console.print(self.cloudloom.complaints(), markup=False)
                raise

    def _tell(self, *, keep: bool) -> None:
        self._register()
        template = self._fill_library()
        data = self._volume()
        shop, db, web = self._deploy()
        self._meet_guests(db, web, data)
        boot = self._persist(web)
        self._timeline()
        if keep:
            self._keep()
        self._remove(shop, (data, boot))
        self._prove(template)

    # --- the stage ---------------------------------------------------------------------------

    def _start(self) -> None:
        self._say("A private libvirt host, a private iSCSI server, Cloudloom, and an image to use")
        for directory in (self.repository, self.datastore, self.pool):
            directory.mkdir()
        started = time.monotonic()

        def timed(what: str, act: Callable[[], object]) -> None:
            act()
            self._tick(f"{what} after {time.monotonic() - started:.1f} s")

        with ThreadPoolExecutor() as pool:
            starts = [
                pool.submit(timed, "libvirt host", self.kvm.start),
                pool.submit(timed, "iSCSI server", self.tgtd.start),
                pool.submit(timed, "Cloudloom: API, Prefect, worker", self.cloudloom.start),
                pool.submit(timed, "image, as streamOptimized VMDK", self._make_image),
            ]
        for start in starts:
            start.result()
        self.console.print(f"  API     {self.cloudloom.url}/docs")
        self.console.print(f"  Prefect http://127.0.0.1:{self.cloudloom.prefect_port}")

    def _make_image(self) -> None:
        image = appliance.build()
        to = ("-O", "vmdk", "-o", "subformat=streamOptimized")
        files = (str(image), str(self.image))
        convert = ("qemu-img", "convert", "-f", "raw", *to, "--", *files)
        subprocess.run(convert, check=True, capture_output=True)

    def _register(self) -> None:
        self._say("Register what is there")
        post = self.client.post
        post("/v1/datacenters", {"name": "main", "repository": str(self.repository)})
        host = post(
            "/v1/hosts",
            {
                "datacenter": "main",
                "name": "host-1",
                "family": "kvm",
                "address": self.kvm.uri,
                "datastores": [str(self.datastore)],
            },
        )
        self._tick(f"host-1: KVM, {host['cpu']} CPUs, {host['ram_mib']} MiB")
        port, control = self.tgtd.port, self.tgtd.control
        device = {"datacenter": "main", "name": "san-1", "technology": "directory"}
        portal = {"host": "127.0.0.1", "port": port, "control": control}
        post("/v1/storage-devices", device | portal)
        pool = {"storage_device": "san-1", "name": "pool-1", "directory": str(self.pool)}
        post("/v1/storage-pools", pool | {"total_mib": 1024})
        post("/v1/virtual-datacenters", {"name": "demo", "datacenter": "main", "family": "kvm"})
        self._tick(f"san-1: iSCSI at 127.0.0.1:{port}, pool of 1024 MiB; virtual datacenter demo")

    # --- the story ---------------------------------------------------------------------------

    def _fill_library(self) -> dict[str, Any]:
        size_mib = self.image.stat().st_size / 2**20
        self._say(f"Upload the image ({size_mib:.1f} MiB), and convert it")
        started = self.client.upload(
            self.image, lambda _sent: None, name="tiny-linux", format="vmdk", datacenter="main"
        )
        self._finish(started)
        conversions = f"/v1/templates/{started.target.id}/conversions"
        self._do(conversions, {"format": "qcow2"})
        found: dict[str, Any] = self.client.get(f"/v1/templates/{started.target.id}")
        (disk,) = found["disks"]
        self._check(
            disk["subformat"] == "streamOptimized" and found["state"] == "AVAILABLE",
            f"the library has {found['name']}: {disk['subformat']} {disk['format']}, "
            f"{disk['virtual_size_mib']} MiB",
        )
        states = {each["format"]: each["state"] for each in disk["conversions"]}
        self._check(states == {"qcow2": "FINISHED"}, "and, converted once for all, qcow2")
        return found

    def _volume(self) -> UUID:
        self._say("Create a volume")
        wanted = {"name": "data", "size_mib": _DATA_MIB, "virtual_datacenter": "demo"}
        return self._do("/v1/volumes", wanted).target.id

    def _deploy(self) -> tuple[UUID, UUID, UUID]:
        self._say("Deploy an appliance of two VMs")
        self.console.print(Panel(Text(_BLUEPRINT), title="blueprint", expand=False))
        shop = self.client.post_yaml("/v1/appliances", _BLUEPRINT)
        self._do(f"/v1/appliances/{shop['id']}/deploy")
        vms = {vm["name"]: UUID(vm["id"]) for vm in shop["vms"]}
        running = self._virsh("list", "--name")
        self._check(len(running) == len(vms), f"libvirt runs {' and '.join(sorted(vms))}")
        return UUID(shop["id"]), vms["db"], vms["web"]

    def _meet_guests(self, db: UUID, web: UUID, data: UUID) -> None:
        self._say("Listen to the guests' serial consoles")
        for name, vm in (("db", db), ("web", web)):
            self._check(self._line(vm, "APPLIANCE-READY"), f"{name} says it is ready")
        sectors = _DATA_MIB * 2**20 // 512
        seen = self._line(db, "DISK /dev/vdb")
        wanted = f"DISK /dev/vdb {sectors} {data.hex[:20]}"
        self._check(seen == wanted, f"db sees its volume of {sectors} sectors: {seen}")
        self._check(len(self._targets()) == 1, "tgt has one target, the volume's")

    def _persist(self, web: UUID) -> UUID:
        self._say("Make web persistent: its disk becomes a volume, from which it boots")
        local = self._line(web, "ROOT")
        self._do(f"/v1/vms/{web}/power", {"power": "off"})
        self._do(f"/v1/vms/{web}/persist", {"volume": "web-boot"})
        (boot,) = (each for each in self.client.all("/v1/volumes") if each["name"] == "web-boot")
        volume = UUID(boot["id"])
        self._check(boot["vm_id"] == str(web), f"web has volume web-boot, {boot['size_mib']} MiB")
        disks = list(self.datastore.iterdir())
        self._check(len(disks) == 1, "its disk on the host is gone")
        self._do(f"/v1/vms/{web}/power", {"power": "on"})
        self._check(self._line(web, "APPLIANCE-READY"), "web says it is ready again")
        root = self._line(web, "ROOT")
        self._check(
            root == f"ROOT {volume.hex[:20]}" != local, f"and that it booted from it: {root}"
        )
        return volume

    def _timeline(self) -> None:
        self._say("What was done, and when")
        for kind in ("deploy_appliance", "persist_vm"):
            operation = next(each for each in self.done if each.kind == kind)
            self.console.print(f"[bold]{operation.name}[/bold]")
            self.console.print(step_table(self.client.operation(operation.id)))
        self.console.print(operation_table(self.done))
        self.console.print(f"  API     {self.cloudloom.url}/docs")
        self.console.print(f"  Prefect {self.done[-1].flow_run_url}", soft_wrap=True)

    def _keep(self) -> None:
        self._say("It stays like that until Ctrl-C. To look around, in another terminal:")
        home = self.cloudloom.home
        for line in (
            f"export CLOUDLOOM_HOME={home} CLOUDLOOM_PORT={self.cloudloom.port}",
            ".venv/bin/cloudloom vms",
            ".venv/bin/cloudloom operations",
            f"virsh -c '{self.kvm.uri}' list --all",
            f"tgtadm -C {self.tgtd.control} --op show --mode target",
            f"tail -f {home}/consoles/*.log {home}/logs/*.log",
        ):
            self.console.print(f"  {line}", soft_wrap=True)
        auth = self.cloudloom.prefect_auth
        self.console.print(f"  Prefect's UI asks for: {auth}", soft_wrap=True)
        while True:
            time.sleep(3600)

    def _remove(self, shop: UUID, volumes: tuple[UUID, ...]) -> None:
        self._say("Take it all away again")
        self._do(f"/v1/appliances/{shop}/undeploy")
        self.client.delete(f"/v1/appliances/{shop}")
        for volume in volumes:
            self._do(f"/v1/volumes/{volume}", method="DELETE")

    def _prove(self, template: dict[str, Any]) -> None:
        self._say("Look for traces, in libvirt, tgt, and the directories")
        self._check(not self._virsh("list", "--all", "--name"), "libvirt knows no domain")
        self._check(not self._virsh("secret-list"), "and no secret")
        self._check(not self._targets(), "tgt has no target")
        self._check(not list(self.datastore.iterdir()), "the host's datastore is empty")
        self._check(not list(self.pool.iterdir()), "the storage pool is empty")
        (disk,) = template["disks"]
        library = {disk["path"], *(each["path"] for each in disk["conversions"])}
        files = (each for each in self.repository.rglob("*") if each.is_file())
        told = (each.relative_to(self.repository) for each in files)
        found = {str(each) for each in told if each.parts[0] not in {MARKER, MARKS}}
        self._check(found == library, "exactly the library remains:")
        for path in sorted(found):
            self.console.print(f"    {path}")
        asked = [each for done in self.done for each in self._receipt(done)]
        self._check(
            all(each["as_expected"] for each in asked),
            f"and {len(asked)} questions in {len(self.done)} receipts were answered so",
        )

    # --- how it is told ----------------------------------------------------------------------

    def _do(self, path: str, body: Any = None, *, method: str = "POST") -> Operation:
        return self._finish(self.client.start(path, body, method=method))

    def _finish(self, operation: Operation) -> Operation:
        ended = watch(self.client, operation, self.console)
        if ended.state is not OperationState.SUCCEEDED:
            self.console.print(step_table(ended))
            raise Broken(f"{ended.name} is {ended.state}")
        self.done.append(ended)
        return ended

    def _receipt(self, operation: Operation) -> list[dict[str, Any]]:
        """What its receipt says; it is written straight after the operation's end."""
        path = f"/v1/operations/{operation.id}/receipt"
        wait_for(lambda: self.client.get(path)["questions"], 15, f"receipt of {operation.name}")
        questions: list[dict[str, Any]] = self.client.get(path)["questions"]
        return questions

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

    def _say(self, chapter: str) -> None:
        self.console.print(f"\n[bold]{chapter}[/bold]")

    def _tick(self, sentence: str) -> None:
        self.console.print(f"[green]✓[/green] {sentence}")

    def _check(self, holds: object, sentence: str) -> None:
        if not holds:
            raise Broken(f"not so: {sentence}")
        self._tick(sentence)


def _words(*command: str) -> list[str]:
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line for line in answer.stdout.splitlines() if line.strip()]


if __name__ == "__main__":
    sys.exit(main(keep="--keep" in sys.argv[1:]))
