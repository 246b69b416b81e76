"""A VM's seed: what its guest reads when it boots first, on its host for as long as the VM is."""

from collections.abc import Iterable
from uuid import UUID

from adapters.database.records import VmRecord
from adapters.errors import Unsupported
from adapters.hypervisors.base import Capability
from adapters.images.nocloud import seed_image
from adapters.types import Seed
from flows.cloud import cloud
from flows.steps import Effect, step


def require_seeds(vms: Iterable[VmRecord]) -> None:
    """Raise `Unsupported` where a VM has user data, and its host has no way to hand it over."""
    for vm in vms:
        if vm.seed and Capability.SEED not in cloud.hypervisor(vm.host).capabilities:
            raise Unsupported(f"the host of VM {vm.name} hands no user data to guests")


@step("make-seed")
def make_seed(seed: Seed, host: UUID) -> None:
    """Write it; its text is a secret, and is read here alone."""
    text = cloud.secrets.read(seed.secret).password.get_secret_value()
    cloud.hypervisor(host).ensure_seed(seed, seed_image(seed.id, seed.hostname, text))


@make_seed.undo
def delete_seed(seed: Seed, host: UUID) -> None:
    """Remove the seed from its datastore."""
    cloud.hypervisor(host).delete_seed(seed)


@make_seed.look
def has_seed(seed: Seed, host: UUID) -> bool:
    """Whether anything of the seed is on its datastore."""
    return cloud.hypervisor(host).has_seed(seed)


@step("remove-seed", Effect.REMOVES)
def remove_seed(seed: Seed, host: UUID) -> None:
    delete_seed(seed, host)


@remove_seed.look
def _(seed: Seed, host: UUID) -> bool:
    return has_seed(seed, host)
