"""VLANs that end in one switch, and the networks of the servers behind it: network namespaces.

    guests --- br<vlan> (the relay's address) --- 10.99.<n>.1 === 10.99.<n>.2 --- server n

A bridge for each VLAN, since not every kernel here has bridges that know tags.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from deployments.lab.namespace import Namespace
from deployments.lab.process import wait_for

# What busybox's client calls with what it was told.
_TELL = """#!/bin/sh
[ "$1" != bound ] || env >"$TOLD"
"""
_ASKED_FOR = ("staticroutes", "mtu", "domain")


class Vlans:
    """A switch; `relays` says by which address each VLAN is known to DHCP servers."""

    def __init__(
        self, folder: Path, relays: Mapping[int, str] | None = None, servers: int = 1
    ) -> None:
        self._folder = folder.absolute()
        self.relays = relays or {}
        self.switch = Namespace(folder / "switch")
        self.servers = [Namespace(folder / f"server-{n}") for n in range(servers)]
        self._guests = 0

    @staticmethod
    def address(number: int = 0) -> str:
        """The address of a server."""
        return f"10.99.{number}.2"

    @staticmethod
    def port(vlan: int) -> str:
        """The switch's own interface in a VLAN."""
        return f"br{vlan}"

    def start(self) -> None:
        """Make all of it."""
        self.switch.start()
        for vlan, address in self.relays.items():
            port = self.port(vlan)
            self.switch.ip("link", "add", port, "type", "bridge", "forward_delay", "0")
            self.switch.ip("addr", "add", address, "dev", port)
            self.switch.ip("link", "set", port, "up")
        for number, server in enumerate(self.servers):
            self._plug_in(number, server)

    def stop(self) -> None:
        """Remove all of it; gone already is success."""
        for namespace in (*self.servers, self.switch):
            namespace.stop()

    def ask(self, mac: str, vlan: int, *, seconds: int = 2) -> dict[str, str]:
        """A guest with this card starts in a VLAN: what it is told, in busybox's words."""
        self._guests += 1
        port = f"guest{self._guests}"
        with Namespace(self._folder / port) as guest:
            pair = ("address", mac, "type", "veth", "peer", "name", port)
            guest.ip("link", "add", "c0", *pair, "netns", self.switch.name)
            self.switch.ip("link", "set", port, "master", self.port(vlan), "up")
            guest.ip("link", "set", "c0", "up")
            return self._told(guest, seconds)

    def _told(self, guest: Namespace, seconds: int) -> dict[str, str]:
        script, told = guest.folder / "tell.sh", guest.folder / "told"
        script.write_text(_TELL)
        script.chmod(0o700)
        words = ["busybox", "udhcpc", "-i", "c0", "-n", "-q", "-f", "-s", str(script)]
        words += ["-t", str(seconds), "-T", "1"]
        words += [word for option in _ASKED_FOR for word in ("-O", option)]
        env = {"PATH": os.environ["PATH"], "TOLD": str(told)}
        inside = ["ip", "netns", "exec", guest.name, *words]
        subprocess.run(inside, check=False, capture_output=True, timeout=60, env=env)
        lines = told.read_text().splitlines() if told.exists() else []
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def _plug_in(self, number: int, server: Namespace) -> None:
        server.start()
        pair = ("type", "veth", "peer", "name", "lan", "netns", server.name)
        self.switch.ip("link", "add", f"up{number}", *pair)
        self.switch.ip("addr", "add", f"10.99.{number}.1/24", "dev", f"up{number}")
        self.switch.ip("link", "set", f"up{number}", "up")
        server.ip("addr", "add", f"{self.address(number)}/24", "dev", "lan")
        server.ip("link", "set", "lan", "up")
        server.ip("route", "add", "default", "via", f"10.99.{number}.1")
        # Kea opens no socket at an interface that has no carrier, and only warns.
        wait_for(lambda: _is_up(server), 10, f"carrier in {server.name}")


def _is_up(server: Namespace) -> bool:
    (link,) = server.ask("link", "show", "lan")
    return bool(link["operstate"] == "UP")
