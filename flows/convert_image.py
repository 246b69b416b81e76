"""Convert an image to a format that a hypervisor boots; what fits is not even copied."""

from adapters.database.library import Conversion
from adapters.database.operations import Operation
from adapters.forms import Form
from adapters.types import Format, Role
from flows.cloud import cloud
from flows.conversions import convert
from flows.operation import operation


@operation("template", role=Role.IMAGES)
def convert_image(request: Operation) -> None:
    """Convert every disk of the template that does not have the form yet."""
    wanted = Form.wanted(
        Format(request.arguments["format"]), request.arguments.get("subformat", "")
    )
    for image in cloud.library.images(request.target_id):
        if image.form is not wanted:
            convert(Conversion.to(wanted, image, request.datacenter_id), request.id)
