"""tgtd's control socket: what is sent, and what the answers mean."""

import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from adapters.errors import Refused, Transient, Unsupported
from adapters.storage import tgt_socket
from adapters.storage.tgt import Shown, parse
from adapters.types import Chap
from deployments.lab.tgtd import Tgtd


@pytest.mark.parametrize("password", ["a,b", "a\0b", "", "a b"])
def test_what_tgtd_would_misread_is_refused(password: str) -> None:
    with pytest.raises(Refused):
        tgt_socket.new_account(Chap(user="joe", password=SecretStr(password)))


@pytest.mark.parametrize("path", ["/pool/a,params=b", "/pool/a\nb", "/pool/a\0b"])
def test_a_path_that_tgtd_would_misread_is_refused(path: str) -> None:
    with pytest.raises(Refused):
        tgt_socket.new_lun(1, Path(path))


def show(tgtd: Tgtd) -> list[Shown]:
    return parse(tgt_socket.ask(tgtd.control, tgt_socket.show_targets()))


JOE = Chap(user="joe", password=SecretStr("secret+/="))
ACCOUNT, CONNECTION, LUN, TARGET = "account", "conn", "logicalunit", "target"


@contextmanager
def listening(name: Path, answer: bytes) -> Iterator[list[bytes]]:
    """Be tgtd for one request, and remember it."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(name))
        try:
            listener.listen()
            listener.settimeout(90)

            def serve() -> None:
                connection, _ = listener.accept()
                connection.settimeout(90)
                with connection:
                    if head := connection.recv(120, socket.MSG_WAITALL):
                        size = int.from_bytes(head[72:76], "little") - len(head)
                        heard.append(head + connection.recv(size, socket.MSG_WAITALL))
                        connection.sendall(answer)

            server = threading.Thread(target=serve)
            server.start()
            try:
                yield heard
            finally:
                server.join()
        finally:
            name.unlink()


@pytest.mark.lab
@pytest.mark.parametrize(
    ("request_", "mode", "op", "arguments"),
    [
        (tgt_socket.show_targets(), TARGET, "show", ""),
        (tgt_socket.new_target(7, "iqn.a:b"), TARGET, "new", "--tid 7 --targetname iqn.a:b"),
        (tgt_socket.delete_target(7), TARGET, "delete", "--tid 7"),
        (tgt_socket.allow(7, "iqn.me:x"), TARGET, "bind", "--tid 7 --initiator-name iqn.me:x"),
        (tgt_socket.forbid(7, "iqn.me:x"), TARGET, "unbind", "--tid 7 --initiator-name iqn.me:x"),
        (tgt_socket.new_lun(7, Path("/a.b")), LUN, "new", "--tid 7 --lun 1 --backing-store /a.b"),
        (
            tgt_socket.name_lun(7, "af", "01"),
            LUN,
            "update",
            "--tid 7 --lun 1 --params scsi_id=af,scsi_sn=01",
        ),
        (tgt_socket.new_account(JOE), ACCOUNT, "new", "--user joe --password secret+/="),
        (tgt_socket.bind_account(7, "joe"), ACCOUNT, "bind", "--tid 7 --user joe"),
        (tgt_socket.delete_account("joe"), ACCOUNT, "delete", "--user joe"),
        (tgt_socket.end_connection(7, 8, 9), CONNECTION, "delete", "--tid 7 --sid 8 --cid 9"),
    ],
)
def test_requests_are_what_tgtadm_sends(
    tmp_path: Path, request_: tgt_socket.Request, mode: str, op: str, arguments: str
) -> None:
    name = tmp_path / "tgt"
    with listening(tmp_path / "tgt.0", struct.pack("=II", 0, 8)) as heard:
        subprocess.run(
            ["tgtadm", "--lld", "iscsi", "--mode", mode, "--op", op, *arguments.split()],
            check=True,
            env={**os.environ, "TGT_IPC_SOCKET": str(name)},
            timeout=90,
        )
    assert heard == [request_.encode()]
    assert "secret" not in repr(request_)


@pytest.mark.lab
@pytest.mark.parametrize("number", tgt_socket.ERRORS)
def test_errors_mean_what_tgtadm_says(tmp_path: Path, number: int) -> None:
    with listening(tmp_path / "tgt.0", struct.pack("=II", number, 8)):
        done = subprocess.run(
            ["tgtadm", "--mode", "target", "--op", "show"],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "TGT_IPC_SOCKET": str(tmp_path / "tgt")},
            timeout=90,
        )
    assert done.stderr == f"tgtadm: {tgt_socket.ERRORS[number][1]}\n"


@pytest.mark.lab
def test_what_is_no_tgtd_that_we_know_is_told_nothing() -> None:
    control = 2**16 + os.getpid()  # no tgtd can have it
    sockets = Path("/var/run/tgtd")
    sockets.mkdir(exist_ok=True)
    unknown = pytest.raises(Unsupported, match=r"1\.0\.85 is needed; .*Python")
    with listening(sockets / f"socket.{control}", b"") as heard, unknown:
        tgt_socket.ask(control, tgt_socket.show_targets())
    assert heard == []


@pytest.mark.lab
def test_a_daemon_that_hangs_or_dies_before_it_answers_is_transient(
    tgtd: Tgtd, tmp_path: Path
) -> None:
    pid = int((tmp_path / "tgtd" / "tgtd.pid").read_text().split()[0])
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(Transient, match="does not answer"):
        tgt_socket.ask(tgtd.control, tgt_socket.show_targets(), patience_s=0.1)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(show, tgtd)
        with pytest.raises(TimeoutError):
            asked.result(0.1)
        tgtd.crash()
        with pytest.raises(Transient):
            asked.result(90)


def test_half_an_answer_is_transient() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(b"\0\0\0\0")
        with pytest.raises(Transient):
            tgt_socket._receive(ours, 8)


@pytest.mark.lab
def test_what_tgtd_refuses_is_told_by_kind(tgtd: Tgtd, tmp_path: Path) -> None:
    def ask(request: tgt_socket.Request) -> None:
        tgt_socket.ask(tgtd.control, request)

    with pytest.raises(tgt_socket.Absent, match="can't find the target"):
        ask(tgt_socket.delete_target(1))
    ask(tgt_socket.new_target(1, "iqn.a:b"))
    with pytest.raises(tgt_socket.Exists, match="already exists"):
        ask(tgt_socket.new_target(1, "iqn.a:c"))
    with pytest.raises(Refused, match="invalid request"):
        ask(tgt_socket.new_lun(1, tmp_path / "nothing"))
    (target,) = show(tgtd)
    assert target.lun is None


@pytest.mark.lab
def test_a_long_answer_is_read_whole(tgtd: Tgtd) -> None:
    iqns = [f"iqn.2026-11.test:{number}" for number in range(1, 401)]
    for tid, iqn in enumerate(iqns, 1):
        tgt_socket.ask(tgtd.control, tgt_socket.new_target(tid, iqn))
    assert [target.iqn for target in show(tgtd)] == iqns
