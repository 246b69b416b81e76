"""Conversion: what a hypervisor boots is left alone, what it does not becomes what it does."""

import pytest

from adapters.types import Family, Format
from flows.policies.conversion import needed_format


@pytest.mark.parametrize("has", Format)
@pytest.mark.parametrize("family", Family)
def test_what_comes_out_boots(family, has):
    wanted = needed_format(family, has)
    assert wanted is None or needed_format(family, wanted) is None
    assert wanted is not has


OVERLAYING = [Family.KVM, Family.MEMORY]


@pytest.mark.parametrize("has", [Format.RAW, Format.QCOW2])
@pytest.mark.parametrize("family", OVERLAYING)
def test_nothing_is_copied_where_the_format_fits(family, has):
    assert needed_format(family, has) is None


@pytest.mark.parametrize("has", [Format.VMDK, Format.VPC, Format.VDI])
@pytest.mark.parametrize("family", OVERLAYING)
def test_a_foreign_format_becomes_qcow2(family, has):
    assert needed_format(family, has) is Format.QCOW2
