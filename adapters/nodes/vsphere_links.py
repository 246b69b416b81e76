"""An ESXi host's networks: port groups on its switches, named for whose they are.

Of a standard switch they are the host's; of a distributed one, one for all hosts that are at it.
A port group lets no card be heard by another MAC than its own. Its MTU is its switch's.
"""

import re
from collections.abc import Collection
from uuid import UUID

from adapters.errors import Unsupported
from adapters.lan import MTU, Guard, Link, LinkAbilities, LinkKind
from adapters.vsphere.distributed import DistributedGroups
from adapters.vsphere.port_groups import PortGroups
from adapters.vsphere.session import Session

_NAME = re.compile(r"cl-([0-9a-f-]{36})\.([0-9a-f-]{36})")
_UNGUARDED = "a host's switch guards MACs, as its port groups have it, and no addresses"


class VsphereSwitch:
    """One host's port groups, of the one kind or the other."""

    def __init__(self, session: Session, kind: LinkKind | None = None) -> None:
        self._session = session
        distributed = kind is LinkKind.DISTRIBUTED
        self._kind = LinkKind.DISTRIBUTED if distributed else LinkKind.PORT_GROUP
        self._groups: PortGroups | DistributedGroups = (
            DistributedGroups(session) if distributed else PortGroups(session)
        )

    def abilities(self) -> LinkAbilities:
        return LinkAbilities(kind=self._kind, unguarded=_UNGUARDED)

    def ensure_link(self, link: Link) -> None:
        self._require_kind(link)
        with self._session.speaking():
            mtu = self._groups.mtu(link.switch) or MTU
            if mtu != link.mtu:
                text = f"{link.switch} has an MTU of {mtu}, not {link.mtu}"
                raise Unsupported(text, code="link-unsupported")
            self._groups.ensure(link.name, link.switch, link.tag or 0)

    def has_link(self, link: Link) -> bool:
        self._require_kind(link)
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
                kind=self._kind,
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

    def _require_kind(self, link: Link) -> None:
        if link.kind is not self._kind:
            text = f"the host has links of kind {self._kind}, not {link.kind}"
            raise Unsupported(text, code="link-unsupported")
