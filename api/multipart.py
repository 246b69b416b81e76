"""`multipart/form-data`, read piece by piece: nothing of it waits in memory for the rest."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from api.errors import Problem

MEDIA_TYPE = "multipart/form-data"


class Files(Protocol):
    """Who takes the files, one after the other."""

    def begin(self, name: str) -> None:
        """A file comes; its sender calls it so."""

    def write(self, piece: bytes) -> None:
        """Its next piece."""

    def end(self) -> None:
        """It has come."""

    def finish(self) -> str:
        """All have come; answers a digest."""

    def close(self) -> None:
        """No more comes, be it too early."""


class Multipart:
    """Hands each part of a body on as a file. Raises `Problem` when it makes no sense."""

    def __init__(self, content_type: str, files: Files) -> None:
        self._files = files
        self._field, self._value = bytearray(), bytearray()
        self._name: str | None = None
        self._ended = False
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise _invalid("its boundary is not said")
        with speaking_multipart():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": self._on_field,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_part_end": files.end,
                    "on_end": self._on_end,
                },
            )

    def write(self, piece: bytes) -> None:
        """Read a piece."""
        with speaking_multipart():
            self._parser.write(piece)

    def finish(self) -> str:
        """Nothing more comes; answers the digest of what came."""
        if not self._ended:
            raise _invalid("it ends before its last boundary")
        return self._files.finish()

    def close(self) -> None:
        """Let go of what has not ended."""
        self._files.close()

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"filename", b"").decode("utf-8", "replace")
        self._field.clear()
        self._value.clear()

    def _on_headers(self) -> None:
        if not self._name:
            raise _invalid("each part has to be a file, with its name")
        name, self._name = self._name, None
        self._files.begin(name)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._files.write(data[start:end])

    def _on_end(self) -> None:
        self._ended = True


@contextmanager
def speaking_multipart() -> Iterator[None]:
    """Sort what the parser says."""
    try:
        yield
    except FormParserError as error:
        raise _invalid(str(error)) from error


def _invalid(what: str) -> Problem:
    return Problem(422, "multipart-invalid", f"the body is no whole {MEDIA_TYPE}: {what}")
