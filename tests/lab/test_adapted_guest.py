"""virt-v2v itself, where it is installed: a guest that knows no virtio is made one that does.

A Debian of the mirror's, on a disk that VMware would boot. It takes minutes, and packages that
nothing else here needs (`apt-get install virt-v2v nbdkit libnbd-bin debootstrap`).
"""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import Unsupported
from adapters.guests import Bus, Firmware
from adapters.images.qemu_img import QemuImg
from adapters.images.virt_v2v import VirtV2v
from adapters.types import Format

PACKAGES = "linux-image-cloud-amd64,initramfs-tools,grub-pc-bin,grub2-common"
GRUB = "menuentry Debian {{ linux {kernel} root=/dev/sda1\n initrd {initrd}\n}}\n"
FIRST = 2**20  # where the partition begins
HEAVY = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/lib/apt/lists")


def done(*words: Any, **more: Any) -> str:
    asked = [str(each) for each in words]
    return subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True, **more).stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is on the guest's disk; its kernel is that of virt-v2v's machine, too."""
    try:
        VirtV2v().require()
    except Unsupported as error:
        pytest.skip(str(error))
    root = tmp_path_factory.mktemp("guest") / "root"
    done("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root)
    for each in HEAVY:
        done("rm", "-rf", root / each)
    (kernel,), (initrd,) = root.glob("boot/vmlinuz-*"), root.glob("boot/initrd*")
    told = {"kernel": f"/boot/{kernel.name}", "initrd": f"/boot/{initrd.name}"}
    (root / "boot/grub").mkdir(exist_ok=True)
    (root / "boot/grub/grub.cfg").write_text(GRUB.format(**told))
    (root / "etc/default/grub").write_text('GRUB_CMDLINE_LINUX=""\n')
    (root / "etc/fstab").write_text("/dev/sda1 / ext4 defaults 0 1\n")
    settings = root / "etc/initramfs-tools/initramfs.conf"  # a guest made for what it had
    settings.write_text(settings.read_text().replace("MODULES=most", "MODULES=list"))
    return root


@pytest.fixture
def machine(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What virt-v2v needs to know here, where nothing has a kernel and KVM's guests hang."""
    (kernel,), (modules,) = tree.glob("boot/vmlinuz-*"), tree.glob("lib/modules/*")
    monkeypatch.setenv("SUPERMIN_KERNEL", str(kernel))
    monkeypatch.setenv("SUPERMIN_KERNEL_VERSION", modules.name)
    monkeypatch.setenv("SUPERMIN_MODULES", str(modules))
    monkeypatch.setenv("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
    monkeypatch.setenv("LIBGUESTFS_CACHEDIR", str(tmp_path))
    looked_for = Path("/lib/modules")  # by supermin, though it is told another place
    made = not looked_for.exists()
    looked_for.mkdir(exist_ok=True)
    yield
    if made:
        with suppress(OSError):
            looked_for.rmdir()


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_guest_is_given_drivers_and_boots_by_them(
    tree: Path, machine: None, tmp_path: Path
) -> None:
    raw, came = tmp_path / "guest.raw", tmp_path / "guest.vmdk"
    with raw.open("wb") as file:
        file.truncate(900 * 2**20)
    done("sfdisk", "-q", raw, input="2048,,83,*\n")
    done("mke2fs", "-q", "-t", "ext4", "-d", tree, "-E", f"offset={FIRST}", raw, "890M")
    stream = ("-o", "subformat=streamOptimized,adapter_type=lsilogic")
    done("qemu-img", "convert", "-f", "raw", "-O", "vmdk", *stream, raw, came)

    out = tmp_path / "out"
    adapted = VirtV2v().adapt([(came, Format.VMDK)], Firmware.BIOS, out)

    assert adapted.bus is Bus.VIRTIO
    (disk,) = out.iterdir()
    info = QemuImg().inspect(disk, Format.QCOW2, max_virtual_mib=1000)
    assert info.virtual_size_mib == 900
    done("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw)
    boot = tmp_path / "boot"
    boot.mkdir()
    for each in ("vmlinuz", "initrd.img"):
        (name,) = (x.name for x in tree.glob(f"boot/{each}-*"))
        done("debugfs", "-R", f"dump /boot/{name} {boot / each}", f"{raw}?offset={FIRST}")
    words = "root=/dev/vda1 console=ttyS0 panic=-1 init=/bin/cat -- /etc/fstab"
    said = done(
        *("qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nographic", "-no-reboot"),
        *("-nodefaults", "-serial", "stdio"),
        *("-kernel", boot / "vmlinuz", "-initrd", boot / "initrd.img", "-append", words),
        *("-drive", f"file={disk},format=qcow2,if=virtio"),
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert "/dev/vda1 / ext4" in said
