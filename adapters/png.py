"""Pictures that people send: nothing but a small PNG, looked at and not drawn."""

import struct
import zlib

from adapters.errors import BadImage

MAX_BYTES = 2**16
_MAX_PIXELS = 512  # each way
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def require_png(data: bytes) -> None:
    """Raises `BadImage`: it is no PNG from its first byte to its last, or too large a one."""
    if len(data) > MAX_BYTES:
        raise _bad(f"it has more than {MAX_BYTES} bytes")
    if not data.startswith(_SIGNATURE):
        raise _bad("it is no PNG")
    kinds: list[bytes] = []
    at = len(_SIGNATURE)
    while not kinds or kinds[-1] != b"IEND":
        kind, body, at = _chunk(data, at)
        kinds.append(kind)
        if kinds == [b"IHDR"]:
            _require_small(body)
    if kinds[0] != b"IHDR" or kinds.count(b"IHDR") > 1 or b"IDAT" not in kinds:
        raise _bad("it has no header, or no picture")
    if at != len(data):
        raise _bad("it goes on behind its end")


def _chunk(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    """The kind and the body of a chunk, and where the next one begins."""
    length = int.from_bytes(data[at : at + 4])
    end = at + 8 + length
    if end + 4 > len(data):
        raise _bad("its end is missing")
    if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
        raise _bad("it is damaged")
    return data[at + 4 : at + 8], data[at + 8 : end], end + 4


def _require_small(header: bytes) -> None:
    if len(header) != 13:  # noqa: PLR2004 - as the standard has it
        raise _bad("its header is none")
    if not all(0 < side <= _MAX_PIXELS for side in struct.unpack(">II", header[:8])):
        raise _bad(f"it is larger than {_MAX_PIXELS} x {_MAX_PIXELS} pixels")


def _bad(why: str) -> BadImage:
    return BadImage(f"that is no picture: {why}", code="icon-invalid")
