"""A private CIFS server: Samba on a port of the loopback, with one share and one user."""

import socket
import subprocess
from pathlib import Path

from deployments.lab.process import Process, free_port, wait_for

_FOLDERS = ("private", "lock", "state", "cache", "pid", "ncalrpc")
_CONFIGURATION = """[global]
  server role = standalone server
  smb ports = {port}
  bind interfaces only = yes
  interfaces = 127.0.0.1/8
  private dir = {folder}/private
  lock directory = {folder}/lock
  state directory = {folder}/state
  cache directory = {folder}/cache
  pid directory = {folder}/pid
  ncalrpc dir = {folder}/ncalrpc
  log file = {folder}/smbd.out
  passdb backend = tdbsam:{folder}/private/passdb.tdb
  map to guest = never
  disable spoolss = yes
  load printers = no
  server min protocol = SMB2
[{share}]
  path = {export}
  read only = no
  force user = root
  valid users = root
"""


class Smb:
    """A server of one directory, as `repository`."""

    share = "repository"

    def __init__(self, folder: Path, export: Path, password: str) -> None:
        self._folder = folder.absolute()
        self.export = export.absolute()
        self._password = password
        self._smbd = Process(folder, "smbd")
        self._configuration = self._folder / "smb.conf"
        self._port = 0

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._port = self._port or free_port()
        for name in _FOLDERS:
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        settings = {"folder": self._folder, "export": self.export, "share": self.share}
        self._configuration.write_text(_CONFIGURATION.format(port=self._port, **settings))
        add = ["smbpasswd", "-c", str(self._configuration), "-a", "-s", "root"]
        typed = f"{self._password}\n" * 2
        subprocess.run(add, input=typed, check=True, capture_output=True, text=True)
        self._smbd.spawn("smbd", "-F", "-s", self._configuration, "--no-process-group")
        wait_for(self._answers, 30, f"smbd ({self._smbd.log})")

    def client(self, command: str, password: str = "") -> subprocess.CompletedProcess[str]:
        """Let smbclient do something in the share; a path there has backslashes."""
        words = ["smbclient", "-s", str(self._configuration), "-p", str(self._port)]
        words += ["-U", "root", f"//127.0.0.1/{self.share}", "-c", command]
        typed = f"{password or self._password}\n"
        return subprocess.run(words, input=typed, check=False, capture_output=True, text=True)

    def stop(self) -> None:
        """End it; may be repeated."""
        self._smbd.stop()

    def _answers(self) -> bool:
        if not self._smbd.alive():
            raise RuntimeError(f"smbd ended: {self._smbd.log.read_text()[-2000:]}")
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0
