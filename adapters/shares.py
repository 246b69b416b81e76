"""How hosts that mount no repository find its files: a share, in Windows' notation."""

import re
from pathlib import PureWindowsPath

from adapters.errors import Refused

_SHARE = re.compile(
    r"(?:smb|cifs)?:?//(?P<server>[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[?[0-9a-f:]+\]?)"
    r"/(?P<share>[^/:*?\"<>|\x00-\x1f]{1,80})(?P<folder>(?:/[^/:*?\"<>|\x00-\x1f]+)*)/?"
)


def share_of(text: str) -> str:
    r"""The share `\\server\share\folder`, also written with slashes or as `smb://`.

    Raises `Refused` for what is none, or leads out of itself.
    """
    match = _SHARE.fullmatch(text.replace("\\", "/"))
    if match is None or {".", ".."} & {*match["folder"].split("/")}:
        raise Refused(f"{text!r} is no share, such as //server/share/folder", code="no-share")
    return "\\\\" + match["server"] + "\\" + (match["share"] + match["folder"]).replace("/", "\\")


def within(share: str, relative: str) -> str:
    """Where a host finds a file of the repository."""
    return str(PureWindowsPath(share) / relative)
