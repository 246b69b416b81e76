"""VLANs that end in one switch, and the networks of the servers behind it: network namespaces.

    guests --- br<vlan> (the relay's address) --- switch --- 10.99.<n>.1 === 10.99.<n>.2 --- server n

A bridge for each VLAN, since not every kernel here has bridges that know tags. Names of
namespaces are global: these are derived from the folder.
"""

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from zlib import crc32

from deployments.lab.process import wait_for

_RECORD = "vlans.json"
# What busybox's client calls with what it was told.
_TELL = """#!/bin/sh
[ "$1" != bound ] || env >"$TOLD"
"""


class Vlans:
    """A switch; `relays` says by which address each VLAN is known to DHCP servers."""

    def __init__(
        self, folder: Path, relays: Mapping[int, str] | None = None, servers: int = 1
    ) -> None:
        self._folder = folder.absolute()
        self.relays = relays or {}
        self._servers = servers
        self._name = f"cl-{crc32(str(self._folder).encode()):08x}"
        self._clients = 0
        self.switch = f"{self._name}-sw"

    def server(self, number: int = 0) -> str:
        """The namespace of a server."""
        return f"{self._name}-s{number}"

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
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / _RECORD).write_text(json.dumps(self._name))
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "set", "lo", "up")
        for vlan, address in self.relays.items():
            port = self.port(vlan)
            made = ("link", "add", port, "type", "bridge", "forward_delay", "0")
            _ip("-n", self.switch, *made)
            _ip("-n", self.switch, "addr", "add", address, "dev", port)
            _ip("-n", self.switch, "link", "set", port, "up")
        for number in range(self._servers):
            self._start_server(number)

    def stop(self) -> None:
        """Remove all of it, guests' ends too; gone already is success."""
        listed = _ip("netns", "list").splitlines()
        for name in (line.split()[0] for line in listed if line.startswith(f"{self._name}-")):
            _ip("netns", "delete", name)
        (self._folder / _RECORD).unlink(missing_ok=True)

    def ask(self, mac: str, vlan: int, *, seconds: int = 2) -> dict[str, str]:
        """A guest with this card starts in a VLAN: what it is told, in busybox's words."""
        self._clients += 1
        client, port = f"{self._name}-c{self._clients}", f"c{self._clients}"
        script, told = self._folder / "tell.sh", self._folder / f"{port}.told"
        script.write_text(_TELL)
        script.chmod(0o700)
        _ip("netns", "add", client)
        try:
            pair = ("netns", client, "address", mac, "type", "veth", "peer", "name", port)
            _ip("link", "add", "c0", *pair, "netns", self.switch)
            _ip("-n", self.switch, "link", "set", port, "master", self.port(vlan), "up")
            _ip("-n", client, "link", "set", "c0", "up")
            words = ["busybox", "udhcpc", "-i", "c0", "-n", "-q", "-f", "-s", str(script)]
            words += ["-t", str(seconds), "-T", "1", "-O", "staticroutes", "-O", "mtu"]
            words += ["-O", "domain"]
            inside = ["ip", "netns", "exec", client, *words]
            env = {"PATH": os.environ["PATH"], "TOLD": str(told)}
            subprocess.run(inside, check=False, capture_output=True, timeout=60, env=env)
        finally:
            _ip("netns", "delete", client)
        if not told.exists():
            return {}
        lines = told.read_text().splitlines()
        told.unlink()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def _start_server(self, number: int) -> None:
        name, near, far = self.server(number), f"up{number}", "lan"
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
        pair = ("netns", self.switch, "type", "veth", "peer", "name", far, "netns", name)
        _ip("link", "add", near, *pair)
        _ip("-n", self.switch, "addr", "add", f"10.99.{number}.1/24", "dev", near)
        _ip("-n", self.switch, "link", "set", near, "up")
        _ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", far)
        _ip("-n", name, "link", "set", far, "up")
        _ip("-n", name, "route", "add", "default", "via", f"10.99.{number}.1")
        # Kea opens no socket at an interface that has no carrier, and only warns.
        wait_for(lambda: _carrier(name, far), 10, f"carrier in {name}")


def sweep_vlans(folder: Path) -> Iterable[str]:
    """Remove what switches under this folder have left."""
    for record in sorted(folder.rglob(_RECORD)):
        Vlans(record.parent).stop()
        yield str(record)


def _carrier(namespace: str, interface: str) -> bool:
    (link,) = json.loads(_ip("-n", namespace, "-j", "link", "show", interface))
    return link["operstate"] == "UP"


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
