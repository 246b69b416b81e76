"""What a check of a datacenter says of what is away, low on room, or well."""

from adapters.types import Finding, Volume
from flows.cloud import cloud
from tests.worlds import World


def found(world: World) -> dict[str, Finding]:
    operation = world.run("check_datacenters", world.datacenter)
    lines = cloud.journal.lines(operation.id)
    report = next(line.result for line in lines if line.name == "publish-report")
    return {each.what: each for each in map(Finding.model_validate, report)}


def test_all_is_well(world):
    states = {what: each.state for what, each in found(world).items()}
    assert states == {"workers": "unknown", "repository": "ok", "datastore": "ok", "pool": "ok"}


def test_what_is_away_is_found_and_keeps_nothing_else_from_being_looked_at(world):
    (cloud.repository(world.datacenter).root / ".cloudloom-repository").unlink()
    cloud.world.set_fate("storage.exports", "fails")
    cloud.world.put("datastore", world.datastores[1], {"total_mib": 0})
    report = found(world)
    assert {what: each.state for what, each in report.items()} == {
        "workers": "unknown",
        "repository": "away",
        "datastore": "away",
        "pool": "away",
    }
    assert "marker" in report["repository"].detail


def test_little_room_is_said(world):
    volume = world.volume("large", carved=False)
    storage, installation = cloud.storage(world.pool), cloud.inventory.installation
    storage.ensure_volume(Volume(id=volume, size_mib=3900, installation=installation))
    pool = found(world)["pool"]
    assert (pool.name, pool.state, pool.detail) == ("pool", "low", "196 of 4096 MiB free")
