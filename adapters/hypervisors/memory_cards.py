"""What pretended VMs have of cards: the MACs (`macs`) of those that are in networks.

Of these, a guest that runs may have let some go by itself (`let_go`): its next start has them.
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from adapters.errors import Conflict, NotFound, Unsupported
from adapters.guests import NicKind
from adapters.types import Nic, Vm
from adapters.world import World


class MemoryCards:
    """What the hypervisor twin knows of cards that come and go."""

    world: World
    _vm: Callable[[UUID], dict[str, Any] | None]
    _require_released: Callable[[UUID, str, UUID, str], None]

    def set_nics(self, former: Vm, vm: Vm) -> None:
        def effect() -> None:
            found = self._vm(vm.id)
            if found is None:
                raise NotFound(f"no VM {vm.id}")
            if found["digest"] not in {former.digest, vm.digest}:
                raise Conflict(f"VM {vm.id} is not defined as it was")
            gone = [nic for nic in former.nics if nic.id not in {x.id for x in vm.nics}]
            come = [nic for nic in vm.nics if nic.id not in {x.id for x in former.nics}]
            if any(nic.kind is NicKind.USER for nic in (*gone, *come)):
                text = f"VM {vm.id} is on: a restricted card neither comes nor goes"
                raise Unsupported(text, code="nic-not-hot")
            for nic in gone:
                if nic.mac in found["macs"]:
                    self._require_released(vm.id, "NIC", nic.id, "nic-in-use")
            kept = {key: said for key, said in found.items() if key != "let_go"}
            self.world.put("vm", vm.id, {**kept, "digest": vm.digest, "macs": macs_of(vm)})

        self.world.call("hypervisors.set_nics", vm.id, effect, None)

    def has_nic(self, vm: UUID, nic: Nic, *, whole: bool = False) -> bool:
        def effect() -> bool:
            found = self._vm(vm)
            if found is None or nic.mac not in found["macs"]:
                return False
            return not (whole and nic.mac in found.get("let_go", ()))

        return self.world.call("hypervisors.has_nic", nic.id, effect, lie=False)


def macs_of(vm: Vm) -> list[str]:
    """The MACs of its cards that are in networks."""
    return [nic.mac for nic in vm.nics if nic.kind is not NicKind.USER]
