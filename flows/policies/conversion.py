"""Which forms of images a hypervisor family boots as they are, and what the others become."""

from typing import NamedTuple

from adapters.forms import Form
from adapters.types import Family


class Diet(NamedTuple):
    """What a family boots, what it is given otherwise, and why."""

    boots: frozenset[Form]
    becomes: Form
    why: str


_OVERLAID = frozenset({Form.RAW, Form.QCOW2})
_VHD = frozenset({Form.VHD_DYNAMIC, Form.VHD_FIXED})

DIETS = {
    Family.KVM: Diet(
        _OVERLAID,
        Form.QCOW2,
        "Disks are qcow2 overlays of the image: over VMDK, VHD, VHDX and VDI they would be slow, "
        "and qemu refuses some as a base, such as a stream that is read-only.",
    ),
    Family.XEN: Diet(
        _OVERLAID,
        Form.QCOW2,
        "Overlays as with KVM; libxl knows raw, qcow2 and, with blktap, VHD, and nothing else.",
    ),
    Family.VSPHERE: Diet(
        frozenset({Form.VMDK_STREAM}),
        Form.VMDK_STREAM,
        "A host makes its own disk of what comes over HTTP or an import lease, and takes only "
        "streams there; hosted VMDKs (sparse or split ones) are none that ESXi runs.",
    ),
    Family.XENSERVER: Diet(
        _VHD,
        Form.VHD_DYNAMIC,
        "Storage repositories keep chains of VHDs, and import those as they are; a dynamic one "
        "holds no empty blocks.",
    ),
    Family.HYPERV: Diet(
        _VHD | {Form.VHDX},
        Form.VHDX,
        "VHDX since 2012: up to 64 TiB, whole 4 KiB sectors, and a log against loss of power; "
        "VHD, which ends at 2 TiB, boots too.",
    ),
    Family.VIRTUALBOX: Diet(
        _VHD | {Form.VDI, Form.VMDK_SPARSE},
        Form.VDI,
        "VDI is its own; it writes to sparse VMDKs and VHDs as well, and only reads streams.",
    ),
}
DIETS[Family.MEMORY] = DIETS[Family.KVM]._replace(why="Pretended, and so as KVM.")


def needed_form(family: Family, has: Form | None) -> Form | None:
    """The form that an image must be converted to for this family; None when it fits."""
    boots, becomes, _ = DIETS[family]
    return None if has in boots else becomes


def captured_form(family: Family) -> Form:
    """The form that a VM's disk has in the library: one that its family boots as it is."""
    return DIETS[family].becomes
