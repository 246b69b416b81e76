"""The tgt adapter: how it reads tgtd, and what it does with a real one."""

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
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from adapters.errors import Conflict, Refused, Transient, Unsupported
from adapters.storage import tgt_socket
from adapters.storage.tgt import Lun, Shown, Tgt, ending, parse
from adapters.types import Chap, Export
from deployments.lab.tgtd import Tgtd
from tests.initiator import image_options, qemu_io

SHOWN = """\
Target 1: iqn.2026-11.org.cloudloom:aaaa
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
        I_T nexus: 3
            Initiator: iqn.me:x alias: none
            Connection: 0
                IP Address: 127.0.0.1
        I_T nexus: 12
            Initiator: iqn.me:x alias: LUN: 1
            Connection: 1
                IP Address: 127.0.0.1
    LUN information:
        LUN: 0
            Type: controller
            SCSI ID: IET     00010000
            SCSI SN: beaf10
            Size: 0 MB, Block size: 1
            Backing store type: null
            Backing store path: None
            Backing store flags: 
        LUN: 1
            Type: disk
            SCSI ID: 0123456789abcdef0123456789abcdef
            SCSI SN: vol
            Size: 34 MB, Block size: 512
            Backing store type: rdwr
            Backing store path: /pool/a: b/vol.img
            Backing store flags: 
    Account information:
        joe
        jim (outgoing)
    ACL information:
        iqn.me:x
        127.0.0.1
Target 12: iqn.other:b
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
    LUN information:
        LUN: 0
            Type: controller
            SCSI ID: IET     000c0000
            SCSI SN: beaf120
            Backing store path: None
            Backing store flags: 
        LUN: 11
            Type: disk
            SCSI ID: IET     000c0011
            SCSI SN: beaf1211
            Backing store path: /else
            Backing store flags: 
    Account information:
    ACL information:
"""  # noqa: W291


def test_targets_are_read_whole() -> None:
    assert parse(SHOWN) == [
        Shown(
            tid=1,
            iqn="iqn.2026-11.org.cloudloom:aaaa",
            lun=Lun("/pool/a: b/vol.img", "0123456789abcdef0123456789abcdef", "vol"),
            sessions=((3, 0), (12, 1)),
            accounts=("joe", "jim"),
            initiators=("iqn.me:x", "127.0.0.1"),
        ),
        Shown(tid=12, iqn="iqn.other:b"),
    ]
    assert parse("") == []


@pytest.mark.parametrize("password", ["a,b", "a\0b", "", "a b"])
def test_what_tgtd_would_misread_is_refused(password: str) -> None:
    with pytest.raises(Refused):
        tgt_socket.new_account(Chap(user="joe", password=SecretStr(password)))


@pytest.mark.parametrize("path", ["/pool/a,params=b", "/pool/a\nb", "/pool/a\0b"])
def test_a_path_that_tgtd_would_misread_is_refused(path: str) -> None:
    with pytest.raises(Refused):
        tgt_socket.new_lun(1, Path(path))


def test_an_export_ends_by_letting_nobody_in() -> None:
    """What is cut off before would log in again, and without its account need no password."""
    shown = Shown(3, "iqn.a:b", None, ((7, 0), (8, 1)), ("joe",), ("iqn.me:x", "iqn.me:y"))
    assert ending(shown, "joe") == [
        tgt_socket.forbid(3, "iqn.me:x"),
        tgt_socket.forbid(3, "iqn.me:y"),
        tgt_socket.end_connection(3, 7, 0),
        tgt_socket.end_connection(3, 8, 1),
        tgt_socket.delete_account("joe"),
        tgt_socket.delete_target(3),
    ]


# --- with a real one ---------------------------------------------------------------------------


class Bench:
    """A daemon, a file and an export of it."""

    def __init__(self, folder: Path, tgtd: Tgtd) -> None:
        self.tgt = Tgt(tgtd.control, "127.0.0.1", tgtd.port)
        self.tgtd = tgtd
        self.folder = folder
        self.file = self.new_file()
        self.export, self.chap = new_export()

    def new_file(self) -> Path:
        path = self.folder / f"{uuid4()}.img"
        with path.open("wb") as file:
            file.truncate(8 * 2**20)
        return path

    def admin(self, *arguments: str) -> str:
        return subprocess.run(
            ["tgtadm", "-C", str(self.tgt.control), "--lld", "iscsi", *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def accounts(self) -> list[str]:
        lines = self.admin("--mode", "account", "--op", "show").splitlines()
        return [line.strip() for line in lines[1:]]


def new_export(installation: UUID | None = None) -> tuple[Export, Chap]:
    export = Export(
        id=uuid4(),
        volume=uuid4(),
        initiator=f"iqn.2026-11.test:{uuid4()}",
        installation=installation or uuid4(),
    )
    return export, Chap(user=export.account, password=SecretStr(uuid4().hex))


@pytest.fixture
def bench(tmp_path: Path, tgtd: Tgtd) -> Bench:
    return Bench(tmp_path, tgtd)


@pytest.mark.lab
def test_only_its_initiator_with_its_password_gets_in(bench: Bench) -> None:
    export, chap, port = bench.export, bench.chap, bench.tgtd.port
    bench.tgt.ensure(export, bench.file, chap)
    qemu_io(port, export, chap, "write -P 65 0 512", "flush")
    assert bench.file.read_bytes()[:512] == b"A" * 512
    stranger = export.model_copy(update={"initiator": "iqn.2026-11.test:stranger"})
    with pytest.raises(AssertionError, match="Target not found"):
        qemu_io(port, stranger, chap, "read 0 512")
    wrong = Chap(user=chap.user, password=SecretStr("wrongwrongwrong"))
    for who in (wrong, None):
        with pytest.raises(AssertionError, match="Authentication failure"):
            qemu_io(port, export, who, "read 0 512")


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
            listener.settimeout(10)

            def serve() -> None:
                connection, _ = listener.accept()
                connection.settimeout(10)
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
            timeout=10,
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
            timeout=10,
        )
    assert done.stderr == f"tgtadm: {tgt_socket.ERRORS[number][1]}\n"


@pytest.mark.lab
def test_what_is_no_tgtd_that_we_know_is_told_nothing() -> None:
    control = 2**16 + os.getpid()  # no tgtd can have it
    sockets = Path("/var/run/tgtd")
    sockets.mkdir(exist_ok=True)
    unknown = pytest.raises(Unsupported, match=r"1\.0\.85 is needed; .*Python")
    with listening(sockets / f"socket.{control}", b"") as heard, unknown:
        Tgt(control, "127.0.0.1", 1).targets()
    assert heard == []


@pytest.mark.lab
def test_an_export_ends_while_its_initiator_writes(bench: Bench) -> None:
    bench.tgt.ensure(bench.export, bench.file, bench.chap)
    options = image_options(bench.tgtd.port, bench.export, bench.chap)
    command = ["qemu-img", "bench", "-w", "-c", "10000000", "-d", "64", "-s", "4096"]
    writer = subprocess.Popen(
        [*command, "-t", "writeback", "--image-opts", options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not bench.file.stat().st_blocks:  # it has begun
            assert writer.poll() is None
        bench.tgt.delete(bench.export)
        last = bench.file.stat().st_mtime_ns
        with pytest.raises(AssertionError):
            qemu_io(bench.tgtd.port, bench.export, bench.chap, "read 0 512")
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.5)  # it still tries
        assert bench.file.stat().st_mtime_ns == last
    finally:
        writer.kill()
        writer.wait()
    assert bench.tgt.targets() == {}
    assert bench.accounts() == []


@pytest.mark.lab
@pytest.mark.parametrize("made", range(5))
def test_half_an_export_is_found_completed_and_removed(bench: Bench, made: int) -> None:
    export, chap, tgt = bench.export, bench.chap, bench.tgt
    parts = [
        ("--mode target --op new --tid 1 --targetname", export.iqn),
        (f"--mode account --op new --user {chap.user} --password", "another"),
        ("--mode account --op bind --tid 1 --user", chap.user),
        ("--mode logicalunit --op new --tid 1 --lun 1 --backing-store", str(bench.file)),
    ]
    for words, last in parts[:made]:
        bench.admin(*words.split(), last)
    with pytest.raises(AssertionError):
        qemu_io(bench.tgtd.port, export, chap, "read 0 512")  # it lets nobody in
    assert tgt.has(export, bench.file) == (made > 0)
    if made % 2:
        tgt.ensure(export, bench.file, chap)
        qemu_io(bench.tgtd.port, export, chap, "read 0 512")
    tgt.delete(export)
    assert tgt.targets() == {}
    assert bench.accounts() == []


@pytest.mark.lab
def test_exports_made_at_once_get_numbers_of_their_own(bench: Bench) -> None:
    exports = [new_export() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        targets = list(pool.map(lambda e: bench.tgt.ensure(e[0], bench.file, e[1]), exports))
    assert [target.iqn for target in targets] == [export.iqn for export, _ in exports]
    assert {shown.tid for shown in bench.tgt.targets().values()} == set(range(1, 9))
    for export, chap in exports:
        qemu_io(bench.tgtd.port, export, chap, "read 0 512")


@pytest.mark.lab
def test_another_file_or_owner_is_a_conflict(bench: Bench) -> None:
    export, chap, tgt = bench.export, bench.chap, bench.tgt
    tgt.ensure(export, bench.file, chap)
    with pytest.raises(Conflict):
        tgt.ensure(export, bench.new_file(), chap)
    stolen = export.model_copy(update={"installation": uuid4()})
    for method in (tgt.delete, lambda e: tgt.has(e, bench.file)):
        with pytest.raises(Conflict):
            method(stolen)
    assert tgt.users(bench.file) == (export.iqn,)


@pytest.mark.lab
def test_a_daemon_that_is_away_is_transient(bench: Bench) -> None:
    bench.tgtd.crash()
    for method in (bench.tgt.targets, lambda: bench.tgt.delete(bench.export)):
        with pytest.raises(Transient):
            method()


@pytest.mark.lab
def test_a_daemon_that_hangs_or_dies_before_it_answers_is_transient(bench: Bench) -> None:
    pid = int((bench.folder / "tgtd" / "tgtd.pid").read_text().split()[0])
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(Transient, match="does not answer"):
        tgt_socket.ask(bench.tgt.control, tgt_socket.show_targets(), patience_s=0.1)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(bench.tgt.targets)
        with pytest.raises(TimeoutError):
            asked.result(0.1)
        bench.tgtd.crash()
        with pytest.raises(Transient):
            asked.result(10)


@pytest.mark.lab
def test_what_tgtd_refuses_is_told_by_kind(bench: Bench) -> None:
    def ask(request: tgt_socket.Request) -> None:
        tgt_socket.ask(bench.tgt.control, request)

    with pytest.raises(tgt_socket.Absent, match="can't find the target"):
        ask(tgt_socket.delete_target(1))
    ask(tgt_socket.new_target(1, "iqn.a:b"))
    with pytest.raises(tgt_socket.Exists, match="already exists"):
        ask(tgt_socket.new_target(1, "iqn.a:c"))
    with pytest.raises(Refused, match="invalid request"):
        ask(tgt_socket.new_lun(1, bench.folder / "nothing"))
    assert bench.tgt.targets()["iqn.a:b"].lun is None


@pytest.mark.lab
def test_a_long_answer_is_read_whole(bench: Bench) -> None:
    iqns = [f"iqn.2026-11.test:{number}" for number in range(1, 401)]
    for tid, iqn in enumerate(iqns, 1):
        tgt_socket.ask(bench.tgt.control, tgt_socket.new_target(tid, iqn))
    assert list(bench.tgt.targets()) == iqns


@pytest.mark.lab
def test_an_initiators_session_outlives_the_daemon(bench: Bench) -> None:
    """A guest's disk waits while tgtd is away, and goes on where it was."""
    export, chap, tgt = bench.export, bench.chap, bench.tgt
    tgt.ensure(export, bench.file, chap)
    options = image_options(bench.tgtd.port, export, chap)
    guest = subprocess.Popen(
        ["qemu-io", "--image-opts", options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert guest.stdin
        assert guest.stdout
        guest.stdin.write("write -P 66 0 512\nflush\n")
        guest.stdin.flush()
        while "wrote 512/512" not in (line := guest.stdout.readline()):
            assert line
        bench.tgtd.crash()
        bench.tgtd.start()
        guest.stdin.write("read -P 66 0 512\nwrite -P 67 512 512\nflush\nread -P 67 512 512\n")
        guest.stdin.flush()
        assert tgt.complete({}, export, bench.file, chap)
        said, _ = guest.communicate("quit\n", timeout=60)
    finally:
        guest.kill()
        guest.wait()
    assert said.count("read 512/512") == 2
    assert "failed" not in said
    assert bench.file.read_bytes()[:1024] == b"B" * 512 + b"C" * 512
