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
After=network-online.target
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
    """Scripts of links below `/etc/cloudloom`, and the unit that runs them."""

    def __init__(self, etc: Path) -> None:
        super().__init__(etc / "cloudloom" / "links", script)
        self._etc = etc

    def cannot(self) -> str:
        place = self._etc / "systemd" / "system"
        return "" if place.is_dir() else f"the host has neither ifupdown nor systemd: no {place}"

    def has(self, link: Link, way: Way | None, guards: Path) -> bool:
        wanted = self._etc / "systemd" / "system" / "multi-user.target.wants" / UNIT
        with speaking_files(wanted):
            runs = wanted.exists() or bool(self.cannot())  # then there is nothing to run it
            return runs and super().has(link, way, guards)

    def write(self, link: Link, way: Way | None, guards: Path) -> None:
        super().write(link, way, guards)
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
