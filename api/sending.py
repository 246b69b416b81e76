"""Sending images: an image goes to where the API says, in as many goes as it takes.

Where it goes to is noted for as long as it is under way, if there is a folder for that: who sends
the same once more then goes on where it broke off, also when this process has ended in between.
"""

import hashlib
import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

from adapters.errors import AdapterError, BadImage, problem_of
from adapters.images.ova import descriptor_of
from adapters.images.vmdk import digest_of, extent_names
from adapters.packages import PACKAGE
from adapters.types import Format
from api.client import (
    SILENCE_S,
    Client,
    Operation,
    Refusal,
    digest_of_file,
    require_success,
    speaking_http,
)

_CHUNK_BYTES = 2**18
_PATIENCE_S = 300.0  # without one byte more that has come
_PAUSE_S, _PAUSE_MAX_S = 0.25, 5.0
_LATER = {408, 409, 423, 425, 429}  # and whatever the server, or a proxy, cannot do now
_GONE = {403, 404, 410}

Wishes = Mapping[str, str | int | None]
Reached = Callable[[int], None]  # told how many bytes have been sent, counted from the beginning


def plan(client: Client, image: Path, wishes: Wishes) -> Any:
    """What sending an image would do."""
    query = {**_told_of(files_of(image, wishes.get("format")), wishes), "dry_run": "true"}
    said = _descriptor_of(image) if wishes.get("format") == PACKAGE else None
    return client.ask("POST", "/v1/templates", params=query, content=said).json()


def _descriptor_of(package: Path) -> bytes:
    try:
        return descriptor_of(package)
    except AdapterError as error:
        raise Refusal(problem_of(error)) from error


def send(
    client: Client,
    image: Path,
    wishes: Wishes,
    reached: Reached = lambda _: None,
    notes: Path | None = None,
) -> Operation:
    """Send an image, and answer its import.

    Of a VMDK that is a descriptor, the extents beside it are sent too, behind it.
    """
    files = files_of(image, wishes.get("format"))
    said = _told_of(files, wishes)
    note = _Note(client.url, said, notes)
    # One without our token: the addresses are signed.
    with httpx.Client(timeout=SILENCE_S, verify=client.trust) as gateway:
        return _send_files(client, gateway, files, said, reached, note)


def _send_files(
    client: Client,
    gateway: httpx.Client,
    files: list[Path],
    said: Mapping[str, Any],
    reached: Reached,
    note: "_Note",
) -> Operation:
    upload = _Upload(client, gateway, files, reached)
    if noted := note.read():
        try:
            return upload.send(noted, note)
        except Refusal as refusal:
            if refusal.problem.get("status") not in _GONE:
                raise
            note.forget()  # it was given up meanwhile
    where = _permitted(client, said)
    if isinstance(where, Operation):
        return where
    told = {"filename": files[0].name}
    if len(files) > 1:
        told["sizes"] = " ".join(str(each.stat().st_size) for each in files)
    metadata = ",".join(f"{key} {b64encode(x.encode()).decode()}" for key, x in told.items())
    length = str(said["size_bytes"])
    begun = upload.ask("POST", where, {"Upload-Length": length, "Upload-Metadata": metadata})
    if begun.status_code == httpx.codes.ACCEPTED:
        return Operation.model_validate(begun.json())
    where = urljoin(where, begun.headers["Location"])
    note.write(where)
    return upload.send(where, note)


def _permitted(client: Client, said: Mapping[str, Any]) -> str | Operation:
    """Where it may be sent; or its import: it had arrived, and its answer had not.

    Without the image: what is not the gateway does not read it.
    """
    told = client.ask("POST", "/v1/templates", params=said)
    if told.status_code == httpx.codes.ACCEPTED:
        return Operation.model_validate(told.json())
    return urljoin(str(told.url), told.headers["Location"])


def _require_taken(answer: httpx.Response) -> None:
    """Raise `Refusal` that knows its status: what answers `HEAD` has no other words."""
    try:
        require_success(answer)
    except Refusal as refusal:
        refusal.problem.setdefault("status", answer.status_code)
        raise


class _Upload:
    """A file on its way, or the files of a set, one behind the other."""

    def __init__(
        self, client: Client, gateway: httpx.Client, files: list[Path], reached: Reached
    ) -> None:
        self._client = client
        self._gateway = gateway
        self._files = files
        self._reached = reached

    def send(self, where: str, note: "_Note") -> Operation:
        """Send what is missing, and again, until all has come. Raises `Refusal`."""
        most, since, pause_s = -1, time.monotonic(), _PAUSE_S
        while True:
            try:
                state = self.ask("HEAD", where, {})
                if found := state.headers.get("Location"):
                    break
                if (has := int(state.headers["Upload-Offset"])) > most:
                    most, since, pause_s = has, time.monotonic(), _PAUSE_S
                if found := self._continue(where, has).headers.get("Location"):
                    break
            except Refusal as refusal:
                if not _is_passing(refusal) or time.monotonic() - since > _PATIENCE_S:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)
        note.forget()
        return Operation.model_validate(self._client.get(found))

    def ask(
        self, method: str, where: str, headers: Mapping[str, str], **more: Any
    ) -> httpx.Response:
        """Ask the gateway by tus."""
        told = {"Tus-Resumable": "1.0.0", **headers}
        with speaking_http(self._client.url):
            answer = self._gateway.request(method, where, headers=told, **more)
        _require_taken(answer)
        return answer

    def _continue(self, where: str, has: int) -> httpx.Response:
        headers = {
            "Upload-Offset": str(has),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(sum(each.stat().st_size for each in self._files) - has),
        }
        return self.ask("PATCH", where, headers, content=self._pieces(has))

    def _pieces(self, start: int) -> Iterator[bytes]:
        self._reached(start)
        before = 0
        for each in self._files:
            with each.open("rb", buffering=0) as file:
                size = each.stat().st_size
                if start < before + size:
                    file.seek(max(0, start - before))
                    while piece := file.read(_CHUNK_BYTES):
                        yield piece
                        self._reached(before + file.tell())
                before += size


def _is_passing(refusal: Refusal) -> bool:
    status = refusal.problem.get("status", 0)
    return refusal.code == "unreachable" or status in _LATER or status >= 500  # noqa: PLR2004


class _Note:
    """Where something is sent to, kept for this user alone: whoever has it may send there."""

    def __init__(self, url: str, said: Mapping[str, Any], notes: Path | None) -> None:
        key = json.dumps([url, said], sort_keys=True, default=str)
        self._file = notes / hashlib.sha256(key.encode()).hexdigest() if notes else None

    def read(self) -> str | None:
        """What was noted."""
        return self._file.read_text() if self._file and self._file.exists() else None

    def write(self, where: str) -> None:
        """Note it."""
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch(mode=0o600)
            self._file.write_text(where)

    def forget(self) -> None:
        """It is over."""
        if self._file:
            self._file.unlink(missing_ok=True)


def files_of(image: Path, format_: str | int | None) -> list[Path]:
    """An image's files: the one that is named first, then the extents beside it, if any."""
    if format_ != Format.VMDK:
        return [image]
    try:
        extents = [image.with_name(name) for name in extent_names(image)]
        for extent in extents:
            if extent.is_symlink():  # who packed the folder up chose what would be sent
                raise BadImage(f"{extent} is a link", code="image-foreign-extent")
            if not extent.is_file():
                raise BadImage(f"the extent {extent} is missing", code="image-truncated")
    except AdapterError as error:
        raise Refusal(problem_of(error)) from error
    return [image, *extents]


def _told_of(files: list[Path], wishes: Wishes) -> dict[str, Any]:
    """What is said of files before they are sent."""
    said = {name: value for name, value in wishes.items() if value is not None}
    size_bytes = sum(each.stat().st_size for each in files)
    return {
        **said,
        "sha256": digest_of([digest_of_file(each) for each in files]),
        "size_bytes": size_bytes,
    }
