"""Import what lies at an address: an image, an OVA, or a descriptor and the files it names."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import NewTemplate
from adapters.packages import Wishes
from adapters.types import Format, Role
from flows.charges import charge_template
from flows.cloud import cloud
from flows.downloads import download_source, taken_source
from flows.equipping import expected_of
from flows.fetching import PACKAGES, Wanted
from flows.import_image import enter_template, shelve
from flows.import_package import shelve_package
from flows.operation import operation
from flows.steps import Effect, step


@operation("template", role=Role.IMAGES, planned=True)
def import_from_url(request: Operation) -> None:
    """Enter the template, download it, charged as it grows, and go on as with what was sent."""
    template = NewTemplate.model_validate(request.arguments["template"])
    wanted = Wanted.model_validate(request.arguments["wanted"])
    take_source(wanted.source)
    charge_template(template, 1, request.force)
    enter_template(template)
    downloaded = download_source(template, wanted, request.force)
    if wanted.format in PACKAGES:
        asked = Wishes.model_validate(request.arguments["wishes"])
        shelve_package(template, downloaded.digest, asked, expected_of(request))
    else:
        shelve(template, Format(wanted.format), downloaded.digest, expected_of(request))


@step("take-source", Effect.TEMPORARY)
def take_source(source: UUID) -> None:
    """Make the address, a secret that is there before the operation, the operation's own."""
    cloud.secrets.rename(source, taken_source(source))


@take_source.undo
def _(source: UUID) -> None:
    cloud.secrets.forget(source)
    cloud.secrets.forget(taken_source(source))


@take_source.look
def _(source: UUID) -> bool:
    return cloud.secrets.has(taken_source(source))
