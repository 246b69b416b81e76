"""Import what was put into an inbox by hand: it stays there until it is a template."""

from adapters.database.operations import Operation
from adapters.database.records import NewTemplate
from adapters.packages import PACKAGE, Wishes
from adapters.placed import Placed
from adapters.types import Format, Role
from flows.charges import charge_template
from flows.equipping import expected_of
from flows.found import clear_found, take_found
from flows.import_image import enter_template, shelve
from flows.import_package import shelve_package
from flows.operation import operation
from flows.uploads import measure_upload


@operation("template", role=Role.IMAGES)
def import_found(request: Operation) -> None:
    """Borrow it, charge it, enter the template, inspect, publish, offer, and clear the inbox."""
    template = NewTemplate.model_validate(request.arguments["template"])
    placed = Placed.model_validate(request.arguments["placed"])
    kind, digest = request.arguments["format"], request.arguments["digest"]
    take_found(template.id, template.datacenter_id, placed)
    size_mib = measure_upload(template.id, template.datacenter_id)
    charge_template(template, size_mib, request.force)
    enter_template(template)
    if kind == PACKAGE:
        shelve_package(template, digest, Wishes(), expected_of(request))
    else:
        shelve(template, Format(kind), digest, expected_of(request))
    clear_found(template.id, template.datacenter_id, placed)
