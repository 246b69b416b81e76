"""What browsers and caches are told; and TLS, from `serve` to the command line's client."""

import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from threading import Event

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from api import tokens
from api.app import create_app
from api.client import Client, Refusal
from api.serve import services
from deployments.lab.process import free_port
from flows.cloud import cloud
from tests.api.conftest import Api, TestClient
from tests.worlds import build

SITE = "https://portal.example"


@pytest.mark.parametrize("path", ["/v1/vms", "/v1/nowhere", "/nowhere", "/health/live", "/docs"])
def test_every_answer_tells_browsers_to_keep_out(api: Api, path: str) -> None:
    for answer in (api.get(path), api.client.get(path)):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "strict-transport-security" not in answer.headers
        assert (answer.headers.get("cache-control") == "no-store") == path.startswith("/v1/")


def test_a_defect_is_hardened_too(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routers.vms.finding.vms", None)
    answer = api.get("/v1/vms")
    assert answer.status_code == 500
    assert answer.headers["cache-control"] == "no-store"


def test_over_tls_browsers_are_told_to_stay_there(api: Api) -> None:
    secure = TestClient(api.client.app, base_url="https://testserver", client=("127.0.0.1", 1))
    assert secure.get("/health/live").headers["strict-transport-security"] == "max-age=31536000"


def asked_from(client: TestClient, origin: str) -> tuple[httpx.Response, httpx.Response]:
    """What a page's preflight and its request are answered."""
    wish = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "If-Match"}
    preflight = client.options("/v1/vms", headers={"Origin": origin, **wish})
    return preflight, client.get("/v1/vms", headers={"Origin": origin})


def test_no_other_site_may_ask_unless_an_operator_says_so(api: Api) -> None:
    for answer in asked_from(api.client, SITE):
        assert "access-control-allow-origin" not in answer.headers
    cloud.settings = cloud.settings.model_copy(update={"cors_origins": f"https://x.y, {SITE}"})
    client = TestClient(create_app(), client=("127.0.0.1", 1))
    preflight, asked = asked_from(client, SITE)
    assert preflight.status_code == 200
    assert "If-Match" in preflight.headers["access-control-allow-headers"]
    assert asked.status_code == 401  # it may ask; a token it needs all the same
    assert asked.headers["access-control-allow-origin"] == SITE
    assert "ETag" in asked.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in asked.headers
    for answer in asked_from(client, "https://evil.example"):
        assert "access-control-allow-origin" not in answer.headers


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cloudloom")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The API as `serve` starts it, with TLS; its address, and whom to believe."""
    ca, key = certificate(tmp_path)
    changes = {"port": free_port(), "tls_certificate": ca, "tls_key": key}
    changes["prefect_url"] = f"http://127.0.0.1:{free_port()}/api"
    build(tmp_path / "home", **changes)
    (service,) = [each for each in services(cloud.settings) if each.name == "api"]
    try:
        service.start()
        service.wait_ready(Event())
        yield cloud.settings.api_url, ca
    finally:
        service.end()
        cloud.database.engine.dispose()


@pytest.mark.engine
def test_the_client_speaks_tls_with_whom_it_believes(secure: tuple[str, Path]) -> None:
    url, ca = secure
    assert url.startswith("https://127.0.0.1:")
    token = tokens.mint(cloud.database, "reader")
    with Client(url, token, ca=ca) as client:
        assert [each["name"] for each in client.all("/v1/hosts")] == ["host-0", "host-1"]
    with Client(url, token) as client, pytest.raises(Refusal) as refusal:
        client.all("/v1/hosts")
    assert refusal.value.code == "unreachable"
    assert "CERTIFICATE_VERIFY_FAILED" in str(refusal.value)
    answer = httpx.get(
        f"{url}/health/live", verify=ssl.create_default_context(cafile=str(ca)), timeout=60
    )
    assert answer.headers["strict-transport-security"]


@pytest.mark.engine
def test_nothing_older_than_tls_1_2_is_spoken(secure: tuple[str, Path]) -> None:
    url, ca = secure
    where = url.removeprefix("https://")

    def spoken(version: str) -> str:
        # Its own defaults would refuse to try.
        tried = ["openssl", "s_client", "-connect", where, "-CAfile", ca, version]
        tried += ["-cipher", "DEFAULT@SECLEVEL=0"]
        done = subprocess.run(tried, input="", capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert "Protocol  : TLSv1.2" in spoken("-tls1_2")
    for old in ("-tls1_1", "-tls1"):
        assert "no peer certificate available" in spoken(old)
