"""A repository as its other hosts see it: over NFS, and over CIFS under its Windows path.

The kernel here may mount neither, so the repository is the exported directory itself, and the
hosts are qemu-img and smbclient.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.forms import Form
from adapters.images.qemu_img import QemuImg
from adapters.images.repository import INCOMING, MARKER, DirectoryRepository, initialise
from adapters.shares import share_of, within
from adapters.types import Format
from deployments.lab.nfs import Nfs
from deployments.lab.smb import Smb
from tests.labs import started

pytestmark = pytest.mark.lab
SIZE_BYTES = 4 * 2**20


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> DirectoryRepository:
    root = tmp_path_factory.mktemp("export")
    return DirectoryRepository(root, initialise(root))


@pytest.fixture(scope="module")
def nfs(tmp_path_factory: pytest.TempPathFactory, repository: Any) -> Iterator[Nfs]:
    with started(Nfs(tmp_path_factory.mktemp("nfs"), repository.root)) as server:
        yield server


@pytest.fixture(scope="module")
def smb(tmp_path_factory: pytest.TempPathFactory, repository: Any) -> Iterator[Smb]:
    with started(Smb(tmp_path_factory.mktemp("smb"), repository.root, "of the lab")) as server:
        yield server


@pytest.fixture(scope="module")
def published(repository: DirectoryRepository, tmp_path_factory: Any) -> dict[Form, str]:
    """An image in what KVM, vSphere and Hyper-V boot, as conversions put it."""
    raw, paths = tmp_path_factory.mktemp("raw") / "disk.raw", {}
    raw.write_bytes(hashlib.shake_256(b"an image").digest(SIZE_BYTES))
    for form in (Form.QCOW2, Form.VMDK_STREAM, Form.VHDX):
        folder = repository.scratch(f"op-{form.name}", SIZE_BYTES)
        folder.mkdir()
        scratch = folder / form.format.disk_file
        QemuImg().convert(raw, Format.RAW, scratch, form, lambda _percent: None)
        paths[form] = f"conversions/{form.name}/{scratch.name}"
        repository.publish(scratch, paths[form])
    repository.clear("op-")
    return paths


def test_the_marker_is_the_same_over_either(
    repository: DirectoryRepository, nfs: Nfs, smb: Smb, tmp_path: Path
) -> None:
    """By it a host knows that it is this repository."""
    for name, got in {
        "nfs": nfs.inside(
            *("qemu-img", "dd", "-f", "raw", "-O", "raw", "bs=512", "count=1"),
            *(f"if={nfs.url(MARKER)}", f"of={tmp_path / 'nfs'}"),
        ),
        "smb": smb.client(f"get {MARKER} {tmp_path / 'smb'}"),
    }.items():
        assert got.returncode == 0, got
        assert (tmp_path / name).read_text().strip("\0\n") == str(repository.marker)


@pytest.mark.parametrize("form", [Form.QCOW2, Form.VHDX, Form.VMDK_STREAM])
def test_an_image_is_whole_over_nfs(
    nfs: Nfs, repository: DirectoryRepository, published: dict[Form, str], form: Form
) -> None:
    here, there = repository.path(published[form]), nfs.url(published[form])
    same = nfs.inside("qemu-img", "compare", "-f", form.format, "-F", form.format, here, there)
    assert same.returncode == 0, same


def test_what_a_host_writes_over_nfs_is_in_the_repository(
    nfs: Nfs, repository: DirectoryRepository, published: dict[Form, str], tmp_path: Path
) -> None:
    scratch = repository.scratch("from-a-host", SIZE_BYTES)
    scratch.touch()
    scratch.write_bytes(bytes(SIZE_BYTES))  # this client makes no file larger
    source, target = repository.path(published[Form.QCOW2]), f"{INCOMING}/from-a-host"
    done = nfs.inside(
        *("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", source, nfs.url(target))
    )
    assert done.returncode == 0, done
    repository.publish(scratch, "templates/from-a-host/disk-0.raw")
    raw = repository.path("templates/from-a-host/disk-0.raw")
    assert QemuImg().equal(raw, Format.RAW, source, Format.QCOW2)


def test_a_windows_host_finds_an_image_by_its_path(
    smb: Smb, repository: DirectoryRepository, published: dict[Form, str], tmp_path: Path
) -> None:
    share = share_of(f"//127.0.0.1/{smb.share}")
    path = within(share, published[Form.VHDX])
    assert path == rf"\\127.0.0.1\repository\conversions\VHDX\{Form.VHDX.format.disk_file}"
    got = smb.client(f"get {path.removeprefix(share)} {tmp_path / 'got'}")
    assert got.returncode == 0, got
    kept = repository.path(published[Form.VHDX])
    assert (tmp_path / "got").read_bytes() == kept.read_bytes()


def test_who_has_no_password_sees_nothing(smb: Smb, published: dict[Form, str]) -> None:
    refused = smb.client("ls", password="a guess")
    assert refused.returncode
    assert "NT_STATUS_LOGON_FAILURE" in refused.stdout + refused.stderr
