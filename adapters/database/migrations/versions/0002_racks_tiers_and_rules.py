"""Racks, tiers, allocation rules; hosts that are reserved or in maintenance"""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_OPTIONS = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "racks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("datacenter_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("vlan_min", sa.Integer(), nullable=False),
        sa.Column("vlan_max", sa.Integer(), nullable=False),
        sa.Column("vlans_avoided", sa.JSON(), nullable=False),
        sa.Column("vlans_reserved", sa.Integer(), nullable=False),
        sa.Column("low_vlans_percent", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["datacenter_id"], ["datacenters.id"], name="fk_racks_datacenter_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_racks"),
        sa.UniqueConstraint("datacenter_id", "name", name="uq_racks_datacenter_id_name"),
        **_OPTIONS,
    )
    tiers = op.create_table(
        "tiers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("datacenter_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.String(length=255), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["datacenter_id"], ["datacenters.id"], name="fk_tiers_datacenter_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_tiers"),
        sa.UniqueConstraint("datacenter_id", "name", name="uq_tiers_datacenter_id_name"),
        **_OPTIONS,
    )
    with op.batch_alter_table("hosts") as table:
        table.add_column(sa.Column("rack_id", sa.Uuid(), nullable=True))
        table.add_column(sa.Column("reserved_for_id", sa.Uuid(), nullable=True))
        table.add_column(
            sa.Column("maintenance", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        table.create_foreign_key("fk_hosts_rack_id", "racks", ["rack_id"], ["id"])
        table.create_foreign_key(
            "fk_hosts_reserved_for_id", "enterprises", ["reserved_for_id"], ["id"]
        )
    with op.batch_alter_table("datastores") as table:
        table.add_column(sa.Column("tier_id", sa.Uuid(), nullable=True))
        table.add_column(
            sa.Column("enabled", sa.Boolean(), nullable=False, server_default=sa.true())
        )
        table.create_foreign_key("fk_datastores_tier_id", "tiers", ["tier_id"], ["id"])
    with op.batch_alter_table("vms") as table:
        table.add_column(sa.Column("tier_id", sa.Uuid(), nullable=True))
        table.add_column(sa.Column("affinity", sa.String(length=255), nullable=True))
        table.add_column(sa.Column("anti_affinity", sa.String(length=255), nullable=True))
        table.create_foreign_key("fk_vms_tier_id", "tiers", ["tier_id"], ["id"])
    op.create_table(
        "allocation_rules",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("about", sa.String(length=255), nullable=False),
        sa.Column("datacenter_id", sa.Uuid(), nullable=True),
        sa.Column("rack_id", sa.Uuid(), nullable=True),
        sa.Column("host_id", sa.Uuid(), nullable=True),
        sa.Column("cpu_percent", sa.Integer(), nullable=True),
        sa.Column("ram_percent", sa.Integer(), nullable=True),
        sa.Column("policy", sa.String(length=24), nullable=True),
        sa.Column("enterprise_id", sa.Uuid(), nullable=True),
        sa.Column("other_enterprise_id", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(
            ["datacenter_id"], ["datacenters.id"], name="fk_allocation_rules_datacenter_id"
        ),
        sa.ForeignKeyConstraint(["rack_id"], ["racks.id"], name="fk_allocation_rules_rack_id"),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_allocation_rules_host_id"),
        sa.ForeignKeyConstraint(
            ["enterprise_id"], ["enterprises.id"], name="fk_allocation_rules_enterprise_id"
        ),
        sa.ForeignKeyConstraint(
            ["other_enterprise_id"],
            ["enterprises.id"],
            name="fk_allocation_rules_other_enterprise_id",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_allocation_rules"),
        sa.UniqueConstraint("about", name="uq_allocation_rules_about"),
        **_OPTIONS,
    )
    _name_becomes_tier(tiers)


def _name_becomes_tier(tiers: sa.Table) -> None:
    """Every datacenter gets a tier for each name that its pools say, and one called default."""
    pools = sa.table(
        "storage_pools",
        sa.column("id", sa.Uuid()),
        sa.column("device_id", sa.Uuid()),
        sa.column("tier", sa.String()),
        sa.column("tier_id", sa.Uuid()),
    )
    devices = sa.table(
        "storage_devices", sa.column("id", sa.Uuid()), sa.column("datacenter_id", sa.Uuid())
    )
    datacenters = sa.table("datacenters", sa.column("id", sa.Uuid()))
    with op.batch_alter_table("storage_pools") as table:
        table.add_column(sa.Column("tier_id", sa.Uuid(), nullable=True))
    db = op.get_bind()
    made = {
        (datacenter, "default"): uuid4() for datacenter in db.scalars(sa.select(datacenters.c.id))
    }
    of_pools = sa.select(pools.c.id, devices.c.datacenter_id, pools.c.tier).join_from(
        pools, devices, devices.c.id == pools.c.device_id
    )
    found = db.execute(of_pools).all()
    for _, datacenter, name in found:
        made.setdefault((datacenter, name), uuid4())
    for (datacenter, name), tier in made.items():
        row = {"id": tier, "datacenter_id": datacenter, "name": name}
        db.execute(sa.insert(tiers).values(description="", enabled=True, **row))
    for pool, datacenter, name in found:
        change = sa.update(pools).where(pools.c.id == pool)
        db.execute(change.values(tier_id=made[datacenter, name]))
    with op.batch_alter_table("storage_pools") as table:
        table.alter_column("tier_id", existing_type=sa.Uuid(), nullable=False)
        table.create_foreign_key("fk_storage_pools_tier_id", "tiers", ["tier_id"], ["id"])
        table.drop_column("tier")


def downgrade() -> None:
    with op.batch_alter_table("storage_pools") as table:
        table.add_column(
            sa.Column("tier", sa.String(length=255), nullable=False, server_default="default")
        )
    op.execute(
        "UPDATE storage_pools SET tier ="
        " (SELECT name FROM tiers WHERE tiers.id = storage_pools.tier_id)"
    )
    for name, columns in (
        ("storage_pools", ["tier_id"]),
        ("vms", ["tier_id"]),
        ("datastores", ["tier_id"]),
        ("hosts", ["rack_id", "reserved_for_id"]),
    ):
        with op.batch_alter_table(name) as table:
            for column in columns:
                table.drop_constraint(f"fk_{name}_{column}", type_="foreignkey")
                table.drop_column(column)
    with op.batch_alter_table("vms") as table:
        table.drop_column("affinity")
        table.drop_column("anti_affinity")
    with op.batch_alter_table("datastores") as table:
        table.drop_column("enabled")
    with op.batch_alter_table("hosts") as table:
        table.drop_column("maintenance")
    op.drop_table("allocation_rules")
    op.drop_table("tiers")
    op.drop_table("racks")
