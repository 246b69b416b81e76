"""Convert an image to a format that a hypervisor boots; what fits is not even copied."""

from adapters.database.operations import Operation
from adapters.database.records import Conversion, Image
from adapters.forms import Form
from adapters.types import Family, Format, Role
from flows.cloud import cloud
from flows.conversions import convert
from flows.operation import operation
from flows.policies.conversion import needed_form


@operation("template", role=Role.IMAGES)
def convert_image(request: Operation) -> None:
    """Convert every disk of the template that does not have the form, or fit the family, yet."""
    for image in cloud.library.images(request.target_id):
        if form := wanted_form(image, request.arguments):
            convert(Conversion.to(form, image, request.datacenter_id), request.id)


def wanted_form(image: Image, asked: dict[str, str]) -> Form | None:
    """What the image is to become; None where nothing is to be done."""
    if family := asked.get("family"):
        return needed_form(Family(family), image.form)
    form = Form.wanted(Format(asked["format"]), asked.get("subformat", ""))
    return None if image.form is form else form
