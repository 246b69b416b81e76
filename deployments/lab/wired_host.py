"""Hosts at a switch of several VLANs, and guests of theirs: network namespaces.

    guest --- bridge of ours --- up0.101 === br101 of the switch === up0.101 --- ...

Not every kernel has tagged interfaces, so that the operator's are cables here: `up0.101` leads to
VLAN 101. `reboot` leaves nothing of what was made in a host since it was wired.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from deployments.lab.namespace import Namespace

UPLINK = "up0"


class Wire:
    """A switch with a bridge `br<tag>` for each VLAN."""

    def __init__(self, folder: Path, tags: Sequence[int]) -> None:
        self.switch = Namespace(folder)
        self.tags = tags

    def start(self) -> None:
        """Make it."""
        self.switch.start()
        for tag in self.tags:
            made = ("link", "add", f"br{tag}", "up", "type", "bridge", "forward_delay", "0")
            self.switch.ip(*made)

    def stop(self) -> None:
        """Remove it."""
        self.switch.stop()


class WiredHost:
    """One host at the bridges of a switch."""

    def __init__(self, folder: Path, switch: Namespace, tags: Sequence[int]) -> None:
        self.network = Namespace(folder)
        self._switch = switch
        self._tags = tags
        self._guests: list[Guest] = []

    @property
    def namespace(self) -> str:
        """Its name."""
        return self.network.name

    def start(self) -> None:
        """Wire it."""
        self.network.start()
        self._wire(UPLINK)
        for tag in self._tags:
            self._wire(f"{UPLINK}.{tag}", f"br{tag}")

    def stop(self) -> None:
        """Remove it, with its guests; its cables are gone at once."""
        for guest in self._guests:
            guest.stop()
        self._guests.clear()
        if Path("/run/netns", self.namespace).exists():
            there = {each["ifname"] for each in self.network.ask("link", "show")}
            for near in there & {UPLINK, *(f"{UPLINK}.{tag}" for tag in self._tags)}:
                self.network.ip("link", "delete", "dev", near)
        self.network.stop()

    def reboot(self, *command: str) -> None:
        """Lose everything, be wired again, and let this command bring up what lasts."""
        self.stop()
        self.start()
        self.network.run(*command)

    def guest(self, bridge: str, card: str, mac: str, *addresses: str) -> "Guest":
        """A guest whose card is in a bridge of the host, or in none yet."""
        guest = Guest(self.network.folder / f"guest{len(self._guests)}")
        self._guests.append(guest)
        guest.start()
        pair = ("address", mac, "type", "veth", "peer", "name", card, "netns", self.namespace)
        guest.network.ip("link", "add", "eth0", *pair)
        into = ("master", bridge) if bridge else ()
        self.network.ip("link", "set", "dev", card, *into, "up")
        guest.network.ip("link", "set", "eth0", "up")
        for address in addresses:
            guest.network.ip("address", "add", address, "dev", "eth0")
        return guest

    def _wire(self, near: str, bridge: str = "") -> None:
        far = f"{self.namespace[-6:]}-{near}"[:15]
        pair = ("type", "veth", "peer", "name", far, "netns", self._switch.name)
        self.network.ip("link", "add", near, *pair)
        into = ("master", bridge) if bridge else ()
        self._switch.ip("link", "set", "dev", far, *into, "up")
        self.network.ip("link", "set", "dev", near, "addrgenmode", "none", "up")


class Guest:
    """A network namespace, where a VM would be."""

    def __init__(self, folder: Path) -> None:
        self.network = Namespace(folder)

    def start(self) -> None:
        """Make it."""
        self.network.start()

    def stop(self) -> None:
        """Take it away, with its card."""
        self.network.stop()

    def hears(self, address: str, *, tries: int = 1) -> bool:
        """Whether somebody answers there, within a second each time."""
        words = ["busybox", "ping", "-c", "1", "-W", "1", address]
        inside = ["ip", "netns", "exec", self.network.name, *words]
        return any(
            subprocess.run(inside, check=False, capture_output=True, timeout=60).returncode == 0
            for _ in range(tries)
        )
