"""Port groups on distributed switches: a VLAN each, one for all hosts of a switch."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from adapters.errors import Conflict, InUse, NotFound
from adapters.vsphere.session import Session

_TRUNK = -1  # of what is no single VLAN


@dataclass(frozen=True)
class Group:
    """One of them."""

    itself: Any
    name: str
    switch: str
    vlan: int
    port: Any  # what a card in it is plugged into


class DistributedGroups:
    """Those of the switches that one host is at; its session has to be speaking."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def ensure(self, name: str, switch: str, vlan: int) -> None:
        """Make it; 0 is no VLAN. Raises `NotFound` without the switch, `Conflict`."""
        if self.has(name, switch, vlan):
            return
        found = next((each for each, has in self._switches() if has["name"] == switch), None)
        if found is None:
            raise NotFound(f"the host is at no distributed switch {switch}")
        spec = vim.dvs.DistributedVirtualPortgroup.ConfigSpec(
            name=name, type="earlyBinding", autoExpand=True, defaultPortConfig=_setting(vlan)
        )
        try:
            self._session.wait(found.AddDVPortgroup_Task([spec]))
        except (vim.fault.AlreadyExists, vim.fault.DuplicateName) as error:
            if not self.has(name, switch, vlan):
                text = f"{name} is another network of the vCenter"
                raise Conflict(text, code="link-conflict") from error

    def has(self, name: str, switch: str, vlan: int) -> bool:
        """Whether it is there. Raises `Conflict` when it is another switch's or VLAN's."""
        found = self.find(name)
        if found is not None and (found.switch, found.vlan) != (switch, vlan):
            text = f"{name} is VLAN {found.vlan} of {found.switch}"
            raise Conflict(text, code="link-conflict")
        return found is not None

    def find(self, name: str) -> Group | None:
        """The one of that name."""
        return next((group for group in self._groups() if group.name == name), None)

    def port(self, name: str) -> Any:
        """What a card in it is plugged into. Raises `NotFound`."""
        found = self.find(name)
        if found is None:
            raise NotFound(f"the host has no distributed port group {name}")
        return found.port

    def all(self) -> list[tuple[str, str, int]]:
        """Every one: name, switch and VLAN."""
        return [(group.name, group.switch, group.vlan) for group in self._groups()]

    def mtu(self, switch: str) -> int | None:
        """What that switch says of its packets' size, if it does."""
        found = (has["config"] for _, has in self._switches() if has["name"] == switch)
        return next((getattr(each, "maxMtu", None) or None for each in found), None)

    def delete(self, name: str) -> None:
        """Remove it; absent is success. Raises `InUse`, with the names of VMs that have a card."""
        group = self.find(name)
        if group is None:
            return
        if users := self._users(group):
            raise InUse(f"port group {name} has cards of {', '.join(users)}", users=users)
        with suppress(vmodl.fault.ManagedObjectNotFound):
            self._session.wait(group.itself.Destroy_Task())

    def users(self, name: str) -> list[str]:
        """The names of VMs that have a card in it, on whichever host."""
        group = self.find(name)
        return self._users(group) if group else []

    def _users(self, group: Group) -> list[str]:
        vms = self._session.inventory(vim.VirtualMachine)
        every = self._session.properties(vms, "name", "network").values()
        return sorted(has["name"] for has in every if group.itself in has.get("network", []))

    def _groups(self) -> list[Group]:
        switches = dict(self._switches())
        refs = [group for has in switches.values() for group in has.get("portgroup", [])]
        found = self._session.properties(refs, "name", "key", "config")
        return [
            Group(
                itself=group,
                name=has["name"],
                switch=(switch := switches[has["config"].distributedVirtualSwitch])["name"],
                vlan=_vlan_of(has["config"]),
                port=vim.dvs.PortConnection(switchUuid=switch["uuid"], portgroupKey=has["key"]),
            )
            for group, has in found.items()
        ]

    def _switches(self) -> list[tuple[Any, dict[str, Any]]]:
        every = self._session.inventory(vim.DistributedVirtualSwitch)
        paths = ("name", "uuid", "config", "portgroup", "summary.hostMember")
        found = self._session.properties(every, *paths)
        host = self._session.host
        return [(x, has) for x, has in found.items() if host in has.get("summary.hostMember", [])]


def _setting(vlan: int) -> Any:
    """Its VLAN; and cards are heard by their own MAC only, and hear what is theirs."""
    no = vim.BoolPolicy(inherited=False, value=False)
    kinds = vim.dvs.VmwareDistributedVirtualSwitch
    return kinds.VmwarePortConfigPolicy(
        vlan=kinds.VlanIdSpec(inherited=False, vlanId=vlan),
        securityPolicy=kinds.SecurityPolicy(
            inherited=False, allowPromiscuous=no, macChanges=no, forgedTransmits=no
        ),
    )


def _vlan_of(config: Any) -> int:
    vlan = getattr(getattr(config.defaultPortConfig, "vlan", None), "vlanId", 0)
    return vlan if isinstance(vlan, int) else _TRUNK
