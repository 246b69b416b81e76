"""One VLAN: a switch with Kea beside it, and a host that has it by a tagged uplink.

    guests --- bridge of ours --- up0.101 === br101 of the switch: Kea, 192.168.0.254

And a way to the iSCSI server for the host, whose loopback is not the machine's.
"""

import subprocess
from contextlib import ExitStack
from pathlib import Path

from adapters.networks.kea import KeaSocket
from adapters.nodes.bridges import Bridges
from deployments.lab.kea import Kea
from deployments.lab.passage import Passage
from deployments.lab.process import wait_for
from deployments.lab.wired_host import UPLINK, Wire, WiredHost

TAG = 101
# In the range that the first private network of an installation gets: so Kea knows who asks there.
_SWITCH = "192.168.0.254/24"
_PINGS = 20


class Lan:
    """All of it in network namespaces, found again by the folder."""

    def __init__(self, folder: Path) -> None:
        self._wire = Wire(folder / "switch", [TAG])
        self._host = WiredHost(folder / "host", self._wire.switch, [TAG])
        self._kea = Kea(folder / "kea", self._wire.switch, f"br{TAG}")
        self._passage = Passage(folder, self._host.network)

    @property
    def namespace(self) -> str:
        """Of the host."""
        return self._host.namespace

    @property
    def switch(self) -> str:
        """The switch's namespace."""
        return self._wire.switch.name

    @property
    def uplink(self) -> str:
        """The host's, as it is registered."""
        return f"{self.namespace}/{UPLINK}"

    @property
    def dhcp(self) -> Path:
        """Where Kea is told."""
        return self._kea.socket

    def start(self, portal: int) -> None:
        """Make it, with the iSCSI server at this port of the loopback.

        Raises `RuntimeError`, `AdapterError`, `OSError` where that cannot be.
        """
        self._wire.start()
        self._wire.switch.ip("address", "add", _SWITCH, "dev", f"br{TAG}")
        self._host.start()
        if without := Bridges(self.namespace).abilities().without:
            raise RuntimeError(without)
        self._passage.start(portal)
        # Kea opens no socket at an interface that has no carrier, and only warns.
        wait_for(self._is_up, 10, f"carrier in {self.switch}")
        self._kea.start()

    def stop(self) -> None:
        """Remove it, as much as there is."""
        with ExitStack() as parts:
            for part in (self._wire, self._host, self._passage, self._kea):
                parts.callback(part.stop)

    def answers(self, address: str) -> bool:
        """Whether somebody in the VLAN answers the switch, sooner or later."""
        ping = ("busybox", "ping", "-c", "1", "-W", "3", address)
        inside = ("ip", "netns", "exec", self.switch, *ping)
        return any(
            subprocess.run(inside, check=False, capture_output=True).returncode == 0
            for _ in range(_PINGS)
        )

    def networks(self) -> list[str]:
        """The ranges that Kea knows."""
        told = KeaSocket(self.dhcp).ask({"command": "config-get"})
        return [each["subnet"] for each in told["arguments"]["Dhcp4"]["subnet4"]]

    def links(self) -> list[str]:
        """The bridges that the host has."""
        found = self._host.network.ask("link", "show", "type", "bridge")
        return [each["ifname"] for each in found]

    def _is_up(self) -> bool:
        (link,) = self._wire.switch.ask("link", "show", f"br{TAG}")
        return bool(link["operstate"] == "UP")
