"""Guests that expect another machine than the fastest: they boot from each bus, and by UEFI.

The appliance has drivers for virtio only, so its firmware and boot loader are what reads the
disk; what it hangs on is told by the PCI classes that the guest sees.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.guests import Bus, Firmware
from adapters.hypervisors.kvm import KvmHypervisor
from adapters.types import Power, Settings, Vm
from deployments.lab import appliance
from tests.guest import Guest
from tests.lab.test_appliance import appliance_vm, define, hypervisor_on

pytestmark = pytest.mark.lab

CLASSES = {  # of PCI: what disks of that bus hang on
    None: "0x010000",  # of virtio: SCSI, says it
    Bus.SATA: "0x010601",
    Bus.IDE: "0x010180",
    Bus.LSISAS: "0x010000",
    Bus.PVSCSI: "0x010000",
}
VENDORS = {Bus.LSISAS: "0x1000", Bus.PVSCSI: "0x15ad", None: "0x1af4"}


@pytest.fixture
def hypervisor(kvm_host, tmp_path: Path) -> Iterator[KvmHypervisor]:
    kvm = hypervisor_on(kvm_host, tmp_path)
    try:
        yield kvm
    finally:
        for vm in kvm.vms():
            kvm.set_power(vm, Power.OFF, timeout_s=0)
            kvm.delete_vm(vm)


def expecting(vm: Vm, **settings: object) -> Vm:
    return vm.model_copy(update={"settings": Settings.model_validate(settings)})


def booted(hypervisor: KvmHypervisor, uri: str, vm: Vm) -> Guest:
    define(hypervisor, vm)
    hypervisor.set_power(vm.id, Power.ON, timeout_s=0)
    guest = Guest(hypervisor, uri, vm.id)
    guest.boot()
    return guest


@pytest.mark.parametrize("bus", CLASSES, ids=str)
def test_a_guest_boots_from_the_bus_that_it_expects(
    kvm_host, hypervisor, tmp_path, appliance_image, bus
):
    vm = expecting(appliance_vm(tmp_path, appliance_image), bus=bus)
    guest = booted(hypervisor, kvm_host.uri, vm)
    command = (
        "for d in /sys/bus/pci/devices/*; do echo PCI $(cat $d/class $d/vendor); done; echo SEEN"
    )
    guest.tell(command, "SEEN")
    seen = [line.split()[1:] for line in guest.lines() if line.startswith("PCI 0x")]
    on = [vendor for kind, vendor in seen if kind == CLASSES[bus]]
    assert on
    assert VENDORS.get(bus, on[0]) in on
    assert ("0x1af4" in on) == (bus is None)


@pytest.fixture
def efi_image(appliance_image: Path, tmp_path: Path) -> Path:
    """The appliance with a script for the firmware's shell instead of a boot loader."""
    image, script = tmp_path / "efi.img", tmp_path / "startup.nsh"
    shutil.copy(appliance_image, image)
    script.write_text(f"vmlinuz.efi initrd=\\initrd {appliance.ARGUMENTS}\r\n")
    for program, *arguments in (
        ("mren", "::vmlinuz", "::vmlinuz.efi"),
        ("mdel", "::ldlinux.sys", "::syslinux.cfg"),
        ("mcopy", script, "::"),
    ):
        subprocess.run([program, "-i", image, *arguments], check=True)
    return image


@pytest.mark.parametrize("bus", [None, Bus.SATA], ids=str)
def test_a_guest_boots_by_uefi_and_its_variables_go_with_it(
    kvm_host, hypervisor, tmp_path, efi_image, bus
):
    assert Firmware.EFI in hypervisor.firmwares()
    vm = expecting(appliance_vm(tmp_path, efi_image), bus=bus, firmware="efi")
    guest = booted(hypervisor, kvm_host.uri, vm.model_copy(update={"ram_mib": 192}))
    assert guest.tell("echo BY $(ls /sys/firmware)", "BY ").split()[1:].count("efi") == 1
    kept = kvm_host.folder / "lib" / "qemu" / "nvram"
    assert [path.name for path in kept.glob(f"*{vm.id}*")]
    hypervisor.set_power(vm.id, Power.OFF, timeout_s=0)
    hypervisor.delete_vm(vm.id)
    assert not [*kept.glob(f"*{vm.id}*")]
