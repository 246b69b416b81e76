"""Convert an image to a format that a hypervisor boots; what fits is not even copied."""

from typing import Any

from adapters.database.library import Conversion
from adapters.database.operations import Operation
from adapters.errors import Unsupported
from adapters.forms import Form
from adapters.types import Format, Role
from flows.cloud import cloud
from flows.conversions import convert
from flows.operation import operation


@operation("template", role=Role.IMAGES)
def convert_image(request: Operation) -> None:
    """Convert every disk of the template that does not have the form yet."""
    wanted = wished(request.arguments)
    for image in cloud.library.images(request.target_id):
        if image.form is not wanted:
            convert(Conversion.to(wanted, image, request.datacenter_id), request.id)


def wished(arguments: dict[str, Any]) -> Form:
    """The form that was asked for. Raises `Unsupported`."""
    format_, subformat = Format(arguments["format"]), arguments.get("subformat", "")
    if form := Form.of(format_, subformat):
        return form
    raise Unsupported(f"there is no {format_} of kind {subformat}")
