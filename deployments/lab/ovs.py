"""A private Open vSwitch in user space, which needs nothing of the kernel, in a network namespace.

Its database is in `<folder>/run/db.sock`; ports are veths and taps. A port that is removed and
added again by the same name in one transaction stays dead: take a fresh name.
"""

import os
import subprocess
from pathlib import Path

from deployments.lab.process import Process, wait_for

_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")


class Ovs:
    """One switch with its two daemons."""

    def __init__(self, folder: Path, namespace: str, *, run: Path | None = None) -> None:
        self._folder = folder.absolute()
        self._namespace = namespace
        self.run = run or self._folder / "run"
        self._ovsdb = Process(self._folder, "ovsdb")
        self._vswitchd = Process(self._folder, "vswitchd")

    @property
    def database(self) -> str:
        """How its clients reach it."""
        return f"unix:{self.run / 'db.sock'}"

    def start(self) -> None:
        """Start it, also again: what was set stays."""
        for folder in (self._folder, self.run):
            folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "conf.db"
        if not config.exists():
            subprocess.run(["ovsdb-tool", "create", config, _SCHEMA], check=True)
        places = {"OVS_RUNDIR": str(self.run), "OVS_LOGDIR": str(self._folder)}
        env = {**os.environ, **places, "OVS_DBDIR": str(self._folder)}
        entered = ("ip", "netns", "exec", self._namespace)
        remote = f"--remote=p{self.database}"
        control = f"--unixctl={self.run / 'db.ctl'}"
        self._ovsdb.spawn(*entered, "ovsdb-server", config, remote, control, env=env)
        wait_for(self._answers, 60, f"ovsdb-server ({self._ovsdb.log})")
        control = f"--unixctl={self.run / 'vs.ctl'}"
        self._vswitchd.spawn(*entered, "ovs-vswitchd", self.database, control, env=env)

    def _answers(self) -> bool:
        try:
            self.vsctl("--no-wait", "init")
        except RuntimeError:  # its socket is not there, or is that of the one before
            return False
        return True

    def stop(self) -> None:
        """End it; gone already is success."""
        self._vswitchd.stop()
        self._ovsdb.stop()

    def add_bridge(self, name: str) -> None:
        """A bridge of the operator's."""
        here = ("set", "bridge", name, "datapath_type=netdev")
        self.vsctl("--may-exist", "add-br", name, "--", *here)

    def vsctl(self, *words: str) -> str:
        """Ask it, or tell it something, and wait until it has been done."""
        command = ["ovs-vsctl", "--timeout=60", f"--db={self.database}", *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def flows(self, bridge: str) -> str:
        """What decides about a bridge's packets, in some order."""
        said = self.ofctl("--no-stats", "dump-flows", bridge)
        return "\n".join(sorted(said.splitlines()[1:]))

    def ofctl(self, *words: str) -> str:
        """Ask or change flows of the bridge that the words name."""
        places = {path.stem: f"unix:{path}" for path in self.run.glob("*.mgmt")}
        command = ["ovs-ofctl", "--timeout=60", *(places.get(word, word) for word in words)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
