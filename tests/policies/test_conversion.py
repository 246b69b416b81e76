"""Conversion: what a hypervisor boots is left alone, what it does not becomes what it does."""

import pytest

from adapters.forms import Form
from adapters.types import Family, Format
from flows.policies.conversion import DIETS, needed_form


@pytest.mark.parametrize("has", [*Form, None])
@pytest.mark.parametrize("family", Family)
def test_what_comes_out_boots(family, has):
    wanted = needed_form(family, has)
    assert wanted is None or needed_form(family, wanted) is None
    assert wanted is not has or has is None


@pytest.mark.parametrize(
    ("family", "fitting"),
    [
        (Family.KVM, {Form.RAW, Form.QCOW2}),
        (Family.MEMORY, {Form.RAW, Form.QCOW2}),
        (Family.XEN, {Form.RAW, Form.QCOW2}),
        (Family.VSPHERE, {Form.VMDK_STREAM}),
        (Family.XENSERVER, {Form.VHD_DYNAMIC, Form.VHD_FIXED}),
        (Family.HYPERV, {Form.VHD_DYNAMIC, Form.VHD_FIXED, Form.VHDX}),
        (Family.VIRTUALBOX, {Form.VHD_DYNAMIC, Form.VHD_FIXED, Form.VDI, Form.VMDK_SPARSE}),
    ],
)
def test_nothing_is_copied_where_the_form_fits(family, fitting):
    assert {form for form in Form if needed_form(family, form) is None} == fitting


def test_every_family_says_why():
    assert set(DIETS) == set(Family)
    assert all(diet.why.endswith(".") and diet.becomes in diet.boots for diet in DIETS.values())


@pytest.mark.parametrize("form", Form)
def test_a_form_is_found_by_its_format_and_subformat(form):
    assert Form.of(form.format, form.subformat) is form
    assert Form.of(form.format, form.subformat.upper()) is form


@pytest.mark.parametrize("format_", Format)
def test_every_format_has_one_usual_form(format_):
    assert [form for form in Form if form.format is format_ and form.is_usual] == [
        Form.of(format_)
    ]


def test_a_vmdk_that_only_hypervisors_make_has_no_form():
    assert Form.of(Format.VMDK, "vmfs") is None
    assert Form.of(Format.QCOW2, "dynamic") is None
