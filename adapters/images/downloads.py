"""Downloads over HTTP: gone on with where they broke off, and from nowhere but open addresses.

Redirects are followed here, one by one, so that each is looked at as the first address was. Bodies
are taken as they are: an encoding would be opened by somebody, to whatever it grows to.
"""

import re
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpcore
import httpx
from pydantic import SecretStr

from adapters.errors import NotAllowed, NotFound, Refused, Transient, Unsupported
from adapters.images.addresses import Network, OpenAddresses, OpenBackend, Resolve, resolve
from adapters.images.base import Peek, Wanted
from adapters.images.partial import Mark, Partial
from adapters.types import Chap, Source

_REDIRECTS = 5
_MOVED = {301, 302, 303, 307, 308}
_ENOUGH_BYTES = 2**20  # that have come: then it is worth asking again at once
_GROWTH_BYTES = 2**26  # admitted at once, where nobody says how large it will be
_LATER = {408, 425, 429, 500, 502, 503, 504}
_OK, _PARTIAL, _UNAUTHORIZED, _FORBIDDEN, _ABSENT, _GONE, _BEYOND = (
    200,
    206,
    401,
    403,
    404,
    410,
    416,
)
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_PORTS = {"http": 80, "https": 443}


class Route(NamedTuple):
    """How downloads get out, and how long they may be silent."""

    connect_s: float
    silence_s: float
    proxy: SecretStr | None = None
    allowed: Sequence[Network] = ()


class HttpDownloads:
    """Files of `http` and `https`; a proxy, where there is one, is who connects."""

    def __init__(
        self, route: Route, resolve: Resolve = resolve, trust: ssl.SSLContext | None = None
    ) -> None:
        self._route = route
        self._addresses = OpenAddresses(route.allowed, resolve)
        self._trust = trust

    def fetch(
        self, source: Source, target: Path, wanted: Wanted, begun: Path | None = None
    ) -> None:
        part = Partial.found(target)
        if begun is not None and not part.size:
            part.adopt(begun, wanted.check)
        while not part.is_whole:
            had = part.size
            try:
                self._go_on(source, part, wanted)
            except Transient:
                if part.size < had + _ENOUGH_BYTES:
                    raise
        wanted.progress(100.0)

    def peek(self, source: Source, most_bytes: int, check: Callable[[], None]) -> Peek:
        with self._answer(source, {}, check) as answer:  # not HEAD: signed addresses are for GET
            beginning, pieces = bytearray(), answer.pieces()
            while len(beginning) < most_bytes and (piece := next(pieces, b"")):
                beginning += piece
            return Peek(answer.length, bytes(beginning[:most_bytes]))

    def _go_on(self, source: Source, part: Partial, wanted: Wanted) -> None:
        """Ask for what is missing, and write down what comes."""
        asked = {}
        if part.size and part.mark.tag:
            asked = {"Range": f"bytes={part.size}-", "If-Range": part.mark.tag}
        with self._answer(source, asked, wanted.check) as answer:
            self._begin(part, answer)
            total, admitted = part.mark.total_bytes, 0
            if total is not None:
                _require_small(total, wanted)
                wanted.admit(total)
                admitted = total
            with part.writing() as pen:
                for piece in answer.pieces():
                    if part.size + len(piece) > admitted:
                        _require_small(part.size + len(piece), wanted)
                        admitted = min(part.size + _GROWTH_BYTES, wanted.most_bytes)
                        wanted.admit(admitted)
                    pen.write(piece)
                    if total:
                        wanted.progress(100.0 * part.size / total)
                _require_all(part, answer)
                pen.finish()

    def _begin(self, part: Partial, answer: "Answer") -> None:
        """Look what has come: the rest, or all of it anew."""
        if answer.status == _PARTIAL:
            if answer.continues(part):
                part.mark = part.mark.model_copy(update={"total_bytes": answer.total})
                return
            part.restart(Mark())  # the next attempt asks for all of it
            text = f"{answer.where} went on with something else"
            raise Transient(text, code="source-changed")
        if answer.status == _BEYOND:
            part.restart(Mark())
            raise Transient(f"what {answer.where} has is shorter now", code="source-changed")
        part.restart(Mark.of(answer.headers, answer.length))

    @contextmanager
    def _answer(
        self, source: Source, asked: dict[str, str], check: Callable[[], None]
    ) -> Iterator["Answer"]:
        """The answer of whoever has it in the end."""
        url = _parsed(source.url.get_secret_value())
        first = url
        for _ in range(_REDIRECTS + 1):
            headers = {"Host": url.netloc.decode("ascii"), "User-Agent": "cloudloom"}
            headers |= {"Accept-Encoding": "identity", **asked}
            if source.login and _origin(url) == _origin(first):
                headers["Authorization"] = _basic(source.login)
            said = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            patience = {"timeout": self._patience}
            with (
                speaking_http(shown(url)),
                self._pool(url, check) as pool,
                pool.stream("GET", _target(url), headers=said, extensions=patience) as response,
            ):
                answer = Answer(response, shown(url))
                if answer.status not in _MOVED:
                    answer.require_fit()
                    yield answer
                    return
                url = self._next(url, answer)
        raise Refused(f"{shown(first)} leads on and on", code="source-redirects")

    def _next(self, url: httpx.URL, answer: "Answer") -> httpx.URL:
        """Where it leads on to; never from a safe connection to an open one."""
        try:
            onward = url.join(answer.headers.get("location", ""))
        except (httpx.InvalidURL, ValueError) as error:
            text = f"{answer.where} leads nowhere"
            raise Refused(text, code="source-redirects") from error
        onward = _parsed(str(onward))
        if (url.scheme, onward.scheme) == ("https", "http"):
            text = f"{answer.where} leads from https to http"
            raise NotAllowed(text, code="source-forbidden")
        return onward

    @contextmanager
    def _pool(
        self, url: httpx.URL, check: Callable[[], None]
    ) -> Iterator[httpcore.ConnectionPool]:
        """Connections, directly or by the proxy, for one request."""
        trust = self._trust or ssl.create_default_context()
        if self._route.proxy is None:
            backend = OpenBackend(self._addresses, check)
            with httpcore.ConnectionPool(ssl_context=trust, network_backend=backend) as pool:
                yield pool
            return
        self._addresses.require_name(url.host)
        proxy = httpx.URL(self._route.proxy.get_secret_value())
        login = (proxy.username.encode(), proxy.password.encode()) if proxy.username else None
        with httpcore.HTTPProxy(
            _target(proxy),
            proxy_auth=login,
            ssl_context=trust,
            network_backend=OpenBackend(None, check),
        ) as pool:
            yield pool

    @property
    def _patience(self) -> dict[str, float]:
        silence = self._route.silence_s
        return {"connect": self._route.connect_s, "read": silence, "write": silence, "pool": 1.0}


class Answer:
    """What a server answers, before anything of its body is read."""

    def __init__(self, response: httpcore.Response, where: str) -> None:
        self._response = response
        self.where = where
        self.status = response.status
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1").strip()
            for name, value in response.headers
        }

    @property
    def length(self) -> int | None:
        """How much comes, if it says so."""
        said = self.headers.get("content-length", "")
        return int(said) if said.isdecimal() else None

    def pieces(self) -> Iterator[bytes]:
        """The body, as it comes."""
        return iter(self._response.iter_stream())

    @property
    def total(self) -> int | None:
        """How much all of it is, of which a part comes, if it says so."""
        said = _RANGE.fullmatch(self.headers.get("content-range", ""))
        return int(said[3]) if said and said[3] != "*" else None

    def continues(self, part: Partial) -> bool:
        """Whether it goes on exactly where the part ends, with the same thing, and says to where.

        It may end before that: then it is asked for more.
        """
        said = _RANGE.fullmatch(self.headers.get("content-range", ""))
        if said is None or int(said[1]) != part.size or not part.mark.tag:
            return False
        tag = self.headers.get("etag") or self.headers.get("last-modified") or part.mark.tag
        is_same = self.total == (part.mark.total_bytes or self.total)
        return self.total is not None and tag == part.mark.tag and is_same

    def require_fit(self) -> None:
        """Refuse what is no file, or none that can be told to be whole."""
        status = self.status
        if status in {_UNAUTHORIZED, _FORBIDDEN}:
            raise NotAllowed(
                f"{self.where} does not let us have it: {status}", code="source-not-allowed"
            )
        if status in {_ABSENT, _GONE}:
            raise NotFound(f"{self.where} does not have it: {status}", code="source-not-found")
        if status in _LATER:
            raise Transient(f"{self.where} answers {status}", code="source-unreachable")
        if status == _BEYOND:
            return
        if status not in {_OK, _PARTIAL}:
            raise Refused(f"{self.where} answers {status}", code="source-refused")
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            text = f"{self.where} sends it encoded, though that was not wanted"
            raise Unsupported(text, code="source-encoded")
        if self.length is None and "chunked" not in self.headers.get("transfer-encoding", ""):
            text = f"{self.where} does not say where it ends"
            raise Unsupported(text, code="source-unsized")


@contextmanager
def speaking_http(where: str) -> Iterator[None]:
    """Sort what happens on the way."""
    try:
        yield
    except (httpcore.UnsupportedProtocol, httpcore.LocalProtocolError) as error:
        raise Refused(f"{where} cannot be asked for", code="source-refused") from error
    except (httpcore.TimeoutException, httpcore.NetworkError) as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                text = f"{where}: {cause.verify_message}"
                raise NotAllowed(text, code="source-certificate") from error
            cause = cause.__cause__ or cause.__context__
        text = f"{where} does not answer: {type(error).__name__}"
        raise Transient(text, code="source-unreachable") from error
    except (httpcore.ProtocolError, httpcore.ProxyError, httpcore.ConnectionNotAvailable) as error:
        text = f"{where} broke off: {str(error)[:200]}"
        raise Transient(text, code="source-unreachable") from error


def shown(url: httpx.URL) -> str:
    """Of an address what people may be told: whose it is. The rest may be the right to it."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _parsed(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
        url.netloc.decode("ascii")
    except (httpx.InvalidURL, ValueError) as error:
        raise Refused("that is no address", code="source-invalid") from error
    if url.scheme not in _PORTS or not url.host:
        raise Refused("only http and https are spoken", code="source-invalid")
    if url.userinfo:
        raise Refused("an address holds no user and password", code="source-invalid")
    return url


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or _PORTS[url.scheme]


def _target(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )


def _basic(login: Chap) -> str:
    said = f"{login.user}:{login.password.get_secret_value()}"
    return f"Basic {b64encode(said.encode()).decode()}"


def _require_small(size_bytes: int, wanted: Wanted) -> None:
    if size_bytes > wanted.most_bytes:
        text = f"it is larger than {wanted.most_bytes} bytes"
        raise Refused(text, code="source-too-large")


def _require_all(part: Partial, answer: Answer) -> None:
    """Refuse less, or more, than was said at first: HTTP only knows of this one answer."""
    total, text = part.mark.total_bytes, f"{answer.where} sent {part.size} bytes in all"
    if total is None or part.size == total:
        return
    if part.size > total:
        part.restart(Mark())
        raise Transient(f"{text}, not {total}", code="source-changed")
    raise Transient(f"{text} of {total}", code="source-unreachable")
