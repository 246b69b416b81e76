"""Reading an index of OVF packages that somebody else wrote: a `RepositorySpace`, as in Abiquo.

    <RepositorySpace RepositoryName="..." RepositoryURI="...">
      <OVFDescription OVFFile="linux/tiny.ovf" OVFCategories="OS" DiskFormat="..." DiskSize="256">
        <Info>...</Info> <Product>...</Product> <Vendor>...</Vendor> <Version>...</Version>
        <Icon fileRef="..."/>
      </OVFDescription>
      ...

Elements and attributes go by their local names, as prefixes differ. `OVFFile` is read as a link
from the index itself, whatever `RepositoryURI` says; `DiskSize` is in MiB.
"""

import re
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from adapters.packages import BadPackage, RemotePackage

INDEX_MAX_BYTES = 2**23
MAX_PACKAGES = 10_000
_URL_MAX, _NAME_MAX, _NOTE_MAX, _WORD_MAX = 2000, 200, 1000, 64
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")
_NUMBER = re.compile(r"[0-9]{1,12}")


def read(text: bytes, url: str) -> list[RemotePackage]:
    """What an index at this address lists. Raises `BadPackage`."""
    try:
        root = fromstring(text, forbid_dtd=True)
    except DefusedXmlException as error:
        message = "the index has entities or a document type of its own"
        raise BadPackage(message, code="package-entities") from error
    except (ParseError, ValueError, LookupError) as error:
        raise BadPackage(f"the index is no XML: {error}", code="index-invalid") from error
    if _local(root.tag) != "RepositorySpace":
        raise BadPackage("the index lists no repository", code="index-invalid")
    listed = {each.url: each for each in _packages(root, url)}
    return [*listed.values()]


def _packages(root: Element, url: str) -> Iterator[RemotePackage]:
    found = [each for each in root if _local(each.tag) == "OVFDescription"]
    if len(found) > MAX_PACKAGES:
        text = f"the index lists more than {MAX_PACKAGES} packages"
        raise BadPackage(text, code="package-too-large")
    for each in found:
        said = {_local(name): value for name, value in each.attrib.items()}
        inside = {_local(x.tag): _line(x.text or "", _NOTE_MAX) for x in each}
        icons = [x for x in each if _local(x.tag) == "Icon"]
        icon = next((v for x in icons for k, v in x.attrib.items() if _local(k) == "fileRef"), "")
        where = _joined(url, said.get("OVFFile", ""))
        if not where:
            raise BadPackage("a package of the index lies nowhere", code="index-invalid")
        size = _NUMBER.fullmatch(said.get("DiskSize", "").strip())
        yield RemotePackage(
            url=where,
            name=inside.get("Product", "")[:_NAME_MAX] or where.rpartition("/")[2][:_NAME_MAX],
            description=inside.get("Info", "") or inside.get("Description", ""),
            category=_line(said.get("OVFCategories", ""), _NAME_MAX),
            vendor=inside.get("Vendor", "")[:_NAME_MAX],
            version=(inside.get("FullVersion") or inside.get("Version") or "")[:_NAME_MAX],
            disk_format=_line(said.get("DiskFormat", ""), _WORD_MAX),
            size_mib=int(size[0]) if size else None,
            icon=_joined(url, icon) if icon else "",
        )


def _joined(url: str, link: str) -> str:
    """Where a link leads; nowhere, if that is no address of HTTP, or names a user."""
    try:
        joined = urljoin(url, link.strip())
        parts = urlsplit(joined)
        fits = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        fits = fits and parts.username is None
    except ValueError:
        return ""
    fits = fits and link.strip() and len(joined) <= _URL_MAX and not re.search(r"[\s\x00]", joined)
    return parts._replace(fragment="").geturl() if fits else ""


def _line(text: str, length: int) -> str:
    return " ".join(_CONTROLS.sub(" ", text).split())[:length]


def _local(name: str) -> str:
    return name.rpartition("}")[2]
