"""What the house promises about itself: shape, sizes, pins, and documents that do not lie."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from adapters.settings import Settings
from api.codes import MEANINGS
from deployments.codes import codes
from deployments.tables import PREFECT, README, TABLES, prefect_yaml, with_tables
from flows import dispatch, prefect_private, registration
from flows.catalog import CATALOG, FLOWS
from flows.outline import steps_of
from flows.steps import STEPS

ROOT = README.parent
TRACKED = [
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    if (ROOT / line).is_file()
]
PYTHON = [path for path in TRACKED if path.suffix == ".py"]


def within(*folders: str) -> list[Path]:
    """The house's Python files under these folders."""
    return [path for path in PYTHON if path.relative_to(ROOT).parts[0] in folders]


def named(paths: list[Path]) -> list:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


# --- steps and flows --------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
def test_a_step_says_how_to_ask_for_its_effect_and_how_to_go_back(step):
    has = (step.backward is not None, step.question is not None)
    if step.effect.binds:
        assert has == (False, True)
    else:
        assert has in {(True, True), (False, False)}
    assert has == (False, False) or step.effect.binds or step.backward


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
def test_do_undo_and_look_take_the_same(step):
    wanted = {k: v for k, v in get_type_hints(step.do).items() if k != "return"}
    own = get_type_hints(step.do)["return"]
    for fn, answer in (
        (step.backward, type(None)),
        (step.question, bool),
        (step.foresight, own),
    ):
        if fn is not None:
            assert get_type_hints(fn) == {**wanted, "return": answer}
            assert list(inspect.signature(fn).parameters) == list(step.signature.parameters)


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
def test_a_steps_name_is_a_verb_phrase_that_fits_its_column(step):
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", step.name)
    assert len(step.name) <= 64


def test_every_flow_is_in_the_catalog_once():
    assert sorted(FLOWS) == sorted(flow.kind for flow in CATALOG)
    assert all(FLOWS[flow.kind] is flow for flow in CATALOG)


def test_every_flow_module_is_named_for_its_one_flow():
    decorated = {
        path.stem: re.findall(r"^@operation\(.*\)\ndef (\w+)", path.read_text(), re.MULTILINE)
        for path in within("flows")
    }
    assert {stem: found for stem, found in decorated.items() if found} == {
        kind: [kind] for kind in FLOWS
    }


@pytest.mark.parametrize("flow", CATALOG, ids=[flow.kind for flow in CATALOG])
def test_a_flow_says_what_it_does_and_is_short(flow):
    module = sys.modules[flow.body.__module__]
    assert inspect.getdoc(module)
    assert flow.summary
    assert len(inspect.getsource(module).splitlines()) <= 120


@pytest.mark.parametrize("flow", CATALOG, ids=[flow.kind for flow in CATALOG])
def test_a_flows_steps_are_part_of_its_version(flow):
    from flows.operation import _modules

    assert {step.module for step in steps_of(flow.body)} <= _modules(flow.body.__module__)


# What may be shown before it is done (design §5): all of it, whatever is added to these flows.
PLANNED = {
    "deploy_vm",
    "deploy_appliance",
    "sync_appliance",
    "undeploy_vm",
    "undeploy_appliance",
    "persist_vm",
    "capture_image",
    "capture_volume",
    "persist_template",
    "import_image",
    "import_package",
    "import_from_url",
    "resize_vm",
    "resize_volume",
    "attach_nic",
    "detach_nic",
}


def test_what_can_be_planned_says_so():
    assert {flow.kind for flow in CATALOG if flow.planned} == PLANNED


@pytest.mark.parametrize("kind", sorted(PLANNED))
def test_a_plan_knows_every_answer_that_its_flow_goes_by(kind):
    answering = [
        step
        for step in steps_of(FLOWS[kind].body)
        if get_type_hints(step.do)["return"] is not type(None)
    ]
    assert not [step.name for step in answering if step.foresight is None]


# --- shape and size ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", named(within("adapters")))
def test_an_adapter_is_one_technology_that_fits_on_a_few_pages(path):
    if "versions" not in path.parts:
        assert lines_of(path) <= 400


@pytest.mark.parametrize(
    "path", named([p for p in within("adapters", "api", "flows") if lines_of(p)])
)
def test_every_module_says_what_it_is_and_none_is_a_drawer(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert not {"utils", "helpers", "common", "manager", "core", "misc"} & set(
        path.relative_to(ROOT).with_suffix("").parts
    )


@pytest.mark.parametrize("path", named(within("flows")))
def test_flows_are_annotated_for_real(path):
    """Prefect and Pydantic read annotations at run time."""
    assert "from __future__ import annotations" not in path.read_text()


def test_there_is_no_other_top_level_package():
    packages = {p.relative_to(ROOT).parts[0] for p in PYTHON}
    assert packages == {"adapters", "api", "deployments", "flows", "tests"}


def test_imports_go_one_way():
    program = Path(sys.executable).with_name("lint-imports")
    linted = subprocess.run([program], cwd=ROOT, check=False, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout


# --- pins -------------------------------------------------------------------------------------


def test_prefect_is_pinned_and_its_server_starts():
    from prefect.server.api.server import create_app

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "prefect==3.8.8" in project["dependencies"]
    assert re.search(r"^prefect==3\.8\.8 ", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert callable(create_app)


DOCUMENTED = {
    "prefect",
    "prefect.artifacts",
    "prefect.cache_policies",
    "prefect.client.orchestration",
    "prefect.client.schemas",
    "prefect.context",
    "prefect.events.clients",
    "prefect.events.filters",
    "prefect.exceptions",
    "prefect.server.api.server",
    "prefect.settings",
    "prefect.states",
}
ENGINE_ONLY = {"SyncClientContext"}


@pytest.mark.parametrize("path", named(within("adapters", "api", "flows")))
def test_only_one_module_knows_what_prefect_does_not_document(path):
    assert prefect_private.VERSION == "3.8.8"
    if path.name == "prefect_private.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            modules = [each.name for each in node.names]
        for module in modules:
            if module and module.split(".")[0] == "prefect":
                assert module in DOCUMENTED or module.startswith("prefect.client.schemas.")
                assert not ENGINE_ONLY & {each.name for each in node.names}


# --- documents --------------------------------------------------------------------------------


def test_every_setting_is_in_the_runbook():
    runbook = (ROOT / "deployments" / "README.md").read_text()
    prefix = Settings.model_config["env_prefix"]
    missing = [
        variable
        for name in Settings.model_fields
        if not re.search(rf"\b{(variable := prefix + name.upper())}\b", runbook)
    ]
    assert not missing


def test_the_runbook_names_no_setting_that_is_not_there():
    others = {"CLOUDLOOM_URL", "CLOUDLOOM_TOKEN"}  # the command line's own
    named_there = set(
        re.findall(r"CLOUDLOOM_[A-Z_]+", (ROOT / "deployments" / "README.md").read_text())
    )
    settings = {f"CLOUDLOOM_{name.upper()}" for name in Settings.model_fields}
    assert named_there - settings - others == set()


def test_every_code_in_the_source_has_a_meaning_and_every_meaning_a_code():
    assert codes().keys() == MEANINGS.keys()


@pytest.mark.parametrize("page", TABLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_readmes_tables_are_what_the_code_is(page):
    assert page.read_text() == with_tables(page)


def test_prefect_yaml_is_what_the_catalog_is():
    assert PREFECT.read_text() == prefect_yaml()


def test_prefect_yaml_is_what_a_worker_registers(monkeypatch):
    registered = []

    class Prefect:
        """Prefect's client, as far as registering needs it."""

        def read_work_pool(self, name):
            return name

        def read_work_queue_by_name(self, name, pool):
            return name

        def create_flow(self, flow):
            return flow.name

        def create_deployment(self, flow_name, **fields):
            registered.append((flow_name, fields))

    monkeypatch.setattr(dispatch, "client", Prefect)
    registration.register("main")
    written = {
        each["flow_name"]: each for each in yaml.safe_load(PREFECT.read_text())["deployments"]
    }
    assert set(written) == {name for name, _ in registered}
    for name, fields in registered:
        schedules = [
            {
                "interval": int(each.schedule.interval.total_seconds()),
                "anchor_date": each.schedule.anchor_date.isoformat(),
            }
            for each in fields["schedules"]
        ]
        assert written[name] == {
            "name": fields["name"],
            "flow_name": name,
            "version": fields["version"],
            "description": fields["description"],
            "tags": fields["tags"],
            "work_pool": {
                "name": fields["work_pool_name"],
                "work_queue_name": fields["work_queue_name"],
            },
            "schedules": schedules,
        }


# Spelled so that this file does not contain what it looks for.
FOREIGN = re.compile(
    r"(?<![\w.])/wor[k]/|/home/[\w]|/roo[t]/|pythonhoste[d]|pypi[.]org|npmjs[.]|deb[.]debian"
    r"|proxy[.]golang|--index-ur[l]"
)


def test_nothing_names_this_machine_or_a_registry():
    found = []
    for path in TRACKED:
        text = path.read_bytes().decode(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in FOREIGN.finditer(text)]
    assert not found
