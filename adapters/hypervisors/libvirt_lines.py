"""Lines to a running domain's screen and serial port, both handed out by libvirtd.

Nothing listens: neither a port nor a socket file leads to a guest, only leave to speak with
libvirtd does. The screen's line is QEMU's own end, which libvirt passes as a file descriptor; the
serial port's is a libvirt stream, pumped by two threads that end with either of its ends.
"""

import socket
import threading
import xml.etree.ElementTree as ET
from contextlib import suppress

import libvirt

from adapters.errors import InUse, Unsupported
from adapters.hypervisors.base import Display, DisplayKind
from adapters.hypervisors.libvirt_session import Session

_PIECE_BYTES = 4096
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
    stream = session().newStream()
    try:
        domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_SAFE)
    except libvirt.libvirtError as error:
        if _TAKEN not in str(error):
            raise
        raise InUse(f"somebody has the terminal of VM {domain.UUIDString()}") from error
    ours, theirs = socket.socketpair()
    for pump in (_print, _type):
        threading.Thread(target=pump, args=(stream, ours), name="terminal", daemon=True).start()
    return theirs


def _print(stream: libvirt.virStream, line: socket.socket) -> None:
    """Pass on what the guest says, until it is off; then end the line."""
    with suppress(libvirt.libvirtError, OSError):  # either end goes when it likes
        while said := stream.recv(_PIECE_BYTES):
            line.sendall(said)
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def _type(stream: libvirt.virStream, line: socket.socket) -> None:
    """Pass on what is typed, until nobody has the line; then free the terminal for the next."""
    with line, suppress(libvirt.libvirtError, OSError):
        while typed := line.recv(_PIECE_BYTES):
            while typed:
                typed = typed[stream.send(typed) :]
    with suppress(libvirt.libvirtError):  # it may have ended by itself
        stream.abort()
