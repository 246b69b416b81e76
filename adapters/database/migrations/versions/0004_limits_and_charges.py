"""Limits, and charges for what is there already"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_ENDED = ("succeeded", "failed", "cancelled", "abandoned")
_RESOURCES = (
    *("cpu", "ram_mib", "disk_mib", "storage_mib"),
    *("vlans", "public_addresses", "repository_mib"),
)
_NOTHING = dict.fromkeys(_RESOURCES, 0)
_MYSQL = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "limits",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("level", sa.String(length=24), nullable=False),
        sa.Column("enterprise_id", sa.Uuid(), nullable=False),
        sa.Column("datacenter_id", sa.Uuid(), nullable=True),
        sa.Column("virtual_datacenter_id", sa.Uuid(), nullable=True),
        sa.Column("soft", sa.JSON(), nullable=False),
        sa.Column("hard", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["enterprise_id"],
            ["enterprises.id"],
            name=op.f("fk_limits_enterprise_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["datacenter_id"],
            ["datacenters.id"],
            name=op.f("fk_limits_datacenter_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["virtual_datacenter_id"],
            ["virtual_datacenters.id"],
            name=op.f("fk_limits_virtual_datacenter_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_limits")),
        **_MYSQL,
    )
    op.create_index(op.f("ix_limits_enterprise_id"), "limits", ["enterprise_id"])
    charges = op.create_table(
        "charges",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("enterprise_id", sa.Uuid(), nullable=False),
        sa.Column("datacenter_id", sa.Uuid(), nullable=False),
        sa.Column("virtual_datacenter_id", sa.Uuid(), nullable=True),
        sa.Column("cpu", sa.BigInteger(), nullable=False),
        sa.Column("ram_mib", sa.BigInteger(), nullable=False),
        sa.Column("disk_mib", sa.BigInteger(), nullable=False),
        sa.Column("storage_mib", sa.BigInteger(), nullable=False),
        sa.Column("vlans", sa.BigInteger(), nullable=False),
        sa.Column("public_addresses", sa.BigInteger(), nullable=False),
        sa.Column("repository_mib", sa.BigInteger(), nullable=False),
        sa.Column("forced_by", sa.String(length=255), nullable=True),
        sa.Column("forced_because", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("kind", "id", name=op.f("pk_charges")),
        **_MYSQL,
    )
    account = ("enterprise_id", "datacenter_id", "virtual_datacenter_id")
    op.create_index("ix_charges_account", "charges", [*account, *_RESOURCES])
    rows = _charges(op.get_bind())
    for start in range(0, len(rows), 500):
        op.bulk_insert(charges, rows[start : start + 500])


def downgrade() -> None:
    op.drop_table("charges")
    op.drop_table("limits")


def _charges(db: sa.Connection) -> list[dict[str, Any]]:
    """What exists is charged; but nothing that an unfinished operation has made.

    Its steps were another version's: it is undone by what its journal holds, which refunds
    nothing.
    """
    making = _in_the_making(db)
    vdcs = _table("virtual_datacenters", "enterprise_id", "datacenter_id")
    accounts = {row.id: row[1:] for row in db.execute(sa.select(*vdcs.c))}
    rows: list[dict[str, Any]] = []

    def add(kind: str, what: UUID, account: Sequence[UUID | None], **amounts: int) -> None:
        if what in making:
            return
        enterprise, datacenter, vdc = account
        key = {"kind": kind, "id": what}
        counts = {"enterprise_id": enterprise, "datacenter_id": datacenter}
        rows.append({**key, **counts, "virtual_datacenter_id": vdc, **_NOTHING, **amounts})

    vms = _table("vms", "appliance_id", "host_id", cpu=sa.Integer, ram_mib=sa.Integer)
    appliances = _table("appliances", "virtual_datacenter_id")
    disks = _table("disks", "vm_id", "volume_id", size_mib=sa.Integer)
    local = sa.select(disks.c.vm_id, sa.func.sum(disks.c.size_mib)).group_by(disks.c.vm_id)
    sizes = dict(db.execute(local.where(disks.c.volume_id.is_(None))).tuples().all())
    deployed = (
        sa.select(vms.c.id, vms.c.cpu, vms.c.ram_mib, appliances.c.virtual_datacenter_id)
        .join_from(vms, appliances, appliances.c.id == vms.c.appliance_id)
        .where(vms.c.host_id.is_not(None))
    )
    for vm, cpu, ram_mib, vdc in db.execute(deployed):
        account = (*accounts[vdc], vdc)
        add("vm", vm, account, cpu=cpu, ram_mib=ram_mib, disk_mib=int(sizes.get(vm, 0)))
    volumes = _table("volumes", "virtual_datacenter_id", size_mib=sa.Integer, carved=sa.Boolean)
    carved = sa.select(volumes.c.id, volumes.c.virtual_datacenter_id, volumes.c.size_mib)
    for volume, vdc, size in db.execute(carved.where(volumes.c.carved.is_(True))):
        add("volume", volume, (*accounts[vdc], vdc), storage_mib=size)
    templates = _table("templates", "enterprise_id", "datacenter_id")
    images = _table("template_disks", "template_id", size_bytes=sa.BigInteger)
    kept = (
        sa.select(*templates.c, sa.func.sum(images.c.size_bytes))
        .join_from(templates, images, images.c.template_id == templates.c.id)
        .group_by(*templates.c)
    )
    for template, enterprise, datacenter, size in db.execute(kept):
        account = (enterprise, datacenter, None)
        add("template", template, account, repository_mib=-(-int(size) // 2**20))
    return rows


def _in_the_making(db: sa.Connection) -> set[Any]:
    """What unfinished operations are making, and will undo."""
    operations = _table(
        "operations", "target_id", kind=sa.String, state=sa.String, arguments=sa.JSON
    )
    query = sa.select(operations.c.kind, operations.c.target_id, operations.c.arguments)
    found: set[Any] = set()
    for kind, target, given in db.execute(query.where(operations.c.state.not_in(_ENDED))):
        if kind in {"deploy_vm", "create_iscsi_volume", "import_image"}:
            found.add(target)
        if kind == "deploy_appliance":
            found |= {UUID(each) for each in given["vms"]}
        if kind == "persist_vm":
            found.add(UUID(given["volume"]["id"]))
    return found


def _table(name: str, *ids: str, **columns: Any) -> sa.TableClause:
    uuids = [sa.column(each, sa.Uuid()) for each in ("id", *ids)]
    return sa.table(name, *uuids, *(sa.column(k, kind()) for k, kind in columns.items()))
