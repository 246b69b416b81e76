"""A proxy for TCP that breaks connections, as networks do."""

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)  # what closes with this lingers not: the other side is told so


class CuttingProxy:
    """Passes bytes on to a port; resets the connection each time that so many have been sent.

    It can hold everything up, too, once so many have been sent, until it is told to go on.
    """

    def __init__(self, port: int, cuts: list[int], holds_at: int | None = None) -> None:
        self.cuts = list(cuts)  # those that are still to come
        self.holds = threading.Event()  # for as long as it is not told to go on
        self.go_on = threading.Event()
        self._holds_at = holds_at
        self._sent = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.go_on.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=[client], daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        there = ("127.0.0.1", self._port)
        with client, suppress(OSError), socket.create_connection(there) as server:
            down = threading.Thread(target=self._pass_on, args=(server, client))
            down.start()
            self._pass_on(client, server, up=True)
            down.join()

    def _pass_on(self, source: socket.socket, target: socket.socket, up: bool = False) -> None:
        try:
            while piece := source.recv(2**18):
                if up and self._is_cut(len(piece)):
                    target.sendall(piece[: len(piece) // 2])
                    for each in (source, target):
                        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    break
                target.sendall(piece)
            else:
                target.shutdown(socket.SHUT_WR)
                return
        except OSError:
            pass
        for each in (source, target):  # also wakes who waits for the other direction
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _is_cut(self, more: int) -> bool:
        with self._lock:
            self._sent += more
            if self._holds_at and self._sent >= self._holds_at:
                self._holds_at = None
                self.holds.set()
                self.go_on.wait(60)
            if self.cuts and self._sent >= self.cuts[0]:
                self.cuts.pop(0)
                return True
            return False
