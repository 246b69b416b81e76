"""A dnsmasq on this machine that reads its networks from a folder of ours.

After a change it is ended, and whoever supervises it starts it again (`Restart=always`): it reads
subnets only then, and 2.90 falls over at SIGHUP when it has told a reservation that has a tag. A
lease is given back in the guest's name, by `dhcp_release`, in the network namespace that the
server is in. Its DNS serves names with the network's suffix. The runbook says how to start it.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

import psutil
from pydantic import ValidationError

from adapters import programs
from adapters.errors import AdapterError, NotAllowed, Transient, Unsupported
from adapters.lan import Lease, Reservation, Subnet
from adapters.networks.dnsmasq_text import (
    FOLDERS,
    other_reservation,
    reservations_of,
    subnet_of,
    texts,
)
from adapters.networks.held import Held, OtherReservation, OtherSubnet
from adapters.networks.locks import locked

PATIENCE_S = 20.0

_PID, _LEASES = "dnsmasq.pid", "dnsmasq.leases"
_LOOK_S = 0.02
_RELEASE_S = 2.0

Files = dict[Path, str]  # what is in them


class Dnsmasq:
    """One server, as far as it serves one installation."""

    def __init__(self, folder: Path, installation: UUID) -> None:
        self.folder = folder
        self.installation = installation
        self._owes = folder / "to-be-restarted"

    def verify(self) -> None:
        self._process()
        if missing := [each for each in FOLDERS if not (self.folder / each).is_dir()]:
            raise Unsupported(f"{self.folder} has no folder {', '.join(missing)}")
        if shutil.which("dhcp_release") is None:
            raise Unsupported("there is no dhcp_release here, which gives leases back")

    def ensure_subnet(self, subnet: Subnet) -> None:
        self._change(lambda held: held.with_subnet(subnet))

    def has_subnet(self, subnet: Subnet) -> bool:
        return self._held().subnets.get(subnet.id) == subnet

    def delete_subnet(self, subnet: UUID) -> None:
        self._change(lambda held: held.without_subnet(subnet))

    def ensure_reservations(
        self, reservations: Iterable[Reservation], subnets: Iterable[Subnet] = ()
    ) -> None:
        said = list(reservations), list(subnets)
        self._change(lambda held: held.with_reservations(*said))

    def has_reservations(self, reservations: Iterable[Reservation]) -> set[UUID]:
        found = self._held().reservations
        return {each.id for each in reservations if found.get(each.id) == each}

    def delete_reservations(
        self, reservations: Iterable[Reservation], subnets: Iterable[UUID] = ()
    ) -> None:
        said = list(reservations), list(subnets)
        self._change(lambda held: held.without_reservations(*said))

    def replace(self, subnets: Iterable[Subnet], reservations: Iterable[Reservation]) -> None:
        said = list(subnets), list(reservations)
        self._change(lambda held: held.replaced(*said))

    def content(self) -> tuple[dict[UUID, Subnet], dict[UUID, Reservation]]:
        held = self._held()
        return held.subnets, held.reservations

    def leases(self, subnet: UUID | None = None) -> list[Lease]:
        self._process()
        mine = self._held().subnets
        wanted = [each.range for key, each in mine.items() if subnet in {None, key}]
        return [lease for lease in self._leases() if any(lease.address in each for each in wanted)]

    # --- changes -------------------------------------------------------------------------------

    def _change(self, change: Callable[[Held], Held]) -> None:
        """Have what `change` makes of what there is, let dnsmasq know, and end leases."""
        with locked(self.folder, PATIENCE_S):
            process = self._process()
            before = self._held()
            after = change(before)
            were, are = self._files(before.subnets), self._wanted(before, after)
            if were != are or self._owes.exists():
                self._owes.touch()  # until it has been started again, also by another runner
                self._write(were, are)
                try:
                    self._restart(process)
                except AdapterError:
                    self._write(are, were)  # it may start with what it had
                    raise
                self._owes.unlink()
            self._release(after)

    def _wanted(self, before: Held, after: Held) -> Files:
        """What shall be in the files of our networks."""
        cards: dict[UUID, list[Reservation]] = {key: [] for key in after.subnets}
        for card in after.reservations.values():
            cards[card.subnet].append(card)
        wanted: Files = {}
        for key, subnet in after.subnets.items():
            kept: list[str] = []
            if key in before.subnets:
                _, kept = reservations_of(self._read("hosts", key), before.subnets[key])
            for folder, text in texts(subnet, cards[key], kept).items():
                wanted[self._path(folder, key)] = text
        return wanted

    def _write(self, were: Files, are: Files) -> None:
        """Have these files instead of those; each is there whole, or as it was."""
        try:
            for path, text in are.items():
                if were.get(path) != text:
                    path.parent.mkdir(exist_ok=True)
                    new = path.with_name(f".{path.name}")  # dnsmasq passes by what begins so
                    new.write_text(text)
                    new.replace(path)
            for path in were.keys() - are.keys():
                path.unlink(missing_ok=True)
        except PermissionError as error:
            raise NotAllowed(f"dnsmasq's folder is not ours to write: {error}") from error
        except OSError as error:
            raise Transient(f"dnsmasq's folder cannot be written: {error}") from error

    # --- files ---------------------------------------------------------------------------------

    def _held(self) -> Held:
        if not self.folder.is_dir():
            raise Transient(f"{self.folder} is not there")
        ours: dict[UUID, Subnet] = {}
        cards: dict[UUID, Reservation] = {}
        other_subnets: list[OtherSubnet] = []
        other_cards: list[OtherReservation] = []
        for path in sorted((self.folder / "ranges").glob("*.conf")):
            subnet = subnet_of(path.read_text())
            if subnet is None:  # an operator's own
                continue
            found, others = reservations_of(self._read("hosts", subnet.id), subnet)
            if subnet.installation == self.installation:
                ours[subnet.id] = subnet
                cards |= {card.id: card for card in found}
            else:
                other_subnets.append(OtherSubnet(subnet.range, subnet.number, subnet.relay))
                other_cards += [
                    OtherReservation(card.subnet, card.mac, card.address) for card in found
                ]
            spoken = (other_reservation(line, subnet.id) for line in others)
            other_cards += [each for each in spoken if each]
        return Held(ours, cards, tuple(other_subnets), tuple(other_cards))

    def _files(self, networks: Iterable[UUID]) -> Files:
        paths = (self._path(folder, key) for key in networks for folder in FOLDERS)
        return {path: path.read_text() for path in paths if path.exists()}

    def _read(self, folder: str, network: UUID) -> str:
        with suppress(FileNotFoundError):
            return self._path(folder, network).read_text()
        return ""

    def _path(self, folder: str, network: UUID) -> Path:
        return self.folder / folder / (f"{network}.conf" if folder == "ranges" else str(network))

    # --- the server ----------------------------------------------------------------------------

    def _process(self) -> psutil.Process:
        """It, running. Raises `Transient`."""
        with suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int((self.folder / _PID).read_text()))
            if process.name() == "dnsmasq" and process.status() != psutil.STATUS_ZOMBIE:
                return process
        raise Transient(f"no dnsmasq has {self.folder}")

    def _restart(self, former: psutil.Process) -> None:
        """End it, and wait until somebody has started it again. Raises `Transient`."""
        try:
            former.terminate()
        except psutil.AccessDenied as error:
            raise NotAllowed("dnsmasq heeds no signal of ours") from error
        except psutil.NoSuchProcess:  # it has just ended by itself
            pass
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with suppress(Transient):
                if self._process() != former:
                    return
            time.sleep(_LOOK_S)
        raise Transient(f"nobody starts the dnsmasq of {self.folder} again")

    def _release(self, held: Held) -> None:
        """Give back the leases that nobody has a right to, but in networks that it knows no more.

        Raises `Transient` when it keeps them.
        """
        end = time.monotonic() + PATIENCE_S
        while ended := held.ended_by(held, self._leases()):
            if time.monotonic() > end:
                raise Transient(f"dnsmasq keeps the lease of {ended[0].address}")
            process = self._process()
            lines = []
            for subnet in held.subnets.values():
                if inside := [lease for lease in ended if lease.address in subnet.range]:
                    way = _way(process, inside[0].address)
                    lines += [f"{way} {lease.address} {lease.mac}\n" for lease in inside]
            _inside(process, "xargs", "-n", "3", "dhcp_release", stdin="".join(lines))
            patience = time.monotonic() + _RELEASE_S
            while time.monotonic() < patience and held.ended_by(held, self._leases()):
                time.sleep(_LOOK_S)

    def _leases(self) -> list[Lease]:
        with suppress(FileNotFoundError):
            lines = (self.folder / _LEASES).read_text().splitlines()
            now = datetime.now(UTC)
            found = [each for each in map(_lease, lines) if each]
            return [x for x in found if x.expires_at is None or x.expires_at > now]
        return []


def _way(process: psutil.Process, address: IPv4Address) -> str:
    """The interface by which the server reaches a guest."""
    found = json.loads(_inside(process, "ip", "-json", "route", "get", str(address)))
    return str(found[0]["dev"])


def _inside(process: psutil.Process, *command: str, stdin: str = "") -> str:
    """Run a program in the server's network."""
    theirs = Path(f"/proc/{process.pid}/ns/net")
    try:
        is_elsewhere = theirs.readlink() != Path("/proc/self/ns/net").readlink()
    except OSError as error:
        raise Transient(f"dnsmasq has just ended, or is not ours to follow: {error}") from error
    entered = ["nsenter", f"--net={theirs}", "--"] if is_elsewhere else []
    program, *arguments = [*entered, *command]
    try:
        return programs.run(program, *arguments, stdin=stdin, timeout_s=PATIENCE_S)
    except programs.ProgramFailed as error:
        raise Transient(f"dnsmasq's lease is not given back: {error}") from error


def _lease(line: str) -> Lease | None:
    """A line of its own file, which it may just be writing."""
    words = line.split()
    with suppress(ValueError, ValidationError, IndexError):
        ends, mac, address, name = words[0], words[1], words[2], words[3]
        return Lease(
            mac=mac.lower(),
            address=IPv4Address(address),
            hostname="" if name == "*" else name,
            expires_at=datetime.fromtimestamp(int(ends), UTC) if int(ends) else None,
        )
    return None
