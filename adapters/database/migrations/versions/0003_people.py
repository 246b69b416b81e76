"""People: roles, users, whose a token is, and where an operation's target is"""

import sqlalchemy as sa
from alembic import op

import adapters.database.session

revision = "0003"
down_revision = "0002"

_UTC = adapters.database.session.UtcDateTime()
_MYSQL = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "roles",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("enterprise_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("blocked", sa.Boolean(), nullable=False),
        sa.Column("privileges", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["enterprise_id"], ["enterprises.id"], name=op.f("fk_roles_enterprise_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_roles")),
        sa.UniqueConstraint("enterprise_id", "name", name=op.f("uq_roles_enterprise_id_name")),
        **_MYSQL,
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("enterprise_id", sa.Uuid(), nullable=False),
        sa.Column("role_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("full_name", sa.String(length=255), nullable=False),
        sa.Column("email", sa.String(length=255), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("virtual_datacenters", sa.JSON(), nullable=False),
        sa.Column("created_at", _UTC, nullable=False),
        sa.ForeignKeyConstraint(
            ["enterprise_id"], ["enterprises.id"], name=op.f("fk_users_enterprise_id")
        ),
        sa.ForeignKeyConstraint(["role_id"], ["roles.id"], name=op.f("fk_users_role_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("enterprise_id", "name", name=op.f("uq_users_enterprise_id_name")),
        **_MYSQL,
    )
    op.create_table(
        "login_attempts",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("tried_at", _UTC, nullable=False),
        sa.Column("locked_until", _UTC, nullable=True),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_login_attempts")),
        **_MYSQL,
    )
    with op.batch_alter_table("api_tokens") as tokens:
        tokens.add_column(sa.Column("user_id", sa.Uuid(), nullable=True))
        tokens.add_column(
            sa.Column("read_only", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        tokens.add_column(
            sa.Column("session", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        tokens.add_column(sa.Column("last_used_at", _UTC, nullable=True))
        tokens.create_foreign_key(op.f("fk_api_tokens_user_id"), "users", ["user_id"], ["id"])
    with op.batch_alter_table("api_tokens") as tokens:  # every row has its value by now
        tokens.alter_column("read_only", existing_type=sa.Boolean(), server_default=None)
        tokens.alter_column("session", existing_type=sa.Boolean(), server_default=None)
    op.create_index(
        op.f("ix_api_tokens_session_api_tokens_expires_at"),
        "api_tokens",
        ["session", "expires_at"],
    )
    op.add_column("operations", sa.Column("virtual_datacenter_id", sa.Uuid(), nullable=True))
    op.create_index(
        op.f("ix_operations_virtual_datacenter_id"), "operations", ["virtual_datacenter_id"]
    )
    for kind, where in _PLACES.items():
        op.execute(
            f"UPDATE operations SET virtual_datacenter_id = ({where})"  # noqa: S608 - both are ours
            f" WHERE target_kind = '{kind}'"
        )


_PLACES = {
    "appliance": "SELECT a.virtual_datacenter_id FROM appliances a WHERE a.id = target_id",
    "vm": "SELECT a.virtual_datacenter_id FROM appliances a JOIN vms v ON v.appliance_id = a.id"
    " WHERE v.id = target_id",
    "volume": "SELECT v.virtual_datacenter_id FROM volumes v WHERE v.id = target_id",
}


def downgrade() -> None:
    op.drop_index(op.f("ix_operations_virtual_datacenter_id"), "operations")
    with op.batch_alter_table("operations") as operations:
        operations.drop_column("virtual_datacenter_id")
    # Without users, a user's token would be nobody's, which may do more.
    op.execute(
        "DELETE FROM idempotency_keys WHERE token_id IN"
        " (SELECT id FROM api_tokens WHERE user_id IS NOT NULL OR read_only)"
    )
    op.execute("DELETE FROM api_tokens WHERE user_id IS NOT NULL OR read_only")
    op.drop_index(op.f("ix_api_tokens_session_api_tokens_expires_at"), "api_tokens")
    with op.batch_alter_table("api_tokens") as tokens:
        tokens.drop_constraint(op.f("fk_api_tokens_user_id"), type_="foreignkey")
        for name in ("user_id", "read_only", "session", "last_used_at"):
            tokens.drop_column(name)
    op.drop_table("login_attempts")
    op.drop_table("users")
    op.drop_table("roles")
