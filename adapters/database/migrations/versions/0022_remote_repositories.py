"""Remote repositories, and what they list"""

import sqlalchemy as sa
from alembic import op

from adapters.database.session import UtcDateTime

revision = "0022"
down_revision = "0021"

_MYSQL = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "template_repositories",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("enterprise_id", sa.Uuid(), nullable=False),
        sa.Column("datacenter_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("refreshed_at", UtcDateTime(), nullable=True),
        sa.Column("refreshed_by", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(
            ["enterprise_id"],
            ["enterprises.id"],
            name=op.f("fk_template_repositories_enterprise_id"),
        ),
        sa.ForeignKeyConstraint(
            ["datacenter_id"],
            ["datacenters.id"],
            name=op.f("fk_template_repositories_datacenter_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_template_repositories")),
        sa.UniqueConstraint(
            "enterprise_id", "name", name=op.f("uq_template_repositories_enterprise_id_name")
        ),
        **_MYSQL,
    )
    op.create_table(
        "remote_packages",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("repository_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.String(length=1000), nullable=False),
        sa.Column("category", sa.String(length=255), nullable=False),
        sa.Column("vendor", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=255), nullable=False),
        sa.Column("disk_format", sa.String(length=64), nullable=False),
        sa.Column("size_mib", sa.BigInteger(), nullable=True),
        sa.Column("icon", sa.String(length=2000), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["template_repositories.id"],
            name=op.f("fk_remote_packages_repository_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_remote_packages")),
        **_MYSQL,
    )
    op.create_index("ix_remote_packages_by_name", "remote_packages", ["repository_id", "name"])


def downgrade() -> None:
    op.drop_table("remote_packages")
    op.drop_table("template_repositories")
