"""A package's manifest, which has the digest of every file, and the signature on it."""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from adapters.errors import Refused
from adapters.images.ovf import MAX_FILES, fit_name
from adapters.packages import BadPackage

MANIFEST_MAX_BYTES = 2**17
_LINE = re.compile(r"(SHA1|SHA256|SHA384|SHA512)\s?\((.{1,600})\)\s?=\s?([0-9a-fA-F]{2,4096})")
_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


class Digest(NamedTuple):
    """What a file's content is to have."""

    algorithm: str
    hexadecimal: str

    def require(self, computed: str, name: str) -> None:
        """Refuse another content."""
        if computed != self.hexadecimal:
            text = f"{name} is not what the manifest says"
            raise BadPackage(text, code="package-digest-mismatch")


def read(text: bytes) -> dict[str, Digest]:
    """The digests by the files' names. Raises `BadPackage`."""
    digests: dict[str, Digest] = {}
    for line in _decoded(text).splitlines():
        if not line.strip():
            continue
        name, digest = _entry(line)
        if name in digests or len(digests) > MAX_FILES:
            raise BadPackage("the manifest names a file twice, or too many")
        if len(digest.hexadecimal) != 2 * hashlib.new(digest.algorithm).digest_size:
            raise BadPackage(f"the manifest has a digest of another length for {name}")
        digests[name] = digest
    if not digests:  # as if there were none
        raise BadPackage("the manifest names no file", code="package-surplus-file")
    return digests


def written(digests: dict[str, str]) -> bytes:
    """A manifest of these SHA-256."""
    return "".join(f"SHA256({name})= {each}\n" for name, each in digests.items()).encode()


def certificates(pem: Path | None) -> list[x509.Certificate]:
    """The certificates in a file. Raises `Refused` when there are none."""
    if pem is None:
        return []
    try:
        return x509.load_pem_x509_certificates(pem.read_bytes())
    except (OSError, ValueError) as error:
        raise Refused(f"{pem} has no certificates: {error}") from error


def require_signed(
    certificate: bytes, name: str, manifest: bytes, trusted: Sequence[x509.Certificate] = ()
) -> None:
    """Refuse a manifest unless it is what the certificate's holder signed.

    With `trusted` ones, he has to be one of them, or have his certificate from one of them.
    """
    head, begin, rest = _decoded(certificate).partition("-----BEGIN CERTIFICATE-----")
    signed, signature = _entry(head.strip())
    if signed != name:
        raise _unsigned("the signature is on another file")
    try:
        signer = x509.load_pem_x509_certificates((begin + rest).encode())[0]
        key = signer.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise _unsigned("the signature is of a kind that is not known")
        algorithm = _HASHES[signature.algorithm]()
        key.verify(bytes.fromhex(signature.hexadecimal), manifest, padding.PKCS1v15(), algorithm)
    except (ValueError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise _unsigned("the signature does not fit") from error
    if trusted and not any(_vouches(each, signer) for each in trusted):
        text = f"nobody vouches for {signer.subject.rfc4514_string()[:200]}"
        raise BadPackage(text, code="package-signer-unknown")


def _vouches(issuer: x509.Certificate, signer: x509.Certificate) -> bool:
    now = datetime.now(UTC)
    if not signer.not_valid_before_utc <= now <= signer.not_valid_after_utc:
        return False
    if issuer == signer:
        return True
    try:
        signer.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _entry(line: str) -> tuple[str, Digest]:
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise BadPackage(f"the manifest has a line that makes no sense: {line[:80]!r}")
    algorithm, name, hexadecimal = match.groups()
    return fit_name(name), Digest(algorithm.lower(), hexadecimal.lower())


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadPackage("the manifest is no text") from error


def _unsigned(text: str) -> BadPackage:
    return BadPackage(text, code="package-signature-invalid")
