"""The small cloud of `tests.worlds`, on a real libvirt host and a real iSCSI server."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import libvirt
from sqlalchemy import delete, select, update

from adapters.database import models
from adapters.storage.tgt import Tgt
from adapters.types import Family, Format
from deployments.lab.kvm_host import KvmHost
from deployments.lab.tgtd import Tgtd
from flows.cloud import cloud
from tests import worlds
from tests.flows.scenarios import Scenario

IMAGE_MIB = 2


@dataclass
class RealWorld(worlds.World):
    """A world whose images are real files, and which can be looked at from outside."""

    uri: str = ""
    picture: Path | None = None  # what is on its images; else a pattern
    tgt: Tgt | None = None
    subformat: str = ""  # of its images

    def image(self, name: str, form: Format) -> UUID:
        template = super().image(name, form)
        path = cloud.repository(self.datacenter).path(
            f"templates/{template}/disk-0.{form.extension}"
        )
        raw = self.picture or self.home / "image.raw"
        if not self.picture:
            raw.write_bytes(bytes(range(256)) * (IMAGE_MIB * 2**20 // 256))
        how = ["-o", f"subformat={self.subformat}"] if self.subformat else []
        subprocess.run(["qemu-img", "convert", "-O", form, *how, raw, path], check=True)
        repository = cloud.repository(self.datacenter)
        with cloud.database.write() as db:
            db.execute(
                update(models.TemplateDisk)
                .where(models.TemplateDisk.template_id == template)
                .values(
                    subformat=self.subformat,
                    digest=repository.digest(path),
                    virtual_size_mib=-(-raw.stat().st_size // 2**20),
                    identity=repository.identity(
                        str(path.relative_to(repository.root))
                    ).model_dump(),
                )
            )
        return template

    def photograph(self, scenario: Scenario) -> dict[str, Any]:
        """What libvirt, tgtd and the directories say, beside the tables."""
        photo = scenario.photograph()
        connection = libvirt.open(self.uri)
        domains = {
            domain.UUIDString(): (
                domain.isActive(),
                domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE),
            )
            for domain in connection.listAllDomains()
        }
        secrets = sorted(connection.listSecrets())
        connection.close()
        pool = self.home / "pool"
        volumes = sorted((each.name, each.stat().st_size) for each in pool.iterdir())
        assert self.tgt is not None
        return photo | {
            "domains": domains,
            "secrets": secrets,
            "targets": sorted(self.tgt.targets()),
            "volumes": volumes,
        }


def build(home: Path, kvm_host: KvmHost, tgtd: Tgtd, **changes: Any) -> RealWorld:
    """A datacenter with one real host and one real pool."""
    real = without_images(home, Family.KVM, kvm_host.uri, tgtd, **changes)
    real.template = real.image("real", Format.QCOW2)
    return real


def without_images(
    home: Path, family: Family, address: str, tgtd: Tgtd, **changes: Any
) -> RealWorld:
    """The same with a host of any family, and without a template."""
    world = worlds.build(home, hosts=1)
    cloud.become(worlds.settings_in(home, image_tool="qemu-img", **changes))
    (home / "pool").mkdir()
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(family=family, address=address))
        db.execute(update(models.VirtualDatacenter).values(family=family))
        db.execute(
            update(models.StorageDevice).values(
                technology="directory", port=tgtd.port, control=tgtd.control
            )
        )
        db.execute(update(models.StoragePool).values(directory=str(home / "pool")))
        for template in db.scalars(select(models.Template.id)):
            db.execute(
                delete(models.TemplateDisk).where(models.TemplateDisk.template_id == template)
            )
        db.execute(delete(models.Template))
    tgt = Tgt(tgtd.control, "127.0.0.1", tgtd.port)
    return RealWorld(**{**vars(world), "uri": address, "tgt": tgt})


@contextmanager
def with_guest(home: Path, host: KvmHost, tgtd: Tgtd, picture: Path) -> Iterator[RealWorld]:
    """The same on QEMU; its template is a guest that boots, and it is cleared afterwards."""
    world = without_images(home, Family.KVM, host.uri, tgtd, power_off_timeout_s=0)
    world.picture = picture
    world.template = world.image("real", Format.QCOW2)
    yield world
    clear(world)
    cloud.database.engine.dispose()


def clear(world: RealWorld) -> None:
    """Take everything off the shared host again."""
    connection = libvirt.open(world.uri)
    for domain in connection.listAllDomains():
        if domain.isActive():
            domain.destroy()
        domain.undefine()
    for secret in connection.listAllSecrets():
        secret.undefine()
    connection.close()
