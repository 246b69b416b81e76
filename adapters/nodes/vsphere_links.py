"""An ESXi host's networks: port groups on its standard switches, named for whose they are.

A port group lets no card be heard by another MAC than its own. Its MTU is its switch's.
"""

import re
from collections.abc import Collection
from uuid import UUID

from adapters.errors import Unsupported
from adapters.lan import MTU, Guard, Link, LinkAbilities, LinkKind
from adapters.vsphere.port_groups import PortGroups
from adapters.vsphere.session import Session

_NAME = re.compile(r"cl-([0-9a-f-]{36})\.([0-9a-f-]{36})")
_UNGUARDED = "a host's switch guards MACs, as its port groups have it, and no addresses"


class VsphereSwitch:
    """One host's port groups."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._groups = PortGroups(session)

    def abilities(self) -> LinkAbilities:
        return LinkAbilities(kind=LinkKind.PORT_GROUP, unguarded=_UNGUARDED)

    def ensure_link(self, link: Link) -> None:
        _require_port_group(link)
        with self._session.speaking():
            mtu = self._groups.mtu(link.switch) or MTU
            if mtu != link.mtu:
                text = f"{link.switch} has an MTU of {mtu}, not {link.mtu}"
                raise Unsupported(text, code="link-unsupported")
            self._groups.ensure(link.name, link.switch, link.tag or 0)

    def has_link(self, link: Link) -> bool:
        _require_port_group(link)
        with self._session.speaking():
            return self._groups.has(link.name, link.switch, link.tag or 0)

    def delete_link(self, link: Link) -> None:
        if self.has_link(link):
            with self._session.speaking():
                self._groups.delete(link.name)

    def cards(self, link: Link) -> list[str]:
        with self._session.speaking():
            return self._groups.users(link.name)

    def loose(self, link: Link, nics: Collection[UUID]) -> list[UUID]:  # noqa: ARG002 - as the port
        return []

    def plug(self, link: Link, nics: Collection[UUID]) -> None:
        """There are none."""

    def links(self, installation: UUID) -> list[Link]:
        with self._session.speaking():
            every = self._groups.all()
            mtus = {switch: self._groups.mtu(switch) for _, switch, _ in every}
        found = ((_NAME.fullmatch(name), switch, tag) for name, switch, tag in every)
        return [
            Link(
                network=UUID(names[1]),
                tag=tag or None,
                uplink="",
                mtu=mtus[switch] or MTU,
                kind=LinkKind.PORT_GROUP,
                switch=switch,
                installation=installation,
            )
            for names, switch, tag in found
            if names and names[2] == str(installation)
        ]

    def ensure_guards(self, guards: Collection[Guard]) -> None:
        if guards:
            raise Unsupported(_UNGUARDED, code="guard-unsupported")

    def has_guards(self, guards: Collection[Guard]) -> bool:
        return not guards

    def delete_guards(self, guards: Collection[Guard]) -> None:
        """There are none."""

    def guards(self, installation: UUID) -> list[Guard]:  # noqa: ARG002 - as the port
        return []


def _require_port_group(link: Link) -> None:
    if link.kind is not LinkKind.PORT_GROUP:
        text = f"a host of vSphere has no links of kind {link.kind}"
        raise Unsupported(text, code="link-unsupported")
