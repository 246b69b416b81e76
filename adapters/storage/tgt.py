"""Exports over iSCSI by tgtd, through `tgtadm`.

An export is a target of its own, and the target brackets the rest: it is made first and removed
last, and its ACL, without which nobody can log in, is set last and taken away first. So whatever
dies in between, a half-made export lets nobody in and is found by its name.

tgtd keeps nothing: a restarted one is empty. It has no room for an owner either, so the LUN's
serial number is the volume's id, and its SCSI id is derived from installation and volume.

`tgtadm` takes a password only as an argument, for every local user to read in /proc. That one
request goes straight to tgtd's control socket instead, in the bytes that `tgtadm` would send
(the lab's tests compare them): no password is ever on a command line.
"""

import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid5

from adapters import programs
from adapters.errors import (
    AdapterError,
    Conflict,
    NotAllowed,
    NotFound,
    Refused,
    Transient,
    Unsupported,
)
from adapters.types import Chap, Export, Target

_SOCKET = "/var/run/tgtd/socket.{control}"
# mode, op, driver, length, tid, sid, lun, cid, host, device type, direction, pack, force
_REQUEST = struct.Struct("=II64sIiQQIIIIII")
_ANSWER = struct.Struct("=II")  # error, length
_ACCOUNT_MODE, _NEW, _NO_TID, _NO_LUN = 7, 0, -1, 2**64 - 1
_PLAIN = re.compile(r"[A-Za-z0-9._:+/=-]+")  # tgtd splits `user=...,password=...` at commas
_PATIENCE_S = 10.0

# `tgtadm --mode target --op show` is an outline: four blanks for each level.
_TARGET = re.compile(r"^Target (\d+): (.+)\n((?: {4}.*\n?)*)", re.MULTILINE)
_SECTION = re.compile(r"^ {4}(\S.*):\n((?: {8}.*\n?)*)", re.MULTILINE)
_ENTRY = re.compile(r"^ {8}(\S.*?)(?: \(outgoing\))?$", re.MULTILINE)
_NEXUS = re.compile(r"^ {8}I_T nexus: (\d+)\n((?: {12}.*\n?)*)", re.MULTILINE)
_CONNECTION = re.compile(r"^ {12}Connection: (\d+)$", re.MULTILINE)
_FIRST_LUN = re.compile(r"^ {8}LUN: 1\n((?: {12}.*\n?)*)", re.MULTILINE)
_FIELD = re.compile(r"^ {12}(\S[^:]*): ?(.*)$", re.MULTILINE)


class _Absent(NotFound):
    """What the request named is not there."""


class _Exists(Transient):
    """Somebody else made it at the same time."""


class _Busy(Transient):
    """Commands are in flight."""


_MEANINGS: dict[str, type[AdapterError]] = {
    "can't find": _Absent,
    "already exists": _Exists,
    "still active": _Busy,
    "invalid request": Refused,
    "unsupported": Unsupported,
}


@dataclass(frozen=True)
class Lun:
    """A logical unit and what is behind it."""

    path: str
    scsi_id: str  # empty while nobody has set it
    serial: str


@dataclass(frozen=True)
class Shown:
    """A target as tgtd shows it."""

    tid: int
    iqn: str
    lun: Lun | None = None  # number 1
    sessions: tuple[tuple[int, int], ...] = ()  # session and connection
    accounts: tuple[str, ...] = ()
    initiators: tuple[str, ...] = ()


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
        tid = str(shown.tid)
        self._new_account(chap)
        self._admin("account", "bind", "--tid", tid, "--user", chap.user)
        on_lun = ("--tid", tid, "--lun", "1")
        if not shown.lun:
            self._admin("logicalunit", "new", *on_lun, "--backing-store", str(backing))
        names = f"scsi_id={_scsi_id(export)},scsi_sn={export.volume.hex}"
        self._admin("logicalunit", "update", *on_lun, "--params", names)
        self._admin("target", "bind", "--tid", tid, "--initiator-name", export.initiator)
        return True

    def has(self, export: Export, backing: Path) -> bool:
        """Whether the export is there, if only a part of it. Raises `Conflict`."""
        shown = self.targets().get(export.iqn)
        if shown:
            _refuse_another(shown, export, backing)
        return shown is not None

    def users(self, backing: Path) -> tuple[str, ...]:
        """The targets that have the file behind them."""
        shown = self.targets().values()
        return tuple(s.iqn for s in shown if s.lun and s.lun.path == str(backing))

    def delete(self, export: Export) -> None:
        """End the export: let nobody in, end the sessions and what they have in flight, forget it.

        tgtd's own `--force` will not do: it fails while commands are in flight, and by then the
        initiator has logged in again.
        """
        end = time.monotonic() + _PATIENCE_S
        while shown := self.targets().get(export.iqn):
            if shown.lun and shown.lun.scsi_id not in ("", _scsi_id(export)):
                raise Conflict(f"target {export.iqn} is another's")
            try:
                self._take_apart(shown, export.account)
            except (_Absent, _Busy) as error:  # it has changed since we looked: look again
                if time.monotonic() > end:
                    raise Transient(f"target {export.iqn} will not end: {error}") from error
                time.sleep(0.02)

    def targets(self) -> dict[str, Shown]:
        """Every target by its name."""
        return {shown.iqn: shown for shown in parse(self._admin("target", "show"))}

    def _new_target(self, iqn: str, taken: set[int]) -> Shown:
        """Make a target under the lowest free number, which others may be after as well."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            tid = next(tid for tid in range(1, len(taken) + 2) if tid not in taken)
            try:
                self._admin("target", "new", "--tid", str(tid), "--targetname", iqn)
            except _Exists:
                targets = self.targets()
                if iqn in targets or time.monotonic() > end:
                    raise
                taken = {shown.tid for shown in targets.values()}
            else:
                return Shown(tid, iqn)

    def _new_account(self, chap: Chap) -> None:
        """Make the account; one that an attempt has left unbound is replaced."""
        try:
            self._send_account(chap)
        except _Exists:
            self._admin("account", "delete", "--user", chap.user)
            self._send_account(chap)

    def _send_account(self, chap: Chap) -> None:
        request = account_request(chap)
        with speaking_tgt(), socket.socket(socket.AF_UNIX) as control:
            control.settimeout(_PATIENCE_S)
            control.connect(_SOCKET.format(control=self.control))
            control.sendall(request)
            with control.makefile("rb") as answers:
                answer = answers.read(_ANSWER.size)
            if len(answer) < _ANSWER.size:
                raise NotAllowed("tgtd takes requests from root only")
        error, _ = _ANSWER.unpack(answer)
        if error:  # the name is there already; nothing else is wrong with such a request
            raise _Exists(f"tgtd has an account {chap.user} (error {error})")

    def _take_apart(self, shown: Shown, account: str) -> None:
        """Remove a target and its account, first of all what lets an initiator in.

        A target whose account is deleted asks for no password any more.
        """
        tid = str(shown.tid)
        for initiator in shown.initiators:
            self._admin("target", "unbind", "--tid", tid, "--initiator-name", initiator)
        for session, connection in shown.sessions:
            which = ("--sid", str(session), "--cid", str(connection))
            with suppress(_Absent):  # it has ended by itself
                self._admin("conn", "delete", "--tid", tid, *which)
        with suppress(_Absent):  # half an export may have none
            self._admin("account", "delete", "--user", account)
        self._admin("target", "delete", "--tid", tid)

    def _admin(self, mode: str, op: str, *arguments: str) -> str:
        """Run `tgtadm`."""
        which = ("-C", str(self.control), "--lld", "iscsi", "--mode", mode, "--op", op)
        with speaking_tgt():
            return programs.run("tgtadm", *which, *arguments)


@contextmanager
def speaking_tgt() -> Iterator[None]:
    """Translate what tgtd and `tgtadm` say."""
    try:
        yield
    except OSError as error:
        raise Transient(f"tgtd does not answer: {error}") from error
    except programs.ProgramFailed as error:
        for words, kind in _MEANINGS.items():
            if words in error.stderr:
                raise kind(str(error)) from error
        raise Transient(str(error)) from error


def parse(text: str) -> list[Shown]:
    """Read what `tgtadm` shows of all targets."""
    targets = []
    for tid, iqn, body in _TARGET.findall(text):
        sections = dict(_SECTION.findall(body))
        lun = None
        if first := _FIRST_LUN.search(sections["LUN information"]):
            told = dict(_FIELD.findall(first[1]))
            scsi_id = "" if told["SCSI ID"].startswith("IET ") else told["SCSI ID"]
            lun = Lun(told["Backing store path"], scsi_id, told["SCSI SN"])
        targets.append(
            Shown(
                int(tid),
                iqn,
                lun,
                tuple(
                    (int(session), int(connection))
                    for session, nexus in _NEXUS.findall(sections["I_T nexus information"])
                    for connection in _CONNECTION.findall(nexus)
                ),
                tuple(_ENTRY.findall(sections["Account information"])),
                tuple(_ENTRY.findall(sections["ACL information"])),
            )
        )
    return targets


def account_request(chap: Chap) -> bytes:
    """Answer the request for a new account, as `tgtadm` sends it."""
    user, password = chap.user, chap.password.get_secret_value()
    if not _PLAIN.fullmatch(user) or not _PLAIN.fullmatch(password):
        raise Refused("tgtd cannot hold such a user name or password")
    body = f"user={user},password={password}\0".encode()
    head = (_ACCOUNT_MODE, _NEW, b"iscsi", _REQUEST.size + len(body), _NO_TID, 0, _NO_LUN)
    return _REQUEST.pack(*head, 0, 0, 0, 0, 0, 0) + body


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
