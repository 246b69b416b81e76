"""A private DNS server, BIND, whose zones can be changed by who has their key (RFC 2136)."""

import base64
import secrets
from collections.abc import Iterable
from pathlib import Path

from deployments.lab.namespace import Namespace
from deployments.lab.process import Process, copied, wait_for

KEY = "lab"
_ALGORITHM = "hmac-sha256"
_ZONE = "$TTL 60\n@ IN SOA ns. root. 1 60 60 60 60\n@ IN NS ns.\n"


class Named:
    """The server of these zones, at port 53 of a namespace."""

    def __init__(self, folder: Path, namespace: Namespace, zones: Iterable[str]) -> None:
        self.folder = folder.absolute()
        self.zones = tuple(zones)
        self.secret = base64.b64encode(secrets.token_bytes(32)).decode()
        self._namespace = namespace
        self._process = Process(folder, "named")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f'key "{KEY}" {{ algorithm {_ALGORITHM}; secret "{self.secret}"; }};']
        lines.append(
            f'options {{ directory "{self.folder}"; pid-file none; recursion no;'
            f' session-keyfile "{self.folder}/session.key"; listen-on-v6 {{ none; }};'
            " dnssec-validation no; };"
        )
        lines.append("controls {};")
        for zone in self.zones:
            (self.folder / f"{zone}.zone").write_text(_ZONE)
            lines.append(
                f'zone "{zone}" {{ type primary; file "{self.folder}/{zone}.zone";'
                f" update-policy {{ grant {KEY} zonesub ANY; }}; }};"
            )
        configuration = self.folder / "named.conf"
        configuration.touch(0o600)
        configuration.write_text("\n".join(lines))
        inside = ("ip", "netns", "exec", self._namespace.name)
        program = copied("named", self.folder)
        self._process.spawn(*inside, program, "-f", "-c", configuration)
        wait_for(lambda: self.look(self.zones[0], "soa"), 20, f"named ({self._process.log})")

    def stop(self) -> None:
        """End it; may be repeated."""
        self._process.stop()

    def look(self, name: str, kind: str = "a") -> str:
        """What it says of a name: nothing where there is none."""
        asked = ["busybox", "nslookup", f"-type={kind}", name, "127.0.0.1"]
        try:
            said = self._namespace.run(*asked)
        except RuntimeError:  # no such name, or no answer
            return ""
        return said.partition("\n\n")[2].strip()
