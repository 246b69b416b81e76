"""A rescan takes in what lies in the caller's enterprise's folder, and nobody else's."""

from typing import Any

from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.api.conftest import Api
from tests.api.test_cli import Workers, run, workers  # noqa: F401 - a fixture
from tests.flows.scenarios import put_into_inbox


def rescan(api: Api) -> Any:
    return api.post(f"/v1/datacenters/{api.world.datacenter}/rescan")


def test_each_enterprise_has_a_folder_of_its_own(api: Api, stranger: Api) -> None:
    ours = put_into_inbox(api.world, "ours.vmdk")
    (ours.parent.parent / "others").mkdir()
    ours.with_name("theirs.vmdk").write_bytes(ours.read_bytes())
    ours.with_name("theirs.vmdk").rename(ours.parent.parent / "others" / "theirs.vmdk")
    mine, theirs = rescan(api), rescan(stranger)  # neither waits for the other
    assert rescan(api).json()["code"] == "locked"
    told = api.done(mine)["report"]
    assert [(x["name"], x["state"]) for x in told] == [
        ("inbox/default/ours.vmdk", "being-imported")
    ]
    assert "ours" not in str(stranger.done(theirs)["report"])
    for each in cloud.operations.due(api.world.datacenter):
        FLOWS[each.kind](each.id)
    assert {x["name"] for x in api.get("/v1/templates").json()} == {"tiny", "ours"}
    assert {x["name"] for x in stranger.get("/v1/templates").json()} == {"theirs"}
    assert api.get("/v1/limits/usage").status_code == 200


def test_the_command_line_shows_what_was_found(api: Api, workers: Workers) -> None:  # noqa: F811
    put_into_inbox(api.world, "ours.vmdk").with_name("notes.txt").write_text("hello")
    said = run("rescan").output
    assert "inbox/default/ours.vmdk" in said
    assert "being-imported" in said
    assert "image-unknown-format" in said
