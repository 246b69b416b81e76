"""How far steps are, who waits for a place, and what is fast in a repository"""

import sqlalchemy as sa
from alembic import op

from adapters.database.session import UtcDateTime

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    with op.batch_alter_table("steps") as table:
        table.add_column(sa.Column("percent", sa.Integer(), nullable=True))
    with op.batch_alter_table("places") as table:
        table.add_column(sa.Column("turn", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "waiters",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("thing", sa.String(length=255), nullable=False),
        sa.Column("operation_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Uuid(), nullable=True),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_waiters")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )
    op.create_index(op.f("ix_waiters_thing"), "waiters", ["thing"])
    op.create_table(
        "ways",
        sa.Column("datacenter_id", sa.Uuid(), nullable=False),
        sa.Column("form", sa.String(length=64), nullable=False),
        sa.Column("way", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["datacenter_id"],
            ["datacenters.id"],
            name=op.f("fk_ways_datacenter_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("datacenter_id", "form", name=op.f("pk_ways")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )


def downgrade() -> None:
    op.drop_table("ways")
    op.drop_table("waiters")
    with op.batch_alter_table("places") as table:
        table.drop_column("turn")
    with op.batch_alter_table("steps") as table:
        table.drop_column("percent")
