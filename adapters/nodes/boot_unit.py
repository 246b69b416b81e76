"""Links where there is no ifupdown: scripts that one unit of systemd runs when a host starts.

So it is the same whoever has the host's own interfaces, systemd-networkd or NetworkManager;
neither of them minds interfaces that its files do not name.
"""

from contextlib import suppress
from pathlib import Path

from adapters.lan import Link
from adapters.nodes.interfaces import Way
from adapters.nodes.local import speaking_files
from adapters.nodes.written import Written, commands, head, publish

UNIT = "cloudloom-networks.service"
_UNIT = """\
[Unit]
Description=Networks of virtual machines (Cloudloom)
Wants=network-online.target
After=network-online.target ovs-vswitchd.service
PartOf=ovs-vswitchd.service
Before=libvirtd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {script}

[Install]
WantedBy=multi-user.target
"""
_SCRIPT = """\
for each in {folder}/cloudloom-*; do
    [ ! -e "$each" ] || sh -e "$each" || failed=1
done
exit ${{failed:-0}}
"""


class BootUnit(Written):
    """Scripts below `/etc/cloudloom`, and the unit that runs them."""

    def __init__(self, etc: Path) -> None:
        super().__init__(etc / "cloudloom" / "links", script)
        self._etc = etc

    def cannot(self) -> str:
        place = self._etc / "systemd" / "system"
        return "" if place.is_dir() else f"the host has neither ifupdown nor systemd: no {place}"

    def has(self, link: Link, way: Way | None, guards: Path) -> bool:
        runs = self._is_wanted() or bool(self.cannot())  # then there is nothing to run it
        return runs and super().has(link, way, guards)

    def write(self, link: Link, way: Way | None, guards: Path) -> None:
        super().write(link, way, guards)
        self._want()

    def keep(self, name: str, text: str) -> None:
        """Have another script run when the host starts; one of no text is none."""
        path = self.folder / f"cloudloom-{name}"
        if text:
            publish(path, text)
            self._want()
            return
        with speaking_files(path):
            path.unlink(missing_ok=True)

    def keeps(self, name: str, text: str) -> bool:
        """Whether that is so."""
        path = self.folder / f"cloudloom-{name}"
        with speaking_files(path):
            there = path.read_text() if path.is_file() else ""
        return there == text and (not text or self._is_wanted())

    def _is_wanted(self) -> bool:
        wanted = self._etc / "systemd" / "system" / "multi-user.target.wants" / UNIT
        with speaking_files(wanted):
            return wanted.exists()

    def _want(self) -> None:
        """Let systemd run what is in the folder."""
        run, place = self._etc / "cloudloom" / "networks.sh", self._etc / "systemd" / "system"
        if self.cannot():
            return
        publish(run, _SCRIPT.format(folder=self.folder))
        publish(place / UNIT, _UNIT.format(script=run))
        wanted = place / "multi-user.target.wants" / UNIT
        with speaking_files(wanted):
            wanted.parent.mkdir(exist_ok=True)
            with suppress(FileExistsError):
                wanted.symlink_to(place / UNIT)


def script(link: Link, way: Way | None, guards: Path) -> str:
    """What a shell is to do for a link."""
    lines = "".join(f"{line}\n" for line in commands(link, way, guards))
    return f"{head(link)}{lines}"
