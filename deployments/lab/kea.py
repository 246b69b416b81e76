"""A private Kea DHCPv4 server in a network namespace, empty but for what makes it answer."""

import json
import os
import sysconfig
from pathlib import Path
from typing import Any

from deployments.lab.named import KEY, Named
from deployments.lab.namespace import Namespace
from deployments.lab.process import Process, copied, free_port, wait_for

_HOOK = "/usr/lib/{arch}/kea/hooks/libdhcp_lease_cmds.so"
_LONGEST = 107  # characters in a socket's path


class Kea:
    """A server that hears relays, and those beside it, at one interface of its namespace."""

    def __init__(self, folder: Path, namespace: Namespace, interface: str = "lan") -> None:
        self.folder = folder.absolute()
        self._inside = ("ip", "netns", "exec", namespace.name)
        self._interface = interface
        self._process = Process(folder, "kea")
        self.socket = self.folder / "kea.sock"
        self.configuration = self.folder / "kea.json"
        self._leases = self.folder / "leases4.csv"
        self._log = self.folder / "kea.out"

    def start(self) -> None:
        """Start it with what it had, or with nothing, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if len(str(self.socket)) > _LONGEST:
            raise RuntimeError(f"too long for a socket: {self.socket}")
        if not self.configuration.exists():
            self.configuration.write_text(json.dumps(self._empty()))
        folders = {"KEA_PIDFILE_DIR": str(self.folder), "KEA_LOCKFILE_DIR": str(self.folder)}
        program = copied("kea-dhcp4", self.folder)
        self._process.spawn(
            *(*self._inside, program, "-c", self.configuration), env={**os.environ, **folders}
        )
        wait_for(self._answers, 20, f"kea-dhcp4 ({self._log})")

    def stop(self) -> None:
        """End it; may be repeated."""
        self._process.stop()

    def forget(self) -> None:
        """Lose all that it was told, and has told."""
        self.lose(leases=True, configuration=True)

    def lose(self, *, leases: bool = False, configuration: bool = False) -> None:
        """End it the hard way, and remove these files of it."""
        self._process.kill()
        if leases:
            for path in self.folder.glob(f"{self._leases.name}*"):
                path.unlink()
        if configuration:
            self.configuration.unlink()

    def changes(self) -> int:
        """How often its configuration was set by a command."""
        return self._log.read_text().count("COMMAND_RECEIVED Received command 'config-set'")

    def _answers(self) -> bool:
        from adapters.errors import Transient
        from adapters.networks.kea import KeaSocket

        if not self._process.alive():
            raise RuntimeError(f"kea-dhcp4 ended: {self._process.log.read_text()[-2000:]}")
        try:
            return KeaSocket(self.socket).ask({"command": "version-get"})["result"] == 0
        except Transient:
            return False

    def _empty(self) -> dict[str, Any]:
        hook = _HOOK.format(arch=sysconfig.get_config_var("MULTIARCH"))
        return {
            "Dhcp4": {
                "interfaces-config": {
                    "interfaces": [self._interface],
                    "dhcp-socket-type": "raw",
                },
                "control-socket": {"socket-type": "unix", "socket-name": str(self.socket)},
                "lease-database": {
                    "type": "memfile",
                    "name": str(self._leases),
                    "lfc-interval": 0,
                },
                "hooks-libraries": [{"library": hook}],
                "valid-lifetime": 600,
                "host-reservation-identifiers": ["hw-address"],
                "reservations-out-of-pool": True,
                "loggers": [
                    {
                        "name": "kea-dhcp4",
                        "severity": "INFO",
                        "output_options": [{"output": str(self._log)}],
                    }
                ],
            }
        }


class KeaAgent:
    """A control agent on a port of the loopback, before a server's socket."""

    def __init__(self, folder: Path, server: Path, user: str, password: str) -> None:
        self._folder = folder.absolute()
        self._server = server
        self._login = {"user": user, "password": password}
        self._process = Process(folder, "kea-ctrl-agent")
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "agent.json"
        configuration.touch(0o600)
        configuration.write_text(json.dumps(self._said()))
        folders = {"KEA_PIDFILE_DIR": str(self._folder), "KEA_LOCKFILE_DIR": str(self._folder)}
        program = copied("kea-ctrl-agent", self._folder)
        self._process.spawn(program, "-c", configuration, env={**os.environ, **folders})
        wait_for(self._listens, 20, f"kea-ctrl-agent ({self._process.log})")

    def stop(self) -> None:
        """End it; may be repeated."""
        self._process.stop()

    def _said(self) -> dict[str, Any]:
        clients = [self._login]
        sockets = {"dhcp4": {"socket-type": "unix", "socket-name": str(self._server)}}
        return {
            "Control-agent": {
                "http-host": "127.0.0.1",
                "http-port": self._port,
                "authentication": {"type": "basic", "realm": "kea", "clients": clients},
                "control-sockets": sockets,
            }
        }

    def _listens(self) -> bool:
        import httpx

        if not self._process.alive():
            raise RuntimeError(f"kea-ctrl-agent ended: {self._process.log.read_text()[-2000:]}")
        try:
            return httpx.post(self.url, json={}, trust_env=False).status_code > 0
        except httpx.HTTPError:
            return False


class KeaNames:
    """Kea's daemon that tells a DNS server what is leased, beside it in the same namespace."""

    def __init__(self, folder: Path, namespace: Namespace, named: Named) -> None:
        self._folder = folder.absolute()
        self._inside = ("ip", "netns", "exec", namespace.name)
        self._named = named
        self._process = Process(folder, "kea-dhcp-ddns")
        self._socket = self._folder / "ddns.sock"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "ddns.json"
        configuration.touch(0o600)
        configuration.write_text(json.dumps(self._said()))
        folders = {"KEA_PIDFILE_DIR": str(self._folder), "KEA_LOCKFILE_DIR": str(self._folder)}
        program = copied("kea-dhcp-ddns", self._folder)
        self._process.spawn(
            *(*self._inside, program, "-c", configuration), env={**os.environ, **folders}
        )
        wait_for(self._socket.exists, 20, f"kea-dhcp-ddns ({self._process.log})")

    def stop(self) -> None:
        """End it; may be repeated."""
        self._process.stop()

    def _said(self) -> dict[str, Any]:
        server = [{"ip-address": "127.0.0.1", "port": 53}]
        domains = [
            {"name": f"{zone}.", "key-name": KEY, "dns-servers": server}
            for zone in self._named.zones
        ]
        key = {"name": KEY, "algorithm": "HMAC-SHA256", "secret": self._named.secret}
        return {
            "DhcpDdns": {
                "ip-address": "127.0.0.1",
                "port": 53001,
                "control-socket": {"socket-type": "unix", "socket-name": str(self._socket)},
                "tsig-keys": [key],
                "forward-ddns": {
                    "ddns-domains": [x for x in domains if not x["name"].endswith(".arpa.")]
                },
                "reverse-ddns": {
                    "ddns-domains": [x for x in domains if x["name"].endswith(".arpa.")]
                },
            }
        }
