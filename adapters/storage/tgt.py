"""Exports over iSCSI by tgtd.

An export is a target of its own, and the target brackets the rest: it is made first and removed
last, and its ACL, without which nobody can log in, is set last and taken away first. So whatever
dies in between, a half-made export lets nobody in and is found by its name.

tgtd keeps nothing: a restarted one is empty. It has no room for an owner either, so the LUN's
serial number is the volume's id, and its SCSI id is derived from installation and volume.
"""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from uuid import UUID, uuid5

from adapters.errors import Conflict, Refused, Transient
from adapters.storage import tgt_socket
from adapters.storage.tgt_socket import Absent, Busy, Exists, Request
from adapters.types import Chap, Export, Target

_LOOK_AGAIN_S = 0.005

# What tgtd shows is an outline: four blanks for each level.
_TARGET = re.compile(r"^Target (\d+): (.+)\n((?: .*\n?)*)", re.MULTILINE)
_SECTION = re.compile(r"^ {4}(\S.*):\n((?: {8}.*\n?)*)", re.MULTILINE)
_ENTRY = re.compile(r"^ {8}(\S.*)$", re.MULTILINE)
_NEXUS = re.compile(r"^ {8}I_T nexus: (\d+)\n((?: {12}.*\n?)*)", re.MULTILINE)
_CONNECTION = re.compile(r"^ {12}Connection: (\d+)$", re.MULTILINE)
_FIRST_LUN = re.compile(r"^ {8}LUN: 1\n((?: {12}.*\n?)*)", re.MULTILINE)
_UUID = "([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_EXPORT = re.compile(rf"iqn\.2026-11\.org\.cloudloom:{_UUID}")
_VOLUME = re.compile(rf"vol-{_UUID}\.img")
_FIELD = re.compile(r"^ {12}(\S[^:]*): ?(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Lun:
    """A logical unit and what is behind it."""

    path: str
    scsi_id: str  # empty while nobody has set it
    serial: str


@dataclass(frozen=True)
class Shown:
    """A target as tgtd shows it, read when it is asked: most are other people's."""

    tid: int
    iqn: str
    text: str = ""

    @property
    def lun(self) -> Lun | None:
        """Number 1."""
        first = _FIRST_LUN.search(self._sections.get("LUN information", ""))
        if not first:
            return None
        told = dict(_FIELD.findall(first[1]))
        scsi_id = "" if told["SCSI ID"].startswith("IET ") else told["SCSI ID"]
        return Lun(told["Backing store path"], scsi_id, told["SCSI SN"])

    @property
    def sessions(self) -> tuple[tuple[int, int], ...]:
        """Each connection, by session and connection."""
        nexuses = _NEXUS.findall(self._sections.get("I_T nexus information", ""))
        return tuple(
            (int(session), int(connection))
            for session, nexus in nexuses
            for connection in _CONNECTION.findall(nexus)
        )

    @property
    def initiators(self) -> tuple[str, ...]:
        """Who may log in."""
        return tuple(_ENTRY.findall(self._sections.get("ACL information", "")))

    @cached_property
    def _sections(self) -> dict[str, str]:
        return dict(_SECTION.findall(self.text))


class Tgt:
    """One tgtd: its control number, and the portal where initiators reach it."""

    def __init__(self, control: int, host: str, port: int) -> None:
        self.control = control
        self.host = host
        self.port = port

    def ensure(self, export: Export, backing: Path, chap: Chap) -> Target:
        """Export the file. Raises `Conflict` when something else has that name."""
        self.complete(self.targets(), export, backing, chap)
        return Target(host=self.host, port=self.port, iqn=export.iqn)

    def complete(
        self, targets: dict[str, Shown], export: Export, backing: Path, chap: Chap
    ) -> bool:
        """Make what the export lacks among these targets; answer whether it lacked anything."""
        if chap.user != export.account:
            raise Refused(f"the account of export {export.id} must be {export.account}")
        shown = targets.get(export.iqn)
        if shown:
            _refuse_another(shown, export, backing)
            if shown.initiators:  # the last thing to be set
                return False
        shown = shown or self._new_target(export.iqn, {t.tid for t in targets.values()})
        targets[export.iqn] = shown
        self._new_account(chap)
        self._ask(tgt_socket.bind_account(shown.tid, chap.user))
        if not shown.lun:
            self._ask(tgt_socket.new_lun(shown.tid, backing))
        self._ask(tgt_socket.name_lun(shown.tid, _scsi_id(export), export.volume.hex))
        self._ask(tgt_socket.allow(shown.tid, export.initiator))
        return True

    def has(self, export: Export, backing: Path) -> bool:
        """Whether the export is there, if only a part of it. Raises `Conflict`."""
        shown = self.targets().get(export.iqn)
        if shown:
            _refuse_another(shown, export, backing)
        return shown is not None

    def users(self, backing: Path) -> tuple[str, ...]:
        """The targets that have the file behind them."""
        path = str(backing)
        shown = (shown for shown in self.targets().values() if path in shown.text)
        return tuple(s.iqn for s in shown if s.lun and s.lun.path == path)

    def delete(self, export: Export) -> None:
        """End the export: let nobody in, end the sessions and what they have in flight, forget it.

        tgtd's own `--force` will not do: it fails while commands are in flight, and by then the
        initiator has logged in again.
        """
        end = time.monotonic() + tgt_socket.PATIENCE_S
        while shown := self.targets().get(export.iqn):
            if shown.lun and shown.lun.scsi_id not in ("", _scsi_id(export)):
                raise Conflict(f"target {export.iqn} is another's")
            try:
                for request in ending(shown, export.account):
                    with suppress(Absent):  # it has ended by itself, or half an export has none
                        self._ask(request)
            except Busy as error:  # an initiator has come since we looked
                if time.monotonic() > end:
                    raise Transient(f"target {export.iqn} will not end: {error}") from error
                time.sleep(_LOOK_AGAIN_S)

    def exports(self, directory: Path, installation: UUID) -> Iterator[tuple[Export, bool]]:
        """Those of the installation's volumes in a directory, and whether one is logged in."""
        for shown in self.targets().values():
            lun, export = shown.lun, _EXPORT.fullmatch(shown.iqn)
            volume = _VOLUME.fullmatch(Path(lun.path).name) if lun else None
            if not (lun and export and volume and Path(lun.path).parent == directory):
                continue
            found = Export(
                id=UUID(export[1]),
                volume=UUID(volume[1]),
                initiator=next(iter(shown.initiators), shown.iqn),
                installation=installation,
            )
            if lun.scsi_id == _scsi_id(found):
                yield found, bool(shown.sessions)

    def targets(self) -> dict[str, Shown]:
        """Every target by its name."""
        return {shown.iqn: shown for shown in parse(self._ask(tgt_socket.show_targets()))}

    def _new_target(self, iqn: str, taken: set[int]) -> Shown:
        """Make a target under the lowest free number, which others may be after as well."""
        end = time.monotonic() + tgt_socket.PATIENCE_S
        while True:
            tid = next(tid for tid in range(1, len(taken) + 2) if tid not in taken)
            try:
                self._ask(tgt_socket.new_target(tid, iqn))
            except Exists:
                targets = self.targets()
                if iqn in targets or time.monotonic() > end:
                    raise
                taken = {shown.tid for shown in targets.values()}
            else:
                return Shown(tid, iqn)

    def _new_account(self, chap: Chap) -> None:
        """Make the account; one that an attempt has left unbound is replaced."""
        request = tgt_socket.new_account(chap)
        try:
            self._ask(request)
        except Exists:
            self._ask(tgt_socket.delete_account(chap.user))
            self._ask(request)

    def _ask(self, request: Request) -> str:
        return tgt_socket.ask(self.control, request)


def parse(text: str) -> list[Shown]:
    """Read what tgtd shows of all targets."""
    return [Shown(int(tid), iqn, shown) for tid, iqn, shown in _TARGET.findall(text)]


def ending(shown: Shown, account: str) -> list[Request]:
    """Answer the requests that end an export, first of all those that let nobody in any more.

    An initiator that is cut off logs in again at once, and without its account it needs no
    password.
    """
    tid = shown.tid
    return [
        *(tgt_socket.forbid(tid, initiator) for initiator in shown.initiators),
        *(tgt_socket.end_connection(tid, *connection) for connection in shown.sessions),
        tgt_socket.delete_account(account),
        tgt_socket.delete_target(tid),
    ]


def _scsi_id(export: Export) -> str:
    """Answer the volume's SCSI id, which tells whose it is as well."""
    return uuid5(export.installation, str(export.volume)).hex


def _refuse_another(shown: Shown, export: Export, backing: Path) -> None:
    """Raise `Conflict` unless the target is this export, or on the way to be it."""
    lun = shown.lun
    if lun and (lun.path != str(backing) or lun.scsi_id not in ("", _scsi_id(export))):
        raise Conflict(f"target {export.iqn} exports something else: {lun.path}")
    if shown.initiators not in ((), (export.initiator,)):
        raise Conflict(f"target {export.iqn} is for {', '.join(shown.initiators)}")
