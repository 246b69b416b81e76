"""A tiny bootable appliance: a real Linux in a 16 MB disk image, made without root's help.

A FAT16 file system without partitions, syslinux, Debian's cloud kernel and an initial RAM disk
of busybox and the virtio drivers. On its first serial port the guest prints, in this order:

    APPLIANCE-UP <uptime>
    NET <interface> <mac> <address or ->
    DISK <device> <512-byte sectors> <serial or ->
    ROOT <serial or device of the first disk that can boot>
    APPLIANCE-READY <uptime>

then it is a root shell, in which `reach ADDRESS PORT` tries a TCP connection and prints
`REACH <address>:<port> yes|no`. Disks that come and go from then on are told within seconds:

    PLUGGED <device> <512-byte sectors> <serial or ->
    UNPLUGGED <device>

The ACPI power button prints APPLIANCE-POWEROFF and switches off. `mount /dev/vda /mnt` shows the
first disk's files. A few lines of shell speak as much of the language of QEMU's guest agent as
libvirt asks for when disks are to be quiet, and say on a line of their own what they were told:

    AGENT freeze
    AGENT thaw
"""

import fcntl
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deployments.lab import CACHE

_META = "linux-image-cloud-amd64"
_MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_net", "af_packet", "button", "evdev"),
    *("virtio_console", "vfat", "nls_cp437", "nls_ascii"),
)
ARGUMENTS = (
    "console=ttyS0 quiet loglevel=3 tsc=unstable no_timer_check random.trust_cpu=1 "
    "mitigations=off nokaslr lpj=4000000 8250.nr_uarts=1 cryptomgr.notests rdinit=/init"
)
# No SERIAL line: the boot loader must not take a byte sent to the guest as a wish to stop.
_SYSLINUX = (
    f"DEFAULT linux\nPROMPT 0\nLABEL linux\n KERNEL vmlinuz\n INITRD initrd\n APPEND {ARGUMENTS}\n"
)
_LEASE = """#!/bin/sh
case $1 in bound|renew)
    ip addr add "$ip/$mask" dev "$interface"
    [ -z "$router" ] || ip route add default via "$router"
    echo "$ip" >"/tmp/address.$interface" ;;
esac
"""
# Also without a router offered, for a guest's owner may set what he likes.
_REACH = """#!/bin/sh
ip route | grep -q '^default' || ip route add default via 10.0.2.2
if nc -w 3 "$1" "$2" </dev/null >/dev/null 2>&1; then a=yes; else a=no; fi
echo "REACH $1:$2 $a"
"""
# A simulator: it writes everything, but nothing keeps the guest from writing more.
_AGENT = r"""#!/bin/sh
for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name" 2>/dev/null)" != org.qemu.guest_agent.0 ] || exec 3<>"/dev/${port##*/}"
done
while :; do
    while read -r asked; do
        told='{}'
        case $asked in
            *guest-ping*) ;;
            *guest-sync*) told=$(echo "$asked" | sed 's/.*"id": *\([0-9]*\).*/\1/') ;;
            *fsfreeze-freeze*) sync; told=1; echo >/dev/ttyS0; echo "AGENT freeze" >/dev/ttyS0 ;;
            *fsfreeze-thaw*) told=1; echo >/dev/ttyS0; echo "AGENT thaw" >/dev/ttyS0 ;;
            *)  # so that libvirt presses the power button, where it would have asked an agent
                echo '{"error": {"class": "CommandNotFound", "desc": "it only freezes"}}' >&3
                continue ;;
        esac
        echo "{\"return\": $told}" >&3
    done <&3
    sleep 1
done
"""
_INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
say() { echo "$*" >/dev/ttyS0; }
up() { cut -d' ' -f1 /proc/uptime; }
for module in $(cat /modules/order); do insmod "/modules/$module.ko"; done
say "APPLIANCE-UP $(up)"

for event in /dev/input/event*; do      # the power button is the first input there ever is
    ( dd if="$event" bs=24 count=1 >/dev/null 2>&1 && say APPLIANCE-POWEROFF && sync && poweroff -f ) &
done

[ ! -e /sys/class/virtio-ports ] || agent &

ip link set lo up
for path in /sys/class/net/eth*; do
    [ -e "$path" ] || continue
    n=${path##*/}; ip link set "$n" up
    udhcpc -i "$n" -s /bin/lease -t 4 -T 1 -n -q >/dev/null 2>&1
    say "NET $n $(cat "$path/address") $(cat "/tmp/address.$n" 2>/dev/null || echo -)"
done

serial() { s=$(cat "/sys/class/block/${1##*/}/serial" 2>/dev/null); echo "${s:-$2}"; }
root=
for d in /dev/vd?; do
    [ -b "$d" ] || continue
    say "DISK $d $(cat "/sys/class/block/${d##*/}/size") $(serial "$d" -)"
    [ -n "$root" ] || [ "$(dd if="$d" bs=1 skip=3 count=8 2>/dev/null)" != SYSLINUX ] || root=$d
done
say "ROOT $(serial "$root" "${root:--}")"
say "APPLIANCE-READY $(up)"
( had=$(cd /sys/block && echo vd?)      # each on a line of its own, also after the shell's prompt
while sleep 1; do
    has=$(cd /sys/block && echo vd?)
    for d in $has; do case " $had " in *" $d "*) continue;; esac
        say; say "PLUGGED /dev/$d $(cat "/sys/block/$d/size") $(serial "$d" -)"; done
    for d in $had; do [ -e "/sys/block/$d" ] || { say; say "UNPLUGGED /dev/$d"; }; done
    had=$has
done ) &
while :; do setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'; done
"""  # noqa: E501

_SCRIPTS = {"init": _INIT, "bin/lease": _LEASE, "bin/reach": _REACH, "bin/agent": _AGENT}


def build(folder: Path = CACHE) -> Path:
    """Answer the disk image, made once for each kernel, busybox and version of this file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "appliance.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes ask at the same moment
        from_package = _kernel(folder, _MODULES)
        busybox = Path(_program("busybox"))
        name = from_package.name.encode()
        made_from = (Path(__file__).read_bytes(), name, busybox.read_bytes())
        image = folder / f"appliance-{_key(*made_from)}.img"
        if not image.exists():
            with tempfile.TemporaryDirectory(dir=folder, prefix=".appliance-") as scratch:
                _assemble(from_package, busybox, Path(scratch)).rename(image)
    return image


def kernel(folder: Path = CACHE, *, modules: Sequence[str]) -> Path:
    """Answer a folder with Debian's cloud kernel, these modules, and the `order` to load them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "appliance.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _kernel(folder, modules)


def _key(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(f"missing program: {name}")
    return found


def _kernel(folder: Path, wished: Sequence[str]) -> Path:
    """Answer a folder of kernel and modules, unpacked from Debian's package, never installed."""
    prefix = f"kernel-{_key(*(name.encode() for name in wished))}-"
    if known := sorted(folder.glob(f"{prefix}*")):
        return known[-1]
    depends = subprocess.run(
        ["apt-cache", "depends", "--", _META], check=True, capture_output=True, text=True
    ).stdout
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    if package is None:
        raise FileNotFoundError(f"apt knows no {_META}; `apt-get update` may help")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".kernel-") as scratch:
        subprocess.run(
            ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package[1]],
            check=True, capture_output=True, cwd=scratch,
        )  # fmt: skip
        (deb,) = Path(scratch).glob("*.deb")
        tree, wanted = Path(scratch, "tree"), Path(scratch, "wanted")
        subprocess.run(["dpkg-deb", "-x", "--", deb, tree], check=True)
        wanted.mkdir()
        (vmlinuz,) = tree.glob("boot/vmlinuz-*")
        shutil.copy(vmlinuz, wanted / "vmlinuz")
        modules = {path.stem.replace("-", "_"): path for path in tree.rglob("*.ko")}
        order = _in_order(modules, wished)
        for name in order:
            shutil.copy(modules[name], wanted / f"{name}.ko")
        (wanted / "order").write_text("\n".join(order))
        unpacked = folder / f"{prefix}{deb.stem}"
        wanted.rename(unpacked)
    return unpacked


def _in_order(modules: dict[str, Path], wished: Sequence[str]) -> list[str]:
    """Answer the wanted modules and what they need, dependencies first; built-in ones are not."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order or name not in modules:
            return
        needs = re.search(rb"\0depends=([^\0]*)", modules[name].read_bytes())
        for needed in (needs[1].decode() if needs else "").split(","):
            visit(needed.replace("-", "_"))
        order.append(name)

    for name in wished:
        visit(name)
    return order


def _assemble(kernel: Path, busybox: Path, scratch: Path) -> Path:
    initrd, image = scratch / "initrd", scratch / "image"
    initrd.write_bytes(_initrd(kernel, busybox, scratch / "root"))
    config = scratch / "syslinux.cfg"
    config.write_text(_SYSLINUX)
    files = (kernel / "vmlinuz", initrd, config)
    size_kib = sum(file.stat().st_size for file in files) // 1024 + 400
    size_kib = -(-size_kib // 32) * 32
    for program, *arguments in (
        ("mkfs.vfat", "-n", "APPLIANCE", "-F", "16", "-C", image, str(size_kib)),
        ("mcopy", "-i", image, "--", *files, "::"),
        ("syslinux", "--install", image),
    ):
        subprocess.run(
            [_program(str(program)), *map(str, arguments)], check=True, capture_output=True
        )
    return image


def _initrd(kernel: Path, busybox: Path, root: Path) -> bytes:
    for name in ("bin", "proc", "sys", "dev", "tmp", "mnt", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin")
    (root / "bin/sh").symlink_to("busybox")
    for path in (*kernel.glob("*.ko"), kernel / "order"):
        shutil.copy(path, root / "modules")
    for name, text in _SCRIPTS.items():
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    return archive(root)


def archive(root: Path) -> bytes:
    """An initial RAM disk of a folder."""
    names = "\0".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    packed = subprocess.run(
        [_program("cpio"), "--null", "--create", "--format=newc", "--quiet", "--owner=0:0"],
        check=True, input=names.encode(), capture_output=True, cwd=root,
    ).stdout  # fmt: skip
    return gzip.compress(packed, 9, mtime=0)  # xz's dictionary would not fit into the guest
