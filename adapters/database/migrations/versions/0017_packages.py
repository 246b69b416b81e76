"""Packages that wait to be fetched"""

import sqlalchemy as sa
from alembic import op

from adapters.database.session import UtcDateTime

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_table(
        "packages",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("enterprise_id", sa.Uuid(), nullable=False),
        sa.Column("virtual_datacenter_id", sa.Uuid(), nullable=True),
        sa.Column("datacenter_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("path", sa.String(length=500), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["datacenter_id"], ["datacenters.id"], name=op.f("fk_packages_datacenter_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_packages")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )
    op.create_index("ix_packages_of_enterprise", "packages", ["enterprise_id", "created_at"])
    op.create_index("ix_packages_of_enterprise_by_name", "packages", ["enterprise_id", "name"])


def downgrade() -> None:
    op.drop_table("packages")
