"""Speaking with libvirt: connections that are opened again when lost, and its errors."""

import errno
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from queue import Empty, SimpleQueue

import libvirt

from adapters.errors import (
    AdapterError,
    Conflict,
    NotAllowed,
    NotFound,
    OutOfSpace,
    Refused,
    Transient,
    Unsupported,
)

_KINDS: dict[int, type[AdapterError]] = {
    libvirt.VIR_ERR_NO_DOMAIN: NotFound,
    libvirt.VIR_ERR_NO_STORAGE_POOL: NotFound,
    libvirt.VIR_ERR_NO_STORAGE_VOL: NotFound,
    libvirt.VIR_ERR_NO_SECRET: NotFound,
    libvirt.VIR_ERR_DOM_EXIST: Conflict,
    libvirt.VIR_ERR_STORAGE_VOL_EXIST: Conflict,
    libvirt.VIR_ERR_NO_SUPPORT: Unsupported,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_OPERATION_DENIED: NotAllowed,
    libvirt.VIR_ERR_ACCESS_DENIED: NotAllowed,
    libvirt.VIR_ERR_AUTH_FAILED: NotAllowed,
    libvirt.VIR_ERR_AUTH_CANCELLED: NotAllowed,
    libvirt.VIR_ERR_XML_ERROR: Refused,
    libvirt.VIR_ERR_XML_DETAIL: Refused,
    libvirt.VIR_ERR_INVALID_ARG: Refused,
}
_FULL = ("No space left on device", "Disk quota exceeded")  # of programs that libvirt runs


@contextmanager
def speaking_libvirt() -> Iterator[None]:
    """Translate libvirt's errors; what is not known to be final may work another time."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise _translated(error) from error


def says(error: libvirt.libvirtError, *codes: int) -> bool:
    """Whether libvirt's error is one of these."""
    return error.get_error_code() in codes


class Session:
    """Connections that are opened when first needed, and again after they were lost.

    Each thread has one to itself: on a shared one libvirt 9.0 often keeps a thread's call to
    itself until another's, such as the start of a VM, has been answered (mended in 9.1).
    """

    def __init__(self, uri: str, *, open_s: float = 10.0, silence_s: int = 15) -> None:
        self._uri = uri
        self._open_s = open_s
        self._silence_s = silence_s
        self._idle: deque[libvirt.virConnect] = deque()
        self._here = threading.local()

    def __call__(self) -> libvirt.virConnect:
        """Answer a living connection. Raises `Transient` when the daemon does not answer."""
        if (loan := getattr(self._here, "loan", None)) is None:
            loan = self._here.loan = _Loan(self._idle)
        if loan.connection is None or not loan.connection.isAlive():
            loan.connection = self._open()
        return loan.connection

    def _open(self) -> libvirt.virConnect:
        """Open in a thread of its own: libvirt knows no time-out for it."""
        _run_events()
        answers: SimpleQueue[libvirt.virConnect | libvirt.libvirtError] = SimpleQueue()
        threading.Thread(
            target=self._try_to_open, args=(answers,), name="libvirt open", daemon=True
        ).start()
        try:
            answer = answers.get(timeout=self._open_s)
        except Empty:
            raise Transient(f"{self._uri}: no answer within {self._open_s} s") from None
        if isinstance(answer, libvirt.libvirtError):
            raise Transient(f"{self._uri}: {answer}") from answer
        return answer

    def _try_to_open(
        self, answers: "SimpleQueue[libvirt.virConnect | libvirt.libvirtError]"
    ) -> None:
        try:
            connection = libvirt.open(self._uri)
            if self._uri.partition(":")[0] != "test":  # the test driver has no wire to lose
                connection.setKeepAlive(max(self._silence_s // 3, 1), 2)
        except libvirt.libvirtError as error:
            answers.put(error)
        else:
            answers.put(connection)


class _Loan:
    """A thread's connection, which is another's when the thread has ended."""

    def __init__(self, idle: deque[libvirt.virConnect]) -> None:
        self._idle = idle
        self.connection: libvirt.virConnect | None = None
        with suppress(IndexError):  # none is left over
            self.connection = idle.pop()

    def __del__(self) -> None:
        if self.connection is not None:
            self._idle.append(self.connection)


def _translated(error: libvirt.libvirtError) -> AdapterError:
    message = error.get_error_message() or str(error)
    code = error.get_error_code()
    if code == libvirt.VIR_ERR_SYSTEM_ERROR and error.get_int1() in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(message)
    if code == libvirt.VIR_ERR_SYSTEM_ERROR and error.get_int1() == errno.ENOENT:
        return NotFound(message)
    if any(words in message for words in _FULL):
        return OutOfSpace(message)
    return _KINDS.get(code, Transient)(message)


@cache
def _run_events() -> None:
    """Run libvirt's event loop for this process: keep-alives, and noticing a lost daemon."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it prints by default
    libvirt.virEventRegisterDefaultImpl()

    def loop() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=loop, name="libvirt events", daemon=True).start()
