"""Lines to a running domain's screen and serial port, both handed out by libvirtd.

Nothing listens: neither a port nor a socket file leads to a guest, only leave to speak with
libvirtd does. The screen's line is QEMU's own end, which libvirt passes as a file descriptor; the
serial port's is a libvirt stream, pumped by two threads that end with either of its ends. The
stream does not block: libvirt forgets to wake a reader that begins to wait while its event loop
receives, and a guest's last words would be heard after its next ones.
"""

import socket
import threading
import time
import xml.etree.ElementTree as ET
from contextlib import suppress

import libvirt

from adapters.errors import InUse, Unsupported
from adapters.hypervisors.base import Display, DisplayKind
from adapters.hypervisors.libvirt_session import Session

_PIECE_BYTES = 4096
_POLL_S = 0.01
_LOOK_S = 1.0  # whether libvirtd is still there: a stream is not told
_NOT_NOW = -2  # what a stream that does not block answers, be it read or written
_TAKEN = "Active console session exists"  # libvirt has no code for it


def open_display(domain: libvirt.virDomain) -> Display:
    """Open a line to the domain's VNC server. Raises `Unsupported` where it has none."""
    graphics = ET.fromstring(domain.XMLDesc()).find("devices/graphics")  # noqa: S314 - libvirt's own words
    if graphics is None or graphics.get("type") != "vnc":
        raise Unsupported(f"VM {domain.UUIDString()} was defined without a display")
    line = socket.socket(fileno=domain.openGraphicsFD(0))
    return Display(kind=DisplayKind.VNC, line=line)


def open_terminal(session: Session, domain: libvirt.virDomain) -> socket.socket:
    """Open the line to the domain's serial port. Raises `InUse` while somebody has it."""
    stream = session().newStream(libvirt.VIR_STREAM_NONBLOCK)
    try:
        domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_SAFE)
    except libvirt.libvirtError as error:
        if _TAKEN not in str(error):
            raise
        raise InUse(f"somebody has the terminal of VM {domain.UUIDString()}") from error
    ours, theirs = socket.socketpair()
    pump = _Pump(stream, ours)
    for way in (pump.out, pump.into):
        threading.Thread(target=way, name="terminal", daemon=True).start()
    return theirs


class _Pump:
    """Both ways between a libvirt stream and a socket."""

    def __init__(self, stream: libvirt.virStream, line: socket.socket) -> None:
        self._stream = stream
        self._line = line
        self._woken = threading.Event()
        stream.eventAddCallback(0, self._wake, None)

    def out(self) -> None:
        """Pass on what the guest says, until it is off; then end the line."""
        with suppress(libvirt.libvirtError, OSError):  # either end goes when it likes
            while (said := self._stream.recv(_PIECE_BYTES)) != b"":
                if said == _NOT_NOW:
                    self._woken.clear()
                    self._stream.eventUpdateCallback(libvirt.VIR_STREAM_EVENT_READABLE)
                    if not self._woken.wait(_LOOK_S) and not self._stream.connect().isAlive():
                        break
                else:
                    self._line.sendall(said)
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)

    def into(self) -> None:
        """Pass on what is typed, until nobody has the line; then free the terminal."""
        with self._line, suppress(libvirt.libvirtError, OSError):
            while typed := self._line.recv(_PIECE_BYTES):
                while typed:
                    sent = self._stream.send(typed)
                    if sent == _NOT_NOW:
                        time.sleep(_POLL_S)
                    else:
                        typed = typed[sent:]
        with suppress(libvirt.libvirtError):  # it may have ended by itself
            self._stream.eventRemoveCallback()
        with suppress(libvirt.libvirtError):
            self._stream.abort()
        self._woken.set()

    def _wake(self, stream: libvirt.virStream, _events: int, _: None) -> None:
        """Let the reader read, once: the event loop is not to ask again meanwhile."""
        stream.eventUpdateCallback(0)
        self._woken.set()
