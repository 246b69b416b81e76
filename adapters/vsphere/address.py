"""Where a vCenter or an ESXi is, and whose certificate is believed there.

An address says all that a host is reached and known by:
`vsphere://SERVER[:PORT]/[HOST][?fingerprint=SHA256]`. HOST is its name in the server's inventory,
and may be left out where there is only one. With a fingerprint, that certificate is believed and
no other; without one, those that the system believes. User and password are not in it: they are
asked for at each login, and kept nowhere.
"""

import hashlib
import http.client
import re
import ssl
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qs, urlsplit

from adapters.errors import NotAllowed, Refused

_ANSWER_S = 60.0  # the longest that one call may take
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Address:
    """Where a host is, and by what it is known."""

    server: str
    port: int
    host: str
    fingerprint: str

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read an address. Raises `Refused`."""
        try:
            url = urlsplit(text)
            port = url.port or 443
        except ValueError as error:
            raise Refused(f"{text!r} is no address of a vSphere host") from error
        asked = parse_qs(url.query)
        fingerprint = asked.pop("fingerprint", [""])[0].replace(":", "").lower()
        strange = url.username or url.fragment or asked
        if url.scheme != "vsphere" or not url.hostname or strange:
            raise Refused(f"{text!r} is no address like vsphere://server/host?fingerprint=...")
        if fingerprint and not _FINGERPRINT.fullmatch(fingerprint):
            raise Refused("the fingerprint is no SHA-256: 64 hexadecimal digits")
        return cls(url.hostname, port, url.path.strip("/"), fingerprint)


class PinnedConnection(http.client.HTTPSConnection):
    """HTTPS that goes on only with the certificate that it was told to expect."""

    def __init__(self, server: str, port: int, pin: str) -> None:
        self._pin = pin
        super().__init__(server, port, timeout=_ANSWER_S, context=context_for(pin))

    def connect(self) -> None:
        """Connect, and compare before anything is sent."""
        super().connect()
        if self._pin:
            certificate = cast("ssl.SSLSocket", self.sock).getpeercert(binary_form=True) or b""
            digest = hashlib.sha1 if len(self._pin) == 40 else hashlib.sha256  # noqa: PLR2004 - hex digits; older servers tell SHA-1 of each other
            if digest(certificate).hexdigest() != self._pin:
                self.close()
                raise _other_certificate(self.host)


def context_for(pin: str) -> ssl.SSLContext:
    """Whom TLS believes: the system's authorities, or whoever is compared with the pin."""
    context = ssl.create_default_context()
    if pin:  # the one certificate that is believed is compared whole
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _other_certificate(server: str) -> NotAllowed:
    text = f"{server} has another certificate than its fingerprint says"
    return NotAllowed(text, code="other-certificate")
