"""Converting: what is asked for a family, how far it is, and the way that was measured."""

import pytest

from adapters.database.records import Kept
from adapters.forms import Form
from adapters.types import Format, OperationState
from flows import conversions
from flows.catalog import FLOWS
from flows.cloud import cloud

QCOW2 = "vmdk/monolithicSparse>qcow2"


def converted(world, template, **asked):
    operation = world.run("convert_image", template, **asked)
    assert operation.state is OperationState.SUCCEEDED, operation.error
    return operation, {image.form for image in cloud.library.conversions(world.datacenter)}


@pytest.mark.parametrize(
    ("family", "form"),
    [("kvm", Form.QCOW2), ("vsphere", Form.VMDK_STREAM), ("hyperv", Form.VHDX)],
)
def test_a_template_is_made_ready_for_a_family(world, family, form):
    _, found = converted(world, world.image("foreign", Format.VMDK), family=family)
    assert found == {form}


def test_what_a_family_boots_is_left_alone(world):
    operation, found = converted(world, world.image("own", Format.RAW), family="kvm")
    assert found == set()
    assert cloud.journal.lines(operation.id) == []


def test_one_image_in_two_forms_of_one_format_is_two_conversions(world):
    template = world.image("foreign", Format.QCOW2)
    converted(world, template, format="vmdk")
    _, found = converted(world, template, format="vmdk", subformat="streamOptimized")
    assert found == {Form.VMDK_SPARSE, Form.VMDK_STREAM}


def test_the_way_is_measured_once_for_large_images(world, monkeypatch):
    """Then all images are converted so, by whoever; of each form by itself."""
    converted(world, world.image("small", Format.VMDK), family="kvm")
    assert cloud.world.calls("images.fastest") == []
    monkeypatch.setattr(conversions, "_LARGE_BYTES", 1)
    for name in ("one", "two"):
        converted(world, world.image(name, Format.VMDK), family="kvm")
    assert cloud.world.calls("images.fastest") == [QCOW2]
    assert cloud.ways.known(world.datacenter, Form.VMDK_SPARSE, Form.QCOW2) == "quick"
    converted(world, world.image("three", Format.VMDK), family="hyperv")
    assert cloud.world.calls("images.fastest") == [QCOW2, "vmdk/monolithicSparse>vhdx"]


def test_a_measurement_that_fails_is_tried_again_and_leaves_nothing(world, monkeypatch):
    monkeypatch.setattr(conversions, "_LARGE_BYTES", 1)
    cloud.world.set_fate("images.fastest", "fails")
    converted(world, world.image("one", Format.VMDK), family="kvm")
    repository = cloud.repository(world.datacenter)
    assert [each for each in repository.entries() if each.startswith("incoming/")] == []


def test_a_conversion_that_somebody_has_removed_is_made_anew(world):
    template = world.image("foreign", Format.VMDK)
    converted(world, template, family="kvm")
    repository = cloud.repository(world.datacenter)
    (image,) = cloud.library.conversions(world.datacenter)
    repository.path(image.path).unlink()
    (vm,) = cloud.inventory.vms_of(world.appliance("db", template=template))
    world.run("deploy_vm", vm.id)
    (anew,) = cloud.library.conversions(world.datacenter)
    assert repository.identity(image.path) == anew.identity


@pytest.mark.parametrize("how", ["changed", "damaged"])
def test_nothing_is_made_of_a_file_that_is_not_what_it_was(world, how):
    """A conversion goes by its source's digest: whoever has that image would start from it."""
    template = world.image("foreign", Format.VMDK)
    (image,) = cloud.library.images(template)
    path = cloud.repository(world.datacenter).path(image.path)
    if how == "changed":
        path.write_text(path.read_text().replace("foreign", "another"))
    else:
        cloud.library.condemn(Kept(image=image, owner=template, is_conversion=False))
    (vm,) = cloud.inventory.vms_of(world.appliance("db", template=template))
    for kind, target, asked in (
        ("convert_image", template, {"format": "vdi"}),
        ("deploy_vm", vm.id, {}),
    ):
        refused = FLOWS[kind](world.accept(kind, target, **asked).id)
        assert (refused.state, refused.error["code"]) == ("failed", f"image-{how}")
        assert not refused.left_behind
    assert cloud.library.conversions(world.datacenter) == []


def test_a_step_says_how_far_it_is(world):
    operation, _ = converted(world, world.image("foreign", Format.VMDK), family="kvm")
    (percent,) = [
        line.percent for line in cloud.journal.lines(operation.id) if line.name == "convert-disk"
    ]
    assert percent == 100
