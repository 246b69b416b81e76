"""Consoles over a real server: one line an address, bytes both ways, and an end of both ends."""

import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from adapters.hypervisors.memory import MemoryHypervisor
from api import consoles, tokens
from api.consoles import IDLE
from flows.cloud import cloud
from tests.api.conftest import Api, refused

APP = """
appliance: shop
virtual_datacenter: demo
vms: [{name: db, template: tiny}]
"""


@contextmanager
def served(app: Any, lifespan: Literal["on", "off"] = "off") -> Iterator[str]:
    """The application on a real port; its address."""
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan=lifespan, ws_max_size=2**20)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        (listener,) = server.servers[0].sockets
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def gateway(api: Api) -> Iterator[str]:
    with served(api.client.app) as url:
        yield url


@pytest.fixture
def vm(api: Api) -> str:
    """A VM that is on."""
    found: str = api.appliance(APP)["vms"][0]["id"]
    api.done(api.post(f"/v1/vms/{found}/deploy"))
    return found


def address(api: Api, gateway: str, vm: str, kind: str = "serial") -> str:
    answer = api.post(f"/v1/vms/{vm}/console", json={"kind": kind})
    assert answer.status_code == 200, answer.text
    assert answer.json()["valid_s"] == 60
    url = urlsplit(answer.json()["url"])
    assert (url.scheme, url.netloc) == ("ws", "testserver")
    return url._replace(netloc=urlsplit(gateway).netloc).geturl()


def opened(url: str, **options: Any) -> ClientConnection:
    return connect(url, proxy=None, close_timeout=5, **options)


def denied(url: str, status: int, code: str, **options: Any) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        opened(url, **options)
    response = refusal.value.response
    assert response.status_code == status, response.body
    assert response.headers["content-type"] == "application/problem+json"
    assert httpx.Response(status, content=bytes(response.body)).json()["code"] == code


def open_lines() -> int:
    return sum(each.name == "twin's line" for each in threading.enumerate())


def closed(web: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as end:
        drain(web)
    assert end.value.rcvd is not None
    return end.value.rcvd.code, end.value.rcvd.reason


def drain(web: ClientConnection) -> None:
    while True:
        web.recv(timeout=90)


def wait_until(what: Any) -> None:
    deadline = time.monotonic() + 90
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_serial_console_answers(api: Api, gateway: str, vm: str) -> None:
    with opened(address(api, gateway, vm), subprotocols=["binary"]) as web:
        assert web.subprotocol == "binary"
        for said in (b"hello", bytes(range(256)) * 1000):
            web.send(said)
            heard = b""
            while len(heard) < len(said):
                heard += web.recv(timeout=90, decode=False)
            assert heard == said
    wait_until(lambda: not api.client.app.state.consoles and not open_lines())  # type: ignore[attr-defined]


def test_a_screen_greets_as_vnc_does_and_several_may_have_it(
    api: Api, gateway: str, vm: str
) -> None:
    urls = [address(api, gateway, vm, "display") for _ in range(2)]
    with opened(urls[0]) as one, opened(urls[1]) as other:
        assert one.subprotocol is None
        assert one.recv(timeout=90) == other.recv(timeout=90) == b"RFB 003.008\n"


def test_an_address_is_good_once_for_a_minute_and_for_consoles_only(
    api: Api, gateway: str, vm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = address(api, gateway, vm)
    with opened(url):
        denied(url, 409, "console-used")
    denied(url, 409, "console-used")
    for other in (url[:-5] + "AAAA=", url.rpartition("/")[0] + "/%C3%A9"):
        denied(other, 403, "console-invalid")
    upload = api.post("/v1/templates", params={"name": "x", "format": "raw", "datacenter": "main"})
    signed = upload.headers["location"].rpartition("/")[2]
    denied(f"{url.rpartition('/')[0]}/{signed}", 403, "console-invalid")
    console = address(api, gateway, vm).rpartition("/")[2]
    refused(api.client.put(f"/gateway/uploads/{console}", content=b""), 403, "transfer-invalid")
    monkeypatch.setattr(consoles, "VALID_S", -1)
    denied(f"{url.rpartition('/')[0]}/{console}", 403, "console-invalid")


def test_a_revoked_token_takes_its_consoles_along(api: Api, gateway: str, vm: str) -> None:
    url = address(api, gateway, vm)
    tokens.revoke(cloud.database, UUID(api.token.split("_")[1]))
    denied(url, 403, "console-invalid")


def test_a_terminal_is_for_one_at_a_time(api: Api, gateway: str, vm: str) -> None:
    with opened(address(api, gateway, vm)):
        denied(address(api, gateway, vm), 409, "in-use")


def test_what_cannot_be_opened(
    api: Api, stranger: Api, gateway: str, vm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wish = f"/v1/vms/{vm}/console", {"kind": "serial"}
    refused(stranger.post(path, json=wish), 404, "not-found")
    refused(api.post(path, json={"kind": "modem"}), 422, "invalid-request")
    late = address(api, gateway, vm)
    api.done(api.post(f"/v1/vms/{vm}/power", json={"power": "off"}))
    refused(api.post(path, json=wish), 409, "vm-off")
    denied(late, 409, "vm-off")
    api.done(api.post(f"/v1/vms/{vm}/power", json={"power": "on"}))
    monkeypatch.setattr(MemoryHypervisor, "capabilities", frozenset({"display"}))
    refused(api.post(path, json=wish), 422, "unsupported")
    assert api.post(path, json={"kind": "display"}).status_code == 200


def test_a_vm_that_goes_off_ends_its_console(api: Api, gateway: str, vm: str) -> None:
    with opened(address(api, gateway, vm)) as web:
        api.done(api.post(f"/v1/vms/{vm}/power", json={"power": "off"}))
        assert closed(web) == (1000, "the line has ended")


def test_who_is_silent_is_gone(
    api: Api, gateway: str, vm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.settings, "console_idle_s", 3.0)
    with opened(address(api, gateway, vm)) as web:
        for _ in range(4):  # who speaks stays
            time.sleep(0.8)
            web.send(b"x")
            assert web.recv(timeout=90) == b"x"
        assert closed(web) == (IDLE, "idle")
    wait_until(lambda: not open_lines())


def test_there_are_only_so_many(
    api: Api, gateway: str, vm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.settings, "consoles", 1)
    url = address(api, gateway, vm, "display")
    with opened(address(api, gateway, vm)):
        denied(url, 503, "too-many-consoles")
    wait_until(lambda: not open_lines())
    opened(url).close()  # it was not used up by being refused


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_pages_of_other_sites_open_none(
    api: Api, gateway: str, vm: str, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = address(api, gateway, vm)
    denied(url, 403, "foreign-origin", origin=origin)
    monkeypatch.setattr(cloud.settings, "console_origins", f"https://ours.example, {origin}")
    opened(url, origin=origin).close()
    opened(address(api, gateway, vm, "display"), origin=gateway).close()


def test_words_are_no_bytes(api: Api, gateway: str, vm: str) -> None:
    with opened(address(api, gateway, vm)) as web:
        web.send("text")
        assert closed(web)[0] == 1003


def test_the_command_line_is_a_terminal_until_its_key(api: Api, gateway: str, vm: str) -> None:
    mine, its = pty.openpty()
    command = [sys.executable, "-m", "api.cli", "console", "db"]
    environment = {**os.environ, "CLOUDLOOM_URL": gateway, "CLOUDLOOM_TOKEN": api.token}
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        try:
            heard_until(mine, b"Ctrl-] leaves it")
            wait_until(open_lines)
            time.sleep(0.2)  # until it has the terminal to itself
            os.write(mine, b"date\x03")  # raw: Ctrl-C is the guest's
            heard_until(mine, b"date\x03")
            os.write(mine, b"\x1d")
            heard_until(mine, b"left")
            assert process.wait(90) == 0
        finally:
            process.kill()
            os.close(mine)
    wait_until(lambda: not open_lines())


def heard_until(terminal: int, words: bytes) -> None:
    heard = b""
    while words not in heard:
        heard += os.read(terminal, 4096)


def test_the_command_line_says_why_not(api: Api, gateway: str, vm: str) -> None:
    command = [sys.executable, "-m", "api.cli", "console", "db"]
    environment = {**os.environ, "CLOUDLOOM_URL": gateway, "CLOUDLOOM_TOKEN": api.token}
    with opened(address(api, gateway, vm)):
        ran = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, env=environment, capture_output=True
        )
    assert ran.returncode == 1
    assert b"(in-use)" in ran.stderr
