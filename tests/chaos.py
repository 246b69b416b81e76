"""Chaos from a seed: what is asked for, and what dies, at moments that nobody has chosen.

`CHAOS_SEED` repeats a plan: the same requests and deaths at the same moments (what they meet is
the machine's business). `CHAOS_SECONDS` says for how long.
"""

import os
import random
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psutil
from sqlalchemy import select

from adapters.database import models
from api.client import Client, Operation, Refusal
from api.sending import send
from deployments.lab.cloudloom import Cloudloom
from deployments.lab.process import wait_for
from flows.cloud import cloud

T = TypeVar("T")

QUIET_S = 120.0
_AGAIN_S = 0.3
_AT_ONCE = 12  # requests that wait for their answers
# What a request may be refused for: somebody else was faster, or it makes no sense any more.
_REFUSALS = {
    "changed-meanwhile", "conflict", "locked", "name-taken", "no-room", "no-way-back", "not-found",
    "operation-ended", "template-not-available", "vm-off", "volume-in-use", "volume-not-carved",
    "wrong-state",
}  # fmt: skip

Deaths = dict[str, tuple[float, Callable[["Moment"], object]]]

SEED = os.environ.get("CHAOS_SEED") or secrets.token_hex(4)


def seconds(usual: float) -> float:
    """How long it lasts."""
    return float(os.environ.get("CHAOS_SECONDS") or usual)


@dataclass(frozen=True, order=True)
class Moment:
    """Something happens; of what, and for how long, the dice says when the time has come."""

    at_s: float
    what: str
    dice: float

    def choice(self, options: list[T]) -> T:
        """One of these."""
        return options[int(self.dice * len(options))]

    def chance(self, salt: str) -> float:
        """Another number from the same dice."""
        return random.Random(f"{self.dice}/{salt}").random()


def plan(every_s: dict[str, float], lasts_s: float) -> list[Moment]:
    """Moments of each kind, so far apart on average; one kind's do not depend on another's."""
    moments: list[Moment] = []
    for what, apart_s in every_s.items():
        dice = random.Random(f"{SEED}/{what}")
        at_s = dice.uniform(0, apart_s)
        while at_s < lasts_s:
            moments.append(Moment(at_s, what, dice.random()))
            at_s += dice.expovariate(1 / apart_s)
    return sorted(moments)


class Customer(Client):
    """Asks for one thing until it is answered, with the same key each time: it is done once."""

    def __init__(self, url: str, token: str, patience_s: float = 2 * QUIET_S) -> None:
        super().__init__(url, token, key=str(uuid4()))
        self._until = time.monotonic() + patience_s

    def ask(self, method: str, path: str, **more: Any) -> Any:
        ask = super().ask
        return self._again(lambda: ask(method, path, **more))

    def send(self, image: Path, **wishes: Any) -> Operation:
        return self._again(lambda: send(self, image, wishes))

    def _again(self, ask: Callable[[], T]) -> T:
        while True:
            try:
                return ask()
            except Refusal as refusal:
                away = refusal.code in {"unreachable", "transfer-used"}
                if not (away or refusal.problem.get("status") == 503):
                    raise
                if time.monotonic() > self._until:
                    raise
            time.sleep(_AGAIN_S)


@dataclass
class Shop:
    """What customers may ask for; answers the operation, if it takes time."""

    images: list[Path]
    most_vms: int
    ram_mib: int
    formats: list[str]

    def compose(self, ask: Customer, now: Moment) -> None:
        """An appliance: some VMs, some with volumes, some after others."""
        room = self.most_vms - len(ask.all("/v1/vms"))
        template = now.choice(ask.all("/v1/templates", state="AVAILABLE") or [None])
        if room <= 0 or template is None:
            return
        name, count = f"a{now.at_s:.3f}", min(room, 1 + int(now.chance("count") * 3))
        vms = [
            {
                "name": f"vm-{n}",
                "template": template["id"],
                "ram_mib": self.ram_mib,
                "volumes": [{"name": f"{name}-{n}", "size_mib": 8}] * (now.chance(f"v{n}") < 0.5),
                "depends_on": [f"vm-{n - 1}"] * (n > 0 and now.chance(f"d{n}") < 0.5),
            }
            for n in range(count)
        ]
        wanted = {"appliance": name, "virtual_datacenter": "demo", "vms": vms}
        ask.post("/v1/appliances", wanted)

    def scrap(self, ask: Customer, now: Moment) -> None:
        """An appliance that is not deployed; its volumes stay."""
        if appliances := ask.all("/v1/appliances"):
            ask.delete(f"/v1/appliances/{now.choice(appliances)['id']}")

    def deploy(self, ask: Customer, now: Moment) -> Operation | None:
        how = {"on_failure": "keep" if now.chance("keep") < 0.3 else "undo"}
        return self._on_appliance(ask, now, "deploy", how)

    def undeploy(self, ask: Customer, now: Moment) -> Operation | None:
        return self._on_appliance(ask, now, "undeploy")

    def power(self, ask: Customer, now: Moment) -> Operation | None:
        vms = [vm for vm in ask.all("/v1/vms") if vm["host"]]
        power = ["on", "off", "paused"][int(now.chance("power") * 3)]
        where = vms and f"/v1/vms/{now.choice(vms)['id']}/power"
        return ask.start(where, {"power": power}) if where else None

    def create_volume(self, ask: Customer, now: Moment) -> Operation:
        wanted = {"name": f"v{now.at_s:.3f}", "size_mib": 8, "virtual_datacenter": "demo"}
        return ask.start("/v1/volumes", wanted)

    def attach(self, ask: Customer, now: Moment) -> Operation | None:
        volumes, vms = ask.all("/v1/volumes", state="DETACHED"), ask.all("/v1/vms")
        if not (volumes and vms):
            return None
        vm = vms[int(now.chance("vm") * len(vms))]
        return ask.start(f"/v1/volumes/{now.choice(volumes)['id']}/attach", {"vm": vm["id"]})

    def detach(self, ask: Customer, now: Moment) -> Operation | None:
        if not (volumes := ask.all("/v1/volumes", state="ATTACHED")):
            return None
        volume = now.choice(volumes)
        return ask.start(f"/v1/volumes/{volume['id']}/detach", {"vm": volume["vm_id"]})

    def delete_volume(self, ask: Customer, now: Moment) -> Operation | None:
        volumes = ask.all("/v1/volumes", state="DETACHED")
        path = volumes and f"/v1/volumes/{now.choice(volumes)['id']}"
        return ask.start(path, method="DELETE") if path else None

    def upload(self, ask: Customer, now: Moment) -> Operation:
        return self._fill(ask, now.choice(self.images), f"t{now.at_s:.3f}")

    def stock(self, address: Callable[[], Customer]) -> set[UUID]:
        """Have every image once, before anything happens."""
        with address() as first, address() as second:
            asks = zip([first, second], self.images, strict=True)
            return {ask.wait(self._fill(ask, image, image.stem).id).id for ask, image in asks}

    @staticmethod
    def _fill(ask: Customer, image: Path, name: str) -> Operation:
        format_ = image.suffix[1:]
        return ask.send(image, name=name, format=format_, datacenter="main")

    def convert(self, ask: Customer, now: Moment) -> Operation | None:
        if not (templates := ask.all("/v1/templates", state="AVAILABLE")):
            return None
        wanted = self.formats[int(now.chance("format") * len(self.formats))]
        path = f"/v1/templates/{now.choice(templates)['id']}/conversions"
        return ask.start(path, {"format": wanted})

    def cancel(self, ask: Customer, now: Moment) -> None:
        """Also one of those that go back already, or only forward: that is refused."""
        live = [x for x in ask.get("/v1/operations", limit=20) if not x["ended_at"]]
        if live:
            ask.start(f"/v1/operations/{now.choice(live)['id']}/cancel")

    @staticmethod
    def _on_appliance(ask: Customer, now: Moment, what: str, body: Any = None) -> Operation | None:
        if not (appliances := ask.all("/v1/appliances")):
            return None
        return ask.start(f"/v1/appliances/{now.choice(appliances)['id']}/{what}", body)


@dataclass
class Outcome:
    """What customers were told."""

    operations: set[UUID] = field(default_factory=set)
    refusals: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        states: Counter[str] = Counter()
        with cloud.database.read() as db:
            for row in db.scalars(select(models.Operation)):
                states[f"{row.kind} {row.state}"] += 1
        return f"{SEED}: {dict(states)}, {dict(self.refusals)}, {dict(self.deaths)}"


def rage(
    shop: Shop,
    address: Callable[[], Customer],
    requests: dict[str, float],
    deaths: Deaths,
    lasts_s: float,
) -> Outcome:
    """Let it happen, until every customer has an answer and everything has been brought back."""
    outcome = Outcome(shop.stock(address))
    asked = plan(requests, lasts_s)
    dying = plan({what: every_s for what, (every_s, _) in deaths.items()}, lasts_s)

    def ask(moment: Moment) -> None:
        with address() as customer:
            try:
                operation = getattr(shop, moment.what)(customer, moment)
            except Refusal as refusal:
                outcome.refusals[f"{moment.what}: {refusal.code}"] += 1
                if refusal.code not in _REFUSALS:
                    outcome.surprises.append(f"{moment} was told {refusal.problem}")
            else:
                if operation:
                    outcome.operations.add(operation.id)

    def die(moment: Moment) -> None:
        outcome.deaths[moment.what] += 1
        deaths[moment.what][1](moment)

    with ThreadPoolExecutor(_AT_ONCE) as customers, ThreadPoolExecutor(len(deaths) or 1) as hands:
        begun, doing = time.monotonic(), []
        for moment in sorted([*asked, *dying]):
            time.sleep(max(0.0, begun + moment.at_s - time.monotonic()))
            if moment.what in deaths:
                doing.append(hands.submit(die, moment))
            else:
                doing.append(customers.submit(ask, moment))
    for each in doing:
        each.result()
    print(
        f"{lasts_s:.0f} s of chaos were answered after {time.monotonic() - begun:.0f} s: {outcome}"
    )
    return outcome


@contextmanager
def torn_down(folder: Path, *stops: Callable[[], object]) -> Iterator[None]:
    """End what runs in a folder, whatever happens, and remove it."""
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        for stop in stops:
            stack.callback(stop)
        yield


@contextmanager
def named_by_its_seed(log: Callable[[], str]) -> Iterator[None]:
    """Say with a failure how to repeat it, and what the processes have said."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"repeat it with CHAOS_SEED={SEED}\n{log()}")
        raise


def processes(of: int, word: str) -> list[psutil.Process]:
    """The living processes below one that have this word in their command lines."""
    every = psutil.Process(of).children(recursive=True)
    return [each for each in every if _holds(lambda each=each: word in each.cmdline())]


def children(of: int) -> list[psutil.Process]:
    """The processes that run flows, below `serve`: children of a worker's fork server."""
    workers = processes(of, "flows.worker")
    pids = {worker.pid for worker in workers}
    below = [each for worker in workers for each in _below(worker)]
    return [each for each in below if _holds(lambda each=each: each.ppid() not in pids)]


def kill(some: list[psutil.Process], moment: Moment) -> None:
    """Kill -9 one of these, if there is any now: what was killed a moment ago may not be back."""
    if some:
        with suppress(psutil.NoSuchProcess):
            moment.choice(some).kill()


def _below(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _holds(question: Callable[[], bool]) -> bool:
    """Whether it holds for a process, which may be gone by now: then it does not."""
    with suppress(psutil.NoSuchProcess):
        return question()
    return False


def of_its_own(served: Cloudloom, every_s: dict[str, float]) -> Deaths:
    """How the processes of an installation die; what is above them starts them again."""

    def killed(word: str) -> Callable[[Moment], None]:
        return lambda now: kill(processes(served.pid, word), now)

    ways = {
        "child": lambda now: kill(children(served.pid), now),
        "worker": killed("flows.worker"),
        "api": killed("uvicorn"),
        "prefect": killed("flows.prefect_server"),
    }
    return {what: (every_s[what], die) for what, die in ways.items()}


def calm(at_rest: Callable[[], bool]) -> None:
    """Wait, for at most two minutes, until everything has come to its end."""
    begun = time.monotonic()
    wait_for(at_rest, QUIET_S, "rest after the chaos", every_s=0.5)
    print(f"at rest after {time.monotonic() - begun:.1f} s")
