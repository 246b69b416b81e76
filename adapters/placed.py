"""What somebody has put into a repository's inbox by hand."""

from enum import StrEnum
from uuid import NAMESPACE_URL, UUID, uuid5

from adapters.types import Identity, Value


class Shape(StrEnum):
    """What something in an inbox is."""

    FILE = "file"
    FOLDER = "folder"  # a package that is not packed
    SET = "set"  # a folder of a VMDK's files
    OTHER = "other"  # a link, a device, or of an unreadable name: nothing that is ever opened


class Placed(Value):
    """Something that was put into an inbox; as it was, and for how long it has been so."""

    path: str  # in the repository
    owner: str  # the folder that it lies in
    shape: Shape
    identity: Identity
    age_s: float

    @property
    def id(self) -> UUID:
        """The same for the same path."""
        return uuid5(NAMESPACE_URL, self.path)

    @property
    def name(self) -> str:
        """What it is called there."""
        return self.path.rpartition("/")[2]
