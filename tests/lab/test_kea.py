"""Kea for real: what guests are told, what operators have there, and what goes wrong."""

import subprocess
import sys
import threading
from contextlib import ExitStack, nullcontext
from ipaddress import IPv4Address, IPv4Network
from uuid import uuid4

import pytest
from pydantic import SecretStr

from adapters.database.schema import migrate
from adapters.errors import Conflict, InUse, NotAllowed, Refused, Transient, Unsupported
from adapters.lan import Route
from adapters.networks import kea as kea_adapter
from adapters.networks.kea import Kea, KeaAgent, KeaSocket
from adapters.types import Chap
from deployments.lab.kea import Kea as LabKea
from deployments.lab.kea import KeaAgent as LabAgent
from deployments.lab.kea import KeaNames
from deployments.lab.named import Named
from deployments.lab.process import wait_for
from deployments.lab.relay import Relay
from deployments.lab.vlans import Vlans
from flows.cloud import cloud
from tests.contracts.test_dhcp import OURS, card, changed, subnet
from tests.labs import started
from tests.worlds import settings_in

pytestmark = pytest.mark.lab

POOL = {  # an operator's own network, with addresses for anybody
    "id": 7,
    "subnet": "10.77.102.0/24",
    "pools": [{"pool": "10.77.102.100 - 10.77.102.199"}],
    "option-data": [{"name": "routers", "data": "10.77.102.1"}],
    "reservations": [{"hw-address": "52:54:00:00:00:07", "ip-address": "10.77.102.7"}],
}


@pytest.fixture
def vlans(tmp_path):
    relays = {101: "10.77.101.1/24", 102: "10.77.102.1/24"}
    with started(Vlans(tmp_path / "vlans", relays)) as vlans:
        yield vlans


@pytest.fixture
def lab(tmp_path, vlans):
    with started(LabKea(tmp_path / "kea", vlans.servers[0])) as lab:
        yield lab


@pytest.fixture
def server(lab):
    return Kea(KeaSocket(lab.socket), OURS)


@pytest.fixture
def relay(tmp_path, vlans, lab):
    with started(Relay(tmp_path, vlans)) as relay:
        yield relay


def configure(lab, change) -> None:
    """As an operator does by hand."""
    channel = KeaSocket(lab.socket)
    configuration = channel.ask({"command": "config-get"})["arguments"]
    configuration.pop("hash", None)
    change(configuration["Dhcp4"])
    answer = channel.ask({"command": "config-set", "arguments": configuration})
    assert answer["result"] == 0, answer
    channel.ask({"command": "config-write"})


def told(lab) -> dict:
    return KeaSocket(lab.socket).ask({"command": "config-get"})["arguments"]["Dhcp4"]


# --- guests ------------------------------------------------------------------------------------


def test_guests_are_told_all_that_was_said(vlans, server, relay):
    said = subnet(
        101,
        dns=(IPv4Address("10.77.101.2"), IPv4Address("9.9.9.9")),
        suffix="tenant.example",
        routes=(Route(to=IPv4Network("10.88.0.0/16"), by=IPv4Address("10.77.101.254")),),
        mtu=1400,
    )
    first, second = card(said, 55, hostname="web"), card(said, 56, is_default=False)
    server.ensure_subnet(said)
    server.ensure_reservations([first, second])
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


def test_two_tenants_may_have_the_same_range_on_two_servers(tmp_path):
    relays = {101: "10.98.0.101/32", 102: "10.98.0.102/32"}
    with ExitStack() as stack:
        vlans = stack.enter_context(started(Vlans(tmp_path / "v", relays, servers=2)))
        labs = [LabKea(tmp_path / str(n), vlans.servers[n]) for n in (0, 1)]
        for lab in labs:
            stack.enter_context(started(lab))
        stack.enter_context(started(Relay(tmp_path, vlans)))
        servers = [Kea(KeaSocket(lab.socket), OURS) for lab in labs]
        ranges = {"range": IPv4Network("10.0.0.0/24"), "gateway": IPv4Address("10.0.0.1")}
        one = subnet(101, **ranges, relay=IPv4Address("10.98.0.101"))
        two = subnet(102, **ranges, relay=IPv4Address("10.98.0.102"))
        servers[0].ensure_subnet(one)
        with pytest.raises(Conflict):
            servers[0].ensure_subnet(two)
        servers[1].ensure_subnet(two)
        nics = [card(one, 5), card(two, 5)]
        for server, nic in zip(servers, nics, strict=True):
            server.ensure_reservations([nic])
        for vlan, nic in zip((101, 102), nics, strict=True):
            assert vlans.ask(nic.mac, vlan)["ip"] == "10.0.0.5"
        assert not vlans.ask(nics[0].mac, 102)
        assert [len(server.leases()) for server in servers] == [1, 1]


# --- what operators have there -------------------------------------------------------------------


def test_what_an_operator_has_there_stays(lab, vlans, server, relay):
    configure(lab, lambda dhcp4: dhcp4.update({"subnet4": [POOL], "valid-lifetime": 700}))
    theirs = told(lab)["subnet4"]
    assert vlans.ask("52:54:00:00:00:99", 102)["ip"].startswith("10.77.102.1")
    said = subnet(101)
    nic = card(said, 5)
    server.ensure_subnet(said)
    server.ensure_reservations([nic])
    for other in (
        subnet(103, range=IPv4Network("10.77.0.0/16"), gateway=None),
        subnet(7, range=IPv4Network("10.66.0.0/16"), gateway=None),
    ):
        with pytest.raises(Conflict):
            server.ensure_subnet(other)
    server.replace([], [])
    assert told(lab)["subnet4"] == theirs
    assert told(lab)["valid-lifetime"] == 700
    leases = KeaSocket(lab.socket).ask({"command": "lease4-get-all"})["arguments"]["leases"]
    assert len(leases) == 1
    assert server.leases() == []


def test_what_an_operator_adds_to_ours_stays(lab, server):
    said = subnet(101, dns=(IPv4Address("9.9.9.9"),))
    nic = card(said, 5)
    server.ensure_subnet(said)
    server.ensure_reservations([nic])
    printer = {"hw-address": "52:54:00:00:00:07", "ip-address": "10.77.101.7"}
    time_server = {"name": "ntp-servers", "data": "10.77.101.3"}

    def change(dhcp4):
        (mine,) = dhcp4["subnet4"]
        mine["reservations"].append(printer)
        mine["option-data"].append(time_server)

    configure(lab, change)
    assert server.has_subnet(said)
    server.ensure_subnet(changed(said, dns=()))
    server.ensure_reservations([card(said, 6)])
    for taken in (card(said, 7), card(said, 8, mac=printer["hw-address"])):
        with pytest.raises(Conflict):
            server.ensure_reservations([taken])
    (mine,) = told(lab)["subnet4"]
    assert [each["name"] for each in mine["option-data"]] == ["ntp-servers"]
    assert [each["ip-address"] for each in mine["reservations"]].count("10.77.101.7") == 1
    server.delete_reservations(server.content()[1].values())
    with pytest.raises(InUse):
        server.delete_subnet(said.id)


@pytest.mark.parametrize(
    ("option", "data"),
    [("domain-name", "Not Ours"), ("domain-name-servers", "8.8.8.8"), ("interface-mtu", "68")],
)
def test_what_was_changed_by_hand_is_seen_and_mended(lab, server, option, data):
    said = subnet(101, dns=(IPv4Address("9.9.9.9"),))
    nics = [card(said, 5, hostname="web"), card(said, 6)]
    server.ensure_subnet(said)
    server.ensure_reservations(nics)

    def change(dhcp4):
        (mine,) = dhcp4["subnet4"]
        mine["option-data"] = [{"name": option, "data": data}]
        first, second = sorted(mine["reservations"], key=lambda each: each["ip-address"])
        first["ip-address"], first["hostname"] = "10.77.101.9", "Not_Ours"
        second["option-data"] = []

    configure(lab, change)
    assert not server.has_subnet(said)
    assert server.has_reservations(nics) == set()
    subnets, cards = server.content()
    assert subnets[said.id].dns != said.dns
    assert str(cards[nics[0].id].address) == "10.77.101.9"
    assert not cards[nics[1].id].is_default
    server.replace([said], nics)
    assert server.content() == ({said.id: said}, {nic.id: nic for nic in nics})


# --- many at once --------------------------------------------------------------------------------

_WORK = """
import sys
from pathlib import Path
from uuid import UUID
from adapters.networks.kea import Kea, KeaSocket
from adapters.lan import Reservation
server = Kea(KeaSocket(Path(sys.argv[1])), UUID(sys.argv[2]))
for line in sys.stdin:
    server.ensure_reservations([Reservation.model_validate_json(line)])
"""


def test_several_runners_lose_nothing_of_each_other(lab, server):
    said = subnet(101)
    server.ensure_subnet(said)
    batches = [[card(said, 10 + 20 * n + m) for m in range(12)] for n in range(3)]
    command = [sys.executable, "-c", _WORK, str(lab.socket), str(OURS)]
    runners = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in batches]
    for runner, batch in zip(runners, batches, strict=True):
        runner.stdin.write("".join(each.model_dump_json() + "\n" for each in batch))
        runner.stdin.close()
    assert [runner.wait(120) for runner in runners] == [0] * len(runners)
    assert len(server.content()[1]) == sum(map(len, batches))


def test_a_change_by_somebody_else_meanwhile_is_not_lost(lab, server, monkeypatch):
    said = subnet(101)
    server.ensure_subnet(said)
    nic = card(said, 5)
    ask, meanwhile = KeaSocket.ask, [True]

    def and_somebody_else(channel, request):
        answer = ask(channel, request)
        if request["command"] == "config-test" and meanwhile:
            meanwhile.clear()
            configure(lab, lambda dhcp4: dhcp4["subnet4"].append(POOL))
        return answer

    monkeypatch.setattr(KeaSocket, "ask", and_somebody_else)
    server.ensure_reservations([nic])
    assert server.has_reservations([nic]) == {nic.id}
    assert {each["id"] for each in told(lab)["subnet4"]} == {7, 101}


def test_what_changes_nothing_is_no_change(lab, server):
    said = subnet(101, routes=[Route(to=IPv4Network("10.0.0.0/8"), by=IPv4Address("10.77.101.9"))])
    nics = [card(said, 10 + n, hostname=f"vm-{n}") for n in range(50)]
    server.ensure_reservations(nics, [said])
    before = lab.changes()
    server.ensure_reservations(nics, [said])
    server.replace([said], reversed(nics))
    server.delete_reservations([card(said, 200)], [said.id, uuid4()])
    server.delete_subnet(uuid4())
    assert lab.changes() == before


# --- what goes wrong ---------------------------------------------------------------------------


def test_what_cannot_be_written_is_not_done(lab, server):
    said = subnet(101)
    server.ensure_subnet(said)
    channel = KeaSocket(lab.socket)
    before = told(lab)
    ask = channel.ask

    class Unwritable:
        def ask(self, request):
            if request["command"] == "config-write":
                return {"result": 1, "text": "no room"}
            return ask(request)

        def turn(self):
            return nullcontext()

    with pytest.raises(Refused, match="no room"):
        Kea(Unwritable(), OURS).ensure_reservations([card(said, 5)])
    assert told(lab) == before


def test_a_server_that_is_away_comes_back(lab, server, monkeypatch):
    said = subnet(101)
    server.ensure_subnet(said)
    lab.lose()
    for call in (server.content, server.leases, lambda: server.ensure_subnet(said)):
        with pytest.raises(Transient):
            call()
    lab.start()
    assert server.has_subnet(said)


def test_a_runner_waits_for_its_turn_but_not_for_ever(lab, server, monkeypatch):
    monkeypatch.setattr(kea_adapter, "PATIENCE_S", 0.2)
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with server.channel.turn():
            inside.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert inside.wait(90)
        with pytest.raises(Transient, match="others are at work"):
            server.ensure_subnet(subnet(101))
    finally:
        leave.set()
        holder.join()
    server.ensure_subnet(subnet(101))


def test_a_server_without_the_hook_for_leases_says_what_it_cannot(lab, server):
    server.verify()
    configure(lab, lambda dhcp4: dhcp4.pop("hooks-libraries"))
    with pytest.raises(Unsupported, match=r"lease4-del, lease4-get-all: is the hook lease_cmds"):
        server.verify()
    lab.stop()
    with pytest.raises(Transient):
        server.verify()


def test_an_agent_takes_the_same_for_a_password(tmp_path, lab, server):
    with started(LabAgent(tmp_path / "agent", lab.socket, "cloudloom", "secret word")) as agent:

        def by(password: str | None) -> Kea:
            login = password and Chap(user="cloudloom", password=SecretStr(password))
            return Kea(KeaAgent(agent.url, lambda: login, nullcontext), OURS)

        said = subnet(101)
        nic = card(said, 5)
        remote = by("secret word")
        remote.verify()
        remote.ensure_subnet(said)
        remote.ensure_reservations([nic])
        assert server.content() == remote.content() == ({said.id: said}, {nic.id: nic})
        for wrong in ("another", None):
            with pytest.raises(NotAllowed) as refusal:
                by(wrong).content()
            assert "another" not in str(refusal.value)
            with pytest.raises(NotAllowed):
                by(wrong).verify()
        lab.lose()
        with pytest.raises((Transient, Refused)):
            remote.content()
    with pytest.raises(Transient):
        remote.content()


def test_the_cloud_finds_it_by_either_way(tmp_path, lab, server):
    cloud.become(settings_in(tmp_path / "home"))
    migrate(cloud.database, cloud.settings.home)
    with started(LabAgent(tmp_path / "agent", lab.socket, "cloudloom", "secret word")) as agent:
        key = uuid4()
        remote = cloud.dhcp_at("kea", agent.url, key)
        with pytest.raises(NotAllowed):
            remote.content()
        with cloud.database.write() as db:
            cloud.secrets.keep(db, key, Chap(user="cloudloom", password=SecretStr("secret word")))
        said = subnet(101, installation=cloud.inventory.installation)
        remote.ensure_subnet(said)
        assert cloud.dhcp_at("kea", str(lab.socket), key).content() == ({said.id: said}, {})
        assert server.content() == ({}, {})
    with pytest.raises(Unsupported):
        cloud.dhcp_at("isc", "/etc", key)
    cloud.database.engine.dispose()


def test_a_lease_that_a_killed_runner_has_left_is_ended(vlans, server, relay, monkeypatch):
    said = subnet(101)
    nic, other = card(said, 55), card(said, 56)
    server.ensure_reservations([nic, other], [said])
    assert vlans.ask(nic.mac, 101)["ip"] == "10.77.101.55"
    ask = KeaSocket.ask

    class Killed(BaseException):
        """As by SIGKILL: nothing of it goes on."""

    def killed(channel, request):
        if request["command"] == "lease4-del":
            raise Killed
        return ask(channel, request)

    with monkeypatch.context() as patched:
        patched.setattr(KeaSocket, "ask", killed)
        with pytest.raises(Killed):
            server.delete_reservations([nic], [said.id])
    assert len(server.leases()) == 1
    server.delete_reservations([], [said.id])
    assert server.leases() == []


# --- names and losses ----------------------------------------------------------------------------


def test_a_dns_server_is_told_the_names_of_guests(tmp_path, vlans, lab, server, relay):
    zones = ("tenant.example", "77.10.in-addr.arpa")
    said = subnet(101, suffix="tenant.example")
    web, nameless = card(said, 55, hostname="web"), card(said, 56)
    bare = subnet(102)
    hidden = card(bare, 55, hostname="hidden")
    server.ensure_reservations([web, nameless, hidden], [said, bare])
    with (
        started(Named(tmp_path / "named", vlans.servers[0], zones)) as named,
        started(KeaNames(tmp_path / "names", vlans.servers[0], named)),
    ):
        configure(lab, lambda dhcp4: dhcp4.update({"dhcp-ddns": {"enable-updates": True}}))
        assert not server.has_subnet(said)
        assert server.has_subnet(bare)
        server.ensure_subnet(said)
        server.ensure_subnet(bare)
        assert server.has_subnet(said)
        for nic, vlan in ((web, 101), (nameless, 101), (hidden, 102)):
            assert vlans.ask(nic.mac, vlan)["ip"] == str(nic.address)
        wait_for(lambda: named.look("web.tenant.example"), 10, "its name")
        assert "10.77.101.55" in named.look("web.tenant.example")
        reverse = "55.101.77.10.in-addr.arpa"
        wait_for(lambda: "web.tenant.example" in named.look(reverse, "ptr"), 10, "its address")
        assert not named.look("hidden.tenant.example")
        server.delete_reservations([web, nameless])
        wait_for(lambda: not named.look("web.tenant.example"), 10, "the end of its name")
        wait_for(lambda: not named.look(reverse, "ptr"), 10, "the end of its address")
        other = card(said, 57, hostname="web")
        server.ensure_reservations([other])
        assert vlans.ask(other.mac, 101)["ip"] == "10.77.101.57"
        wait_for(lambda: "10.77.101.57" in named.look("web.tenant.example"), 10, "another's name")


@pytest.mark.parametrize("lost", ["leases", "configuration"])
def test_who_had_an_address_has_it_again_after_a_loss(vlans, lab, server, relay, lost):
    said = subnet(101)
    nic, other = card(said, 55), card(said, 56)
    server.ensure_reservations([nic, other], [said])
    assert vlans.ask(nic.mac, 101)["ip"] == "10.77.101.55"
    lab.lose(**{lost: True})
    lab.start()
    expected = ({said.id: said}, {nic.id: nic, other.id: other})
    assert server.content() == (({}, {}) if lost == "configuration" else expected)
    assert server.leases() == []
    server.replace([said], [nic, other])
    assert server.content() == expected
    assert len(server.leases()) == (1 if lost == "configuration" else 0)
    assert not vlans.ask("52:54:00:00:00:99", 101)
    assert vlans.ask(nic.mac, 101)["ip"] == "10.77.101.55"
    assert vlans.ask(other.mac, 101)["ip"] == "10.77.101.56"
