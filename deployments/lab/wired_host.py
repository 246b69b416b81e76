"""A host at the switch of `vlans`: a network namespace with tagged uplinks, and guests of it.

This kernel may have no tagged interfaces, so that the operator's are cables here: `up0.101` leads
to VLAN 101. `reboot` leaves nothing of what was made in the host since it was wired.
"""

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from deployments.lab.vlans import Vlans

UPLINK = "up0"


class WiredHost:
    """One host; it goes with its switch."""

    def __init__(self, vlans: Vlans, number: int, tags: Sequence[int]) -> None:
        self._vlans = vlans
        self._tags = tags
        self._number = number
        self._prefix = vlans.switch.removesuffix("-sw")
        self._guests = 0
        self.namespace = f"{self._prefix}-h{number}"

    def start(self) -> None:
        """Wire it."""
        ip("netns", "add", self.namespace)
        self.ip("link", "set", "lo", "up")
        self._wire(UPLINK, f"h{self._number}")
        for tag in self._tags:
            self._wire(f"{UPLINK}.{tag}", f"h{self._number}.{tag}", Vlans.port(tag))

    def stop(self) -> None:
        """Remove it, if it is there; its cables are gone at once."""
        if self.namespace not in namespaces():
            return
        for far in (f"h{self._number}", *(f"h{self._number}.{tag}" for tag in self._tags)):
            ip("-n", self._vlans.switch, "link", "delete", "dev", far)
        ip("netns", "delete", self.namespace)

    def reboot(self, *command: str) -> None:
        """Lose everything, be wired again, and let this command bring up what lasts."""
        self.stop()
        self.start()
        self.run(*command)

    def guest(self, bridge: str, card: str, mac: str, *addresses: str) -> "Guest":
        """A guest whose card is in a bridge of the host."""
        self._guests += 1
        guest = Guest(f"{self._prefix}-g{self._number}-{self._guests}")
        ip("netns", "add", guest.namespace)
        pair = ("netns", guest.namespace, "address", mac, "type", "veth", "peer", "name", card)
        ip("link", "add", "eth0", *pair, "netns", self.namespace)
        self.ip("link", "set", "dev", card, "master", bridge, "up")
        ip("-n", guest.namespace, "link", "set", "lo", "up")
        ip("-n", guest.namespace, "link", "set", "eth0", "up")
        for address in addresses:
            ip("-n", guest.namespace, "address", "add", address, "dev", "eth0")
        return guest

    def ip(self, *words: str) -> str:
        """Let `ip` do something there."""
        return ip("-n", self.namespace, *words)

    def ask(self, *words: str) -> Any:
        """What `ip` says of something there."""
        return json.loads(ip("-n", self.namespace, "-j", "-d", *words) or "[]")

    def run(self, *command: str) -> str:
        """Run a program there."""
        return run("ip", "netns", "exec", self.namespace, *command)

    def _wire(self, near: str, far: str, bridge: str = "") -> None:
        switch = self._vlans.switch
        pair = ("netns", self.namespace, "type", "veth", "peer", "name", far, "netns", switch)
        ip("link", "add", near, *pair)
        ip("-n", switch, "link", "set", far, *(("master", bridge) if bridge else ()), "up")
        self.ip("link", "set", near, "addrgenmode", "none")
        self.ip("link", "set", near, "up")


class Guest:
    """A network namespace, where a VM would be."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def hears(self, address: str, *, seconds: int = 1) -> bool:
        """Whether somebody answers there."""
        words = ["busybox", "ping", "-c", "1", "-w", str(seconds), address]
        inside = ["ip", "netns", "exec", self.namespace, *words]
        done = subprocess.run(inside, check=False, capture_output=True, timeout=60)
        return done.returncode == 0

    def ip(self, *words: str) -> str:
        """Let `ip` do something there."""
        return ip("-n", self.namespace, *words)

    def run(self, *command: str) -> str:
        """Run a program there."""
        return run("ip", "netns", "exec", self.namespace, *command)

    def stop(self) -> None:
        """Take it away, with its card."""
        ip("netns", "delete", self.namespace)


def namespaces() -> set[str]:
    """All that there are."""
    return {line.split()[0] for line in ip("netns", "list").splitlines() if line}


def ip(*words: str) -> str:
    """Run `ip`."""
    return run("ip", *words)


def run(*command: str) -> str:
    """Run a program, and answer what it printed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
