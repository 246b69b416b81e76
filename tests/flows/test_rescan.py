"""What people put into a repository's inbox: imported once, or left there and told of."""

import os
from pathlib import Path

import pytest

from adapters.database.schema import FIRST_ENTERPRISE
from adapters.images import inbox
from adapters.images.repository import DirectoryRepository, initialise
from adapters.types import Finding, OperationState
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.flows.scenarios import put_into_inbox
from tests.worlds import World, vmdk_set


def rescanned(world: World, **arguments: str) -> dict[str, str]:
    """What a rescan says of each thing, by its name."""
    operation = world.run("rescan_library", world.datacenter, **arguments)
    lines = cloud.journal.lines(operation.id)
    report = next(line.result for line in lines if line.name == "publish-report")
    return {x.name.rpartition("/")[2]: x.state for x in map(Finding.model_validate, report)}


def carried_out(world: World) -> list[str]:
    """Carry out what a rescan has started; answers how each has ended."""
    due = cloud.operations.due(world.datacenter)
    waiting = [x for x in due if x.state is OperationState.ACCEPTED]
    return sorted(str(FLOWS["import_found"](each.id).state) for each in waiting)


def in_inbox(world: World) -> list[str]:
    folder = world.home / "repository" / "inbox" / "default"
    return sorted(each.name for each in folder.iterdir())


def test_what_is_good_becomes_templates_and_is_gone_from_the_inbox(world):
    put_into_inbox(world, "Fresh image.vmdk")
    put_into_inbox(world, "packed.ova")
    put_into_inbox(world, "folder")
    put_into_inbox(world, "set")
    said = rescanned(world)
    assert set(said.values()) == {"being-imported"}
    assert carried_out(world) == ["succeeded"] * 4
    assert in_inbox(world) == []
    for name in ("Fresh-image", "packed", "folder", "set"):
        assert cloud.library.has_name(FIRST_ENTERPRISE, world.datacenter, name)
    assert rescanned(world) == {}


def test_what_is_not_fit_stays_and_is_told_with_its_code(world):
    good = put_into_inbox(world, "good.vmdk")
    folder = good.parent
    (folder / "bad.qcow2").write_text("nothing")
    (folder / "other.raw").write_bytes(good.read_bytes())
    (folder / "notes.txt").write_text("hello")
    (folder / "link.raw").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.raw")
    (folder / "empty").mkdir()
    (folder / ".hidden.raw").write_text("rsync")
    stranger = folder.parent / "nobody"
    stranger.mkdir()
    (stranger / "x.raw").write_text("x")
    before = in_inbox(world)
    assert rescanned(world) == {
        "good.vmdk": "being-imported",
        "bad.qcow2": "image-unknown-format",
        "other.raw": "image-format-mismatch",
        "notes.txt": "image-unknown-format",
        "link.raw": "package-not-a-file",
        "pipe.raw": "package-not-a-file",
        "empty": "package-missing-file",
        "x.raw": "unknown-enterprise",
    }
    assert in_inbox(world) == before
    assert not [*(world.home / "repository" / "incoming").iterdir()]


def test_a_folder_of_vmdks_is_one_set_or_is_left(world):
    """Its descriptor, by whatever name, names all others there, and nothing that is elsewhere."""
    place = put_into_inbox(world, "set")
    descriptor, one, two = (place / name for name in vmdk_set())
    text = descriptor.read_bytes()
    one.rename(place / "elsewhere.vmdk")
    assert rescanned(world) == {"set": "image-truncated"}
    (place / "elsewhere.vmdk").rename(one)
    (place / "more.vmdk").write_bytes(b"")
    assert rescanned(world) == {"set": "image-surplus-file"}
    (place / "more.vmdk").unlink()
    (place / "notes.txt").write_text("hello")
    assert rescanned(world) == {"set": "package-missing-file"}
    (place / "notes.txt").unlink()
    descriptor.write_bytes(text.replace(b"d-f001.vmdk", b"/etc/passwd"))
    assert rescanned(world) == {"set": "image-foreign-extent"}
    descriptor.write_bytes(text)
    content = one.read_bytes()
    one.unlink()
    one.symlink_to("/etc/passwd")
    assert rescanned(world) == {"set": "package-not-a-file"}
    one.unlink()
    one.write_bytes(content)
    descriptor.rename(place / "a.vmdk")
    for kept in (place / "a.vmdk", one, two):
        assert kept.exists()
    assert not [*(world.home / "repository" / "incoming").iterdir()]
    assert rescanned(world) == {"set": "being-imported"}
    assert carried_out(world) == ["succeeded"]
    assert in_inbox(world) == []


def test_what_is_seen_twice_is_imported_once(world):
    put_into_inbox(world, "good.vmdk")
    for _ in range(3):
        assert rescanned(world) == {"good.vmdk": "being-imported"}
    assert carried_out(world) == ["succeeded"]


def test_what_is_being_written_is_left_alone(world, monkeypatch):
    place = put_into_inbox(world, "good.vmdk")
    monkeypatch.setattr(cloud.settings, "inbox_quiet_s", 60)
    assert rescanned(world) == {"good.vmdk": "being-written"}
    os.utime(place, (place.stat().st_mtime - 61,) * 2)
    assert rescanned(world) == {"good.vmdk": "being-imported"}


def test_what_has_changed_since_is_not_imported_and_stays(world):
    place = put_into_inbox(world, "good.vmdk")
    rescanned(world)
    put_into_inbox(world, "good.vmdk", "another")
    assert carried_out(world) == ["failed"]
    assert "another" in place.read_text()
    assert rescanned(world) == {"good.vmdk": "being-imported"}
    assert carried_out(world) == ["succeeded"]


def test_an_import_that_fails_leaves_the_file_and_is_tried_again(world):
    place = put_into_inbox(world, "good.vmdk")
    rescanned(world)
    cloud.world.set_fate("repository.publish", "refuses", times=1)
    assert carried_out(world) == ["failed"]
    assert place.exists()
    assert rescanned(world) == {"good.vmdk": "being-imported"}
    assert carried_out(world) == ["succeeded"]


def test_a_name_that_is_taken_is_told(world):
    put_into_inbox(world, "tiny.vmdk")
    assert rescanned(world) == {"tiny.vmdk": "name-taken"}


def test_of_one_enterprise_only_its_folder_is_looked_at(world):
    put_into_inbox(world, "good.vmdk")
    assert rescanned(world, owner="others") == {}
    assert rescanned(world, owner="default") == {"good.vmdk": "being-imported"}


def test_what_one_enterprise_leaves_lying_holds_up_no_other(world, monkeypatch):
    """A rescan takes in so many things, of each folder in turn."""
    monkeypatch.setattr(inbox, "MOST", 3)
    good = put_into_inbox(world, "good.vmdk")
    before = good.parent.with_name("aside")
    before.mkdir()
    for n in range(5):
        (before / f"junk-{n}").touch()
    unknown = dict.fromkeys(("junk-0", "junk-1"), "unknown-enterprise")
    assert rescanned(world) == {"good.vmdk": "being-imported", **unknown}


def test_where_there_are_no_links_it_is_copied(world, monkeypatch):
    def none(*_names: object, **_options: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", none)
    put_into_inbox(world, "good.vmdk")
    put_into_inbox(world, "folder")
    rescanned(world)
    assert carried_out(world) == ["succeeded"] * 2
    assert in_inbox(world) == []


@pytest.mark.parametrize(
    ("mode", "is_ours", "is_linked"),
    [(0o644, True, True), (0o664, True, False), (0o646, True, False), (0o644, False, False)],
)
def test_what_others_may_write_to_is_copied(world, monkeypatch, mode, is_ours, is_linked):
    """Else they could make it something else once it has been looked at."""
    if not is_ours:
        somebody = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: somebody)
    put_into_inbox(world, "good.vmdk")
    place = world.home / "repository" / "inbox" / "default" / "good.vmdk"
    place.chmod(mode)
    before = published(world)
    with place.open("rb") as theirs:
        rescanned(world)
        assert carried_out(world) == ["succeeded"]
        (image,) = published(world) - before
        with image.open("rb") as ours:
            assert os.path.sameopenfile(theirs.fileno(), ours.fileno()) == is_linked
    assert in_inbox(world) == []


def published(world: World) -> set[Path]:
    return set((world.home / "repository" / "templates").rglob("*.vmdk"))


def test_it_runs_by_itself_only_where_that_is_wanted(world, monkeypatch):
    flow = FLOWS["rescan_library"]
    assert flow.schedule is None
    monkeypatch.setattr(cloud.settings, "rescan", True)
    assert flow.schedule == flow.every


def test_a_fresh_repository_is_laid_out_as_is_documented(tmp_path):
    readme = Path("deployments/README.md").read_text()
    marker = initialise(tmp_path)
    there = {each.name for each in tmp_path.iterdir()}
    assert there == {".cloudloom-repository", "incoming", "inbox"}
    table = readme.partition("| in the repository | what |")[2].partition("\n\n")[0]
    told = {line.split("`")[1].split("/")[0] for line in table.splitlines() if "`" in line}
    assert there <= told
    made = {"templates", "conversions", "packages", ".cloudloom-marks"}
    assert told == there | made
    assert DirectoryRepository(tmp_path, marker).entries() == {}
