"""Downloads from real servers on this machine: kind ones, broken ones, and hostile ones."""

import hashlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from adapters.errors import AdapterError, NotAllowed, NotFound, Refused, Transient, Unsupported
from adapters.images.addresses import OpenAddresses, is_open, networks
from adapters.images.base import Wanted
from adapters.images.downloads import HttpDownloads, Route
from adapters.types import Chap, Source

CONTENT = random.Random(1).randbytes(3 * 2**20 + 17)
OTHER = random.Random(2).randbytes(len(CONTENT))
HERE = networks(["127.0.0.0/8"])
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers each request by the next of its server's answers; the last one stays."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        self.server.asked.append(
            {"path": self.path, **{k.lower(): v for k, v in self.headers.items()}}
        )
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer(self)

    def say(self, status: int, **headers: Any) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *_said: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A server on a loopback address; `asked` has what it was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *answers: Answer, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Handler)
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []
        self.url = f"http://{host}:{self.server_port}/image"

    def handle_error(self, *_about: Any) -> None:
        """A client that went away is what is tested."""


@contextmanager
def serving(*answers: Answer, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None):
    server = Server(*answers, host=host)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def whole(
    content: bytes = CONTENT, tag: str = '"one"', *, ranges: bool = True, **more: Any
) -> Answer:
    """Answer as a good server does, ranges included."""

    def answer(on: Handler) -> None:
        wanted, condition = on.headers.get("Range"), on.headers.get("If-Range")
        headers = {"ETag": tag, **more} if tag else more
        if ranges and wanted and condition in {None, tag, more.get("Last_Modified")}:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            about = f"bytes {start}-{len(content) - 1}/{len(content)}"
            on.say(206, Content_Range=about, Content_Length=len(content) - start, **headers)
            on.wfile.write(content[start:])
        else:
            on.say(200, Content_Length=len(content), **headers)
            on.wfile.write(content)

    return answer


def breaking(after: int, content: bytes = CONTENT, tag: str = '"one"', **more: Any) -> Answer:
    """Begin to answer all of it, and break off."""

    def answer(on: Handler) -> None:
        headers = {"ETag": tag, **more} if tag else more
        on.say(200, Content_Length=len(content), **headers)
        on.wfile.write(content[:after])
        on.wfile.flush()
        on.connection.shutdown(socket.SHUT_RDWR)
        on.close_connection = True

    return answer


def moved(to: str, status: int = 302) -> Answer:
    return lambda on: on.say(status, Location=to, Content_Length=0)


def chunked(*pieces: bytes, endless: bool = False) -> Answer:
    def answer(on: Handler) -> None:
        on.say(200, Transfer_Encoding="chunked")
        while True:
            for piece in pieces:
                on.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if not endless:
                break
        on.wfile.write(b"0\r\n\r\n")

    return answer


@dataclass
class Heard:
    """What whoever wants a file is told."""

    most: int = 2**30
    admitted: list[int] = field(default_factory=list)
    percents: list[float] = field(default_factory=list)
    check: Callable[[], None] = lambda: None

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.most, self.admitted.append, self.percents.append, self.check)


def downloads(**changes: Any) -> HttpDownloads:
    route = {"connect_s": 2, "silence_s": 2, "allowed": HERE, **changes}
    resolve = route.pop("resolve", None)
    trust = route.pop("trust", None)
    more = {"trust": trust} | ({"resolve": resolve} if resolve else {})
    return HttpDownloads(Route(**route), **more)


def source(url: str, login: Chap | None = None) -> Source:
    return Source(url=SecretStr(url), login=login)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "image"


def refusal(
    error: type[AdapterError], code: str, url: str, target: Path, **how: Any
) -> AdapterError:
    heard = how.pop("heard", Heard())
    with pytest.raises(error) as refused:
        downloads(**how).fetch(source(url), target, heard.wanted)
    assert refused.value.code == code
    return refused.value


# --- what is there ------------------------------------------------------------------------------


def test_a_file_comes_as_it_is(target):
    heard = Heard()
    with serving(whole()) as server:
        downloads().fetch(source(server.url), target, heard.wanted)
    assert target.read_bytes() == CONTENT
    assert heard.admitted == [len(CONTENT)]
    assert heard.percents == sorted(heard.percents)
    assert heard.percents[-1] == 100
    (asked,) = server.asked
    assert (asked["accept-encoding"], asked["host"]) == ("identity", server.url[7:].split("/")[0])
    assert not {"range", "authorization", "cookie"} & asked.keys()


def peek(url: str, most: int = 0, check: Callable[[], None] = lambda: None):
    return downloads().peek(source(url), most, check)


def test_a_look_tells_the_size_and_as_much_of_it_as_is_wanted():
    with serving(whole(), whole(), chunked(CONTENT), whole(b"")) as server:
        assert peek(server.url) == (len(CONTENT), b"")
        assert peek(server.url, 100_000) == (len(CONTENT), CONTENT[:100_000])
        assert peek(server.url, 2 * len(CONTENT)) == (None, CONTENT)
        assert peek(server.url, 5) == (0, b"")


@pytest.mark.timeout(90)
def test_a_look_ends_where_a_body_does_not():
    until = time.monotonic() + 1

    def check() -> None:
        if time.monotonic() > until:
            raise Refused("too slow", code="source-too-slow")

    with serving(chunked(b"x" * 65_536, endless=True)) as server:
        assert peek(server.url, 2**20) == (None, b"x" * 2**20)

    def silent(_: Handler) -> None:
        time.sleep(1.5)

    with serving(silent) as server, pytest.raises(Refused, match="too slow"):
        peek(server.url, 1, check)


def test_what_is_whole_is_not_asked_for_again(target):
    with serving(whole()) as server:
        for _ in range(2):
            downloads().fetch(source(server.url), target, Heard().wanted)
    assert len(server.asked) == 1


def test_a_body_of_unknown_length_is_admitted_as_it_grows(target):
    heard = Heard(most=2**27)
    with serving(chunked(*[b"x" * 2**20] * 65)) as server:
        downloads().fetch(source(server.url), target, heard.wanted)
    assert target.stat().st_size == 65 * 2**20
    assert heard.admitted[0] == 2**26
    assert heard.admitted[-1] >= 65 * 2**20
    assert len(heard.admitted) < 5


def test_a_login_goes_to_its_server_and_to_no_other(target):
    login = Chap(user="ada", password=SecretStr("geheim"))
    with serving(whole()) as other, serving(moved("/there"), moved(other.url)) as server:
        downloads().fetch(source(server.url, login), target, Heard().wanted)
    assert ["authorization" in each for each in server.asked] == [True, True]
    assert ["authorization" in each for each in other.asked] == [False]


# --- going on -----------------------------------------------------------------------------------


def test_what_broke_off_is_gone_on_with_at_once(target):
    with serving(breaking(2 * 2**20), whole()) as server:
        downloads().fetch(source(server.url), target, Heard().wanted)
    assert target.read_bytes() == CONTENT
    assert server.asked[1]["range"] == f"bytes={2 * 2**20}-"
    assert server.asked[1]["if-range"] == '"one"'


def test_a_later_attempt_goes_on_where_an_earlier_one_ended(target):
    with serving(breaking(70_000)) as server:
        refusal(Transient, "source-unreachable", server.url, target)
        server.answers = [whole()]
        downloads().fetch(source(server.url), target, Heard().wanted)
    assert target.read_bytes() == CONTENT
    assert server.asked[1]["range"] == "bytes=70000-"


def test_another_attempt_begins_with_a_copy_of_what_one_has(tmp_path):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    with serving(breaking(70_000)) as server:
        refusal(Transient, "source-unreachable", server.url, theirs)
        server.answers = [whole()]
        downloads().fetch(source(server.url), mine, Heard().wanted, theirs)
    assert mine.read_bytes() == CONTENT
    assert theirs.read_bytes() == CONTENT[:70_000]
    assert server.asked[1]["range"] == "bytes=70000-"


def test_what_had_not_reached_the_disk_is_asked_for_again(target):
    """What a file has beyond its note may be nothing, after a power failure."""
    with serving(breaking(70_000)) as server:
        refusal(Transient, "source-unreachable", server.url, target)
        with target.open("ab") as file:
            file.write(b"\0" * 5000)
        server.answers = [whole()]
        downloads().fetch(source(server.url), target, Heard().wanted)
    assert target.read_bytes() == CONTENT


def short(most: int) -> Answer:
    """Answer with no more of a range than so much, as a server may."""

    def answer(on: Handler) -> None:
        start = int(on.headers["Range"].removeprefix("bytes=").rstrip("-"))
        some = CONTENT[start : start + most]
        about = f"bytes {start}-{start + len(some) - 1}/{len(CONTENT)}"
        on.say(206, Content_Range=about, Content_Length=len(some), ETag='"one"')
        on.wfile.write(some)

    return answer


def of_unknown_length(on: Handler) -> None:
    on.say(200, Transfer_Encoding="chunked", ETag='"one"')
    on.wfile.write(b"%x\r\n%s\r\n" % (70_000, CONTENT[:70_000]))
    on.close_connection = True


@pytest.mark.parametrize(
    "first", [breaking(70_000), of_unknown_length], ids=["its-length-is-said", "it-is-not"]
)
def test_a_server_that_sends_less_than_was_asked_for_is_asked_on(target, first):
    """Nothing is taken for whole that is not, and nothing that has come goes."""
    with serving(first, short(2**20 + 1)) as server:
        refusal(Transient, "source-unreachable", server.url, target)
        downloads().fetch(source(server.url), target, Heard().wanted)
    assert target.read_bytes() == CONTENT
    came = [70_000, 70_000 + 2**20 + 1, 70_000 + 2 * (2**20 + 1)]
    assert [each.get("range") for each in server.asked[1:]] == [f"bytes={n}-" for n in came]


@pytest.mark.parametrize("ranges", [True, False], ids=["if-range", "no-ranges"])
def test_what_has_changed_meanwhile_is_begun_anew(target, ranges):
    with serving(breaking(2 * 2**20), whole(OTHER, '"two"', ranges=ranges)) as server:
        downloads().fetch(source(server.url), target, Heard().wanted)
    assert target.read_bytes() == OTHER


def test_a_server_that_goes_on_with_something_else_is_not_believed(target):
    """It heeds `Range`, and not its condition."""

    def careless(on: Handler) -> None:
        start = int(on.headers["Range"].removeprefix("bytes=").rstrip("-"))
        about = f"bytes {start}-{len(OTHER) - 1}/{len(OTHER)}"
        on.say(206, Content_Range=about, Content_Length=len(OTHER) - start, ETag='"two"')
        on.wfile.write(OTHER[start:])

    with serving(breaking(70_000), careless, whole(OTHER, '"two"')) as server:
        refusal(Transient, "source-unreachable", server.url, target)
        refusal(Transient, "source-changed", server.url, target)
        downloads().fetch(source(server.url), target, Heard().wanted)
    assert target.read_bytes() == OTHER
    assert "range" not in server.asked[2]


@pytest.mark.parametrize(
    ("age_s", "goes_on"), [(60, True), (-60, False)], ids=["an-old-change", "a-new-one"]
)
def test_a_time_of_change_is_a_mark_if_it_is_an_old_one(target, age_s, goes_on):
    now = datetime.now(UTC)
    changed = format_datetime(now - timedelta(seconds=age_s), usegmt=True)
    said = {"tag": "", "Last_Modified": changed}
    with serving(breaking(70_000, **said), whole(**said)) as server:
        refusal(Transient, "source-unreachable", server.url, target)
        downloads().fetch(source(server.url), target, Heard().wanted)
    assert target.read_bytes() == CONTENT
    assert ("range" in server.asked[1]) is goes_on


@pytest.mark.parametrize("tag", ["", 'W/"weak"'], ids=["none", "weak"])
def test_without_a_strong_mark_it_is_begun_anew(target, tag):
    with serving(breaking(70_000, tag=tag), whole(tag=tag)) as server:
        refusal(Transient, "source-unreachable", server.url, target)
        downloads().fetch(source(server.url), target, Heard().wanted)
    assert target.read_bytes() == CONTENT
    assert "range" not in server.asked[1]


# --- what lies ----------------------------------------------------------------------------------


def test_less_than_was_said_is_not_whole(target):
    with serving(breaking(len(CONTENT) - 1)) as server:
        refusal(Transient, "source-unreachable", server.url, target)


def test_more_than_was_said_is_not_taken(target):
    def long(on: Handler) -> None:
        on.say(200, Content_Length=10)
        on.wfile.write(CONTENT)

    with serving(long) as server:
        downloads().fetch(source(server.url), target, Heard().wanted)
    assert target.read_bytes() == CONTENT[:10]


def test_what_says_that_it_is_too_large_is_not_even_begun(target):
    heard = Heard(most=len(CONTENT) - 1)
    with serving(whole()) as server:
        refusal(Refused, "source-too-large", server.url, target, heard=heard)
    assert heard.admitted == []
    assert target.stat().st_size == 0


def test_a_body_without_an_end_is_taken_to_the_limit_and_no_further(target):
    heard = Heard(most=2**20)
    with serving(chunked(b"x" * 65_536, endless=True)) as server:
        refusal(Refused, "source-too-large", server.url, target, heard=heard)
    assert target.stat().st_size <= 2**20
    assert heard.admitted == [2**20]


def test_a_body_whose_end_nobody_tells_is_refused(target):
    def plain(on: Handler) -> None:
        on.say(200, Connection="close")
        on.wfile.write(CONTENT)
        on.close_connection = True

    with serving(plain) as server:
        refusal(Unsupported, "source-unsized", server.url, target)


def test_nothing_encoded_is_opened(target):
    with serving(whole(Content_Encoding="gzip")) as server:
        refusal(Unsupported, "source-encoded", server.url, target)
    assert not target.exists()


def test_headers_without_an_end_are_not_read_for_ever(target):
    def endless(on: Handler) -> None:
        on.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for n in range(100_000):
            on.wfile.write(b"X-%d: %s\r\n" % (n, b"x" * 1000))

    with serving(endless) as server:
        refusal(Transient, "source-unreachable", server.url, target)


def test_a_server_that_says_nothing_is_left(target):
    def silent(on: Handler) -> None:
        on.say(200, Content_Length=len(CONTENT), ETag='"one"')
        time.sleep(1.5)

    with serving(silent) as server:
        refusal(Transient, "source-unreachable", server.url, target, silence_s=0.3)


def test_a_server_that_drips_is_left_once_it_takes_too_long(target):
    """Each byte comes in time: only the time for all of it ends this."""
    dripped = []

    def drip(on: Handler) -> None:
        on.say(200, Content_Length=len(CONTENT))
        for byte in CONTENT[:300]:
            on.wfile.write(bytes([byte]))
            dripped.append(byte)
            time.sleep(0.02)

    until = time.monotonic() + 0.5

    def check() -> None:
        if time.monotonic() > until:
            raise Refused("too slow", code="source-too-slow")

    with serving(drip) as server:
        refusal(Refused, "source-too-slow", server.url, target, heard=Heard(check=check))
        assert len(dripped) < 300


def test_who_wants_it_no_more_waits_for_no_server(target):
    left, waited_for = threading.Event(), []

    def silent(on: Handler) -> None:
        on.say(200, Content_Length=len(CONTENT))
        if not left.wait(60):
            waited_for.append(on)

    until = time.monotonic() + 0.3

    def check() -> None:
        if time.monotonic() > until:
            raise Refused("cancelled", code="stopped")

    with serving(silent) as server:
        refusal(Refused, "stopped", server.url, target, heard=Heard(check=check), silence_s=120)
        assert not waited_for
        left.set()


def test_what_is_not_admitted_is_not_written(target):
    def refuse(_size: int) -> None:
        raise Refused("no room", code="hard-limit")

    with serving(whole()) as server, pytest.raises(Refused, match="no room"):
        downloads().fetch(source(server.url), target, Heard().wanted._replace(admit=refuse))
    assert target.stat().st_size == 0


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (401, NotAllowed, "source-not-allowed"),
        (403, NotAllowed, "source-not-allowed"),
        (404, NotFound, "source-not-found"),
        (410, NotFound, "source-not-found"),
        (204, Refused, "source-refused"),
        (418, Refused, "source-refused"),
        (429, Transient, "source-unreachable"),
        (503, Transient, "source-unreachable"),
    ],
)
def test_what_a_server_answers_decides_whether_it_is_tried_again(target, status, error, code):
    with serving(lambda on: on.say(status, Content_Length=0)) as server:
        refused = refusal(error, code, f"{server.url}?right=secret", target)
    assert "secret" not in str(refused)


# --- where nothing is downloaded from -----------------------------------------------------------

CLOSED = """
0.0.0.0 127.0.0.1 127.8.9.1 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1
100.100.100.200 192.0.0.192 168.63.129.16 192.0.2.1 192.88.99.1 198.18.0.1 224.0.0.1 240.0.0.1
255.255.255.255 :: ::1 fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 fec0::1 ff02::1 2001:db8::1
2001::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1 2002:7f00:1:: 2002:a00:1::
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::808:808
"""
OPEN = """
8.8.8.8 1.1.1.1 2606:4700:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::
"""


@pytest.mark.parametrize("address", CLOSED.split())
def test_what_is_not_public_is_closed(address):
    assert not is_open(ip_address(address))


@pytest.mark.parametrize("address", OPEN.split())
def test_what_is_public_is_open(address):
    assert is_open(ip_address(address))


def test_what_the_operator_allows_is_open_and_nothing_beside_it():
    allowed = networks(["10.1.0.0/16", "fd00::/16"])
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00::1"):
        assert is_open(ip_address(address), allowed)
    for address in ("10.2.0.1", "127.0.0.1", "fd01::1", "::ffff:10.2.0.1"):
        assert not is_open(ip_address(address), allowed)


SPELT = ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.1", "[::1]"]


@pytest.mark.parametrize("host", [*SPELT, "[::ffff:127.0.0.1]", "0", "127.0.0.1.", "0177.0.0.1"])
def test_this_machine_is_not_reached_however_it_is_spelt(target, host):
    with serving(whole()) as server:
        url = f"http://{host}:{server.server_port}/"
        with pytest.raises(AdapterError) as refused:
            downloads(allowed=()).fetch(source(url), target, Heard().wanted)
        assert refused.value.code in {"source-forbidden", "source-unreachable", "source-invalid"}
    assert server.asked == []


@pytest.mark.parametrize("host", [*SPELT, "www.localhost", "LOCALHOST."])
def test_nor_is_a_proxy_asked_for_it(target, host):
    with serving(whole()) as proxy:
        how = {"allowed": (), "proxy": SecretStr(proxy.url)}
        refusal(NotAllowed, "source-forbidden", f"http://{host}/", target, **how)
    assert proxy.asked == []


def test_a_proxy_of_the_operators_is_reached_wherever_it_is(target):
    with serving(whole()) as proxy:
        at = proxy.url.replace("http://", "http://ada:geheim@")
        fetched = downloads(allowed=(), proxy=SecretStr(at))
        fetched.fetch(source("http://images.example/a"), target, Heard().wanted)
    assert target.read_bytes() == CONTENT
    (asked,) = proxy.asked
    assert asked["path"] == "http://images.example/a"
    assert asked["proxy-authorization"].startswith("Basic ")


def test_no_redirect_leads_inside(target):
    """The first address is allowed; the second is this machine all the same."""
    allowed = networks(["127.0.0.2/32"])
    with serving(whole()) as inside, serving(moved(inside.url), host="127.0.0.2") as outside:
        refusal(NotAllowed, "source-forbidden", outside.url, target, allowed=allowed)
    assert (len(outside.asked), len(inside.asked)) == (1, 0)


@pytest.mark.parametrize(
    ("to", "code"),
    [
        ("file:///etc/passwd", "source-invalid"),
        ("ftp://127.0.0.1/", "source-invalid"),
        ("gopher://127.0.0.1:6379/_FLUSHALL", "source-invalid"),
        ("http://ada:geheim@127.0.0.1/", "source-invalid"),
    ],
)
def test_a_redirect_to_what_is_no_address_ends_there(target, to, code):
    with serving(moved(to)) as server:
        refusal(Refused, code, server.url, target)


def test_redirects_end_after_some(target):
    with serving(moved("/again")) as server:
        refusal(Refused, "source-redirects", server.url, target)
    assert len(server.asked) == 6


def test_a_name_is_asked_for_once_and_what_was_looked_at_is_connected_to(target):
    """The second answer would have been this machine."""
    answers = [["127.0.0.2"], ["127.0.0.1"]]
    asked: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    allowed = networks(["127.0.0.2/32"])
    with serving(whole(), host="127.0.0.2") as outside:
        url = f"http://images.example:{outside.server_port}/image"
        downloads(resolve=resolve, allowed=allowed).fetch(source(url), target, Heard().wanted)
        assert outside.asked[0]["host"] == f"images.example:{outside.server_port}"
        assert asked == ["images.example"]
        target.with_name("image.note").unlink()
        refusal(NotAllowed, "source-forbidden", url, target, resolve=resolve, allowed=allowed)
    assert len(outside.asked) == 1


def test_a_name_with_one_closed_address_is_closed():
    addresses = OpenAddresses(resolve=lambda *_: ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(NotAllowed):
        addresses.of("images.example", 80)


def test_the_next_address_is_tried_where_one_does_not_answer(target):
    with serving(whole(), host="127.0.0.2") as server:
        url = f"http://images.example:{server.server_port}/"
        found = downloads(resolve=lambda *_: ["127.0.0.3", "127.0.0.2"])
        found.fetch(source(url), target, Heard().wanted)
    assert target.read_bytes() == CONTENT


# --- TLS ----------------------------------------------------------------------------------------


@dataclass
class Certified:
    server: ssl.SSLContext
    trust: ssl.SSLContext


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certified]:
    """A certificate for `images.example`, and who believes it."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "images.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("images.example")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path_factory.mktemp("tls") / "pem"
    kind = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())
    pem.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return Certified(server, ssl.create_default_context(cafile=str(pem)))


def test_the_name_is_proven_though_an_address_is_connected_to(target, certified):
    how = {"resolve": lambda *_: ["127.0.0.2"], "trust": certified.trust}
    with serving(whole(), host="127.0.0.2", tls=certified.server) as server:
        url = f"https://images.example:{server.server_port}/"
        downloads(**how).fetch(source(url), target, Heard().wanted)
        assert target.read_bytes() == CONTENT
        another = f"https://other.example:{server.server_port}/"
        refusal(NotAllowed, "source-certificate", another, target.with_name("b"), **how)
        how.pop("trust")
        refusal(NotAllowed, "source-certificate", url, target.with_name("c"), **how)


def test_no_redirect_leads_from_a_safe_connection_to_an_open_one(target, certified):
    how = {"resolve": lambda *_: ["127.0.0.2"], "trust": certified.trust}
    with (
        serving(whole()) as plain,
        serving(moved(plain.url), host="127.0.0.2", tls=certified.server) as server,
    ):
        url = f"https://images.example:{server.server_port}/"
        refusal(NotAllowed, "source-forbidden", url, target, **how)
    assert plain.asked == []


def test_the_digest_is_that_of_what_was_served(target):
    """However often it breaks off."""
    with serving(*[breaking(2**20 + 2**18)], whole()) as server:
        downloads().fetch(source(server.url), target, Heard().wanted)
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(CONTENT).digest()
