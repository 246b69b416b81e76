"""The demo: an image becomes a running appliance with an iSCSI volume, and goes without a trace.

Told as a story; every sentence with a tick has been checked, and one that does not hold ends it
with status 1. Nothing of the machine's own libvirt, tgt or Cloudloom is touched. Where there is no
room for a private libvirt host, host and storage are pretended.
"""

import signal
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
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from adapters.images.repository import MARKER, MARKS
from adapters.types import OperationState
from api.client import Client, Operation, Refusal
from api.progress import operation_table, step_table, watch
from api.sending import send
from deployments.lab.process import wait_for
from deployments.lab.scratch import scratch
from deployments.stages import DATA_MIB, Claims, PretendedStage, RealStage, Stage, missing

_INTERRUPTED = 130
BLUEPRINT = f"""\
appliance: shop
virtual_datacenter: demo
vms:
  - name: db
    template: tiny-linux
    cpu: 1
    ram_mib: 128
    volumes: [{{name: data, size_mib: {DATA_MIB}}}]
    networks: [default]
  - name: web
    template: tiny-linux
    cpu: 1
    ram_mib: 128
    networks: [default]
    depends_on: [db]"""


class Broken(Exception):
    """A sentence of the story does not hold."""


def main(told: "type[Demo] | None" = None, *, keep: bool = False, pretended: bool = False) -> int:
    """Tell the story, or a variant of it; answer the exit status."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    if not pretended and (lacking := missing()):
        console.print(f"Host and storage will be pretended. Real ones need {lacking}.")
        pretended = True
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with scratch("cloudloom-demo") as folder:
            stage: Stage = PretendedStage(folder) if pretended else RealStage(folder)
            (told or Demo)(folder, console, stage).run(keep=keep)
            console.print(f"[green]✓[/green] {stage.closing}")
    except KeyboardInterrupt:
        console.print("Interrupted; nothing is left of it.")
        return _INTERRUPTED
    except (Broken, Refusal, RuntimeError, TimeoutError, OSError) as error:
        console.print(f"[red]✗[/red] {error}", markup=True)
        return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Interrupt once: the cleaning up that follows is not to be interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    raise KeyboardInterrupt


class Demo:
    """The actors, and the story's state."""

    def __init__(self, folder: Path, console: Console, stage: Stage) -> None:
        self.console = console
        self.stage = stage
        self.cloudloom = stage.cloudloom
        self.repository = folder / "repository"
        self.client: Client
        self.done: list[Operation] = []

    def run(self, *, keep: bool) -> None:
        """Set the stage, tell the story, and clear the stage again."""
        with ExitStack() as actors:
            actors.callback(self.stage.stop)
            actors.callback(self.cloudloom.stop)
            self._start()
            self.client = actors.enter_context(Client(self.cloudloom.url, self.cloudloom.token))
            try:
                self._tell(keep=keep)
            except (Broken, Refusal, TimeoutError):
                self.console.print(self.cloudloom.complaints(), markup=False)
                raise

    def _tell(self, *, keep: bool) -> None:
        self._register()
        template = self._fill_library()
        data = self._volume()
        shop, vms = self._deploy()
        addresses = self._addresses(vms)
        self._say("Listen to the guests' serial consoles")
        self._check_all(self.stage.met(vms, data))
        if addresses:
            self._check_all(self.stage.reached(vms, addresses))
        boot = self._persist(vms["web"])
        self._timeline()
        if keep:
            self._keep()
        self._remove(shop, (data, boot))
        self._prove(template)

    # --- the stage ---------------------------------------------------------------------------

    def _start(self) -> None:
        self._say(self.stage.opening)
        for directory in (self.repository, self.stage.datastore, self.stage.pool):
            directory.mkdir()
        started = time.monotonic()

        def timed(what: str, act: Callable[[], object]) -> None:
            act()
            self._tick(f"{what} after {time.monotonic() - started:.1f} s")

        wanted = {
            **self.stage.starts(),
            "Cloudloom: API, Prefect, worker": self.cloudloom.start,
        }
        with ThreadPoolExecutor() as pool:
            starts = [pool.submit(timed, what, act) for what, act in wanted.items()]
        for start in starts:
            start.result()
        self.console.print(f"  API     {self.cloudloom.url}/docs")
        self.console.print(f"  Prefect http://127.0.0.1:{self.cloudloom.prefect_port}")

    def _register(self) -> None:
        self._say("Register what is there")
        post = self.client.post
        post("/v1/datacenters", {"name": "main", "repository": str(self.repository)})
        if rack := self.stage.rack if self.stage.uplink else None:
            post("/v1/racks", {"datacenter": "main", **rack})
        host = post(
            "/v1/hosts",
            {
                "datacenter": "main",
                "rack": rack and rack["name"],
                "name": "host-1",
                "family": self.stage.family,
                "address": self.stage.address,
                "datastores": [str(self.stage.datastore)],
                "uplink": self.stage.uplink,
            },
        )
        family = self.stage.family
        self._tick(f"host-1: {family}, {host['cpu']} CPUs, {host['ram_mib']} MiB")
        device = {"datacenter": "main", "name": "san-1", **self.stage.device}
        post("/v1/storage-devices", device)
        pool = {"storage_device": "san-1", "name": "pool-1", "directory": str(self.stage.pool)}
        post("/v1/storage-pools", pool | {"total_mib": 1024})
        if self.stage.uplink:
            dhcp = {"datacenter": "main", "name": "dhcp-1", **self.stage.dhcp}
            post("/v1/dhcp-servers", dhcp)
            self._tick(f"dhcp-1: {dhcp['kind']}, for networks by {self.stage.uplink}")
        else:
            self._admit(f"without private networks: {self.stage.without}")
        post("/v1/virtual-datacenters", {"name": "demo", "datacenter": "main", "family": family})
        portal = f"{device['host']}:{device.get('port', 3260)}"
        self._tick(f"san-1: iSCSI at {portal}, pool of 1024 MiB; virtual datacenter demo")

    # --- the story ---------------------------------------------------------------------------

    def _fill_library(self) -> dict[str, Any]:
        size_mib = self.stage.image.stat().st_size / 2**20
        self._say(f"Upload the image ({size_mib:.1f} MiB), and convert it")
        wishes = {"name": "tiny-linux", "format": "vmdk", "datacenter": "main"}
        started = send(self.client, self.stage.image, wishes)
        self._finish(started)
        conversions = f"/v1/templates/{started.target.id}/conversions"
        self._do(conversions, {"format": "qcow2"})
        found: dict[str, Any] = self.client.get(f"/v1/templates/{started.target.id}")
        (disk,) = found["disks"]
        self._check(
            (disk["subformat"], found["state"]) == (self.stage.subformat, "AVAILABLE"),
            f"the library has {found['name']}: {disk['subformat'] or 'plain'} {disk['format']}, "
            f"{disk['virtual_size_mib']} MiB",
        )
        states = {each["format"]: each["state"] for each in disk["conversions"]}
        self._check(states == {"qcow2": "FINISHED"}, "and, converted once for all, qcow2")
        return found

    def _volume(self) -> UUID:
        self._say("Create a volume")
        wanted = {"name": "data", "size_mib": DATA_MIB, "virtual_datacenter": "demo"}
        return self._do("/v1/volumes", wanted).target.id

    def _deploy(self) -> tuple[UUID, dict[str, UUID]]:
        self._say("Deploy an appliance of two VMs")
        self.console.print(Panel(Text(BLUEPRINT), title="blueprint", expand=False))
        shop = self.client.post_yaml("/v1/appliances", BLUEPRINT)
        self._do(f"/v1/appliances/{shop['id']}/deploy")
        vms = {vm["name"]: UUID(vm["id"]) for vm in shop["vms"]}
        self._check_all(self.stage.deployed(vms))
        return UUID(shop["id"]), vms

    def _addresses(self, vms: dict[str, UUID]) -> dict[str, str]:
        """Where each VM is to be reached, in a network of its virtual datacenter's own."""
        if not self.stage.uplink:
            self._admit(f"their network leads nowhere: {self.stage.without}")
            return {}
        found = {}
        for name, vm in vms.items():
            (nic,) = self.client.get(f"/v1/vms/{vm}")["nics"]
            self._check(nic["address"] is not None, f"{name} has address {nic['address']}")
            found[name] = nic["address"]
        return found

    def _persist(self, web: UUID) -> UUID:
        self._say("Make web persistent: its disk becomes a volume, from which it boots")
        self._do(f"/v1/vms/{web}/power", {"power": "off"})
        self._do(f"/v1/vms/{web}/persist", {"volume": "web-boot"})
        (boot,) = (each for each in self.client.all("/v1/volumes") if each["name"] == "web-boot")
        volume = UUID(boot["id"])
        self._check(boot["vm_id"] == str(web), f"web has volume web-boot, {boot['size_mib']} MiB")
        self._check_all(self.stage.persisted())
        self._do(f"/v1/vms/{web}/power", {"power": "on"})
        self._check_all(self.stage.booted_from(web, volume))
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
            *self.stage.commands(),
            f"tail -f {home}/logs/*.log",
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
        self._say("Look for traces")
        self._check_all(self.stage.left())
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

    def _say(self, chapter: str) -> None:
        self.console.print(f"\n[bold]{chapter}[/bold]")

    def _tick(self, sentence: str) -> None:
        self.console.print(f"[green]✓[/green] {sentence}")

    def _admit(self, sentence: str) -> None:
        self.console.print(f"[yellow]![/yellow] {escape(sentence)}")

    def _check_all(self, claims: Claims) -> None:
        for holds, sentence in claims:
            self._check(holds, sentence)

    def _check(self, holds: object, sentence: str) -> None:
        if not holds:
            raise Broken(f"not so: {sentence}")
        self._tick(sentence)


if __name__ == "__main__":
    sys.exit(main(keep="--keep" in sys.argv[1:], pretended="--pretended" in sys.argv[1:]))
