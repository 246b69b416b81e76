"""The block-storage laws, run over every adapter that claims the port."""

from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
from pydantic import SecretStr

from adapters.errors import Conflict, InUse, NotFound, OutOfSpace, Refused
from adapters.storage.base import BlockStorage
from adapters.storage.directory import DirectoryStorage
from adapters.storage.memory import MemoryStorage
from adapters.storage.tgt import Tgt
from adapters.types import Capacity, Chap, Export, Volume
from adapters.world import World
from deployments.lab.tgtd import Tgtd
from tests.initiator import qemu_io

OURS = uuid4()
TOTAL_MIB = 256


class Counterpart(Protocol):
    """A pool, and what happens to it from outside."""

    storage: BlockStorage

    def write(self, export: Export, chap: Chap, at_mib: int = 0) -> None:
        """As the initiator of that export."""

    def restart(self) -> None:
        """The target daemon, which forgets its exports."""

    def photograph(self) -> object:
        """All that is in the pool."""


class Memory:
    def __init__(self, folder: Path) -> None:
        self.world = World(folder / "world.sqlite")
        self.storage = MemoryStorage(self.world, uuid4(), TOTAL_MIB)

    def write(self, export: Export, chap: Chap, at_mib: int = 0) -> None:
        volume = self.world.find("volume", export.volume) or {}
        assert at_mib < volume["size_mib"]
        written = {"written": True, "reach_mib": at_mib + 1}
        self.world.put("volume", export.volume, {**volume, **written})

    def restart(self) -> None:
        for key in self.world.all("export"):
            self.world.remove("export", key)

    def photograph(self) -> object:
        return self.world.everything()


class Directory:
    def __init__(self, folder: Path, tgtd: Tgtd) -> None:
        self.tgtd = tgtd
        self.tgt = Tgt(tgtd.control, "127.0.0.1", tgtd.port)
        self.folder = folder
        self.storage = DirectoryStorage(folder, self.tgt, limit_mib=TOTAL_MIB)

    def write(self, export: Export, chap: Chap, at_mib: int = 0) -> None:
        qemu_io(self.tgtd.port, export, chap, f"write -P 7 {at_mib}M 4k", "flush")

    def restart(self) -> None:
        self.tgtd.crash()
        self.tgtd.start()

    def photograph(self) -> object:
        files = {path.name: path.stat().st_size for path in self.folder.iterdir()}
        return files, self.tgt.targets()


@pytest.fixture(params=["memory", pytest.param("directory", marks=pytest.mark.lab)])
def counterpart(request: pytest.FixtureRequest, tmp_path: Path) -> Counterpart:
    if request.param == "memory":
        return Memory(tmp_path)
    (tmp_path / "pool").mkdir()
    return Directory(tmp_path / "pool", request.getfixturevalue("tgtd"))


@pytest.fixture
def storage(counterpart: Counterpart) -> BlockStorage:
    return counterpart.storage


def new_volume(size_mib: int = 16) -> Volume:
    return Volume(id=uuid4(), size_mib=size_mib, installation=OURS)


def new_export(volume: Volume) -> tuple[Export, Chap]:
    export = Export(
        id=uuid4(), volume=volume.id, initiator=f"iqn.2026-11.test:{uuid4()}", installation=OURS
    )
    return export, Chap(user=export.account, password=SecretStr(uuid4().hex))


def write_as_a_guest(counterpart: Counterpart, volume: Volume, at_mib: int = 0) -> None:
    export, chap = new_export(volume)
    counterpart.storage.ensure_export(export, chap)
    counterpart.write(export, chap, at_mib)
    counterpart.storage.delete_export(export)


def changed(value, **fields):
    return value.model_copy(update=fields)


# --- volumes -----------------------------------------------------------------------------------


def test_ensuring_twice_promises_once(storage: BlockStorage) -> None:
    volume = new_volume()
    assert storage.capacity() == Capacity(total_mib=TOTAL_MIB, free_mib=TOTAL_MIB)
    assert not storage.has_volume(volume)
    storage.ensure_volume(volume)
    storage.ensure_volume(volume)
    assert storage.has_volume(volume)
    assert storage.capacity() == Capacity(total_mib=TOTAL_MIB, free_mib=TOTAL_MIB - 16)


def test_deleting_leaves_nothing(counterpart: Counterpart) -> None:
    before = counterpart.photograph()
    volume = new_volume()
    counterpart.storage.ensure_volume(volume)
    assert counterpart.photograph() != before
    counterpart.storage.delete_volume(volume)
    assert not counterpart.storage.has_volume(volume)
    assert counterpart.photograph() == before


def test_what_is_promised_counts_not_what_is_used(counterpart: Counterpart) -> None:
    counterpart.storage.ensure_volume(new_volume(200))
    before = counterpart.photograph()
    with pytest.raises(OutOfSpace):
        counterpart.storage.ensure_volume(new_volume(57))
    assert counterpart.photograph() == before
    counterpart.storage.ensure_volume(new_volume(56))


@pytest.mark.parametrize("difference", [{"size_mib": 17}, {"installation": uuid4()}])
def test_another_volume_of_that_name_is_not_touched(
    counterpart: Counterpart, difference: dict[str, object]
) -> None:
    storage, volume = counterpart.storage, new_volume()
    storage.ensure_volume(volume)
    before = counterpart.photograph()
    other = changed(volume, **difference)
    for method in (
        storage.ensure_volume,
        storage.has_volume,
        storage.delete_volume,
        storage.discard_volume,
        storage.open_for_filling,
        storage.seal,
        storage.written,
    ):
        with pytest.raises(Conflict):
            method(other)
    assert counterpart.photograph() == before


def test_absent_is_success(storage: BlockStorage) -> None:
    volume = new_volume()
    export, _ = new_export(volume)
    storage.delete_volume(volume)
    storage.discard_volume(volume)
    storage.delete_export(export)
    assert not storage.written(volume)
    assert not storage.has_export(export)


def test_nothing_cannot_be_filled(storage: BlockStorage) -> None:
    for method in (storage.open_for_filling, storage.seal):
        with pytest.raises(NotFound):
            method(new_volume())


# --- a guest's bytes ---------------------------------------------------------------------------


def test_what_nobody_has_written_is_discarded(counterpart: Counterpart) -> None:
    storage, volume = counterpart.storage, new_volume()
    before = counterpart.photograph()
    storage.ensure_volume(volume)
    assert not storage.written(volume)
    storage.discard_volume(volume)
    assert counterpart.photograph() == before


def test_what_a_guest_has_written_is_only_deleted(counterpart: Counterpart) -> None:
    storage, volume = counterpart.storage, new_volume()
    storage.ensure_volume(volume)
    write_as_a_guest(counterpart, volume)
    assert storage.written(volume)
    for method in (storage.discard_volume, storage.open_for_filling):
        with pytest.raises(InUse):
            method(volume)
    storage.ensure_volume(volume)  # as a resumed operation does
    storage.seal(volume)
    assert storage.written(volume)
    storage.delete_volume(volume)
    assert not storage.has_volume(volume)
    assert not storage.written(volume)


def test_a_fillers_bytes_are_nobodys(counterpart: Counterpart) -> None:
    storage, volume = counterpart.storage, new_volume()
    storage.ensure_volume(volume)
    storage.open_for_filling(volume)
    write_as_a_guest(counterpart, volume)
    assert not storage.written(volume)
    storage.open_for_filling(volume)
    write_as_a_guest(counterpart, volume)
    storage.discard_volume(volume)
    assert not storage.has_volume(volume)


def test_a_sealed_volume_is_the_guests(counterpart: Counterpart) -> None:
    storage, volume = counterpart.storage, new_volume()
    storage.ensure_volume(volume)
    storage.open_for_filling(volume)
    write_as_a_guest(counterpart, volume)
    storage.seal(volume)
    storage.seal(volume)
    assert not storage.written(volume)
    write_as_a_guest(counterpart, volume)
    storage.seal(volume)
    assert storage.written(volume)
    with pytest.raises(InUse):
        storage.discard_volume(volume)


def test_a_sealed_volume_can_be_filled_again_before_that(counterpart: Counterpart) -> None:
    storage, volume = counterpart.storage, new_volume()
    storage.ensure_volume(volume)
    for _ in range(2):
        storage.open_for_filling(volume)
        write_as_a_guest(counterpart, volume)
        storage.seal(volume)
    storage.discard_volume(volume)
    assert not storage.has_volume(volume)


# --- size --------------------------------------------------------------------------------------


def test_a_volume_grows_once_however_often_it_is_told(storage: BlockStorage) -> None:
    volume = new_volume()
    storage.ensure_volume(volume)
    for _ in range(2):
        storage.resize_volume(volume, 40)
    assert storage.has_volume(changed(volume, size_mib=40))
    with pytest.raises(Conflict):
        storage.has_volume(volume)
    assert storage.capacity().free_mib == TOTAL_MIB - 40
    assert storage.volumes(OURS) == {volume.id: changed(volume, size_mib=40)}


def test_a_grown_volume_is_written_as_far_as_it_goes(counterpart: Counterpart) -> None:
    storage, volume = counterpart.storage, new_volume()
    storage.ensure_volume(volume)
    storage.resize_volume(volume, 40)
    grown = changed(volume, size_mib=40)
    assert not storage.written(grown)
    write_as_a_guest(counterpart, grown, at_mib=39)
    assert storage.written(grown)


def test_what_was_grown_in_vain_is_cut_back_and_leaves_nothing(counterpart: Counterpart) -> None:
    storage, volume, other = counterpart.storage, new_volume(), new_volume()
    for each in (volume, other):
        storage.ensure_volume(each)
    write_as_a_guest(counterpart, other, at_mib=15)
    before = counterpart.photograph()
    for each, written in ((volume, False), (other, True)):
        storage.resize_volume(each, 40)
        for _ in range(2):
            storage.resize_volume(changed(each, size_mib=40), 16)
        assert storage.has_volume(each)
        assert storage.written(each) is written
    assert counterpart.photograph() == before


def test_a_guests_bytes_are_not_cut_off(counterpart: Counterpart) -> None:
    storage, volume = counterpart.storage, new_volume()
    storage.ensure_volume(volume)
    storage.resize_volume(volume, 40)
    grown = changed(volume, size_mib=40)
    write_as_a_guest(counterpart, grown, at_mib=16)
    before = counterpart.photograph()
    with pytest.raises(InUse):
        storage.resize_volume(grown, 16)
    assert counterpart.photograph() == before
    storage.resize_volume(grown, 17)


def test_a_volume_grows_only_into_what_is_free(counterpart: Counterpart) -> None:
    storage, volume = counterpart.storage, new_volume()
    storage.ensure_volume(volume)
    before = counterpart.photograph()
    with pytest.raises(OutOfSpace):
        storage.resize_volume(volume, TOTAL_MIB + 1)
    assert counterpart.photograph() == before
    storage.resize_volume(volume, TOTAL_MIB)


@pytest.mark.parametrize("difference", [{"size_mib": 17}, {"installation": uuid4()}])
def test_another_volume_of_that_name_does_not_grow(
    counterpart: Counterpart, difference: dict[str, object]
) -> None:
    storage, volume = counterpart.storage, new_volume()
    with pytest.raises(NotFound):
        storage.resize_volume(volume, 40)
    storage.ensure_volume(volume)
    before = counterpart.photograph()
    with pytest.raises(Conflict):
        storage.resize_volume(changed(volume, **difference), 40)
    assert counterpart.photograph() == before


def test_an_export_that_is_made_anew_tells_the_new_size(counterpart: Counterpart) -> None:
    storage, volume = counterpart.storage, new_volume()
    export, chap = new_export(volume)
    storage.ensure_volume(volume)
    storage.ensure_export(export, chap)
    storage.resize_volume(volume, 40)
    storage.delete_export(export)
    storage.ensure_export(export, chap)
    counterpart.write(export, chap, at_mib=39)


# --- exports -----------------------------------------------------------------------------------


def test_exporting_twice_exports_once(counterpart: Counterpart) -> None:
    storage, volume = counterpart.storage, new_volume()
    export, chap = new_export(volume)
    storage.ensure_volume(volume)
    assert not storage.has_export(export)
    target = storage.ensure_export(export, chap)
    once = counterpart.photograph()
    assert storage.ensure_export(export, chap) == target
    assert target.iqn == export.iqn
    assert storage.has_export(export)
    assert counterpart.photograph() == once


def test_an_ended_export_leaves_nothing(counterpart: Counterpart) -> None:
    storage, volume = counterpart.storage, new_volume()
    export, chap = new_export(volume)
    storage.ensure_volume(volume)
    before = counterpart.photograph()
    storage.ensure_export(export, chap)
    storage.delete_export(export)
    storage.delete_export(export)
    assert not storage.has_export(export)
    assert counterpart.photograph() == before


def test_an_exported_volume_stays(storage: BlockStorage) -> None:
    volume = new_volume()
    export, chap = new_export(volume)
    storage.ensure_volume(volume)
    storage.ensure_export(export, chap)
    for method in (storage.delete_volume, storage.discard_volume):
        with pytest.raises(InUse) as refusal:
            method(volume)
        assert refusal.value.users == (export.iqn,)
    assert storage.has_volume(volume)
    storage.delete_export(export)
    storage.delete_volume(volume)


def test_only_an_installations_own_volume_is_exported(storage: BlockStorage) -> None:
    volume = new_volume()
    export, chap = new_export(volume)
    with pytest.raises(NotFound):
        storage.ensure_export(export, chap)
    storage.ensure_volume(volume)
    with pytest.raises(Conflict):
        storage.ensure_export(changed(export, installation=uuid4()), chap)
    assert not storage.has_export(export)


def test_an_exports_account_is_its_own(counterpart: Counterpart) -> None:
    volume = new_volume()
    export, chap = new_export(volume)
    counterpart.storage.ensure_volume(volume)
    before = counterpart.photograph()
    with pytest.raises(Refused):
        counterpart.storage.ensure_export(export, changed(chap, user="joe"))
    assert counterpart.photograph() == before


@pytest.mark.parametrize("field", ["initiator", "volume"])
def test_another_export_of_that_name_is_not_touched(counterpart: Counterpart, field: str) -> None:
    storage, volume, other_volume = counterpart.storage, new_volume(), new_volume()
    export, chap = new_export(volume)
    storage.ensure_volume(volume)
    storage.ensure_volume(other_volume)
    storage.ensure_export(export, chap)
    before = counterpart.photograph()
    values = {"initiator": "iqn.2026-11.test:other", "volume": other_volume.id}
    other = changed(export, **{field: values[field]})
    with pytest.raises(Conflict):
        storage.ensure_export(other, chap)
    with pytest.raises(Conflict):
        storage.has_export(other)
    assert counterpart.photograph() == before


def test_another_installations_export_is_not_ended(storage: BlockStorage) -> None:
    volume = new_volume()
    export, chap = new_export(volume)
    storage.ensure_volume(volume)
    storage.ensure_export(export, chap)
    with pytest.raises(Conflict):
        storage.delete_export(changed(export, installation=uuid4()))
    assert storage.has_export(export)


def test_a_restarted_daemon_is_given_its_exports_again(counterpart: Counterpart) -> None:
    storage = counterpart.storage
    exports = []
    for _ in range(3):
        volume = new_volume()
        storage.ensure_volume(volume)
        exports.append(new_export(volume))
    for export, chap in exports:
        storage.ensure_export(export, chap)
    assert storage.restore(exports) == ()
    counterpart.restart()
    assert not storage.has_export(exports[0][0])
    storage.ensure_export(*exports[1])
    assert storage.restore(exports) == (exports[0][0].id, exports[2][0].id)
    assert all(storage.has_export(export) for export, _ in exports)
    counterpart.write(*exports[2])


def test_one_lost_volume_keeps_no_other_export_from_coming_back(counterpart: Counterpart) -> None:
    storage, volume = counterpart.storage, new_volume()
    storage.ensure_volume(volume)
    lost, found = new_export(new_volume()), new_export(volume)
    with pytest.raises(NotFound):
        storage.restore([lost, found])
    assert storage.has_export(found[0])


# --- what is there -----------------------------------------------------------------------------


def test_what_is_listed_is_ours_and_equal_to_what_was_made(storage: BlockStorage) -> None:
    volume, theirs = new_volume(), changed(new_volume(), installation=uuid4())
    export, chap = new_export(volume)
    for each in (volume, theirs):
        storage.ensure_volume(each)
    storage.ensure_export(export, chap)
    other, their_chap = new_export(theirs)
    other = changed(other, installation=theirs.installation)
    storage.ensure_export(other, their_chap)
    assert storage.volumes(OURS) == {volume.id: volume}
    assert storage.exports(OURS) == {export.id: (export, False)}
    assert storage.exports(theirs.installation) == {other.id: (other, False)}
    storage.delete_export(export)
    storage.delete_volume(volume)
    assert (storage.volumes(OURS), storage.exports(OURS)) == ({}, {})
