"""The command line, against the API as it is served, over a memory cloud."""

import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from adapters.database.operations import Operation
from api import cli, command_line
from api.client import Client, Refusal
from api.dependencies import sender
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.api.conftest import Api
from tests.api.test_gateway import IMAGE
from tests.worlds import write_package

BLUEPRINT = """\
appliance: shop
virtual_datacenter: demo
vms:
  - {name: db, template: tiny, volumes: [{name: data, size_mib: 8}]}
  - {name: web, template: tiny, depends_on: [db]}
"""


class Workers:
    """Carry out what is sent, each operation in a thread; or leave it."""

    def __init__(self) -> None:
        self.resting = False
        self._threads: list[threading.Thread] = []

    def send(self, operation: Operation) -> None:
        due = operation.due_at and operation.due_at <= datetime.now(UTC)
        if due and not self.resting:
            work = threading.Thread(target=FLOWS[operation.kind], args=(operation.id,))
            self._threads.append(work)
            work.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


@pytest.fixture
def workers(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workers]:
    made = Workers()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    api.client.app.dependency_overrides[sender] = lambda: made.send  # type: ignore[attr-defined]
    config = uvicorn.Config(api.client.app, port=0, log_level="warning", ws="none", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        (listener,) = server.servers[0].sockets
        monkeypatch.setenv("CLOUDLOOM_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("CLOUDLOOM_TOKEN", api.token)
        yield made
    finally:
        made.join()
        server.should_exit = True
        thread.join()


def run(*words: str | Path, typed: str | None = None) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words], input=typed)


def test_an_image_is_sent_and_becomes_a_template(workers: Workers, tmp_path: Path) -> None:
    image = tmp_path / "disk.vmdk"
    image.write_bytes(IMAGE)
    assert run("import", image, "--name", "new", "--format", "vmdk").exit_code == 0
    converted = run("convert", "new", "qcow2")
    assert "convert-image new succeeded" in converted.output
    again = run("import", image, "--name", "new", "--format", "vmdk")
    assert again.exit_code == 1
    assert "(name-taken)" in again.output


def test_a_package_is_known_by_its_name(workers: Workers, tmp_path: Path) -> None:
    write_package(tmp_path / "shop.ova", "system", "data", cpu=2)
    sent = run("import", tmp_path / "shop.ova", "--name", "packed")
    assert "import-package packed succeeded" in sent.output
    (tmp_path / "disk.img").write_bytes(IMAGE)
    unsaid = run("import", tmp_path / "disk.img", "--name", "unsaid")
    assert unsaid.exit_code == 2
    assert "--format has to be said" in unsaid.output


def test_a_template_is_packed_and_fetched(workers: Workers, tmp_path: Path) -> None:
    out = tmp_path / "tiny.ova"
    told = run("export", "tiny", out)
    assert told.exit_code == 0, told.output
    assert "export-template tiny succeeded" in told.output
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tiny.ova"]
    listed = run("packages").output.split()
    assert str(out.stat().st_size) in listed
    assert run("import", out, "--name", "again").exit_code == 0
    assert run("export", "tiny", out).exit_code == 2  # it is there already
    assert run("export", "tiny").exit_code == 0
    vm = run("export", "nobody", "--vm")
    assert vm.exit_code == 1


def test_a_template_is_made_persistent_and_what_it_holds_an_ordinary_one(workers: Workers) -> None:
    plan = run("persist-template", "tiny", "root", "--in", "demo", "--dry-run").output
    assert re.search(r"virtual-datacenter +storage_mib +0 +16", plan)
    (made,) = re.findall(r"--plan ([0-9a-f-]{36})", plan)
    done = run("persist-template", "tiny", "root", "--in", "demo", "--plan", made)
    assert "persist-template root succeeded" in done.output
    again = run("persist-template", "root", "more", "--in", "demo")
    assert (again.exit_code, "(template-persistent)" in again.output) == (1, True)
    kept = run("capture-template", "root", "kept")
    assert "capture-volume kept succeeded" in kept.output
    assert run("create-volume", "data", "8", "--in", "demo").exit_code == 0
    blank = run("capture-volume", "data", "blank")
    assert "capture-volume blank succeeded" in blank.output


def test_a_download_goes_on_where_it_broke_off(
    workers: Workers, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = workers_export(api)
    fetched = []
    real = Client._fetch

    def breaks_off(self: Client, where: str, part: Path, received: Any) -> None:
        real(self, where, part, received)
        fetched.append(part.stat().st_size)
        if len(fetched) == 1:
            part.write_bytes(part.read_bytes()[:1000])
            raise Refusal({"code": "unreachable", "detail": "cut off"})

    monkeypatch.setattr(Client, "_fetch", breaks_off)
    counted: list[int] = []
    with command_line.client() as client:
        client.download(started, tmp_path / "tiny.ova", counted.append)
    size = (tmp_path / "tiny.ova").stat().st_size
    assert fetched == [size, size]
    assert sum(counted) == size + size - 1000
    monkeypatch.setattr(Client, "_fetch", lambda _self, _where, part, _: part.write_bytes(b"x"))
    with command_line.client() as client, pytest.raises(Refusal):
        client.download(started, tmp_path / "other.ova", counted.append)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tiny.ova"]


def workers_export(api: Api) -> UUID:
    """A package that was made."""
    assert run("export", "tiny").exit_code == 0
    return UUID(api.get("/v1/packages").json()[0]["id"])


def test_an_appliance_is_deployed_watched_and_taken_away(
    workers: Workers, api: Api, tmp_path: Path
) -> None:
    blueprint = tmp_path / "shop.yaml"
    blueprint.write_text(BLUEPRINT)
    deployed = run("deploy", blueprint, "--watch")
    assert deployed.exit_code == 0, deployed.output
    assert re.search(r"✓ +db +record-state", deployed.output)
    assert re.search(r"✓ +web +record-state", deployed.output)
    assert len(re.findall(r" ON ", run("vms").output)) == 2
    assert "ATTACHED" in run("volumes").output
    assert "change-power web succeeded" in run("power", "web", "paused").output
    assert "(wrong-state)" in run("reset", "web").output
    assert run("power", "web", "on").exit_code == 0
    assert "reset-vm web succeeded" in run("reset", "web").output
    assert run("undeploy", "shop").exit_code == 0
    assert "resize-volume data succeeded" in run("grow", "data", "16").output
    made = run("create-volume", "more", "8", "--in", "demo")
    assert "create-iscsi-volume more succeeded" in made.output, made.output
    for deed in ("attach", "detach"):
        assert f"{deed}-volume more succeeded" in run(deed, "more", "web").output
    assert "succeeded" in run("delete-volume", "more").output
    assert "more" not in run("volumes").output
    assert "add-disk web succeeded" in run("add-disk", "web", "8").output
    (added,) = [x for x in run("disks", "web").output.splitlines() if " 8 " in x]
    assert "delete-disk web succeeded" in run("delete-disk", "web", added.split()[0]).output
    assert "resize-vm web succeeded" in run("resize", "web", "--cpu", "2").output
    assert run("deploy", "shop").exit_code == 0  # by name, with what was left of its lock
    listed = run("operations").output
    assert len(re.findall(r" deploy-appliance shop +succeeded", listed)) == 2
    operation = UUID(listed.splitlines()[1].split()[0])
    shown = run("operations", str(operation)).output
    assert "reserve-hosts" in shown
    assert re.search(r"receipt: \d+ questions, 0 answered otherwise", shown)


def test_limits_are_set_shown_forced_and_lifted(
    workers: Workers, api: Api, tmp_path: Path
) -> None:
    blueprint, image = tmp_path / "shop.yaml", tmp_path / "disk.vmdk"
    blueprint.write_text(BLUEPRINT)
    image.write_bytes(IMAGE)
    assert run("limits", "set", "virtual-datacenter", "demo", "cpu=1:8").exit_code == 0
    assert run("limits", "set", "enterprise", "default", "repository_mib=1:4").exit_code == 0
    assert run("limits", "set", "virtual-datacenter", "demo", "ram_mib=4096").exit_code == 0
    refused = run("deploy", blueprint)
    assert refused.exit_code == 1
    assert "(soft-limit)" in refused.output
    assert "limit 1, used 0, asked 2" in " ".join(refused.output.split())
    assert run("deploy", "shop", "--force", "a fair").exit_code == 0
    sent = ["import", image, "--name", "new", "--format", "vmdk"]
    assert "(soft-limit)" in run(*sent).output
    assert run(*sent, "--force", "a fair").exit_code == 0
    used = [line.split() for line in run("limits", "usage").output.splitlines()]
    assert ["virtual-datacenter", "demo", "cpu", "2", "1", "8"] in used
    assert ["virtual-datacenter", "demo", "storage_mib", "8", "0", "0"] in used
    assert ["enterprise", "default", "repository_mib", "2", "1", "4"] in used
    lowered = run("limits", "set", "virtual-datacenter", "demo", "cpu=1")
    assert "(limit-below-use)" in lowered.output
    assert "used: {'cpu': 2}" in lowered.output
    assert run("limits", "lift", "virtual-datacenter", "demo").exit_code == 0
    assert ["virtual-datacenter", "demo", "cpu", "2", "0", "0"] in [
        line.split() for line in run("limits", "usage").output.splitlines()
    ]
    assert run("limits", "lift", "galaxy", "demo").exit_code == 2
    assert run("limits", "set", "enterprise", "default", "cpu=many").exit_code == 2


def test_a_failed_operation_fails_the_command(workers: Workers, api: Api, tmp_path: Path) -> None:
    cloud.world.set_fate("hypervisors.ensure_vm", "refuses")
    blueprint = tmp_path / "shop.yaml"
    blueprint.write_text(BLUEPRINT)
    failed = run("deploy", blueprint)
    assert failed.exit_code == 1
    assert "failed" in failed.output
    assert "(refused)" in failed.output


def test_what_comes_up_is_kept_when_so_asked(workers: Workers, api: Api, tmp_path: Path) -> None:
    cloud.world.set_fate("hypervisors.ensure_vm", "refuses")
    blueprint = tmp_path / "shop.yaml"
    blueprint.write_text(BLUEPRINT.replace(", depends_on: [db]", ""))
    failed = run("deploy", blueprint, "--on-failure", "keep", "--wait-for", "lease")
    assert failed.exit_code == 1
    assert "1 of 2 VMs are up" in failed.output
    assert "(partly-deployed)" in failed.output
    assert len(re.findall(r" ON ", run("vms").output)) == 1
    assert "(invalid-request)" in run("deploy", "shop", "--on-failure", "hope").output
    assert "(invalid-request)" in run("deploy", "shop", "--wait-for", "hope").output


def test_maintenance_is_run_now_and_its_report_shown(workers: Workers) -> None:
    ended = run("maintain", "check-datacenters")
    assert ended.exit_code == 0, ended.output
    assert "check-datacenters main succeeded" in ended.output
    assert "repository" in ended.output
    assert run("maintain", "deploy-vm").exit_code == 1


def test_without_waiting_the_operation_is_named(
    workers: Workers, api: Api, tmp_path: Path
) -> None:
    workers.resting = True
    blueprint = tmp_path / "shop.yaml"
    blueprint.write_text(BLUEPRINT)
    accepted = run("deploy", blueprint, "--no-wait")
    assert accepted.exit_code == 0
    assert re.search(r"operation [0-9a-f-]{36} is accepted", accepted.output)
    held = run("undeploy", "shop")
    assert held.exit_code == 1
    assert "(locked)" in held.output


def test_a_deployment_that_waits_is_approved_or_rejected(
    workers: Workers, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("enterprise", "default", "--approval").exit_code == 0
    blueprint = tmp_path / "shop.yaml"
    blueprint.write_text(BLUEPRINT)
    waiting = run("deploy", blueprint, "--no-wait").output
    assert re.search(r"it waits for approval until .* UTC: cloudloom approve", waiting)
    assert "is waiting" in waiting
    first = re.search(r"operation ([0-9a-f-]{36})", waiting)
    assert first
    rejected = run("reject", first[1], "--reason", "not today")
    assert "rejected by first: not today (approval-rejected)" in rejected.output
    second = re.search(r"operation ([0-9a-f-]{36})", run("deploy", "shop", "--no-wait").output)
    assert second
    monkeypatch.setenv("CLOUDLOOM_TOKEN", run("token", "plain").output.strip())
    assert "(scope-missing)" in run("approve", second[1]).output
    monkeypatch.setenv("CLOUDLOOM_TOKEN", api.token)
    able = run("token", "manager", "--scope", "approve").output.strip()
    monkeypatch.setenv("CLOUDLOOM_TOKEN", able)
    approved = run("approve", second[1], "--reason", "today")
    assert "deploy-appliance shop succeeded" in approved.output
    assert run("approve", second[1]).exit_code == 1


def test_people_log_in_and_do_what_they_may(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    twice = "correct horse battery\n" * 2
    added = run("users", "add", "ada", "--vdc", "demo", typed=twice)
    assert added.exit_code == 0, added.output
    assert "correct horse" not in added.output
    assert "mightier" in run("roles", "add", "mightier", "VDC_ENUMERATE", "USERS_VIEW").output
    assert "(name-taken)" in run("users", "add", "ada", typed=twice).output
    assert run("enterprises", "add", "acme").exit_code == 0
    assert " acme " in run("enterprises", "list").output
    monkeypatch.delenv("CLOUDLOOM_TOKEN")
    wrong = run("login", "--user", "ada", typed="wrong\n")
    assert "(login-refused)" in wrong.output
    assert run("login", "--user", "ada", typed="correct horse battery\n").exit_code == 0
    (kept,) = tmp_path.rglob("session")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "VAPP_PERFORM_ACTIONS" in run("whoami").output
    assert run("vms").exit_code == 0
    assert "(privilege-missing)" in run("users", "list").output
    made = run("token", "ci").output.strip()
    listed = run("tokens", "list").output
    assert " ci " in listed
    token = re.search(r"[0-9a-f-]{36}", listed)
    assert token
    assert run("tokens", "revoke", token[0]).exit_code == 0
    assert run("logout").exit_code == 0
    assert not kept.exists()
    monkeypatch.setenv("CLOUDLOOM_TOKEN", made)
    assert "(unauthenticated)" in run("vms").output


def test_users_are_changed_and_go(workers: Workers) -> None:
    twice = "correct horse battery\n" * 2
    assert run("users", "add", "ada", typed=twice).exit_code == 0
    assert run("roles", "add", "seer", "VDC_ENUMERATE").exit_code == 0
    assert run("users", "change", "ada", "--role", "seer", "--inactive").exit_code == 0
    assert "False" in run("users", "list").output
    assert "(in-use)" in run("roles", "delete", "seer").output
    assert run("users", "change", "ada", "--password", typed=twice).exit_code == 0
    assert run("users", "delete", "ada").exit_code == 0
    assert run("roles", "delete", "seer").exit_code == 0
    assert run("enterprises", "add", "acme").exit_code == 0
    assert run("enterprises", "delete", "acme").exit_code == 0


def test_what_does_not_answer_or_admit_is_said_in_a_sentence(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "(not-found)" in run("undeploy", "nothing").output
    monkeypatch.setenv("CLOUDLOOM_TOKEN", "cl_no")
    assert "(unauthenticated)" in run("vms").output
    monkeypatch.setenv("CLOUDLOOM_URL", "http://127.0.0.1:1")
    refused = run("vms")
    assert "(unreachable)" in refused.output
    assert refused.exit_code == 1


def test_the_first_token_is_kept_for_its_user_alone(tmp_path: Path) -> None:
    cli._keep_token("cl_x", tmp_path / "token")
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    assert (tmp_path / "token").read_text() == "cl_x\n"


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'httpx', 'pydantic', 'sqlalchemy', 'prefect', 'fastapi'} & set(sys.modules)"
    code = f"import sys, api.cli; sys.exit(str({heavy} or '') or 0)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_worker_is_started_for_queues_that_there_are():
    refused = run("worker", "--queue", "imges")
    assert refused.exit_code == 2
    assert "no queue imges" in refused.output


def test_a_worker_is_told_what_it_serves(monkeypatch):
    started = []
    monkeypatch.setattr(cli.os, "execve", lambda *words: started.append(words))
    run("worker", "--datacenter", "north", "--queue", "images", "--queue", "storage", "--slots", 3)
    ((_, _, env),) = started
    told = {name: env[f"CLOUDLOOM_{name}"] for name in ("DATACENTER", "QUEUES", "SLOTS")}
    assert told == {"DATACENTER": "north", "QUEUES": "images,storage", "SLOTS": "3"}
    assert env["PREFECT_API_URL"]


def test_events_are_shown(workers: Workers) -> None:
    assert run("token", "guest").exit_code == 0
    shown = run("events")
    assert shown.exit_code == 0, shown.output
    assert re.search(r"api-token.created +api_token guest +by first", shown.output)
    assert run("events", "--kind", "operation").output == ""
    assert run("events", "--severity", "grave").exit_code == 1


def test_events_are_followed(workers: Workers) -> None:
    command = [sys.executable, "-c", "from api.cli import app; app()", "events", "--follow"]
    following = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert following.stdout
        heard: list[str] = []
        listener = threading.Thread(target=lambda: heard.append(following.stdout.readline()))
        listener.start()
        while listener.is_alive():  # until it listens, nobody hears of them
            run("token", "guest")
            listener.join(0.2)
        assert "api-token.created" in heard[0]
    finally:
        following.kill()
        following.wait()
        following.stdout.close()


def test_the_infrastructure_has_the_same_verbs_everywhere(workers: Workers, api: Api) -> None:
    added = run("racks", "add", "datacenter=main", "name=r1", "vlans_avoided=[3, 10-20]")
    assert added.exit_code == 0, added.output
    assert re.search(r"vlans_usable +4081", added.output)
    assert re.search(r"rack_id +[0-9a-f]{8}-", run("hosts", "set", "host-0", "rack=r1").output)
    in_use = run("racks", "delete", "r1")
    assert in_use.exit_code == 1
    assert "in use by host host-0 (in-use)" in in_use.output
    assert re.search(r"rack_id +\n", run("hosts", "set", "host-0", "rack=").output)
    assert run("racks", "delete", "r1").exit_code == 0
    assert "(not-found)" in run("racks", "show", "r1").output
    assert re.search(r"cpu +64", run("hosts", "refresh", "host-0").output)
    assert "True" in run("hosts", "set", "host-0", "maintenance=true").output
    asked = run("hosts", "set", "host-0", "login=somebody", typed="planted\n")
    assert "(unsupported)" in asked.output
    assert "planted" not in asked.output
    listed = run("hosts", "list", "maintenance=true").output
    assert ("host-0" in listed, "host-1" in listed) == (True, False)
    for noun, shown in (
        ("datacenters", "main"),
        ("devices", "san"),
        ("pools", "default"),
        ("tiers", "default"),
    ):
        assert shown in run(noun, "list").output
    load = ("kind=load", "datacenter=main", "cpu_percent=0", "ram_percent=0")
    rule = re.search(r"id +([0-9a-f-]{36})", run("rules", "add", *load).output)
    assert rule
    assert re.search(r"cpu_percent +200", run("rules", "set", rule[1], "cpu_percent=200").output)
    assert run("rules", "delete", rule[1]).exit_code == 0
    assert run("rules", "add", "kind").exit_code == 2
    more = run("datastores", "add", "host-0", "directory=/more")
    assert more.exit_code == 0, more.output
    assert "False" in run("datastores", "set", "host-0", "/more", "enabled=false").output
    assert "/more" in run("datastores", "list", "host-0").output
    assert run("datastores", "delete", "host-0", "/more").exit_code == 0
    assert "/more" not in run("datastores", "list", "host-0").output
    assert "(not-found)" in run("datastores", "delete", "host-0", "/more").output


def test_what_nothing_needs_any_more_goes(workers: Workers, api: Api, tmp_path: Path) -> None:
    blueprint = tmp_path / "shop.yaml"
    blueprint.write_text(BLUEPRINT.replace(", volumes: [{name: data, size_mib: 8}]", ""))
    assert run("deploy", blueprint).exit_code == 0
    workers.join()  # until its locks are gone, too
    assert re.search(r"shop +DEPLOYED", run("appliances", "list").output)
    shown = run("appliances", "set", "shop", "--name", "market", "--approval").output
    assert re.search(r"market .* True", shown)
    waits = run("appliances", "set", "market", "--wait-for", "nothing")
    assert waits.exit_code == 0
    (market,) = api.get("/v1/appliances").json()
    assert market["wait_for"] == "nothing"
    assert run("appliances", "set", "market", "--wait-for", "").exit_code == 0
    assert api.get("/v1/appliances").json()[0]["wait_for"] is None
    assert re.search(r"web +ON .* db", run("appliances", "show", "market").output)
    assert "cache" in run("appliances", "add-vm", "market", "name=cache", "template=tiny").output
    assert run("appliances", "remove-vm", "web").exit_code == 0
    assert re.search(r"web +ON .* True", run("appliances", "show", "market").output)
    assert re.search(r"web .* False", run("appliances", "keep-vm", "web").output)
    assert run("appliances", "remove-vm", "cache").exit_code == 0
    in_use = run("templates", "delete", "tiny")
    assert "(in-use)" in in_use.output
    assert "(wrong-state)" in run("appliances", "delete", "market").output
    assert run("undeploy", "market").exit_code == 0
    workers.join()
    copied = run("appliances", "copy", "market", "market-2")
    assert re.search(r"market-2 +NOT_DEPLOYED", copied.output), copied.output
    family = "family=memory"
    assert run("virtual-datacenters", "add", "name=far", "datacenter=main", family).exit_code == 0
    moved = run("appliances", "move", "market-2", "far").output
    assert re.search(r"market-2 +NOT_DEPLOYED", moved)
    assert "(in-use)" in run("virtual-datacenters", "delete", "far").output
    for each in ("market", "market-2"):
        assert run("appliances", "delete", each).exit_code == 0
    assert re.search(r"tiny +AVAILABLE", run("templates", "list").output)
    assert re.search(r"0 +qcow2", run("templates", "show", "tiny").output)
    assert "delete-template tiny succeeded" in run("templates", "delete", "tiny").output
    assert run("virtual-datacenters", "add", "name=lab", "datacenter=main").exit_code == 0
    assert "lab-2" in run("virtual-datacenters", "set", "lab", "name=lab-2").output
    assert run("virtual-datacenters", "delete", "lab-2").exit_code == 0
    assert "demo" in run("virtual-datacenters", "list").output


def test_networks_come_and_go_and_their_addresses_are_seen(workers: Workers, api: Api) -> None:
    server = ("datacenter=main", "name=dhcp-1", "kind=memory", "address=memory")
    assert run("dhcp-servers", "add", *server).exit_code == 0
    made = run("networks", "add", "name=shop", "virtual_datacenter=demo", "range=10.0.0.0/29")
    assert made.exit_code == 0, made.output
    assert "succeeded" in made.output
    shown = run("networks", "list").output
    assert re.search(r"shop +private .*10\.0\.0\.0/29", shown), shown
    assert re.search(
        r"suffix +shop.example", run("networks", "set", "shop", "suffix=shop.example").output
    )
    where = ("datacenter=main", "kind=public", "range=198.51.100.0/29")
    assert run("networks", "add", "name=internet", *where).exit_code == 0
    bought = run("addresses", "add", "network=internet", "virtual_datacenter=demo")
    assert re.search(r"address +198\.51\.100\.1 ", bought.output), bought.output
    assert "198.51.100.1" in run("addresses", "list").output
    assert "(in-use)" in run("networks", "delete", "internet").output
    assert run("addresses", "delete", "198.51.100.1").exit_code == 0
    for each in ("internet", "shop"):
        workers.join()
        gone = run("networks", "delete", each)
        assert gone.exit_code == 0, gone.output
    assert "shop" not in run("networks", "list").output
    assert run("dhcp-servers", "delete", "dhcp-1").exit_code == 0
