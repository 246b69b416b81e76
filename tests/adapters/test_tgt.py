"""The tgt adapter: how it reads tgtd, and what it does with a real one."""

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from adapters.errors import Conflict, Transient
from adapters.storage import tgt_socket
from adapters.storage.tgt import Lun, Shown, Tgt, ending, parse
from adapters.types import Chap, Export
from deployments.lab.process import wait_for
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
    full, bare = parse(SHOWN)
    assert (full.tid, full.iqn) == (1, "iqn.2026-11.org.cloudloom:aaaa")
    assert full.lun == Lun("/pool/a: b/vol.img", "0123456789abcdef0123456789abcdef", "vol")
    assert full.sessions == ((3, 0), (12, 1))
    assert full.initiators == ("iqn.me:x", "127.0.0.1")
    assert (bare.tid, bare.iqn) == (12, "iqn.other:b")
    for empty in (bare, Shown(12, "iqn.other:b")):
        assert (empty.lun, empty.sessions, empty.initiators) == (None, (), ())
    assert parse("") == []


def test_an_export_ends_by_letting_nobody_in() -> None:
    """What is cut off before would log in again, and without its account need no password."""
    shown, _ = parse(SHOWN)
    assert ending(shown, "joe") == [
        tgt_socket.forbid(1, "iqn.me:x"),
        tgt_socket.forbid(1, "127.0.0.1"),
        tgt_socket.end_connection(1, 3, 0),
        tgt_socket.end_connection(1, 12, 1),
        tgt_socket.delete_account("joe"),
        tgt_socket.delete_target(1),
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


class Overtaken(Tgt):
    """Somebody does something once, right after it has looked."""

    def __init__(self, tgt: Tgt, do: Callable[[], object]) -> None:
        super().__init__(tgt.control, tgt.host, tgt.port)
        self.to_do = [do]

    def targets(self) -> dict[str, Shown]:
        shown = super().targets()
        while self.to_do:
            self.to_do.pop()()
        return shown


@pytest.mark.lab
def test_an_export_ends_that_another_ends_as_well(bench: Bench) -> None:
    bench.tgt.ensure(bench.export, bench.file, bench.chap)
    Overtaken(bench.tgt, lambda: bench.tgt.delete(bench.export)).delete(bench.export)
    assert bench.tgt.targets() == {}


@pytest.mark.lab
def test_an_export_ends_whose_initiator_comes_while_it_ends(bench: Bench) -> None:
    bench.tgt.ensure(bench.export, bench.file, bench.chap)
    command = ["qemu-io", "--image-opts"]
    command.append(image_options(bench.tgtd.port, bench.export, bench.chap))
    guests: list[subprocess.Popen[bytes]] = []

    def come() -> None:
        guests.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
        wait_for(lambda: bench.tgt.targets()[bench.export.iqn].sessions, 10, "a session")

    try:
        Overtaken(bench.tgt, come).delete(bench.export)
    finally:
        for guest in guests:
            guest.kill()
            guest.communicate()
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
