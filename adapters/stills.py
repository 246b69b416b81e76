"""What a hypervisor shows of disks that are in use, and an image tool reads."""

from adapters.types import Value


class Stills(Value):
    """Disks of a VM that is on, as they were at one moment: read over NBD, under their ids."""

    socket: str  # where the host serves them
    quiet: bool  # whether the guest had written everything, and held still
