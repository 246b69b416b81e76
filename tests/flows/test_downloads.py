"""A download that is killed for real: what it had is gone on with, and nothing else is left."""

import multiprocessing
import threading
import time
from pathlib import Path
from uuid import UUID, uuid4

from pydantic import SecretStr

from adapters.images import partial
from adapters.images.addresses import networks
from adapters.images.downloads import HttpDownloads, Route
from adapters.images.memory import write_image
from adapters.settings import Settings
from adapters.types import Format, OperationState, Source
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.downloads import kept
from tests.adapters.test_downloads import serving, whole
from tests.flows.breaking import lapse
from tests.flows.scenarios import _new_template

HALF = 2**20


def download(settings: Settings, operation: UUID) -> None:
    """Run the operation here, writing down at once what has come."""
    cloud.become(settings)
    partial._KEPT_EVERY_S = 0.0
    route = Route(5, 60, None, networks(["127.0.0.0/8"]))
    cloud.__dict__["downloads"] = HttpDownloads(route)
    FLOWS["import_from_url"](operation)


def test_a_killed_process_leaves_what_the_next_one_goes_on_with(world, tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "_KEPT_EVERY_S", 0.0)  # as it was again, afterwards
    write_image(tmp_path / "image", Format.VMDK, 2**20, "imported")
    content = (tmp_path / "image").read_bytes().ljust(2 * HALF, b" ")
    over, secret = threading.Event(), uuid4()

    def silent_at_half(on) -> None:
        on.say(200, Content_Length=len(content), ETag='"one"')
        on.wfile.write(content[:HALF])
        over.wait(120)

    with serving(silent_at_half, whole(content)) as server:
        template = _new_template(world, "imported")
        with cloud.database.write() as db:
            cloud.secrets.keep(db, secret, kept(Source(url=SecretStr(server.url))))
        wanted = {"source": str(secret), "format": "vmdk"}
        asked = {"template": template, "wanted": wanted, "wishes": {}}
        operation = world.accept("import_from_url", UUID(template["id"]), **asked)
        child = multiprocessing.get_context("spawn").Process(
            target=download, args=(cloud.settings, operation.id)
        )
        child.start()
        until = time.monotonic() + 120
        while safe(world.home) < HALF and time.monotonic() < until:
            time.sleep(0.1)
        child.kill()
        child.join()
        over.set()
        lapse(operation)
        download(cloud.settings, operation.id)
    ended = cloud.operations.read(operation.id)
    assert ended.state is OperationState.SUCCEEDED, ended.error
    assert server.asked[-1]["range"] == f"bytes={HALF}-"
    assert [*(world.home / "repository" / "incoming").iterdir()] == []


def safe(home: Path) -> int:
    """How much a download has written down as safe."""
    parts = home.glob("repository/incoming/download-*/disk-0.vmdk")
    return max((partial.Partial.found(each).size for each in parts), default=0)
