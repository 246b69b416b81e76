"""Buses: what the guest expects, or what it surely has a driver for."""

import pytest

from adapters.guests import Bus, bus_at
from adapters.types import Family
from flows.policies.guests import BUSES, disk_bus


@pytest.mark.parametrize(
    ("family", "wished", "bus"),
    [
        (Family.KVM, Bus.VIRTIO, None),
        (Family.KVM, Bus.IDE, Bus.IDE),
        (Family.KVM, Bus.PVSCSI, Bus.PVSCSI),
        (Family.KVM, Bus.SCSI, Bus.SATA),
        (Family.KVM, Bus.NVME, Bus.SATA),
        (Family.VSPHERE, Bus.PVSCSI, None),
        (Family.VSPHERE, Bus.SCSI, Bus.SCSI),
        (Family.VSPHERE, Bus.VIRTIO, Bus.SATA),
        (Family.HYPERV, Bus.IDE, None),  # as long as nobody can be asked
    ],
)
def test_a_guest_finds_its_disks_where_it_expects_them(family, wished, bus):
    assert disk_bus(family, [wished]) == bus


def test_who_wishes_nothing_gets_the_fastest():
    assert {disk_bus(family, []) for family in Family} == {None}


def test_all_disks_hang_where_the_first_does():
    assert disk_bus(Family.KVM, [Bus.IDE, Bus.SCSI]) is Bus.IDE


def test_what_all_guests_know_all_families_have():
    assert all(Bus.SATA in buses for buses in BUSES.values())


def test_ide_has_three_places_beside_the_seeds():
    assert [bus_at(Bus.IDE, n) for n in (0, 2, 3)] == [Bus.IDE, Bus.IDE, Bus.SATA]
    assert bus_at(Bus.LSISAS, 14) is Bus.LSISAS
