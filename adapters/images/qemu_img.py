"""Disk images by way of `qemu-img`: the format is always named, never guessed."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from adapters import programs
from adapters.errors import (
    AdapterError,
    BadImage,
    InUse,
    NotAllowed,
    NotFound,
    OutOfSpace,
    Refused,
    Transient,
    Unsupported,
)
from adapters.forms import Form
from adapters.images.base import Progress
from adapters.images.inspect import inspect
from adapters.images.untrusted import corrupt
from adapters.programs import ProgramFailed
from adapters.stills import Stills
from adapters.types import Chap, Format, ImageInfo, Target

_PROGRESS = re.compile(r"\(([0-9.]+)/100%\)")
_COARSENESS = {  # blocks that are written in full, as many times qcow2's clusters
    Form.VDI: 16,
    Form.VHDX: 512,
}
_WAYS = {  # of converting: which is the fastest depends on the disks, and on what else they do
    "": (),
    "unordered": ("-m", "8", "-W"),
    "direct": ("-T", "none"),
    "direct-unordered": ("-m", "8", "-W", "-T", "none"),
}
_SAMPLE_MIB, _RUNS = 64, 3
_CLEARLY = 0.9  # of the plain way's time
_CHECKED = {Format.QCOW2, Format.VMDK, Format.VDI, Format.VHDX}
_CHECK_CPU_S = 60.0  # and a second for each GiB
_DIFFERENT = 1  # exit codes: of compare,
_LEAKS = 3  # and of check
_OF_SET = re.compile(r"(.*)-(?:flat|[fs]\d{3})")  # how qemu calls the files of a set
_TOO_SHORT = re.compile(r"[Tt]runcated|end of (the )?file|after EOF|too small|too short")
_MEANINGS: tuple[tuple[str, Callable[[str], AdapterError]], ...] = (  # the first that fits
    (r"No space left on device|Disk quota exceeded", OutOfSpace),
    (r"Authori[sz]ation failure|Authentication fail|Permission denied", NotAllowed),
    (r"Failed to connect|Connection (refused|reset)|[Tt]imed out|No route to host", Transient),
    (r"iSCSI|Input/output error|Stale file handle|Failed to log", Transient),
    (r"Failed to get .* lock", InUse),
    (r"No such file or directory", NotFound),
    (r"is too large|not supported", Unsupported),
    (_TOO_SHORT.pattern, lambda text: BadImage(text, code="image-truncated")),
    (r"[Cc]orrupt|[Ii]nvalid|not in .* format|Unsupported|[Uu]nknown", BadImage),
)


@contextmanager
def speaking_qemu() -> Iterator[None]:
    """Sort what qemu-img says."""
    try:
        yield
    except ProgramFailed as error:
        text = error.stderr.strip().removeprefix("qemu-img: ") or str(error)
        meaning = next((kind for words, kind in _MEANINGS if re.search(words, text)), Refused)
        raise meaning(text) from error


class QemuImg:
    """The image tool for real images; one that waits for a lost target is ended in time."""

    def __init__(self, *, stalled_s: float = 300.0) -> None:  # a flush may be long
        self.stalled_s = stalled_s

    def inspect(self, path: Path, declared: Format, *, max_virtual_mib: int) -> ImageInfo:
        """Look ourselves first; then qemu-img must see the same and find nothing missing.

        It looks at both at the same time: next to a small image, each start of it counts.
        """
        found = inspect(path, declared, max_virtual_mib=max_virtual_mib)
        if declared is Format.RAW:
            return found
        with ThreadPoolExecutor(1) as pool:
            checking = declared in _CHECKED and pool.submit(
                copy_context().run, self.check, path, declared
            )
            seen = self.info(path, declared)
            if seen.virtual_size_bytes != found.virtual_size_bytes:
                raise corrupt(f"{path.name} has one size or another, by how it is read")
            if checking:
                checking.result()
        return found

    def info(self, path: Path, format_: Format) -> ImageInfo:
        """What qemu-img reads in an image's header."""
        with speaking_qemu():
            told = _json("info", "-f", format_, "--", path.absolute())
        return ImageInfo(
            format=format_,
            virtual_size_bytes=told["virtual-size"],
            file_size_bytes=path.stat().st_size,
        )

    def check(self, path: Path, format_: Format) -> None:
        """Refuse an image whose tables contradict each other or point outside the file."""
        cpu_s = _CHECK_CPU_S + path.stat().st_size / 2**30
        try:
            _json("check", "-f", format_, "--", path.absolute(), cpu_s=cpu_s)
        except ProgramFailed as error:
            if error.exit_code == _LEAKS:  # of clusters that nobody uses
                return
            code = "image-truncated" if _TOO_SHORT.search(error.stderr) else "image-corrupt"
            raise BadImage(f"{path.name}: {error.stderr.strip()[:500]}", code=code) from error

    def convert(
        self,
        source: Path,
        source_format: Format,
        target: Path,
        form: Form,
        progress: Progress,
        way: str = "",
    ) -> None:
        formats = [*_WAYS.get(way, ()), "-f", source_format, "-O", form.format, *_options(form)]
        with _whole(target, form):
            _convert([*formats, "--", str(source.absolute()), str(target.absolute())], progress)

    def convert_still(
        self, stills: Stills, disk: UUID, target: Path, form: Form, progress: Progress
    ) -> None:
        """Read it over NBD; a host that is lost meanwhile is not waited for."""
        source = f"nbd+unix:///{disk}?socket={quote(stills.socket)}"
        formats = ["-f", Format.RAW, "-O", form.format, *_options(form)]
        with _whole(target, form):
            what = [*formats, "--", source, str(target.absolute())]
            _convert(what, progress, stalled_s=self.stalled_s)

    def fastest(self, folder: Path, has: Form, form: Form) -> str:
        """Try all that may be right on a sample; only who is clearly faster beats the plain way.

        One that fails, or makes something else, is none.
        """
        place = folder / "sample"
        place.mkdir()
        try:
            source = self._sample(place, has)
            took: dict[str, list[float]] = {}
            for way in [*_WAYS] * _RUNS:  # in turn, so that what else is going on hits all
                with suppress(Refused):
                    spent = self._try(source, has, place / form.format.disk_file, form, way)
                    took.setdefault(way, []).append(spent)
            best = {way: min(each) for way, each in took.items() if len(each) == _RUNS}
            way = min(best, key=lambda way: best[way], default="")
            return way if best.get(way, 0.0) < _CLEARLY * best.get("", 0.0) else ""
        finally:
            shutil.rmtree(place)

    def _sample(self, place: Path, has: Form) -> Path:
        """An image half of noise and half of nothing."""
        raw, source = place / "sample.raw", place / "source" / has.format.disk_file
        source.parent.mkdir()
        with raw.open("wb") as file:
            for mebibyte in range(0, _SAMPLE_MIB, 2):
                file.seek(mebibyte * 2**20)
                file.write(os.urandom(2**20))
            file.truncate(_SAMPLE_MIB * 2**20)
        self.convert(raw, Format.RAW, source, has, lambda _percent: None)
        raw.unlink()
        return source

    def _try(self, source: Path, has: Form, target: Path, form: Form, way: str) -> float:
        """How long a conversion takes until it is on the disk. Raises `Refused`."""
        if "-W" in _WAYS[way] and (form.is_set or form is Form.VMDK_STREAM):
            raise Unsupported("a stream is in order, and sets are equal however often made")
        began = time.monotonic()
        self.convert(source, has.format, target, form, lambda _percent: None, way)
        with target.open("rb") as file:
            os.fsync(file.fileno())
        spent = time.monotonic() - began
        if not self.equal(source, has.format, target, form.format):
            raise Unsupported(f"qemu-img does not make a {form.value} in the way {way}")
        return spent

    def resize(self, path: Path, format_: Format, size_bytes: int) -> None:
        """Let the guest see a larger disk; shrinking is refused."""
        with speaking_qemu():
            programs.run(
                "qemu-img", "resize", "-q", "-f", format_, "--", path.absolute(), str(size_bytes)
            )

    def measure(self, source: Path, source_format: Format, form: Form) -> int:
        """Bytes that will be allocated; what qemu-img cannot measure needs about as qcow2."""
        measured = Format.RAW if form.is_flat else Format.QCOW2
        arguments = ("-f", source_format, "-O", measured, "--", source.absolute())
        with speaking_qemu():
            told = _json("measure", *arguments)
        return int(min(told["required"] * _COARSENESS.get(form, 1), told["fully-allocated"]))

    def equal(self, a: Path, a_format: Format, b: Path, b_format: Format) -> bool:
        """Compare two images; what one has more must be zeros."""
        formats = ("-f", a_format, "-F", b_format)
        return _compare(*formats, "--", str(a.absolute()), str(b.absolute()))

    def fill_target(
        self,
        source: Path,
        source_format: Format,
        target: Target,
        initiator: str,
        chap: Chap,
        progress: Progress,
    ) -> None:
        """Write onto a volume. The cache mode makes qemu-img flush it before it says done."""
        where = ["--target-image-opts", "-n", "-t", "writeback", "-f", source_format]
        what = ["--", str(source.absolute()), _iscsi(target, initiator, chap)]
        _convert([*_SECRET, *where, *what], progress, _password(chap), self.stalled_s)

    def read_target(
        self,
        target: Target,
        initiator: str,
        chap: Chap,
        image: Path,
        form: Form,
        progress: Progress,
    ) -> None:
        """Read a volume, byte by byte; what a failure leaves of the image is removed."""
        what = ["--image-opts", "-O", form.format, *_options(form)]
        where = ["--", _iscsi(target, initiator, chap), str(image.absolute())]
        try:
            _convert([*_SECRET, *what, *where], progress, _password(chap), self.stalled_s)
        except BaseException:
            image.unlink(missing_ok=True)
            raise

    def equals_target(
        self, source: Path, source_format: Format, target: Target, initiator: str, chap: Chap
    ) -> bool:
        """Compare with a volume; its surplus must be zeros."""
        image = f"driver={source_format},file.driver=file,file.filename={_quoted(source)}"
        volume = _iscsi(target, initiator, chap)
        arguments = (*_SECRET, "--image-opts", "--", image, volume)
        return _compare(*arguments, stdin=_password(chap), stalled_s=self.stalled_s)


@contextmanager
def _whole(target: Path, form: Form) -> Iterator[None]:
    """Remove what a failure leaves of an image."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # of a directory that is lost; what went wrong is known
            for path in target.parent.iterdir():
                extent = _OF_SET.fullmatch(path.stem) if form.is_set else None
                if path == target or (extent and extent[1] == target.stem):
                    path.unlink(missing_ok=True)
        raise


def _options(form: Form) -> list[str]:
    """How an image of this form is made."""
    if form.format is Format.VPC:  # else the size is rounded up to cylinders
        return ["-o", f"subformat={form.subformat},force_size=on"]
    if form is Form.VMDK_STREAM:  # as VMware's own tools take it
        return ["-o", f"subformat={form.subformat},adapter_type=lsilogic,compat6=on"]
    return ["-o", f"subformat={form.subformat}"] if form.subformat else []


_SECRET = ("--object", "secret,id=chap,file=/dev/stdin")  # no command line, no file, no log


def _json(command: str, *arguments: str | Path, cpu_s: float | None = None) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(
        programs.run("qemu-img", command, "--output=json", *arguments, cpu_s=cpu_s)
    )
    return told


def _convert(
    arguments: list[str], progress: Progress, stdin: str = "", stalled_s: float | None = None
) -> None:
    def report(line: str) -> None:
        if match := _PROGRESS.search(line):
            progress(float(match[1]))

    what = ("convert", "-p", *arguments)
    with speaking_qemu():
        programs.run("qemu-img", *what, on_output=report, stdin=stdin, stalled_s=stalled_s)


def _compare(*arguments: str, stdin: str = "", stalled_s: float | None = None) -> bool:
    with speaking_qemu():
        try:
            programs.run("qemu-img", "compare", "-q", *arguments, stdin=stdin, stalled_s=stalled_s)
        except ProgramFailed as error:
            if error.exit_code == _DIFFERENT:
                return False
            raise
    return True


def _iscsi(target: Target, initiator: str, chap: Chap) -> str:
    options = {
        "driver": "iscsi",
        "transport": "tcp",
        "portal": f"{target.host}:{target.port}",
        "target": target.iqn,
        "lun": target.lun,
        "initiator-name": initiator,
        "user": chap.user,
        "password-secret": "chap",
    }
    return ",".join(f"{key}={_quoted(value)}" for key, value in options.items())


def _quoted(value: object) -> str:
    """A value among options, where a comma ends it."""
    text = str(value.absolute()) if isinstance(value, Path) else str(value)
    return text.replace(",", ",,")


def _password(chap: Chap) -> str:
    return chap.password.get_secret_value()
