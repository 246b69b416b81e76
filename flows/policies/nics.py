"""Which network card a guest gets: the one it expects where its hypervisor has that."""

from collections.abc import Sequence

from adapters.packages import WishedNic
from adapters.types import Family

# What each family can pretend to have, its fastest first: what a guest gets that wishes nothing.
MODELS: dict[Family, tuple[str, ...]] = {
    Family.KVM: ("virtio", "e1000", "e1000e", "vmxnet3", "pcnet32", "rtl8139"),
    Family.VSPHERE: ("vmxnet3", "e1000", "e1000e", "pcnet32"),
}
MODELS[Family.MEMORY] = MODELS[Family.KVM]
_KNOWN_TO_ALL = "e1000"  # nearly every guest has a driver for it since 2002


def nic_model(family: Family, wished: Sequence[WishedNic], index: int) -> str:
    """The model of a VM's NIC by its template's wishes; empty is the family's fastest.

    A NIC more than were wished for is as the last of those. What the family has not becomes one
    that any guest knows: a guest that was made for other cards has no driver for this family's.
    """
    if not wished:
        return ""
    model = wished[min(index, len(wished) - 1)].model.lower()
    models = MODELS.get(family, ())
    if not model or not models or model == models[0]:
        return ""
    return model if model in models else _KNOWN_TO_ALL
