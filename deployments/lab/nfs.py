"""A private NFS server: nfs-ganesha, 3 and 4, with an rpcbind of its own, in a network of its own.

It needs no NFS in the kernel, neither do its clients here (`qemu-img` and libnfs): they are run
inside that network (`inside`), where the server has the ports that they expect.
"""

import subprocess
from pathlib import Path
from zlib import crc32

from deployments.lab.process import Process, wait_for

_CONFIGURATION = """NFS_CORE_PARAM {{
    Protocols = 3, 4; NFS_Port = 2049; MNT_Port = 20048; Enable_NLM = false; Enable_RQUOTA = false;
}}
NFSv4 {{
    Graceless = true; RecoveryBackend = fs; RecoveryRoot = {folder}/recovery; Grace_Period = 1;
    Lease_Lifetime = 10;
}}
EXPORT {{
    Export_Id = 1; Path = {export}; Pseudo = /repository; Access_Type = RW;
    Squash = No_Root_Squash; SecType = sys; Protocols = 3, 4; Transports = TCP;
    FSAL {{ Name = VFS; }}
}}
LOG {{ Default_Log_Level = EVENT; }}
"""
# With /run a folder of ours, no other rpcbind's socket is found, or replaced.
_ENTER = 'mount --bind "$0" /run; exec "$@"'
_PORTS = ("2049", "20048", "111")


class Nfs:
    """A server of one directory."""

    def __init__(self, folder: Path, export: Path) -> None:
        self._folder = folder.absolute()
        self.export = export.absolute()
        self._netns = f"cl-nfs-{crc32(str(self._folder).encode()):08x}"
        self._rpcbind = Process(folder, "rpcbind")
        self._ganesha = Process(folder, "ganesha")

    def url(self, relative: str) -> str:
        """How qemu names a file of it, inside."""
        return f"nfs://127.0.0.1{self.export}/{relative}"

    def inside(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a client where the server is."""
        entered = ["ip", "netns", "exec", self._netns, *map(str, command)]
        return subprocess.run(entered, check=False, capture_output=True, text=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        for name in ("run", "recovery"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "ganesha.conf"
        configuration.write_text(
            _CONFIGURATION.format(folder=self._folder, export=self.export), encoding="utf-8"
        )
        subprocess.run(["ip", "netns", "add", self._netns], check=True)
        self.inside("ip", "link", "set", "lo", "up").check_returncode()
        self._spawn(self._rpcbind, "rpcbind", "-f", "-w")
        wait_for((self._folder / "run" / "rpcbind.sock").exists, 10, f"{self._rpcbind.log}")
        log, pid = self._folder / "ganesha.out", self._folder / "run" / "ganesha.pid"
        self._spawn(self._ganesha, "ganesha.nfsd", "-F", "-f", configuration, "-L", log, "-p", pid)
        wait_for(self._answers, 30, f"ganesha.nfsd ({log})", every_s=0.2)

    def stop(self) -> None:
        """End it, and its network; gone already is success."""
        self._ganesha.stop(term_s=10)
        self._rpcbind.stop()
        listed = subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True)
        if self._netns in listed.stdout.split():
            subprocess.run(["ip", "netns", "delete", self._netns], check=True)

    def _spawn(self, process: Process, *command: str | Path) -> None:
        process.spawn(
            *("ip", "netns", "exec", self._netns, "unshare", "-m", "--propagation", "private"),
            *("sh", "-euc", _ENTER, self._folder / "run", *command),
        )

    def _answers(self) -> bool:
        if not self._ganesha.alive():
            raise RuntimeError(f"ganesha.nfsd ended: {self._ganesha.log.read_text()[-2000:]}")
        told = self.inside("ss", "-Hltn").stdout
        return all(f":{port} " in told for port in _PORTS)
