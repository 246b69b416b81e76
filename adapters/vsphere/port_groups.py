"""Port groups on a host's standard switches: a VLAN each, for cards of VMs to be in."""

from contextlib import suppress
from typing import Any

from pyVmomi import vim

from adapters.errors import Conflict, InUse, NotFound
from adapters.vsphere.session import Session


class PortGroups:
    """Those of one host; its session has to be speaking."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def ensure(self, name: str, switch: str, vlan: int) -> None:
        """Make it; 0 is no VLAN. Raises `NotFound` without the switch, `Conflict`."""
        if self.has(name, switch, vlan):
            return
        if switch not in {each.name for each in self._info("vswitch")}:
            raise NotFound(f"the host has no switch {switch}")
        spec = vim.host.PortGroup.Specification(
            name=name,
            vlanId=vlan,
            vswitchName=switch,
            policy=vim.host.NetworkPolicy(security=_honest()),
        )
        try:
            self._system.AddPortGroup(spec)
        except (vim.fault.AlreadyExists, vim.fault.DuplicateName):
            if not self.has(name, switch, vlan):
                raise

    def has(self, name: str, switch: str, vlan: int) -> bool:
        """Whether it is there. Raises `Conflict` when it is another switch's or VLAN's."""
        found = self._find(name)
        if found is not None and (found.vswitchName, found.vlanId) != (switch, vlan):
            text = f"{name} is VLAN {found.vlanId} of {found.vswitchName}"
            raise Conflict(text, code="link-conflict")
        return found is not None

    def is_there(self, name: str) -> bool:
        """Whether there is one of that name, whatever it is."""
        return self._find(name) is not None

    def all(self) -> list[tuple[str, str, int]]:
        """Every one on the host: name, switch and VLAN."""
        specs = (each.spec for each in self._info("portgroup"))
        return [(spec.name, spec.vswitchName, spec.vlanId) for spec in specs]

    def mtu(self, switch: str) -> int | None:
        """What that switch says of its packets' size, if it does."""
        found = (each for each in self._info("vswitch") if each.name == switch)
        return next((each.mtu or each.spec.mtu for each in found), None)

    def delete(self, name: str) -> None:
        """Remove it; absent is success. Raises `InUse`, with the names of VMs that have a card."""
        if self._find(name) is None:
            return
        if users := self.users(name):
            raise InUse(f"port group {name} has cards of {', '.join(users)}", users=users)
        with suppress(vim.fault.NotFound):
            self._system.RemovePortGroup(name)

    def users(self, name: str) -> list[str]:
        """The names of VMs that have a card in it."""
        every = self._session.vms("name", "config.hardware.device").values()
        devices = {has["name"]: has.get("config.hardware.device", []) for has in every}
        return [vm for vm, has in devices.items() if name in map(_network_of, has)]

    def _find(self, name: str) -> Any:
        specs = (each.spec for each in self._info("portgroup"))
        return next((spec for spec in specs if spec.name == name), None)

    def _info(self, what: str) -> list[Any]:
        path = f"networkInfo.{what}"
        return list(self._session.properties([self._system], path)[self._system].get(path, []))

    @property
    def _system(self) -> Any:
        return self._session.host.configManager.networkSystem


def _honest() -> Any:
    """Cards are heard by their own MAC only, and hear what is theirs."""
    return vim.host.NetworkPolicy.SecurityPolicy(
        allowPromiscuous=False, macChanges=False, forgedTransmits=False
    )


def _network_of(device: Any) -> str:
    """What a card is in; nothing, for any other device."""
    is_card = isinstance(device, vim.vm.device.VirtualEthernetCard)
    return str(getattr(device.backing, "deviceName", "")) if is_card else ""
