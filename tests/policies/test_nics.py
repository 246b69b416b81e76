"""NICs: what the guest expects, or what it surely has a driver for."""

import pytest

from adapters.packages import WishedNic
from adapters.types import Family
from flows.policies.nics import MODELS, nic_model


@pytest.mark.parametrize(
    ("family", "wished", "model"),
    [
        (Family.KVM, "E1000", "e1000"),
        (Family.KVM, "vmxnet3", "vmxnet3"),
        (Family.KVM, "virtio", ""),
        (Family.KVM, "", ""),
        (Family.VSPHERE, "vmxnet3", ""),
        (Family.VSPHERE, "virtio", "e1000"),
        (Family.VSPHERE, "PCNet32", "pcnet32"),
        (Family.KVM, "something else", "e1000"),
        (Family.HYPERV, "e1000", ""),  # as long as nobody can be asked
    ],
)
def test_a_guest_gets_what_it_expects_where_there_is_such_a_thing(family, wished, model):
    assert nic_model(family, [WishedNic(model=wished)], 0) == model


def test_who_wishes_nothing_gets_the_fastest():
    assert {nic_model(family, [], 3) for family in Family} == {""}


def test_more_nics_than_were_wished_are_like_the_last():
    wished = [WishedNic(model="e1000"), WishedNic(model="vmxnet3")]
    assert [nic_model(Family.KVM, wished, n) for n in range(3)] == ["e1000", "vmxnet3", "vmxnet3"]


def test_what_all_guests_know_all_families_have():
    assert all("e1000" in models for models in MODELS.values())
