"""The laws of downloads, run over the twin and over HTTP; what servers do to HTTP is elsewhere."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
from pydantic import SecretStr

from adapters.errors import NotFound, Refused
from adapters.images.base import Downloads
from adapters.images.memory import MemoryDownloads, publish_source
from adapters.types import Source
from adapters.world import World
from tests.adapters.test_downloads import Handler, Heard, Server, downloads, serving, whole

CONTENT = b"what is there" * 1000


class Counterpart(Protocol):
    """Downloads, and a place to put something that can be."""

    port: Downloads

    def put(self, content: bytes) -> str:
        """Let something be there; answers its address."""

    def url(self, name: str) -> str:
        """The address of what is not there."""


class Memory:
    def __init__(self, folder: Path) -> None:
        self.world = World(folder / "world.sqlite")
        self.port = MemoryDownloads(self.world)

    def put(self, content: bytes) -> str:
        publish_source(self.world, url := self.url(str(uuid4())), content)
        return url

    def url(self, name: str) -> str:
        return f"https://images.example/{name}"


class Http:
    def __init__(self, server: Server) -> None:
        self.port = downloads()
        self.there: dict[str, bytes] = {}
        self._server = server
        server.answers = [self._answer]

    def _answer(self, on: Handler) -> None:
        if (content := self.there.get(on.path.removeprefix("/"))) is None:
            on.say(404, Content_Length=0)
        else:
            whole(content)(on)

    def put(self, content: bytes) -> str:
        self.there[name := str(uuid4())] = content
        return self.url(name)

    def url(self, name: str) -> str:
        return self._server.url.replace("image", name)


@pytest.fixture(params=["memory", "http"])
def counterpart(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Counterpart]:
    if request.param == "memory":
        yield Memory(tmp_path)
        return
    with serving(whole()) as server:
        yield Http(server)


def source(url: str) -> Source:
    return Source(url=SecretStr(url))


def test_what_is_there_comes_whole_and_admitted_before(counterpart, tmp_path):
    heard = Heard()
    url = counterpart.put(CONTENT)
    counterpart.port.fetch(source(url), tmp_path / "file", heard.wanted)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert (heard.admitted, heard.percents[-1]) == ([len(CONTENT)], 100)


def test_what_is_whole_stays_though_it_is_there_no_more(counterpart, tmp_path):
    """And another attempt has it too, in a file of its own."""
    url = counterpart.put(CONTENT)
    counterpart.port.fetch(source(url), tmp_path / "file", Heard().wanted)
    gone = source(counterpart.url("gone"))
    counterpart.port.fetch(gone, tmp_path / "file", Heard().wanted)
    counterpart.port.fetch(gone, tmp_path / "mine", Heard().wanted, tmp_path / "file")
    assert (tmp_path / "mine").read_bytes() == CONTENT
    assert (tmp_path / "mine").stat().st_ino != (tmp_path / "file").stat().st_ino


def test_what_is_not_there_is_not_found(counterpart, tmp_path):
    with pytest.raises(NotFound) as refused:
        counterpart.port.fetch(source(counterpart.url("x")), tmp_path / "file", Heard().wanted)
    assert refused.value.code == "source-not-found"
    assert not (tmp_path / "file").exists()


def test_what_is_too_large_is_not_taken(counterpart, tmp_path):
    heard = Heard(most=len(CONTENT) - 1)
    url = counterpart.put(CONTENT)
    with pytest.raises(Refused) as refused:
        counterpart.port.fetch(source(url), tmp_path / "file", heard.wanted)
    assert (refused.value.code, heard.admitted) == ("source-too-large", [])


def test_who_wants_it_no_more_gets_nothing(counterpart, tmp_path):
    def check() -> None:
        raise Refused("stopped", code="stopped")

    url = counterpart.put(CONTENT)
    with pytest.raises(Refused, match="stopped"):
        counterpart.port.fetch(source(url), tmp_path / "file", Heard(check=check).wanted)
    assert not (tmp_path / "file").exists()


def test_what_is_not_admitted_is_not_written(counterpart, tmp_path):
    def refuse(_size: int) -> None:
        raise Refused("no room", code="hard-limit")

    url = counterpart.put(CONTENT)
    wanted = Heard().wanted._replace(admit=refuse)
    with pytest.raises(Refused, match="no room"):
        counterpart.port.fetch(source(url), tmp_path / "file", wanted)
    assert not (tmp_path / "file").exists() or not (tmp_path / "file").stat().st_size
