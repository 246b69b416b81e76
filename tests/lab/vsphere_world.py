"""The small cloud of `tests.worlds`, on a simulated vCenter and a real iSCSI server."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import update

from adapters.database import models
from adapters.types import Chap, Family, Format, Power
from deployments.lab.tgtd import Tgtd
from deployments.lab.vcsim import Vcsim
from flows.cloud import cloud
from tests.flows.scenarios import Scenario
from tests.lab import real_world


@dataclass
class VsphereWorld(real_world.RealWorld):
    """A world whose images are streams, and which can be looked at from outside."""

    files: Path | None = None

    def photograph(self, scenario: Scenario) -> dict[str, Any]:
        """What the vCenter, tgtd and the directories say, beside the tables."""
        pool = self.home / "pool"
        return scenario.photograph() | {
            **things_on(self.hosts[0], self.files),
            "exports": sorted(self.tgt.targets()),
            "volumes": sorted((each.name, each.stat().st_size) for each in pool.iterdir()),
        }


def things_on(host: Any, files: Path) -> dict[str, Any]:
    """A host's VMs and iSCSI targets, and a datastore's files but for what the VMs write."""
    session = cloud.hypervisor(host)._session
    with session.speaking():
        adapters = session.host.configManager.storageSystem.storageDeviceInfo.hostBusAdapter
        configured = [x for each in adapters for x in getattr(each, "configuredStaticTarget", [])]
        return {
            "vms": sorted((vm.name, vm.runtime.powerState) for vm in session.host.vm),
            "targets": sorted(target.iScsiName for target in configured),
            "files": sorted(str(path) for path in files.rglob("*") if path.suffix != ".log"),
        }


def build(home: Path, vcsim: Vcsim, tgtd: Tgtd, **changes: Any) -> VsphereWorld:
    """A datacenter with one simulated host, a datastore folder of its own, and one real pool."""
    made = real_world.without_images(home, Family.VSPHERE, vcsim.address, tgtd, **changes)
    folder = str(made.datacenter)
    (vcsim.files() / folder).mkdir()
    world = VsphereWorld(**vars(made), files=vcsim.files())
    world.subformat = "streamOptimized"
    with cloud.database.write() as db:
        db.execute(update(models.Datastore).values(directory=f"[LocalDS_0] {folder}"))
        login = Chap(user=vcsim.user, password=SecretStr(vcsim.password))
        cloud.secrets.keep(db, world.hosts[0], login)
    world.template = world.image("real", Format.VMDK)
    return world


def clear(world: VsphereWorld) -> None:
    """Take everything off the shared simulator again."""
    hypervisor = cloud.hypervisor(world.hosts[0])
    for vm in hypervisor.vms():
        hypervisor.set_power(vm, Power.OFF, timeout_s=0)
        hypervisor.delete_vm(vm)
