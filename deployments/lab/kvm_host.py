"""A private KVM host: a real libvirtd and QEMU that share nothing with the system's libvirt.

The daemon lives in a mount namespace in which its four directories and /run are folders of
ours. Guests outlive it, as they do on any host: `crash` and `start` bring it back with them
running, `stop` ends them too.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import uuid
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from deployments.lab import CACHE
from deployments.lab.process import Process, signal_if, wait_for

_LONGEST_SOCKET = 107  # bytes that Linux takes as a unix socket's path

# /run must be a directory that stays, not a tmpfs: a restarted daemon finds its guests there.
_ENTER = """set -eu
for pair in etc:/etc/libvirt lib:/var/lib/libvirt cache:/var/cache/libvirt \
    log:/var/log/libvirt state:/run; do
    mount --bind "$0/${pair%%:*}" "${pair#*:}"
done
exec libvirtd -f /etc/libvirt/libvirtd.conf -p "$0/run/pid"
"""
_LIBVIRTD = """listen_tls = 0
listen_tcp = 0
unix_sock_dir = "{folder}/run"
unix_sock_group = "root"
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "{host}"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""
_QEMU = """user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
remember_owner = 0
vnc_listen = "127.0.0.1"
"""


class KvmHost:
    """One host; everything it keeps is in `folder`, so another process can stop it from there."""

    def __init__(self, folder: Path, netns: str | None = None, *, cache: Path = CACHE) -> None:
        self.folder = folder.absolute()
        self.netns = netns
        self._socket = self.folder / "run" / "libvirt-sock"
        if len(os.fsencode(self._socket)) + len("-ro") > _LONGEST_SOCKET:
            raise ValueError(f"{self.folder}: too long a path for a unix socket")
        self._libvirtd = Process(self.folder, "libvirtd")
        self._templates = cache

    @property
    def uri(self) -> str:
        """How libvirt's clients reach it."""
        return f"qemu+unix:///system?socket={self._socket}"

    def start(self) -> str:
        """Start the daemon, also again after a crash, and answer its address."""
        if not self._libvirtd.alive():
            self._configure()
            self._libvirtd.spawn(
                *(("ip", "netns", "exec", self.netns) if self.netns else ()),
                *("unshare", "--mount", "--propagation", "private", "--"),
                *("sh", "-c", _ENTER, self.folder),
            )
        wait_for(self._answers, 30, f"libvirtd ({self._libvirtd.log})")
        self._keep_capabilities()
        return self.uri

    def crash(self) -> None:
        """Kill the daemon alone; its guests go on running."""
        self._libvirtd.kill()

    def restart(self) -> None:
        """End the daemon in good order and start it again; its guests go on running."""
        self._libvirtd.stop()
        self.start()

    def stop(self) -> None:
        """End guests and daemon; gone already is success. Files stay."""
        if self._libvirtd.alive():
            with suppress(subprocess.TimeoutExpired):  # it hangs: its guests are ended below
                for guest in self._guests():
                    self._virsh("destroy", guest)
        self._libvirtd.stop()
        for record in self.folder.glob("state/libvirt/qemu/*.pid"):
            self._end_guest(record)

    def __enter__(self) -> Self:
        """Start, and leave nothing running when that fails."""
        try:
            self.start()
        except BaseException:  # an interrupt too
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, whatever happened."""
        self.stop()

    def _configure(self) -> None:
        for name in ("etc/qemu", "run", "lib", "cache/qemu", "log", "state/libvirt", "state/lock"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        host = self.folder / "host_uuid"
        if not host.exists():
            host.write_text(str(uuid.uuid4()))
        etc = self.folder / "etc"
        (etc / "libvirtd.conf").write_text(
            _LIBVIRTD.format(folder=self.folder, host=host.read_text())
        )
        (etc / "qemu.conf").write_text(_QEMU)
        if (template := self._template).is_dir():
            shutil.copytree(template, self._known_capabilities, dirs_exist_ok=True)

    @property
    def _known_capabilities(self) -> Path:
        return self.folder / "cache" / "qemu" / "capabilities"

    @cached_property
    def _template(self) -> Path:
        """Where what libvirtd finds out about these very binaries is kept between hosts."""
        programs = [shutil.which("libvirtd"), shutil.which("qemu-system-x86_64")]
        packages = subprocess.run(
            ["dpkg-query", "--search", "--", *filter(None, programs)],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        owners = sorted({line.partition(":")[0] for line in packages.splitlines()})
        versions = subprocess.run(
            ["dpkg-query", "--show", "--", *owners], check=True, capture_output=True, text=True
        ).stdout
        key = hashlib.sha256((versions + os.uname().release).encode()).hexdigest()
        return self._templates / f"capabilities-{key[:16]}"

    def _keep_capabilities(self) -> None:
        """Let libvirtd probe every emulator (8 s) only on the first host of a machine."""
        template = self._template
        if template.exists():
            return
        self._virsh("capabilities", timeout_s=120)
        mine = template.with_name(f"{template.name}.{uuid.uuid4()}")
        shutil.copytree(self._known_capabilities, mine)
        try:
            mine.rename(template)
        except OSError:  # another host was first
            shutil.rmtree(mine)

    def _virsh(self, *command: str, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["virsh", "--quiet", "--connect", self.uri, *command],
            check=False, capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip

    def _guests(self) -> list[str]:
        return self._virsh("list", "--name").stdout.split() if self._answers() else []

    def _answers(self) -> bool:
        return self._socket.exists() and self._virsh("uri").returncode == 0

    def _end_guest(self, record: Path) -> None:
        """Kill a guest that its daemon left behind, known by pid file and command line."""
        pid = int(record.read_text())
        name = f"guest={record.stem}".encode()

        def is_ours() -> bool:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                return False
            return any(word.split(b",")[0] == name for word in words)

        signal_if(pid, is_ours, signal.SIGKILL, wait_s=10)
        record.unlink(missing_ok=True)
