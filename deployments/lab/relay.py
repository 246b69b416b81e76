"""A DHCP relay at a switch: what guests ask goes to servers elsewhere, and from which VLAN."""

from pathlib import Path

from deployments.lab.process import Process, wait_for
from deployments.lab.vlans import Vlans

MOST = 1018  # it opens a socket for each interface, and registers none above the 1,023rd


class Relay:
    """`dhcrelay` for every VLAN of a switch. Raises `ValueError` for more than it serves."""

    def __init__(self, folder: Path, vlans: Vlans) -> None:
        if (many := len(vlans.relays) + len(vlans.servers)) > MOST:
            raise ValueError(f"{many} interfaces: dhcrelay serves {MOST}, of its whole network")
        self._vlans = vlans
        self._process = Process(folder, "dhcrelay")

    def start(self) -> None:
        """Start it, and wait until it listens."""
        words = ["dhcrelay", "-4", "-d", "--no-pid"]
        for vlan in self._vlans.relays:
            words += ["-id", self._vlans.port(vlan)]
        numbers = range(len(self._vlans.servers))
        for number in numbers:
            words += ["-iu", f"up{number}"]
        words += [self._vlans.address(number) for number in numbers]
        self._process.log.unlink(missing_ok=True)
        self._process.spawn("ip", "netns", "exec", self._vlans.switch.name, *words)
        wait_for(self._listens, 10, f"dhcrelay ({self._process.log})")

    def stop(self) -> None:
        """End it; may be repeated."""
        self._process.stop()

    def _listens(self) -> bool:
        if not self._process.alive():
            raise RuntimeError(f"dhcrelay ended: {self._process.log.read_text()[-2000:]}")
        return "Sending on   Socket/" in self._process.log.read_text()
