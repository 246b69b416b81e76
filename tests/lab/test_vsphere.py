"""A session at a simulated vCenter: whom it believes, what it says, and when it ends."""

import http.client
import socket
import threading
from contextlib import closing
from uuid import uuid4

import pytest
from pydantic import SecretStr
from pyVmomi import vim

from adapters.errors import NotAllowed, NotFound, Refused, Transient
from adapters.types import Chap
from adapters.vsphere.address import Address
from adapters.vsphere.session import Session, _sorted
from adapters.vsphere.transfers import _write

pytestmark = pytest.mark.lab


@pytest.fixture
def login(vcenter):
    return Chap(user=vcenter.user, password=SecretStr(vcenter.password))


@pytest.fixture
def session(vcenter, login):
    return Session(vcenter.address, lambda: login)


def test_another_certificate_is_sent_nothing(vcenter):
    strange = vcenter.address.rpartition("=")[0] + "=" + "ab" * 32
    asked = []
    session = Session(strange, lambda: asked.append(1))
    for _ in range(2):
        with pytest.raises(NotAllowed) as refusal, session.speaking():
            pass
        assert refusal.value.code == "other-certificate"
    with pytest.raises(NotAllowed):
        session.connection().connect()
    assert not asked


def test_without_a_fingerprint_the_system_decides(vcenter, login):
    session = Session(vcenter.address.partition("?")[0], lambda: login)
    with pytest.raises(Transient), session.speaking():
        pass


def test_a_wrong_password_is_not_allowed_and_not_told(vcenter):
    wrong = Chap(user=vcenter.user, password=SecretStr("not the one"))
    with pytest.raises(NotAllowed) as refusal, Session(vcenter.address, lambda: wrong).speaking():
        pass
    assert "not the one" not in f"{refusal.value} {refusal.value.__cause__}"


def test_a_host_is_named_where_there_are_several(vcenter, login):
    url, _, asked = vcenter.address.partition("?")
    server = url.rpartition("/")[0]
    for host, error in (("", Refused), ("DC0_C0_H9", NotFound)):
        session = Session(f"{server}/{host}?{asked}", lambda: login)
        with pytest.raises(error), session.speaking():
            session.host  # noqa: B018 - it is looked for


def test_a_session_that_the_server_has_ended_is_renewed(session):
    with session.speaking() as content:
        content.sessionManager.Logout()
    with pytest.raises(Transient), session.speaking():
        session.host  # noqa: B018 - the server is asked
    with session.speaking():
        assert session.host.name == "DC0_C0_H0"


def test_a_session_is_told_to_its_own_server_only(session):
    with session.speaking():
        connection, told = session.connection_to("https://*/nfc/1/disk.vmdk", "")
        assert (connection.host, set(told)) == ("127.0.0.1", {"Cookie"})
        connection, told = session.connection_to("https://esx-1:8443/nfc/1/d.vmdk", "AB:" * 20)
        assert (connection.host, connection.port, told) == ("esx-1", 8443, {})
        assert connection._pin == "ab" * 20


def test_threads_share_one_login(vcenter, login):
    logins = []
    session = Session(vcenter.address, lambda: logins.append(1) or login)
    names = []

    def ask():
        with session.speaking():
            names.append(session.host.name)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (names, logins) == (["DC0_C0_H0"] * 8, [1])


def test_a_task_that_takes_too_long_is_transient(session):
    with pytest.raises(Transient), session.speaking():
        session.until(session.host, ("name",), lambda has: has["name"] == "never", 0.5)


def test_news_of_a_thing_end_the_wait(session):
    with session.speaking():
        folder = session.datacenter.vmFolder.CreateFolder(f"t-{uuid4()}")
        later = threading.Timer(0.3, lambda: folder.Rename_Task("renamed"))
        later.start()
        has = session.until(folder, ("name",), lambda has: has["name"] == "renamed", 20)
        later.join()
        session.wait(folder.Destroy_Task())
    assert has == {"name": "renamed"}


def test_what_a_host_breaks_off_is_no_whole_file(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as host:
        asked = http.client.HTTPConnection(*host.getsockname(), timeout=60)
        asked.request("GET", "/nfc/1/disk.vmdk")
        there, _ = host.accept()
        with there:
            there.recv(4096)
            there.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        with closing(asked), pytest.raises(Transient):
            _write(asked.getresponse(), tmp_path / "disk.vmdk", 1, lambda *_: None)


def test_faults_are_sorted_by_what_to_do_next():
    assert type(_sorted(vim.fault.FileLocked())) is Transient
    assert type(_sorted(vim.fault.InsufficientMemoryResourcesFault())).__name__ == "OutOfSpace"
    assert type(_sorted(vim.fault.InvalidName())) is Refused


@pytest.mark.parametrize(
    "text",
    [
        "https://vcenter/esx",
        "vsphere:///esx",
        "vsphere://root@vcenter/esx",
        "vsphere://vcenter:x/esx",
        "vsphere://vcenter/esx?fingerprint=ab",
        "vsphere://vcenter/esx?fingerprint=" + "xy" * 32,
        "vsphere://vcenter/esx?verify=no",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(Refused):
        Address.parse(text)


def test_an_address_has_its_parts():
    fingerprint = ":".join(["AB"] * 32)
    found = Address.parse(
        f"vsphere://vcenter.example:8443/esx-1.example?fingerprint={fingerprint}"
    )
    assert found == Address("vcenter.example", 8443, "esx-1.example", "ab" * 32)
