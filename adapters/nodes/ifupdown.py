"""Links in `/etc/network/interfaces.d`, which ifupdown reads when a host starts, as Debian has it.

Neither `bridge-utils` nor `vlan` has to be installed, and ifupdown2 reads it as well. `source` in
the distribution's own file comes before the operator's interfaces: his are brought up at need.
"""

from pathlib import Path

from adapters.lan import Link
from adapters.nodes.interfaces import Way
from adapters.nodes.written import commands, head, outside


def stanza(link: Link, way: Way | None, guards: Path) -> str:
    """What ifupdown is to do for a link."""
    before = list(commands(link, way, guards))
    if way:
        there = outside(link, way)
        before.insert(0, f"ip link show dev {there} >/dev/null 2>&1 || ifup {there}")
    after = [way.device] if way and way.is_made else []
    lines = [f"    pre-up {line}\n" for line in before]
    lines += [f"    post-down ip link delete dev {x} || true\n" for x in (*after, link.name)]
    return f"{head(link)}auto {link.name}\niface {link.name} inet manual\n{''.join(lines)}"
