"""Forms of disk images: a format, and how its bytes are laid out where that makes a difference.

A hypervisor boots forms, not formats: an ESXi host takes a streamOptimized VMDK, VirtualBox may
not write to one. A form's word is its format and VMDK's createType or VHD's kind, `vmdk/fixed`.
"""

from enum import Enum
from typing import Self

from adapters.errors import Unsupported
from adapters.types import Format


class Form(Enum):
    """Every form that an image can be converted to; a format's first is its usual one."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK_SPARSE = "vmdk/monolithicSparse"
    VMDK_FLAT = "vmdk/monolithicFlat"
    VMDK_STREAM = "vmdk/streamOptimized"
    VMDK_SPLIT_SPARSE = "vmdk/twoGbMaxExtentSparse"
    VMDK_SPLIT_FLAT = "vmdk/twoGbMaxExtentFlat"
    VHD_DYNAMIC = "vpc/dynamic"
    VHD_FIXED = "vpc/fixed"
    VHDX = "vhdx"
    VDI = "vdi"

    @classmethod
    def of(cls, format_: Format, subformat: str = "") -> Self | None:
        """The form of an image; None of one that is not made here (VMDK's `vmfs`)."""
        mine = [form for form in cls if form.format is format_]
        if not subformat:
            return mine[0]
        return next((x for x in mine if x.subformat.lower() == subformat.lower()), None)

    @classmethod
    def wanted(cls, format_: Format, subformat: str) -> Self:
        """The form that somebody asks for. Raises `Unsupported`."""
        if form := cls.of(format_, subformat):
            return form
        raise Unsupported(f"no {format_} is made as {subformat}")

    @property
    def format(self) -> Format:
        """The format alone."""
        return Format(self.value.partition("/")[0])

    @property
    def subformat(self) -> str:
        """How it is laid out; empty where its format knows one way only."""
        return self.value.partition("/")[2]

    @property
    def is_usual(self) -> bool:
        """Whether it is what its format alone means."""
        return Form.of(self.format) is self

    @property
    def is_flat(self) -> bool:
        """Whether every byte of the disk has a place of its own."""
        return self in {Form.RAW, Form.VMDK_FLAT, Form.VMDK_SPLIT_FLAT, Form.VHD_FIXED}

    @property
    def is_set(self) -> bool:
        """Whether it is a descriptor and files beside it."""
        return self in {Form.VMDK_FLAT, Form.VMDK_SPLIT_SPARSE, Form.VMDK_SPLIT_FLAT}
