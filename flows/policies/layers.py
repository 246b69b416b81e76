"""Layers: which VMs of an appliance come up together, after those that they depend on."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from adapters.errors import Refused


class Dependent(Protocol):
    """Something with a name that waits for others by name."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Names of those that come up before it; names that are not there are up already."""
        ...


D = TypeVar("D", bound=Dependent)


def layers_of(vms: Sequence[D]) -> list[list[D]]:
    """Order VMs into layers, each depending on earlier ones only. Raises `Refused` on a circle."""
    waiting = list(vms)
    layers: list[list[D]] = []
    while waiting:
        names = {vm.name for vm in waiting}
        ready = [vm for vm in waiting if not names & set(vm.depends_on)]
        if not ready:
            listed = ", ".join(sorted(names))
            raise Refused(f"these VMs wait for each other: {listed}", code="dependency-circle")
        layers.append(ready)
        done = {vm.name for vm in ready}
        waiting = [vm for vm in waiting if vm.name not in done]
    return layers
