"""What a plan shows: the steps of an operation, and what they would lead to."""

from typing import Any
from uuid import UUID

from pydantic import Field

from adapters.allocation import Pin
from adapters.amounts import Amounts, Charge, Level
from adapters.types import Family, Format, Value


class PlannedStep(Value):
    """A step that is to be taken: its name, and what of; `digest` is of all that it is told."""

    name: str
    what: str = ""
    lane: str = ""
    digest: str

    def __str__(self) -> str:
        """As journals have it, with its lane."""
        told = f"{self.name}[{self.what}]" if self.what else self.name
        return f"{told} of {self.lane}" if self.lane else told


class Placement(Pin):
    """Where a VM would go, why there, and of other hosts why not."""

    name: str
    host_name: str
    directory: str
    because: str
    others: dict[str, str] = Field(default_factory=dict)


class Copy(Value):
    """Bytes that are to be copied or converted: of what, to where."""

    what: str
    size_bytes: int


class PlannedDisk(Value):
    """A disk that a template would have, and what each family there would be given of it."""

    file: str
    format: Format
    virtual_size_mib: int
    becomes: dict[Family, str]  # the form; its own where that boots as it is


class LimitAfter(Value):
    """How a level of limits stands, and how it would afterwards; 0 is no limit."""

    level: Level
    id: UUID
    soft: Amounts
    hard: Amounts
    used: Amounts
    after: Amounts


class Outlook(Value):
    """All that an operation would do, as things are."""

    steps: tuple[PlannedStep, ...]
    placement: dict[UUID, Placement] = Field(default_factory=dict)
    copies: tuple[Copy, ...] = ()
    charges: tuple[Charge, ...] = ()  # what each thing would be charged then
    seen: dict[str, dict[str, str]] = Field(default_factory=dict)  # what it went by
    disks: tuple[PlannedDisk, ...] = ()  # of a package, or a set

    @property
    def pins(self) -> dict[UUID, Pin]:
        """Where each VM has to go for this to come true."""
        return {
            vm: Pin(host=each.host, datastore=each.datastore)
            for vm, each in self.placement.items()
        }

    @property
    def size_bytes(self) -> int:
        """All that is to be copied."""
        return sum(each.size_bytes for each in self.copies)


class Planned(Value):
    """A plan as it is kept; its id becomes its operation's."""

    id: UUID
    asked: str  # the digest of what was asked for
    chosen: dict[str, Any]  # what was decided for it before any step
    outlook: Outlook
