"""Events: who did what, when, and on what"""

import sqlalchemy as sa
from alembic import op

from adapters.database.session import UtcDateTime

revision = "0005"
down_revision = "0004"

INDEXES = (
    ["enterprise_id", "at"],
    ["enterprise_id", "kind", "at"],
    ["enterprise_id", "severity", "at"],
    ["enterprise_id", "who", "at"],
    ["object_id", "at"],
    ["appliance_id", "at"],
    ["virtual_datacenter_id", "at"],
    ["operation_id"],
    ["at"],
)


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("severity", sa.String(length=8), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("who", sa.String(length=255), nullable=False),
        sa.Column("who_id", sa.Uuid(), nullable=True),
        sa.Column("client", sa.String(length=64), nullable=True),
        sa.Column("request", sa.String(length=64), nullable=True),
        sa.Column("enterprise_id", sa.Uuid(), nullable=False),
        sa.Column("virtual_datacenter_id", sa.Uuid(), nullable=True),
        sa.Column("appliance_id", sa.Uuid(), nullable=True),
        sa.Column("object_kind", sa.String(length=32), nullable=False),
        sa.Column("object_id", sa.Uuid(), nullable=True),
        sa.Column("object_name", sa.String(length=255), nullable=False),
        sa.Column("operation_id", sa.Uuid(), nullable=True),
        sa.Column("about", sa.JSON(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_autoincrement=True,
    )
    for columns in INDEXES:
        name = "_".join(f"events_{column}" for column in columns)
        op.create_index(op.f(f"ix_{name}"), "events", columns)


def downgrade() -> None:
    op.drop_table("events")
