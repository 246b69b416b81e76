"""A client of the API: what the command line and the demo ask it with."""

import hashlib
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin
from uuid import UUID

import httpx
from pydantic import BaseModel, ConfigDict

from adapters.types import Finding, OperationState, StepState

SILENCE_S = 60.0  # the API says something at least every 15 s
_ATTEMPTS = 3  # of a download that breaks off
_SETTLING_S = 30.0
_RESTING = {
    OperationState.SUCCEEDED,
    OperationState.FAILED,
    OperationState.CANCELLED,
    OperationState.ABANDONED,
    OperationState.STUCK,
}


class Refusal(Exception):
    """The API said no, or nothing; `problem` is its answer (RFC 9457)."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or "refused")
        self.problem = problem
        self.code: str = problem.get("code", "no-code")

    @classmethod
    def of(cls, body: bytes | bytearray, who: str) -> Self:
        """What an answer that is no success says; not every one is ours."""
        try:
            problem = json.loads(body)
        except ValueError:
            problem = None
        if not isinstance(problem, dict):
            problem = {"code": "no-problem-json", "detail": who}
        return cls(problem)


class Told(BaseModel):
    """What the API tells; more than we know of is no harm."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Step(Told):
    """One step of an operation."""

    key: str
    name: str
    lane: str
    state: StepState
    percent: int | None = None
    attempts: int
    started_at: datetime
    ended_at: datetime | None
    error: str | None


class Target(Told):
    """What an operation is about."""

    kind: str
    id: UUID
    name: str


class Slowest(Told):
    """Where an operation waits."""

    host: str
    lane: str
    step: str
    started_at: datetime


class Operation(Told):
    """One thing that was asked for, and how it goes."""

    id: UUID
    kind: str
    state: OperationState
    target: Target
    requested_by: str
    waits_until: datetime | None = None
    accepted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: int
    counts: dict[StepState, int]
    slowest: Slowest | None
    steps: list[Step]
    error: dict[str, Any] | None
    flow_run_url: str | None
    left_behind: bool
    report: list[Finding] | None = None

    @property
    def resting(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state in _RESTING

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.kind.replace('_', '-')} {self.target.name}"


class Client:
    """The API as one caller sees it. Whatever it refuses is raised as `Refusal`.

    What is asked for once more with the same `key` is answered as before, and done once.
    """

    def __init__(
        self, url: str, token: str, *, key: str | None = None, ca: Path | None = None
    ) -> None:
        self.url = url
        self.trust = trust(ca) if url.startswith("https:") else True
        headers = {"Authorization": f"Bearer {token}"}
        if key:
            headers["Idempotency-Key"] = key
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=SILENCE_S, verify=self.trust
        )

    def __enter__(self) -> Self:
        """Nothing is asked yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close its connections."""
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Read something."""
        return self.ask("GET", path, params=query).json()

    def all(self, path: str, **query: Any) -> list[Any]:
        """Read a list, page after page."""
        answer = self.ask("GET", path, params=query)
        found: list[Any] = answer.json()
        while "next" in answer.links:
            answer = self.ask("GET", answer.links["next"]["url"])
            found += answer.json()
        return found

    def post(self, path: str, body: Any = None) -> Any:
        """Make something that is there at once."""
        return self.ask("POST", path, json=body).json()

    def post_yaml(self, path: str, text: str) -> Any:
        """Make what a YAML document describes."""
        headers = {"Content-Type": "application/yaml"}
        return self.ask("POST", path, content=text.encode(), headers=headers).json()

    def patch(self, path: str, body: Any) -> Any:
        """Change something at once."""
        return self.ask("PATCH", path, json=body).json()

    def put(self, path: str, body: Any) -> Any:
        """Set something at once."""
        return self.ask("PUT", path, json=body).json()

    def delete(self, path: str) -> None:
        """Remove something that is gone at once."""
        self.ask("DELETE", path)

    def start(self, path: str, body: Any = None, *, method: str = "POST") -> Operation:
        """Ask for what takes time."""
        return Operation.model_validate(self.ask(method, path, json=body).json())

    def operation(self, operation: UUID, *, wait_s: float = 0) -> Operation:
        """Read an operation; wait for its end so long."""
        found = self.get(f"/v1/operations/{operation}", wait=wait_s)
        return Operation.model_validate(found)

    def wait(self, operation: UUID) -> Operation:
        """Wait until an operation rests."""
        while not (now := self.operation(operation, wait_s=30)).resting:
            pass
        return now

    def follow(self, operation: UUID) -> Iterator[Operation]:
        """Answer the operation at each of its changes until it rests."""
        path = f"/v1/operations/{operation}/events"
        seen: dict[str, str] = {}
        while True:
            with speaking_http(self.url), self._http.stream("GET", path, headers=seen) as events:
                require_success(events)
                for line in events.iter_lines():
                    field, _, value = line.partition(": ")
                    if field == "id":
                        seen = {"Last-Event-ID": value}
                    elif field == "data":
                        now = Operation.model_validate_json(value)
                        yield now
                        if now.resting:
                            return

    def events(self, **wanted: str) -> Iterator[dict[str, Any]]:
        """Answer events as they happen, for ever: where an answer ends, the next goes on."""
        seen: dict[str, str] = {}
        while True:
            with (
                speaking_http(self.url),
                self._http.stream("GET", "/v1/events/stream", headers=seen, params=wanted) as told,
            ):
                require_success(told)
                for line in told.iter_lines():
                    field, _, value = line.partition(": ")
                    if field == "id":
                        seen = {"Last-Event-ID": value}
                    elif field == "data":
                        yield json.loads(value)

    def download(self, package: UUID, target: Path, received: Callable[[int], None]) -> None:
        """Fetch a package, going on where it broke off; `received` hears of each piece.

        The file is there once it is whole and what the API says.
        """
        told = self.get(f"/v1/packages/{package}")
        part = target.with_name(f"{target.name}.part")
        part.unlink(missing_ok=True)
        for attempt in range(_ATTEMPTS):
            has = part.stat().st_size if part.exists() else 0
            if has == told["size_bytes"]:
                break
            where = self.ask("GET", f"/v1/packages/{package}/content")
            try:
                self._fetch(urljoin(str(where.url), where.headers["Location"]), part, received)
            except Refusal as refusal:
                if refusal.code != "unreachable" or attempt == _ATTEMPTS - 1:
                    raise
        if digest_of_file(part) != told["digest"]:
            part.unlink()
            text = "what came is not what was packed"
            raise Refusal({"code": "image-digest-mismatch", "detail": text})
        part.rename(target)

    def _fetch(self, where: str, part: Path, received: Callable[[int], None]) -> None:
        """Fetch what is missing of a file."""
        has = part.stat().st_size if part.exists() else 0
        # The address is signed: it is no place for our token.
        asked = httpx.stream(
            "GET",
            where,
            headers={"Range": f"bytes={has}-"},
            timeout=SILENCE_S,
            verify=self.trust,
        )
        with speaking_http(self.url), asked as answer, part.open("ab") as file:
            require_success(answer)
            if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                file.truncate(0)
            for piece in answer.iter_bytes():
                file.write(piece)
                received(len(piece))

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask, and again while what is asked about is kept by an operation that has ended.

        It keeps its objects until its receipt is written, a moment later.
        """
        end = time.monotonic() + _SETTLING_S
        while True:
            with speaking_http(self.url):
                answer = self._http.request(method, path, **more)
            try:
                require_success(answer)
            except Refusal as refusal:
                if time.monotonic() > end or not self._is_settling(refusal):
                    raise
            else:
                return answer
            time.sleep(0.1)

    def _is_settling(self, refusal: Refusal) -> bool:
        if refusal.code != "locked":
            return False
        return self.operation(UUID(refusal.problem["operation"])).ended_at is not None


def trust(ca: Path | None) -> ssl.SSLContext:
    """Who is believed to be who they say: this authority, or those that the system has."""
    made = ssl.create_default_context(cafile=str(ca) if ca else None)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


def digest_of_file(file: Path) -> str:
    """A file's SHA-256."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def speaking_http(url: str) -> Iterator[None]:
    """Sort what the network says."""
    try:
        yield
    except httpx.HTTPError as error:
        text = f"nothing answers at {url}: {error or type(error).__name__}"
        raise Refusal({"code": "unreachable", "detail": text}) from error


def require_success(answer: httpx.Response) -> None:
    """Raise `Refusal` unless it was done, or is done elsewhere."""
    if answer.is_success or answer.status_code == httpx.codes.TEMPORARY_REDIRECT:
        return
    raise Refusal.of(answer.read(), f"{answer.url} says {answer.status_code}")
