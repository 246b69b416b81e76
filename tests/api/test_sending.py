"""The command line sends images in as many goes as it takes, and goes on where it was ended."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from api import sending
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.api.conftest import Api
from tests.api.test_cli import Workers, run
from tests.api.test_cli import workers as workers  # noqa: PLC0414 - a fixture
from tests.api.test_gateway import incoming
from tests.cutting import CuttingProxy

CONTENT = {"format": "vmdk", "virtual_size_bytes": 2**24, "content": "linux " * 150_000}
WORDS = ("--name", "new", "--format", "vmdk")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    made = tmp_path / "disk.vmdk"
    made.write_text(json.dumps(CONTENT))
    return made


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch, workers: Workers) -> Iterator[Any]:
    """Have the API behind a proxy."""
    made: list[CuttingProxy] = []

    def cutting(*cuts: int, holds_at: int | None = None) -> CuttingProxy:
        port = int(os.environ["CLOUDLOOM_URL"].rpartition(":")[2])
        made.append(CuttingProxy(port, list(cuts), holds_at))
        monkeypatch.setenv("CLOUDLOOM_URL", made[-1].url)
        return made[-1]

    monkeypatch.setattr(sending, "_PAUSE_S", 0.01)
    yield cutting
    for each in made:
        each.__exit__(None, None, None)


def notes() -> list[Path]:
    return list(Path(os.environ["XDG_CONFIG_HOME"], "cloudloom", "uploads").glob("*"))


def test_what_breaks_off_goes_on_by_itself(api: Api, through: Any, image: Path) -> None:
    proxy = through(200_000, 500_000, 700_000)
    sent = run("import", image, *WORDS)
    assert "import-image new succeeded" in sent.output
    assert proxy.cuts == []
    assert notes() == []
    (template,) = api.get("/v1/templates?name=new").json()
    assert template["disks"][0]["size_bytes"] == image.stat().st_size


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_was_ended_goes_on_with_the_same_command(
    number: signal.Signals, api: Api, through: Any, image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proxy = through(600_000, holds_at=600_000)
    command = [sys.executable, "-m", "api.cli", "import", str(image), *WORDS]
    with subprocess.Popen(command) as first:
        assert proxy.holds.wait(60)
        first.send_signal(number)
    assert first.returncode != 0
    (note,) = notes()
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    proxy.go_on.set()
    (upload,) = incoming(api)
    begun = upload.stat().st_ino
    positions: list[int] = []
    real = sending._Upload._pieces

    def noted(self: Any, start: int) -> Any:
        positions.append(start)
        assert incoming(api)[0].stat().st_ino == begun  # the same upload
        return real(self, start)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending._Upload, "_pieces", noted)
        again = run("import", image, *WORDS)
    assert "import-image new succeeded" in again.output, again.output
    assert positions[-1] > 0, "it began anew"
    assert notes() == []
    assert incoming(api) == []


def test_what_is_gone_is_sent_anew(api: Api, through: Any, image: Path) -> None:
    note_of_a_broken_one(api, through, image)
    cloud.repository(api.world.datacenter).clear("upload-")  # as maintenance does, in time
    assert "import-image new succeeded" in run("import", image, *WORDS).output
    assert notes() == []


def test_another_image_is_another_upload(api: Api, through: Any, image: Path) -> None:
    note_of_a_broken_one(api, through, image)
    image.write_text(json.dumps({**CONTENT, "content": "bsd " * 150_000}))
    assert "import-image new succeeded" in run("import", image, *WORDS).output
    assert len(notes()) == len(incoming(api)) == 1


def note_of_a_broken_one(api: Api, through: Any, image: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending, "_PATIENCE_S", -1)
        through(300_000)
        assert "(unreachable)" in run("import", image, *WORDS).output
    assert len(notes()) == len(incoming(api)) == 1


def test_the_protocols_own_client_sends_in_pieces(api: Api, workers: Workers, image: Path) -> None:
    """Follow a redirect to the gateway, begin, break off, go on: as others have understood tus."""
    from tusclient.client import TusClient

    workers.resting = True
    url, size = os.environ["CLOUDLOOM_URL"], image.stat().st_size
    wishes = {"name": "new", "format": "vmdk", "datacenter": "main"}
    where = api.post("/v1/templates", params=wishes).headers["location"]
    client = TusClient(f"{url}{where}")
    with image.open("rb") as file:
        first = client.uploader(file_stream=file, chunk_size=100_000)
        first.upload(stop_at=300_000)
        assert [each.stat().st_size for each in incoming(api)] == [300_000]
        second = client.uploader(file_stream=file, chunk_size=100_000, url=first.url)
        assert second.offset == 300_000
        second.upload()
        assert second.offset == size
    (accepted,) = api.get("/v1/operations").json()
    assert FLOWS["import_image"](UUID(accepted["id"])).state == "succeeded"


def test_what_is_refused_for_good_is_not_tried_again(
    api: Api, through: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through()
    monkeypatch.setattr(cloud.settings, "max_upload_mib", 0)
    assert "(upload-too-large)" in run("import", image, *WORDS).output
    assert notes() == incoming(api) == []
