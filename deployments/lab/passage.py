"""A port of this machine's loopback, on the loopback of a network namespace as well.

    QEMU --- 127.0.0.1:<port> there --- socat --- socket --- socat --- 127.0.0.1:<port> here

So that who is in the namespace and who is not reach a server by the same address.
"""

from collections.abc import Callable
from pathlib import Path

from deployments.lab.namespace import Namespace
from deployments.lab.process import Process, wait_for


class Passage:
    """Two `socat`, the one in the namespace and the other not."""

    def __init__(self, folder: Path, namespace: Namespace) -> None:
        self._namespace = namespace
        self._socket = folder.absolute() / "passage.sock"
        self._there, self._here = Process(folder, "socat-there"), Process(folder, "socat-here")

    def start(self, port: int) -> None:
        """Start it, and wait until the port is there."""
        self._here.spawn(
            "socat", f"UNIX-LISTEN:{self._socket},fork,unlink-early", f"TCP:127.0.0.1:{port}"
        )
        self._wait(self._here, self._socket.exists)
        self._there.spawn(
            *("ip", "netns", "exec", self._namespace.name, "socat"),
            *(f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork", f"UNIX-CONNECT:{self._socket}"),
        )
        self._wait(self._there, lambda: self._listens(port))

    def stop(self) -> None:
        """End it, but for connections that somebody still has; may be repeated."""
        self._there.stop()
        self._here.stop()

    def _listens(self, port: int) -> bool:
        try:
            self._namespace.run("socat", "-u", "OPEN:/dev/null", f"TCP:127.0.0.1:{port}")
        except RuntimeError:
            return False
        return True

    @staticmethod
    def _wait(socat: Process, ready: Callable[[], bool]) -> None:
        def is_so() -> bool:
            if not socat.alive():
                raise RuntimeError(f"socat ended: {socat.log.read_text()[-500:]}")
            return ready()

        wait_for(is_so, 10, f"socat ({socat.log})")
