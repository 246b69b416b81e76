"""Networks with addresses, who leases them, and what hosts have of them"""

import sqlalchemy as sa
from alembic import op

from adapters.database.session import UtcDateTime

revision = "0023"
down_revision = "0022"

_MYSQL = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
_OF = {
    "datacenter_id": "datacenters",
    "enterprise_id": "enterprises",
    "dhcp_server_id": "dhcp_servers",
}
_LISTS = ("dns", "routes", "excluded")


def upgrade() -> None:
    op.create_table(
        "dhcp_servers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("datacenter_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=400), nullable=False),
        sa.ForeignKeyConstraint(
            ["datacenter_id"], ["datacenters.id"], name="fk_dhcp_servers_datacenter_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_dhcp_servers"),
        sa.UniqueConstraint("datacenter_id", "name", name="uq_dhcp_servers_datacenter_id_name"),
        **_MYSQL,
    )
    with op.batch_alter_table("networks") as table:
        table.alter_column("virtual_datacenter_id", existing_type=sa.Uuid(), nullable=True)
        table.alter_column(
            "kind",
            existing_type=sa.String(length=255),
            existing_nullable=False,
            type_=sa.String(length=24),
        )
        for name in _OF:
            table.add_column(sa.Column(name, sa.Uuid(), nullable=True))
        table.add_column(sa.Column("tag", sa.Integer(), nullable=True))
        table.add_column(sa.Column("range", sa.String(length=64), nullable=True))
        table.add_column(sa.Column("gateway", sa.String(length=45), nullable=True))
        table.add_column(sa.Column("suffix", sa.String(255), nullable=False, server_default=""))
        table.add_column(sa.Column("range6", sa.String(length=64), nullable=True))
        table.add_column(sa.Column("mtu", sa.Integer(), nullable=False, server_default="1500"))
        table.add_column(sa.Column("number", sa.Integer(), nullable=True))
        table.add_column(sa.Column("relay", sa.String(length=45), nullable=True))
        table.add_column(
            sa.Column("quarantine_s", sa.Integer(), nullable=False, server_default="0")
        )
        for name in _LISTS:
            table.add_column(sa.Column(name, sa.JSON(), nullable=True))
    networks = sa.table("networks", *map(sa.column, ("virtual_datacenter_id", *_OF, "kind")))
    vdcs = sa.table("virtual_datacenters", sa.column("id"), sa.column("datacenter_id"))
    theirs = sa.select(vdcs.c.datacenter_id).where(vdcs.c.id == networks.c.virtual_datacenter_id)
    op.execute(networks.update().values(datacenter_id=theirs.scalar_subquery(), kind="restricted"))
    for name in _LISTS:
        op.execute(f"UPDATE networks SET {name} = '[]'")  # noqa: S608 - names of our own
    with op.batch_alter_table("networks") as table:
        table.alter_column("datacenter_id", existing_type=sa.Uuid(), nullable=False)
        for name in _LISTS:
            table.alter_column(name, existing_type=sa.JSON(), nullable=False)
        for name, other in _OF.items():
            table.create_foreign_key(f"fk_networks_{name}", other, [name], ["id"])
        table.create_unique_constraint("uq_networks_datacenter_id_tag", ["datacenter_id", "tag"])
        table.create_unique_constraint("uq_networks_number", ["number"])
    with op.batch_alter_table("nics") as table:
        table.add_column(
            sa.Column("is_default", sa.Boolean(), nullable=False, server_default=sa.false())
        )
    op.execute("UPDATE nics SET is_default = (position = 0)")
    op.create_index("ix_nics_network_id", "nics", ["network_id"])
    with op.batch_alter_table("hosts") as table:
        table.add_column(sa.Column("uplink", sa.String(length=63), nullable=True))
        table.add_column(sa.Column("link_kind", sa.String(length=16), nullable=True))
        table.add_column(
            sa.Column("switch", sa.String(length=63), nullable=False, server_default="")
        )
    op.create_table(
        "addresses",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("network_id", sa.Uuid(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=False),
        sa.Column("nic_id", sa.Uuid(), nullable=True),
        sa.Column("virtual_datacenter_id", sa.Uuid(), nullable=True),
        sa.Column("quarantined_until", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["network_id"], ["networks.id"], name="fk_addresses_network_id"),
        sa.ForeignKeyConstraint(["nic_id"], ["nics.id"], name="fk_addresses_nic_id"),
        sa.ForeignKeyConstraint(
            ["virtual_datacenter_id"],
            ["virtual_datacenters.id"],
            name="fk_addresses_virtual_datacenter_id",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_addresses"),
        sa.UniqueConstraint("network_id", "place", name="uq_addresses_network_id_place"),
        sa.UniqueConstraint("nic_id", "network_id", name="uq_addresses_nic_id_network_id"),
        **_MYSQL,
    )
    op.create_index("ix_addresses_virtual_datacenter_id", "addresses", ["virtual_datacenter_id"])


def downgrade() -> None:
    op.drop_table("addresses")
    with op.batch_alter_table("hosts") as table:
        for name in ("uplink", "link_kind", "switch"):
            table.drop_column(name)
    with op.batch_alter_table("nics") as table:
        table.drop_constraint("fk_nics_network_id", type_="foreignkey")
    op.drop_index("ix_nics_network_id", table_name="nics")
    with op.batch_alter_table("nics") as table:
        table.create_foreign_key("fk_nics_network_id", "networks", ["network_id"], ["id"])
        table.drop_column("is_default")
    # What is the operator's has no place in an older schema, nor have the NICs that are in it.
    op.execute(
        "DELETE FROM nics WHERE network_id IN"
        " (SELECT id FROM networks WHERE virtual_datacenter_id IS NULL)"
    )
    op.execute("DELETE FROM networks WHERE virtual_datacenter_id IS NULL")
    op.execute("UPDATE networks SET kind = 'unmanaged'")
    with op.batch_alter_table("networks") as table:
        for name in _OF:
            table.drop_constraint(f"fk_networks_{name}", type_="foreignkey")
        for name in ("uq_networks_datacenter_id_tag", "uq_networks_number"):
            table.drop_constraint(name, type_="unique")
    with op.batch_alter_table("networks") as table:
        for name in (*_OF, "tag", "range", "gateway", "suffix", "range6", "mtu", "number"):
            table.drop_column(name)
        for name in ("relay", "quarantine_s", *_LISTS):
            table.drop_column(name)
        table.alter_column("virtual_datacenter_id", existing_type=sa.Uuid(), nullable=False)
        table.alter_column(
            "kind",
            existing_type=sa.String(length=24),
            existing_nullable=False,
            type_=sa.String(length=255),
        )
    op.drop_table("dhcp_servers")
