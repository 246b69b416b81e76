"""Kea's DHCPv4 server, told by its control socket, or by its agent over HTTP.

A change is a configuration: read, changed, tested, set, and written to the file that Kea starts
with, so no hook for single reservations is needed (`host_cmds` is in no distribution). Leases are
read and ended by the hook `lease_cmds`. Kea has no way to change what nobody else has changed
meanwhile: our runners take turns by a lock, and what others do is looked for once more right
before setting.
"""

import json
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import httpx

from adapters.errors import AdapterError, NotAllowed, Refused, Transient, Unsupported
from adapters.lan import Lease, Reservation, Subnet
from adapters.networks import kea_json
from adapters.networks.held import Held
from adapters.networks.locks import locked
from adapters.types import Chap

PATIENCE_S = 20.0

_DONE, _UNKNOWN_COMMAND, _NOTHING_FOUND = 0, 2, 3
_TRIES = 5
_CHANGING = frozenset({"config-get", "config-test", "config-set", "config-write"})
_NEEDED = _CHANGING | {"lease4-get-all", "lease4-del"}
_DECLINED = 1  # a guest has found that somebody else uses the address

Json = dict[str, Any]


class Channel(Protocol):
    """A way by which Kea takes commands."""

    def ask(self, request: Json) -> Json:
        """Its answer. Raises `Transient` where there is none."""

    def turn(self) -> AbstractContextManager[None]:
        """Of all our runners, only one is inside. Raises `Transient` when it takes too long."""


class KeaSocket:
    """Its own control socket, on this machine; our runners take turns by its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, request: Json) -> Json:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE_S)
                connection.connect(str(self.path))
                connection.sendall(json.dumps(request).encode())
                connection.shutdown(socket.SHUT_WR)
                received = b"".join(iter(lambda: connection.recv(2**16), b""))
            return _answer(json.loads(received))
        except (OSError, ValueError) as error:
            raise Transient(f"Kea does not answer at {self.path}: {error}") from error

    def turn(self) -> AbstractContextManager[None]:
        return locked(self.path.parent, PATIENCE_S)


class KeaAgent:
    """Its control agent, or a Kea that speaks HTTP itself."""

    def __init__(
        self,
        url: str,
        login: Callable[[], Chap | None],
        turn: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.url = url
        self._ask_for_login = login
        self._login: Chap | None = None
        self._turn = turn
        self._trusts = ssl.create_default_context()  # whom this machine does

    def ask(self, request: Json) -> Json:
        self._login = self._login or self._ask_for_login()  # once for all that it is asked
        login = self._login
        auth = (login.user, login.password.get_secret_value()) if login else None
        try:
            answer = httpx.post(
                self.url,
                json={**request, "service": ["dhcp4"]},
                auth=auth,
                timeout=PATIENCE_S,
                trust_env=False,
                verify=self._trusts,
            )
            if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
                self._login = None
                raise NotAllowed(f"Kea's agent at {self.url} refuses our login")
            answer.raise_for_status()
            return _answer(answer.json())
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise Transient(f"Kea's agent does not answer at {self.url}: {error}") from error

    def turn(self) -> AbstractContextManager[None]:
        return self._turn()


class Kea:
    """One server, as far as it serves one installation."""

    def __init__(self, channel: Channel, installation: UUID) -> None:
        self.channel = channel
        self.installation = installation

    def verify(self) -> None:
        self._configuration()
        if missing := sorted(_NEEDED - {*self._ask("list-commands")}):
            hook = ": is the hook lease_cmds loaded?" if missing[0].startswith("lease") else ""
            raise Unsupported(f"Kea has no command {', '.join(missing)}{hook}")

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
        self._change(lambda held: held.with_reservations(*said), {each.subnet for each in said[0]})

    def has_reservations(self, reservations: Iterable[Reservation]) -> set[UUID]:
        found = self._held().reservations
        return {each.id for each in reservations if found.get(each.id) == each}

    def delete_reservations(
        self, reservations: Iterable[Reservation], subnets: Iterable[UUID] = ()
    ) -> None:
        said = list(reservations), list(subnets)
        touched = {*(each.subnet for each in said[0]), *said[1]}  # by a killed one, too
        self._change(lambda held: held.without_reservations(*said), touched)

    def replace(self, subnets: Iterable[Subnet], reservations: Iterable[Reservation]) -> None:
        said = list(subnets), list(reservations)
        self._change(lambda held: held.replaced(*said), {each.id for each in said[0]})

    def content(self) -> tuple[dict[UUID, Subnet], dict[UUID, Reservation]]:
        held = self._held()
        return held.subnets, held.reservations

    def leases(self, subnet: UUID | None = None) -> list[Lease]:
        mine = self._held().subnets
        now = datetime.now(UTC)
        wanted = {each.number for key, each in mine.items() if subnet in {None, key}}
        return [
            lease
            for lease in self._leases(wanted)
            if lease.mac and (lease.expires_at is None or lease.expires_at > now)
        ]

    # --- configurations ------------------------------------------------------------------------

    def _held(self) -> Held:
        return kea_json.held(self._configuration()["Dhcp4"], self.installation)

    def _change(self, change: Callable[[Held], Held], touched: Iterable[UUID] = ()) -> None:
        """Have what `change` makes of what there is; then end leases in the networks `touched`."""
        with self.channel.turn():
            for _ in range(_TRIES):
                if self._try(change, set(touched)):
                    return
        raise Transient("others change Kea's configuration all the time")

    def _try(self, change: Callable[[Held], Held], touched: set[UUID]) -> bool:
        """Change it, unless somebody else does: whether that worked."""
        before = self._configuration()
        held = kea_json.held(before["Dhcp4"], self.installation)
        after = change(held)
        wanted = {"Dhcp4": kea_json.with_held(before["Dhcp4"], after, self.installation)}
        if wanted != before:
            self._ask("config-test", wanted)
            if self._configuration() != before:
                return False
            self._ask("config-set", wanted)
        self._write(before)
        touched |= held.touched_by(after)
        numbers = {
            each.number
            for subnets in (held.subnets, after.subnets)
            for key, each in subnets.items()
            if key in touched
        }
        for lease in held.ended_by(after, self._leases(numbers)):
            self._ask("lease4-del", {"ip-address": str(lease.address), "update-ddns": True})
        return True

    def _configuration(self) -> Json:
        dhcp4 = self._ask("config-get").get("Dhcp4")  # beside it is a hash, which is not to be set
        if dhcp4 is None:
            raise Refused("what answers there is no DHCPv4 server")
        return {"Dhcp4": kea_json.in_order(dhcp4)}

    def _write(self, before: Json) -> None:
        """Let it start with this, too; where it cannot, have what there was before."""
        try:
            self._ask("config-write")
        except Refused:
            with suppress(AdapterError):
                self._ask("config-set", before)
            raise

    # --- leases --------------------------------------------------------------------------------

    def _leases(self, numbers: Iterable[int]) -> list[Lease]:
        """All in these subnets, by address; one that was declined has no card."""
        if not (wanted := sorted(numbers)):
            return []
        found = self._ask("lease4-get-all", {"subnets": wanted}).get("leases", [])
        return sorted((_lease(each) for each in found), key=lambda lease: lease.address)

    def _ask(self, command: str, arguments: Json | None = None) -> Json:
        request: Json = {"command": command}
        if arguments is not None:
            request["arguments"] = arguments
        answer = self.channel.ask(request)
        text = answer.get("text", "no reason given")
        if answer["result"] == _UNKNOWN_COMMAND:
            raise Unsupported(f"Kea has no command {command}: {text}")
        if answer["result"] not in {_DONE, _NOTHING_FOUND}:
            raise Refused(f"Kea refuses {command}: {text}")
        found: Json = answer.get("arguments", {})
        return found


def _answer(said: Any) -> Json:
    """An agent answers for several servers at once; we ask for one."""
    answer = said[0] if isinstance(said, list) and len(said) == 1 else said
    if not isinstance(answer, dict) or not isinstance(answer.get("result"), int):
        raise ValueError(f"no answer of Kea: {str(said)[:200]}")  # noqa: TRY004 - of what was sent
    return answer


def _lease(found: Json) -> Lease:
    ends = found["cltt"] + found["valid-lft"]
    return Lease(
        mac="" if found.get("state") == _DECLINED else found["hw-address"].lower(),
        address=IPv4Address(found["ip-address"]),
        hostname=found.get("hostname", "").rstrip("."),
        expires_at=None if found["valid-lft"] == 2**32 - 1 else datetime.fromtimestamp(ends, UTC),
    )
