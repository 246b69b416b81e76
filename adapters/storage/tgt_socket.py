"""tgtd's control socket: the requests of `tgtadm`, without a process for each.

They are the bytes that `tgtadm` would send (the lab's tests compare them), so no password is ever
on a command line, for every local user to read in /proc. But they are a C struct that tgt changes
as it likes: nothing is sent to a tgtd of a version that has not been compared.
"""

import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

from adapters import programs
from adapters.errors import (
    AdapterError,
    NotAllowed,
    NotFound,
    OutOfSpace,
    Refused,
    Transient,
    Unsupported,
)
from adapters.types import Chap

PATIENCE_S = 10.0

_COMPARED = frozenset({"1.0.85"})
_SOCKET = "/var/run/tgtd/socket.{control}"  # compiled into tgtd
# mode, op, driver, length, tid, sid, lun, cid, host, device type, direction, pack, force
_REQUEST = struct.Struct("=II64sIiQQIIIIII")
_ANSWER = struct.Struct("=II")  # error, length
_PEER = struct.Struct("=iII")  # pid, uid, gid
_TIME = struct.Struct("@ll")  # seconds, microseconds
_WORD = re.compile(r"[A-Za-z0-9._:+/=-]+")
_VALUE = re.compile(r"[^,\0\n]+")  # tgtd splits a request's values at commas


class Absent(NotFound):
    """What the request named is not there."""


class Exists(Transient):
    """Somebody else made it at the same time."""


class Busy(Transient):
    """An initiator uses it."""


ERRORS: dict[int, tuple[type[AdapterError], str]] = {
    1: (Transient, "unknown error"),
    2: (Transient, "out of memory"),
    3: (Unsupported, "can't find the driver"),
    4: (Absent, "can't find the target"),
    5: (Absent, "can't find the logical unit"),
    6: (Absent, "can't find the session"),
    7: (Absent, "can't find the connection"),
    8: (Absent, "can't find the binding"),
    9: (Exists, "this target already exists"),
    10: (Exists, "this logical unit number already exists"),
    11: (Exists, "this binding already exists"),
    12: (Exists, "this access control rule already exists"),
    13: (Absent, "this access control rule does not exist"),
    14: (Exists, "this account already exists"),
    15: (Absent, "can't find the account"),
    16: (OutOfSpace, "too many accounts"),
    17: (Refused, "invalid request"),
    18: (Exists, "this target already has an outgoing account"),
    19: (Busy, "this target is still active"),
    20: (Busy, "this logical unit is still active"),
    21: (Busy, "this driver is busy"),
    22: (Unsupported, "this operation isn't supported"),
    23: (Refused, "unknown parameter"),
}


class Mode(IntEnum):
    """What a request is about."""

    TARGET = 1
    LUN = 2
    CONNECTION = 6
    ACCOUNT = 7


class Op(IntEnum):
    """What to do with it."""

    NEW = 0
    DELETE = 1
    SHOW = 2
    BIND = 3
    UNBIND = 4
    UPDATE = 5


@dataclass(frozen=True)
class Request:
    """A request; numbers that it does not use keep the values that `tgtadm` gives them."""

    mode: Mode
    op: Op
    text: str = field(default="", repr=False)  # it may hold a password
    tid: int = -1
    sid: int = 0
    lun: int = 2**64 - 1
    cid: int = 0

    def encode(self) -> bytes:
        """Answer its bytes."""
        body = os.fsencode(self.text) + b"\0" if self.text else b""
        size = _REQUEST.size + len(body)
        numbers = (self.tid, self.sid, self.lun, self.cid, 0, 0, 0, 0, 0)
        return _REQUEST.pack(self.mode, self.op, b"iscsi", size, *numbers) + body


def show_targets() -> Request:
    """Show every target with all that belongs to it."""
    return Request(Mode.TARGET, Op.SHOW)


def new_target(tid: int, iqn: str) -> Request:
    """Make a target, which lets nobody in yet."""
    return Request(Mode.TARGET, Op.NEW, f"targetname={_value(iqn)}", tid)


def delete_target(tid: int) -> Request:
    """Delete a target that nobody uses."""
    return Request(Mode.TARGET, Op.DELETE, tid=tid)


def allow(tid: int, initiator: str) -> Request:
    """Let an initiator in."""
    return Request(Mode.TARGET, Op.BIND, f"initiator-name={_value(initiator)}", tid)


def forbid(tid: int, initiator: str) -> Request:
    """Let an initiator in no more; its sessions go on."""
    return Request(Mode.TARGET, Op.UNBIND, f"initiator-name={_value(initiator)}", tid)


def new_lun(tid: int, backing: Path) -> Request:
    """Put a file behind LUN 1."""
    return Request(Mode.LUN, Op.NEW, f"path={_value(str(backing))}", tid, lun=1)


def name_lun(tid: int, scsi_id: str, serial: str) -> Request:
    """Say what LUN 1 tells of itself."""
    names = f"targetOps scsi_id={_value(scsi_id)},scsi_sn={_value(serial)},"
    return Request(Mode.LUN, Op.UPDATE, names, tid, lun=1)


def new_account(chap: Chap) -> Request:
    """Make an account."""
    user, password = chap.user, chap.password.get_secret_value()
    if not _WORD.fullmatch(user) or not _WORD.fullmatch(password):
        raise Refused("tgtd cannot hold such a user name or password")
    return Request(Mode.ACCOUNT, Op.NEW, f"user={user},password={password}")


def bind_account(tid: int, user: str) -> Request:
    """Ask who logs in to the target for this account's password."""
    return Request(Mode.ACCOUNT, Op.BIND, f"user={_value(user)}", tid)


def delete_account(user: str) -> Request:
    """Delete an account; its targets ask for no password any more."""
    return Request(Mode.ACCOUNT, Op.DELETE, f"user={_value(user)}")


def end_connection(tid: int, session: int, connection: int) -> Request:
    """Cut an initiator off, which may log in again."""
    return Request(Mode.CONNECTION, Op.DELETE, tid=tid, sid=session, cid=connection)


def ask(control: int, request: Request, *, patience_s: float = PATIENCE_S) -> str:
    """Send a request, and answer what tgtd shows; each wait is bounded.

    Raises `Absent`, `Exists`, `Busy`; `Unsupported` when tgtd is of a version unknown to us.
    """
    if os.geteuid() or os.getegid():
        raise NotAllowed("tgtd takes requests from root only")
    with speaking_tgt(), socket.socket(socket.AF_UNIX) as connection:
        # The kernel's time-outs: with Python's, connecting would not wait for its turn.
        patience = _TIME.pack(int(patience_s), int(patience_s % 1 * 10**6))
        for side in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, side, patience)
        connection.connect(_SOCKET.format(control=control))
        _refuse_unknown(connection)
        connection.sendall(request.encode())
        error, size = _ANSWER.unpack(_receive(connection, _ANSWER.size))
        text = _receive(connection, size - _ANSWER.size) if size > _ANSWER.size else b""
    if error:
        kind, words = ERRORS.get(error, (Transient, f"error {error}"))
        what = f"{request.mode.name} {request.op.name}".lower()
        raise kind(f"tgtd: {words} ({what}, tid {request.tid})")
    return os.fsdecode(text.rstrip(b"\0"))


@contextmanager
def speaking_tgt() -> Iterator[None]:
    """Translate what happens at tgtd's socket."""
    try:
        yield
    except OSError as error:
        raise Transient(f"tgtd does not answer: {error}") from error
    except programs.ProgramFailed as error:
        raise Unsupported(f"what listens for tgtd does not tell its version: {error}") from error


def _receive(connection: socket.socket, size: int) -> bytes:
    received = connection.recv(size, socket.MSG_WAITALL)
    if len(received) < size:
        raise Transient("tgtd hung up before it had answered")
    return received


def _refuse_unknown(connection: socket.socket) -> None:
    """Raise `Unsupported` unless who listens is a tgtd whose requests we know."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, *_ = _PEER.unpack(peer)
    if not pid:
        raise Unsupported("tgtd's version is unknown: it runs in another pid namespace")
    program = Path(f"/proc/{pid}/exe")
    file = program.stat()
    version = _version(program, (file.st_dev, file.st_ino, file.st_mtime_ns))
    if version not in _COMPARED:
        known = ", ".join(sorted(_COMPARED))
        raise Unsupported(f"tgtd {known} is needed; what listens says that it is {version!r}")


@lru_cache(maxsize=16)
def _version(program: Path, _file: tuple[int, int, int]) -> str:
    """Ask a running program for its version, once for each file that it is."""
    return programs.run(str(program), "--version").strip()


def _value(value: str) -> str:
    """Answer what tgtd will read as one value."""
    if not _VALUE.fullmatch(value):
        raise Refused(f"tgtd cannot hold {value!r}")
    return value
