"""A pretended host's layer 2: the reference twin of every switch.

Its world holds `link` under `<host>:<name>`, those of distributed switches under `:<name>`, as
all hosts have them; and `guard` under `<host>:<nic>`. A `layer2` thing under the host's id may set
what `LinkAbilities` has; an `uplink` under `<host>:<name>` set to `missing` is none; a
`plugged` thing under a link's key has the `cards` in it; a `loose` one under `<host>:<nic>` is a
card that has fallen out.
"""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from adapters.errors import Conflict, InUse, NotFound, Unsupported
from adapters.lan import Guard, Link, LinkAbilities, LinkKind
from adapters.world import World

_EVERYWHERE = ":"


class MemorySwitch:
    """One host's links among those of its world."""

    def __init__(self, world: World, host: UUID) -> None:
        self.world = world
        self.host = host

    def abilities(self) -> LinkAbilities:
        return self.world.call("nodes.abilities", self.host, self._abilities, LinkAbilities())

    def ensure_link(self, link: Link) -> None:
        def effect() -> None:
            able = self._abilities()
            if reason := able.without or (able.untagged_only if link.tag else ""):
                raise Unsupported(reason, code="link-unsupported")
            uplink = self.world.find("uplink", self._key(link.uplink)) or {}
            if uplink.get("missing"):
                raise NotFound(f"the host has no interface {link.uplink}")
            if not self._has(link):
                self.world.put("link", self._of(link), link.model_dump(mode="json"))

        self.world.call("nodes.ensure_link", link.name, effect, None)

    def has_link(self, link: Link) -> bool:
        return self.world.call(
            "nodes.has_link", link.name, lambda: self._has(link) is not None, lie=False
        )

    def delete_link(self, link: Link) -> None:
        def effect() -> None:
            if self._has(link) is None:
                return
            if cards := self._cards(link):
                raise InUse(f"{link.name} has cards in it: {', '.join(cards)}", users=cards)
            self.world.remove("link", self._of(link))

        self.world.call("nodes.delete_link", link.name, effect, None)

    def cards(self, link: Link) -> list[str]:
        return self.world.call("nodes.cards", link.name, lambda: self._cards(link), [])

    def loose(self, link: Link, nics: Collection[UUID]) -> list[UUID]:
        def effect() -> list[UUID]:
            return [nic for nic in nics if self.world.find("loose", self._key(nic))]

        return self.world.call("nodes.loose", link.name, effect, [])

    def plug(self, link: Link, nics: Collection[UUID]) -> None:
        def effect() -> None:
            if self._has(link) is None:
                raise NotFound(f"the host has no link {link.name}")
            for nic in nics:
                self.world.remove("loose", self._key(nic))

        self.world.call("nodes.plug", link.name, effect, None)

    def links(self, installation: UUID) -> list[Link]:
        def effect() -> list[Link]:
            every = [Link.model_validate(said) for said in self._mine("link")]
            return [link for link in every if link.installation == installation]

        return self.world.call("nodes.links", self.host, effect, [])

    def ensure_guards(self, guards: Collection[Guard]) -> None:
        def effect() -> None:
            if reason := self._abilities().unguarded:
                raise Unsupported(reason, code="guard-unsupported")
            for guard in guards:
                self.world.put("guard", self._key(guard.nic), guard.model_dump(mode="json"))

        self.world.call("nodes.ensure_guards", _cards(guards), effect, None)

    def has_guards(self, guards: Collection[Guard]) -> bool:
        def effect() -> bool:
            return all(
                self.world.find("guard", self._key(guard.nic)) == guard.model_dump(mode="json")
                for guard in guards
            )

        return self.world.call("nodes.has_guards", _cards(guards), effect, lie=False)

    def delete_guards(self, guards: Collection[Guard]) -> None:
        def effect() -> None:
            for guard in guards:
                self.world.remove("guard", self._key(guard.nic))

        self.world.call("nodes.delete_guards", _cards(guards), effect, None)

    def guards(self, installation: UUID) -> list[Guard]:
        def effect() -> list[Guard]:
            every = [Guard.model_validate(said) for said in self._mine("guard")]
            return [guard for guard in every if guard.installation == installation]

        return self.world.call("nodes.guards", self.host, effect, [])

    def _abilities(self) -> LinkAbilities:
        return LinkAbilities.model_validate(self.world.find("layer2", self.host) or {})

    def _has(self, link: Link) -> Link | None:
        said = self.world.find("link", self._of(link))
        if said is None:
            return None
        there = Link.model_validate(said)
        if there != link:
            raise Conflict(f"{link.name} is another link of the host", code="link-conflict")
        return there

    def _cards(self, link: Link) -> list[str]:
        return list((self.world.find("plugged", self._of(link)) or {}).get("cards", ()))

    def _mine(self, kind: str) -> list[dict[str, Any]]:
        here = (self._key(""), _EVERYWHERE)
        return [said for key, said in self.world.all(kind).items() if key.startswith(here)]

    def _of(self, link: Link) -> str:
        is_common = link.kind is LinkKind.DISTRIBUTED
        return f"{_EVERYWHERE}{link.name}" if is_common else self._key(link.name)

    def _key(self, name: object) -> str:
        return f"{self.host}:{name}"


def _cards(guards: Collection[Guard]) -> str:
    return ",".join(sorted(guard.card for guard in guards))
