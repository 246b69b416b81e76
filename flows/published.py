"""Images as they were published: what became another file since then is given to no tool."""

from uuid import UUID

from adapters.database.records import Image
from adapters.errors import Refused
from flows.cloud import cloud


def require_published(image: Image, datacenter: UUID) -> None:
    """Refuse an image of the library that is not the file that was looked at, or is damaged."""
    if cloud.repository(datacenter).identity(image.path) != image.identity:
        raise Refused(f"{image.path} is not the file that was published", code="image-changed")
    if cloud.library.is_condemned(image):
        raise Refused(f"{image.path} is damaged", code="image-damaged")
