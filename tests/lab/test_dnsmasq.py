"""dnsmasq for real: what guests are told, names, and what goes wrong."""

import subprocess
from ipaddress import IPv4Address, IPv4Network

import pytest

from adapters.errors import Conflict, InUse, Transient, Unsupported
from adapters.lan import Route
from adapters.networks import dnsmasq as dnsmasq_adapter
from adapters.networks.dnsmasq import Dnsmasq
from deployments.lab.dnsmasq import Dnsmasq as LabDnsmasq
from deployments.lab.relay import Relay
from deployments.lab.vlans import Vlans
from tests.contracts.test_dhcp import OURS, card, changed, subnet
from tests.labs import started

pytestmark = pytest.mark.lab


@pytest.fixture
def vlans(tmp_path):
    relays = {101: "10.77.101.1/24", 102: "10.98.0.102/32"}
    with started(Vlans(tmp_path / "vlans", relays)) as vlans:
        yield vlans


@pytest.fixture
def lab(tmp_path, vlans):
    with started(LabDnsmasq(tmp_path / "dnsmasq", vlans.servers[0])) as lab:
        yield lab


@pytest.fixture
def server(lab):
    return Dnsmasq(lab.folder, OURS)


@pytest.fixture
def relay(tmp_path, vlans, lab):
    with started(Relay(tmp_path, vlans)) as relay:
        yield relay


def named(vlans, name: str) -> str:
    """What the server's DNS says of a name."""
    asked = ["busybox", "nslookup", "-type=a", name, vlans.address()]
    inside = ["ip", "netns", "exec", vlans.switch.name, *asked]
    return subprocess.run(inside, check=False, capture_output=True, text=True).stdout


def test_guests_are_told_all_that_was_said(vlans, server, relay):
    said = subnet(
        101,
        dns=(IPv4Address("10.77.101.2"), IPv4Address("9.9.9.9")),
        suffix="tenant.example",
        routes=(Route(to=IPv4Network("10.88.0.0/16"), by=IPv4Address("10.77.101.254")),),
        mtu=1400,
    )
    first, second = card(said, 55, hostname="web"), card(said, 56, is_default=False)
    bare = subnet(102, gateway=None, relay=IPv4Address("10.98.0.102"))
    third = card(bare, 57)
    server.replace([said, bare], [first, second, third])
    heard = vlans.ask(first.mac, 101)
    assert heard["ip"] == "10.77.101.55"
    assert heard["mask"] == "24"
    assert heard["router"] == "10.77.101.1"
    assert heard["dns"] == "10.77.101.2 9.9.9.9"
    assert heard["domain"] == "tenant.example"
    assert heard["hostname"] == "web"
    assert heard["mtu"] == "1400"
    assert heard["staticroutes"] == "10.88.0.0/16 10.77.101.254 0.0.0.0/0 10.77.101.1"
    heard = vlans.ask(second.mac, 101)
    assert heard["ip"] == "10.77.101.56"
    assert "router" not in heard
    assert heard["staticroutes"] == "10.88.0.0/16 10.77.101.254"
    heard = vlans.ask(third.mac, 102)
    assert heard["ip"] == "10.77.102.57"
    assert not {"router", "dns", "staticroutes", "mtu"} & heard.keys()


def test_names_are_served_with_the_networks_suffix(vlans, server):
    said = subnet(101, suffix="tenant.example")
    web = card(said, 55, hostname="web")
    server.ensure_subnet(said)
    server.ensure_reservations([web, card(said, 56)])
    assert "10.77.101.55" in named(vlans, "web.tenant.example")
    server.ensure_subnet(changed(said, suffix="other.example"))
    assert "10.77.101.55" in named(vlans, "web.other.example")
    assert "10.77.101.55" not in named(vlans, "web.tenant.example")
    server.delete_reservations([web])
    assert "10.77.101.55" not in named(vlans, "web.other.example")


def test_what_an_operator_adds_to_ours_stays(lab, server):
    said = subnet(101)
    server.ensure_subnet(said)
    hosts = lab.folder / "hosts" / str(said.id)
    line = "52:54:00:00:00:07,printer,10.77.101.7,12h"
    hosts.write_text(f"{line}\n")
    (lab.folder / "ranges" / "own.conf").write_text("dhcp-range=10.66.0.5,10.66.0.9\n")
    server.ensure_reservations([card(said, 6)])
    for taken in (card(said, 7), card(said, 8, mac="52:54:00:00:00:07")):
        with pytest.raises(Conflict):
            server.ensure_reservations([taken])
    assert line in hosts.read_text().splitlines()
    server.delete_reservations(server.content()[1].values())
    with pytest.raises(InUse):
        server.delete_subnet(said.id)
    assert (lab.folder / "ranges" / "own.conf").exists()


def test_a_server_without_its_folders_says_what_it_cannot(lab, server):
    server.verify()
    (lab.folder / "names").rmdir()
    with pytest.raises(Unsupported, match="no folder names"):
        server.verify()
    (lab.folder / "names").mkdir()
    lab.stop()
    with pytest.raises(Transient):
        server.verify()


def test_what_changes_nothing_starts_nothing_anew(lab, server):
    said = subnet(101)
    nic = card(said, 5)
    server.ensure_subnet(said)
    server.ensure_reservations([nic])
    before = lab.starts()
    server.ensure_subnet(said)
    server.ensure_reservations([nic])
    server.delete_reservations([card(said, 6)])
    server.delete_subnet(subnet(102).id)
    assert lab.starts() == before


def test_a_server_that_nobody_starts_again_gets_its_files_back(lab, server, monkeypatch):
    monkeypatch.setattr(dnsmasq_adapter, "PATIENCE_S", 0.5)
    said = subnet(101)
    nic = card(said, 5)
    server.ensure_subnet(said)
    restart = Dnsmasq._restart

    def for_ever(server, process):
        lab.stop()
        restart(server, process)

    monkeypatch.setattr(Dnsmasq, "_restart", for_ever)
    with pytest.raises(Transient, match="nobody starts"):
        server.ensure_reservations([nic])
    assert server.content() == ({said.id: said}, {})
    with pytest.raises(Transient, match="no dnsmasq"):
        server.ensure_reservations([nic])
    monkeypatch.undo()
    lab.start()
    server.ensure_reservations([nic])
    assert server.has_reservations([nic]) == {nic.id}


def test_what_a_killed_runner_has_written_is_read_at_last(lab, vlans, server, relay, monkeypatch):
    said = subnet(101)
    nic = card(said, 5)
    server.ensure_subnet(said)

    class Killed(BaseException):
        """As by SIGKILL: nothing of it goes on."""

    def killed(server, process):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Dnsmasq, "_restart", killed)
        with pytest.raises(Killed):
            server.ensure_reservations([nic])
    server.ensure_reservations([nic])
    assert vlans.ask(nic.mac, 101)["ip"] == "10.77.101.5"
