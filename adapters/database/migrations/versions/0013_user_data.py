"""User data of VMs, and secrets that are as long"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    _secrets(sa.LargeBinary(), mysql.MEDIUMBLOB())
    with op.batch_alter_table("vms") as table:
        table.add_column(sa.Column("user_data_id", sa.Uuid(), nullable=True))
        table.create_foreign_key("fk_vms_user_data_id", "secrets", ["user_data_id"], ["id"])


def downgrade() -> None:
    with op.batch_alter_table("vms") as table:
        table.drop_constraint("fk_vms_user_data_id", type_="foreignkey")
    given = "SELECT user_data_id FROM vms WHERE user_data_id IS NOT NULL"
    op.execute(f"DELETE FROM secrets WHERE id IN ({given})")  # noqa: S608 - it is ours
    with op.batch_alter_table("vms") as table:
        table.drop_column("user_data_id")
    _secrets(mysql.MEDIUMBLOB(), sa.LargeBinary())


def _secrets(former: sa.types.TypeEngine[bytes], now: sa.types.TypeEngine[bytes]) -> None:
    """SQLite has one kind of bytes."""
    if op.get_bind().dialect.name == "sqlite":
        return
    with op.batch_alter_table("secrets") as table:
        table.alter_column("ciphertext", existing_type=former, type_=now, existing_nullable=False)
