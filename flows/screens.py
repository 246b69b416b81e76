"""The password that a VM's screen asks for: a secret, read where the VM is defined."""

from pydantic import SecretStr

from adapters.types import Vm
from flows.cloud import cloud


def opens(vm: Vm) -> SecretStr | None:
    """What opens the VM's screen; None where whoever has the line needs nothing else."""
    secret = vm.settings.screen
    return cloud.secrets.read(secret).password if secret else None
