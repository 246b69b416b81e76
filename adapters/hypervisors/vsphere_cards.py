"""Cards of VMs on vSphere: made with them, or given and taken away, also while they are on."""

from typing import Any

from pyVmomi import vim

from adapters.errors import Conflict, NotFound, Unsupported
from adapters.guests import NicKind
from adapters.hypervisors import vsphere_spec as spec
from adapters.hypervisors.vsphere_spec import Found
from adapters.types import Nic, Power, Vm
from adapters.vsphere.distributed import DistributedGroups
from adapters.vsphere.port_groups import PortGroups
from adapters.vsphere.session import Session


class VsphereCards:
    """The cards of one host's VMs; the session has to be speaking."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def made(self, place: int, nic: Nic) -> Any:
        """Make a card. Raises `NotFound` without its port group, `Unsupported`."""
        if nic.kind is NicKind.USER:
            return spec.card(place, nic, self._session.network, self._session.network_name)
        if nic.kind is NicKind.DISTRIBUTED:
            port = DistributedGroups(self._session).port(nic.bridge)
            return spec.card(place, nic, None, nic.bridge, port)
        if nic.kind is not NicKind.PORT_GROUP:
            raise Unsupported(f"vSphere plugs no card into a {nic.kind}")
        if not PortGroups(self._session).is_there(nic.bridge):
            raise NotFound(f"the host has no port group {nic.bridge}")
        return spec.card(place, nic, None, nic.bridge)

    def change(self, found: Found, former: Vm, vm: Vm) -> None:
        """Let it have the cards of `vm`, and be defined so: all in one call.

        ESXi tells the guest, which is not asked. Raises `Conflict`, `NotFound`, `Unsupported`.
        """
        if found.marks.get(spec.DIGEST) not in {former.digest, vm.digest}:
            raise Conflict(f"VM {vm.id} is not defined as it was")
        kept = {nic.id for nic in former.nics} & {nic.id for nic in vm.nics}
        changed = [nic for nic in (*former.nics, *vm.nics) if nic.id not in kept]
        if found.power is not Power.OFF and any(nic.kind is NicKind.USER for nic in changed):
            text = f"VM {vm.id} is on: a restricted card neither comes nor goes"
            raise Unsupported(text, code="nic-not-hot")
        gone = [self.of(found, nic) for nic in former.nics if nic.id not in kept]
        come = [nic for nic in vm.nics if nic.id not in kept and self.of(found, nic) is None]
        changes = [
            *(spec.removal(card) for card in gone if card is not None),
            *(self.made(place, nic) for place, nic in enumerate(come)),
        ]
        marked = [spec.option(spec.DIGEST, vm.digest)]
        wanted = vim.vm.ConfigSpec(deviceChange=changes, extraConfig=marked)
        self._session.wait(found.vm.ReconfigVM_Task(wanted))

    @staticmethod
    def of(found: Found, nic: Nic) -> Any:
        """The VM's card that is this one, or None."""
        return next((x for x in found.devices if _mac(x) == nic.mac), None)


def _mac(device: Any) -> str | None:
    return getattr(device, "macAddress", None)
