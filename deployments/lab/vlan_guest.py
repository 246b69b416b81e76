"""A guest whose kernel has what this machine's may lack: tagged interfaces, bridges, nftables.

Debian's cloud kernel with busybox, iproute2 and nft in its initial RAM disk, and a shell that is
asked over the second serial port: a line of base64 in, exit code, output and errors out.
"""

import base64
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from deployments.lab.appliance import ARGUMENTS, archive, kernel
from deployments.lab.process import Process, wait_for

_MODULES = ("8021q", "bridge", "veth", "crc32c_generic", "nf_tables", "nft_meta_bridge")
# busybox's own shell and `unshare` would take its own `ip`.
_PROGRAMS = ("/usr/sbin/ip", "/usr/sbin/nft", "/usr/bin/dash", "/usr/bin/unshare")
_INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev; mount -t tmpfs t /run
for module in $(cat /modules/order); do insmod "/modules/$module.ko"; done
ip link set lo up
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
echo READY >&3
while read -r asked <&3; do
    echo "$asked" | base64 -d >/tmp/asked
    /usr/bin/dash /tmp/asked >/tmp/out 2>/tmp/err </dev/null
    echo "$?:$(base64 /tmp/out | tr -d '\n'):$(base64 /tmp/err | tr -d '\n')" >&3
done
"""


class VlanGuest:
    """One guest, that is asked one thing at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._socket = self._folder / "shell"
        self._qemu = Process(self._folder, "qemu")
        self._line: socket.socket | None = None

    def start(self) -> None:
        """Start it, and wait for its shell."""
        self._folder.mkdir(parents=True, exist_ok=True)
        root, modules = self._folder / "root", kernel(modules=_MODULES)
        _fill(root, modules)
        (self._folder / "initrd").write_bytes(archive(root))
        self._qemu.spawn(
            *("qemu-system-x86_64", "-accel", "tcg", "-m", "192", "-nodefaults", "-no-reboot"),
            *("-display", "none", "-kernel", modules / "vmlinuz"),
            *("-initrd", self._folder / "initrd", "-append", f"{ARGUMENTS} 8250.nr_uarts=2"),
            *("-serial", f"file:{self._folder / 'console'}"),
            *("-serial", f"unix:{self._socket},server=on,wait=off"),
        )
        wait_for(self._socket.exists, 20, f"qemu ({self._qemu.log})")
        self._line = socket.socket(socket.AF_UNIX)
        self._line.settimeout(120)
        self._line.connect(str(self._socket))
        self._told()

    def stop(self) -> None:
        """End it."""
        if self._line:
            self._line.close()
        self._qemu.stop()

    def shell(self, script: str) -> tuple[int, str, str]:
        """Let it run a script: exit code, output and errors."""
        if self._line is None:
            raise RuntimeError("the guest is not running")
        self._line.sendall(base64.b64encode(script.encode()) + b"\n")
        code, out, err = self._told().split(":")
        return int(code), base64.b64decode(out).decode(), base64.b64decode(err).decode()

    def _told(self) -> str:
        """Its next line."""
        said = b""
        while not said.endswith(b"\n"):
            more = self._line.recv(65536) if self._line else b""
            if not more:
                raise RuntimeError(f"the guest ended: {self._folder / 'console'}")
            said += more
        return said.decode().strip()


def _fill(root: Path, modules: Path) -> None:
    for name in ("bin", "proc", "sys", "dev", "tmp", "run", "var", "modules", "lib64", "etc"):
        (root / name).mkdir(parents=True)
    (root / "var" / "run").symlink_to("/run")
    busybox = shutil.which("busybox")
    linked = "".join(
        subprocess.run(["ldd", name], check=True, capture_output=True, text=True).stdout
        for name in _PROGRAMS
    )
    libraries = {*re.findall(r"(/\S+) \(0x", linked)}
    for path in (*_PROGRAMS, *sorted(libraries)):
        target = root / os.path.normpath(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(str(busybox), root / "bin" / "busybox")
    (root / "usr" / "bin" / "sh").symlink_to("dash")
    for path in (*modules.glob("*.ko"), modules / "order"):
        shutil.copy(path, root / "modules")
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
