"""The API describes itself so well that a client made from that alone can drive a deployment."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from flows.catalog import FLOWS
from tests.api.conftest import Api

METHODS = {"get", "post", "put", "patch", "delete"}


def operations(api: Api) -> dict[str, tuple[str, str, Any]]:
    """Every operation by its name, with its method and path."""
    paths = api.client.get("/openapi.json").json()["paths"]
    told = [
        (operation["operationId"], (method, path, operation))
        for path, methods in paths.items()
        for method, operation in methods.items()
        if method in METHODS
    ]
    assert len(told) == len(dict(told)), "two operations have the same name"
    return dict(told)


def test_operations_have_names_that_make_methods(api: Api) -> None:
    told = operations(api)
    assert {"deploy_vm", "deploy_appliance", "list_vms", "read_steps_of_operation"} <= told.keys()
    for name, (_, path, operation) in told.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name), name
        assert operation["summary"], name
        assert operation["description"].endswith("."), name
        assert path.startswith("/v1/") == ("429" in operation["responses"]) or "/gateway/" in path


def test_every_operation_tells_what_may_be_refused(api: Api) -> None:
    for name, (method, path, operation) in operations(api).items():
        told = operation["responses"]
        wanted = {"401", "403", "404", "422", "429", "503"} if path.startswith("/v1/") else {"403"}
        wanted |= {"409", "413"} if method != "get" else set()
        wanted |= {"412"} if method in {"patch", "put", "delete"} else set()
        assert wanted <= told.keys(), name
        for status in told:
            if status.startswith(("4", "5")):
                assert list(told[status]["content"]) == ["application/problem+json"], name


def test_every_number_that_is_asked_for_is_bounded(api: Api) -> None:
    """Databases know no numbers without end: such a one was a defect of ours, not the caller's."""
    document = api.client.get("/openapi.json").json()
    told = operations(api)
    asked = [each[2].get(part) for each in told.values() for part in ("parameters", "requestBody")]
    seen: set[str] = set()
    unbounded: list[Any] = []

    def look(schema: Any) -> None:
        if isinstance(schema, list):
            for each in schema:
                look(each)
        elif isinstance(schema, dict):
            if schema.get("type") == "integer" and not {"maximum", "exclusiveMaximum"} & {*schema}:
                unbounded.append(schema)
            if (name := str(schema.get("$ref", "")).rpartition("/")[2]) not in {"", *seen}:
                seen.add(name)
                look(document["components"]["schemas"][name])
            for each in schema.values():
                look(each)

    look(asked)
    assert len(seen) > 20
    assert unbounded == []


@pytest.fixture
def generated(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A client made by openapi-python-client."""
    described = tmp_path / "openapi.json"
    described.write_text(json.dumps(api.client.get("/openapi.json").json()))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
    command += ["--path", str(described), "--output-path", str(tmp_path / "cloudloom_client")]
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it formats what it makes
    made = subprocess.run(
        command, env={**os.environ, "PATH": programs}, capture_output=True, text=True, check=True
    )
    # It knows no pictures, and takes the other half of a body that may be YAML.
    warned = re.findall(r"WARNING parsing (.+)", made.stdout + made.stderr)
    known = ["GET /v1/templates/{template_id}/icon within templates."]
    assert warned == [*known, "POST /v1/appliances within appliances."], made.stdout
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [each for each in sys.modules if each.startswith("cloudloom_client")]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("cloudloom_client")


def test_a_generated_client_drives_a_deployment(api: Api, generated: ModuleType) -> None:
    models: Any = importlib.import_module("cloudloom_client.models")
    client = generated.AuthenticatedClient(base_url="http://testserver", token=api.token)
    api.client.headers["Authorization"] = f"Bearer {api.token}"
    client.set_httpx_client(api.client)

    def call(tag: str, name: str, /, *path: Any, **more: Any) -> Any:
        module = importlib.import_module(f"cloudloom_client.api.{tag}.{name}")
        return module.sync(*path, client=client, **more)

    def carry_out(operation: Any) -> Any:
        assert isinstance(operation, models.Operation), operation
        FLOWS[operation.kind](operation.id)
        return call("operations", "read_operation", operation.id, wait=1.0)

    (template,) = call("templates", "list_templates")
    (vdc,) = call("virtual_datacenters", "list_virtual_datacenters", name="demo")
    web = models.WantedVm(name="web", template=template.name, replicas=2)
    wanted = models.Blueprint(appliance="shop", virtual_datacenter=str(vdc.id), vms=[web])
    appliance = call("appliances", "create_appliance", body=wanted, idempotency_key="k")
    assert isinstance(appliance.id, UUID)
    how = models.Deployment(on_failure=models.OnFailure.KEEP)
    ended = carry_out(call("appliances", "deploy_appliance", appliance.id, body=how))
    assert ended.state == models.OperationState.SUCCEEDED, ended.error
    vms = call("vms", "list_vms", state=models.VmState.ON)
    assert sorted(vm.name for vm in vms) == ["web-1", "web-2"]
    again = call("appliances", "deploy_appliance", appliance.id, body=how)
    assert isinstance(again, models.Problem)
    assert (again.status, again.code) == (409, "wrong-state")
    change = models.ApplianceChange(approval=True)
    refused = call("appliances", "change_appliance", appliance.id, body=change, if_match='"old"')
    assert refused.code == "precondition-failed"
    ended = carry_out(call("appliances", "undeploy_appliance", appliance.id))
    assert ended.state == models.OperationState.SUCCEEDED, ended.error
    assert call("appliances", "delete_appliance", appliance.id) is None
    assert call("vms", "list_vms") == []
