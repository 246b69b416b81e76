"""What becomes of something in an inbox: its format and its name, or why it is left."""

import re

from adapters.packages import PACKAGE
from adapters.placed import Placed, Shape
from adapters.types import Format

_FORMATS = {
    **{each.extension: str(each) for each in Format},
    "img": str(Format.RAW),
    "vpc": str(Format.VPC),
    PACKAGE: PACKAGE,
}
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 63


def format_of(placed: Placed) -> str:
    """The format that its name, or what is in it, says; `ova` for packages; or nothing."""
    if placed.shape is Shape.FOLDER:
        return PACKAGE
    if placed.shape is Shape.SET:
        return str(Format.VMDK)
    return _FORMATS.get(placed.name.rpartition(".")[2].lower(), "")


def name_for(placed: Placed) -> str:
    """What the template is called: as the file or folder, in the letters that names have."""
    stem = placed.name.rpartition(".")[0] if placed.shape is Shape.FILE else placed.name
    fit = _UNFIT.sub("-", stem or placed.name).lstrip("._-")[:_LONGEST]
    return fit or "template"


def why_left(placed: Placed, quiet_s: float) -> str:
    """Why it is not even looked at; nothing where it is."""
    if placed.shape is Shape.OTHER:
        return "package-not-a-file"
    if placed.age_s < quiet_s:
        return "being-written"
    return "" if format_of(placed) else "image-unknown-format"
