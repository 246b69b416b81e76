"""A library that is read again: what was found, what became of it, and what did not."""

import pytest

from adapters.database import models
from adapters.errors import NotFound
from adapters.types import ConversionState, Finding, Format, OperationState, TemplateState
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.flows.scenarios import packed_template
from tests.worlds import World


def verified(world: World) -> dict[str, Finding]:
    operation = world.run("verify_library", world.datacenter)
    lines = cloud.journal.lines(operation.id)
    report = next(line.result for line in lines if line.name == "publish-report")
    return {each.name: each for each in map(Finding.model_validate, report)}


def damage(world: World, path: str) -> bytes:
    file = cloud.repository(world.datacenter).path(path)
    whole = file.read_bytes()
    file.write_bytes(whole + b" ")
    return whole


def conversion_state() -> ConversionState:
    with cloud.database.read() as db:
        return db.query(models.Conversion.state).one()[0]


@pytest.fixture
def converted(world) -> str:
    """The path of a conversion."""
    world.run("convert_image", world.image("foreign", Format.VMDK), format="qcow2")
    return cloud.library.conversions(world.datacenter)[0].path


def test_a_template_that_is_broken_is_offered_again_once_it_is_whole(world):
    (image,) = cloud.library.images(world.template)
    whole = damage(world, image.path)
    assert verified(world)[image.path].state == "broken"
    assert cloud.library.template_state(world.template) is TemplateState.ERROR
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    with cloud.database.write() as db:  # as if nothing but a bit had changed
        identity = cloud.repository(world.datacenter).identity(image.path).model_dump()
        db.get_one(models.TemplateDisk, image.id).identity = identity
    refused = FLOWS["deploy_vm"](world.accept("deploy_vm", vm).id)
    assert refused.error["code"] == "image-damaged"
    cloud.repository(world.datacenter).path(image.path).write_bytes(whole)
    assert verified(world)[image.path].state == "ok"
    assert cloud.library.template_state(world.template) is TemplateState.AVAILABLE
    world.run("deploy_vm", vm)


def test_a_template_is_offered_again_once_all_of_its_disks_are_whole(world):
    template = packed_template(world)
    first, _ = cloud.library.images(template)
    whole = damage(world, first.path)
    assert verified(world)[first.path].state == "broken"
    cloud.become(cloud.settings.model_copy(update={"verify_mib": 1e-9}))  # a disk a day

    def days() -> set[TemplateState | None]:
        every = len(cloud.library.kept(world.datacenter))
        return {cloud.library.template_state(template) for _ in range(every) if verified(world)}

    assert days() == {TemplateState.ERROR}
    cloud.repository(world.datacenter).path(first.path).write_bytes(whole)
    days()
    assert cloud.library.template_state(template) is TemplateState.AVAILABLE


def test_a_template_that_is_gone_is_in_error(world):
    (image,) = cloud.library.images(world.template)
    cloud.repository(world.datacenter).delete(image.path)
    assert verified(world)[image.path].state == "gone"
    assert cloud.library.template_state(world.template) is TemplateState.ERROR


def test_a_broken_conversion_goes_and_is_made_anew(world, converted):
    damage(world, converted)
    assert verified(world)[converted].state == "broken"
    assert conversion_state() is ConversionState.FAILED
    repository = cloud.repository(world.datacenter)
    with pytest.raises(NotFound):
        repository.identity(converted)
    foreign = next(x for x in templates() if x != world.template)
    world.run("convert_image", foreign, format="qcow2")
    assert verified(world)[converted].state == "ok"


def test_a_broken_conversion_that_disks_need_stays_and_nothing_starts_from_it(world, converted):
    foreign = next(x for x in templates() if x != world.template)
    first, second = (
        cloud.inventory.vms_of(world.appliance("vm", template=foreign))[0].id for _ in "12"
    )
    world.run("deploy_vm", first)
    damage(world, converted)
    assert verified(world)[converted].detail == "1 disks are overlays of it"
    assert cloud.repository(world.datacenter).has(converted)
    refused = FLOWS["deploy_vm"](world.accept("deploy_vm", second).id)
    assert refused.state is OperationState.FAILED
    assert refused.error["code"] == "conversion-damaged"
    world.run("undeploy_vm", first)
    verified(world)
    assert not cloud.repository(world.datacenter).has(converted)
    world.run("deploy_vm", second)


def test_a_day_reads_its_piece_and_the_next_one_goes_on(world, converted):
    every = [kept.image.path for kept in cloud.library.kept(world.datacenter)]
    assert len(every) == 3
    cloud.become(cloud.settings.model_copy(update={"verify_mib": 1e-9}))  # one at a time
    read = [path for _ in range(4) for path in verified(world)]
    assert read == [*every, every[0]]


def test_a_repository_that_is_away_condemns_nothing(world):
    (cloud.repository(world.datacenter).root / ".cloudloom-repository").unlink()
    ended = FLOWS["verify_library"](world.accept("verify_library", world.datacenter).id)
    assert ended.state is OperationState.FAILED
    assert cloud.library.template_state(world.template) is TemplateState.AVAILABLE


def templates():
    with cloud.database.read() as db:
        return [row.id for row in db.query(models.Template)]
