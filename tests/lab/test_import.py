"""Import operations on real tools: hostile images leave nothing, ordinary ones are offered."""

import gzip
import hashlib
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from adapters.database.schema import FIRST_ENTERPRISE
from adapters.images.addresses import networks
from adapters.images.downloads import HttpDownloads, Route
from adapters.types import Format, OperationState, Source, TemplateState
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.downloads import kept
from tests import worlds
from tests.adapters.test_downloads import serving, whole
from tests.flows.scenarios import _new_template

pytestmark = pytest.mark.lab


@pytest.fixture
def world(tmp_path):
    made = worlds.build(tmp_path / "home")
    cloud.become(worlds.settings_in(tmp_path / "home", image_tool="qemu-img", backend_timeout_s=0))
    yield made
    cloud.database.engine.dispose()


def create(path: Path, *arguments: object) -> None:
    subprocess.run(["qemu-img", "create", "-q", *map(str, arguments)], check=True)
    assert path.exists()


def convert(path: Path, form: str, *options: str) -> None:
    raw = path.with_suffix(".source")
    raw.write_bytes(random.Random(1).randbytes(2**20) + bytes(2**20))
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", form, *options, raw, path], check=True
    )


def backing_file(path):
    create(path, "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", path, "1M")


def data_file(path):
    data = path.with_name("data")
    create(path, "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", path, "1M")
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(str(data).encode()))
        file.write(b"/etc/passwd\0")


def foreign_extent(path):
    convert(path, "vmdk", "-o", "subformat=monolithicFlat")
    text = path.read_text().partition("\0")[0]
    path.write_text(text.replace(f"{path.stem}-flat.vmdk", "/etc/passwd"))


def gzip_bomb(path):
    path.write_bytes(gzip.compress(bytes(2**26)))


def pebibyte(path):
    create(path, "-f", "qcow2", path, "1P")


def truncated(path):
    convert(path, "qcow2")
    os.truncate(path, path.stat().st_size - 70_000)


def another_format(path):
    convert(path, "vdi")


def mbr(path):
    disk = bytearray(2**21)
    disk[446:462] = struct.pack("<B3xB3xII", 0x80, 0x83, 16, 4000)
    disk[510:512] = b"\x55\xaa"
    path.write_bytes(disk)


def fixed_vhd(path):
    convert(path, "vpc", "-o", "subformat=fixed,force_size=on")


def stream(path):
    convert(path, "vmdk", "-o", "subformat=streamOptimized")


HOSTILE = [
    (backing_file, Format.QCOW2, "image-backing-file"),
    (data_file, Format.QCOW2, "image-data-file"),
    (foreign_extent, Format.VMDK, "image-foreign-extent"),
    (gzip_bomb, Format.QCOW2, "image-unknown-format"),
    (pebibyte, Format.QCOW2, "image-too-large"),
    (truncated, Format.QCOW2, "image-truncated"),
    (another_format, Format.QCOW2, "image-format-mismatch"),
    (another_format, Format.RAW, "image-format-mismatch"),
]
ORDINARY = [(mbr, Format.RAW), (fixed_vhd, Format.VPC), (stream, Format.VMDK)]


def import_of(world, made: Path, form: Format, extent: Path | None = None, spoil=None):
    """The import of a file, or of one with an extent, that the gateway has received."""
    repository = cloud.repository(world.datacenter)
    upload = image = repository.scratch(f"upload-{uuid4()}", made.stat().st_size)
    if extent:
        upload.mkdir()
        image = upload / form.disk_file
        spoil(Path(shutil.copy(extent, upload)))
    shutil.copy(made, image)
    template = uuid4()
    operation = world.accept(
        "import_image",
        template,
        template={
            "id": str(template),
            "enterprise_id": str(FIRST_ENTERPRISE),
            "datacenter_id": str(world.datacenter),
            "name": "imported",
        },
        format=form,
        digest=hashlib.sha256(made.read_bytes()).hexdigest(),
        upload=upload.name,
    )
    return FLOWS["import_image"](operation.id)


@pytest.mark.parametrize(("build", "form", "code"), HOSTILE)
def test_a_hostile_image_is_refused_and_leaves_nothing(build, form, code, world, tmp_path):
    before = worlds.photograph()
    made = tmp_path / f"image.{form.extension}"
    build(made)
    ended = import_of(world, made, form)
    assert ended.state is OperationState.FAILED
    assert ended.error["code"] == code
    assert not ended.left_behind
    assert worlds.photograph() == before


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda extent: (extent.unlink(), extent.symlink_to("/etc/passwd")), "foreign-extent"),
        (lambda extent: (extent.unlink(), os.mkfifo(extent)), "foreign-extent"),
        (lambda extent: os.truncate(extent, 512), "truncated"),
        (lambda extent: None, "digest-mismatch"),  # of the descriptor alone
    ],
    ids=["link", "pipe", "short", "digest"],
)
def test_a_set_that_was_changed_since_is_refused(spoil, code, world, tmp_path):
    """Whoever else writes to the repository's directory gains nothing by it."""
    before = worlds.photograph()
    made, extent = tmp_path / "image.vmdk", tmp_path / "image-flat.vmdk"
    convert(made, "vmdk", "-o", "subformat=monolithicFlat")
    ended = import_of(world, made, Format.VMDK, extent, spoil)
    assert ended.error["code"] == f"image-{code}"
    assert not ended.left_behind
    assert worlds.photograph() == before


@pytest.mark.parametrize(("build", "form"), ORDINARY)
def test_an_ordinary_image_is_offered_and_converted(build, form, world, tmp_path):
    made = tmp_path / f"image.{form.extension}"
    build(made)
    ended = import_of(world, made, form)
    assert ended.state is OperationState.SUCCEEDED, ended.error
    template = UUID(ended.arguments["template"]["id"])
    assert cloud.library.template_state(template) is TemplateState.AVAILABLE
    [image] = cloud.library.images(template)
    assert image.virtual_size_mib == 2
    world.run("convert_image", template, format="qcow2")
    incoming = cloud.repository(world.datacenter).root / "incoming"
    assert not list(incoming.iterdir())


@pytest.mark.parametrize("kind", ["monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse"])
def test_a_set_at_an_address_is_downloaded_offered_and_converted(kind, world, tmp_path):
    """As qemu-img writes it; what comes of it has the same content."""
    made = tmp_path / "made" / "image.vmdk"
    made.parent.mkdir()
    convert(made, "vmdk", "-o", f"subformat={kind}")
    route = Route(5, 60, None, networks(["127.0.0.0/8"]))
    cloud.__dict__["downloads"] = HttpDownloads(route)

    def answer(on) -> None:
        whole((made.parent / on.path.rpartition("/")[2]).read_bytes())(on)

    secret, template = uuid4(), _new_template(world, "imported")
    with serving(answer) as server:
        source = Source(url=SecretStr(server.url.replace("/image", "/image.vmdk")))
        with cloud.database.write() as db:
            cloud.secrets.keep(db, secret, kept(source))
        wanted = {"source": str(secret), "format": "vmdk"}
        asked = {"template": template, "wanted": wanted, "wishes": {}}
        operation = world.accept("import_from_url", UUID(template["id"]), **asked)
        ended = FLOWS["import_from_url"](operation.id)
        assert ended.state is OperationState.SUCCEEDED, ended.error
    [image] = cloud.library.images(UUID(template["id"]))
    assert (image.subformat, image.virtual_size_mib) == (kind, 2)
    world.run("convert_image", UUID(template["id"]), format="qcow2")
    root = cloud.repository(world.datacenter).root
    (converted,) = root.glob("conversions/*/*.qcow2")
    compared = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", made.with_suffix(".source")]
    subprocess.run([*compared, converted], check=True)
    assert not list((root / "incoming").iterdir())
