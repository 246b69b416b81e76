"""Which formats a hypervisor family boots as they are, and what the others become."""

from adapters.types import Family, Format

# KVM overlays a qcow2 on any image that qemu can write, but a streamOptimized VMDK is read-only
# and VHD and VDI lose speed and features as a base: those become qcow2 once.
_BOOTS = {
    Family.KVM: frozenset({Format.RAW, Format.QCOW2}),
    Family.VSPHERE: frozenset({Format.VMDK}),
    Family.MEMORY: frozenset({Format.RAW, Format.QCOW2}),
}
_BECOMES = {
    Family.KVM: Format.QCOW2,
    Family.VSPHERE: Format.VMDK,
    Family.MEMORY: Format.QCOW2,
}


def needed_format(family: Family, has: Format) -> Format | None:
    """The format an image must be converted to for this family; None when it fits."""
    return None if has in _BOOTS[family] else _BECOMES[family]
