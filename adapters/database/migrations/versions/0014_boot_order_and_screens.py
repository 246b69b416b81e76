"""What VMs start from, and passwords of their screens"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    with op.batch_alter_table("vms") as table:
        table.add_column(sa.Column("boot", sa.JSON(none_as_null=True), nullable=True))
        table.add_column(sa.Column("screen_id", sa.Uuid(), nullable=True))
        table.create_foreign_key("fk_vms_screen_id", "secrets", ["screen_id"], ["id"])


def downgrade() -> None:
    with op.batch_alter_table("vms") as table:
        table.drop_constraint("fk_vms_screen_id", type_="foreignkey")
    given = "SELECT screen_id FROM vms WHERE screen_id IS NOT NULL"
    op.execute(f"DELETE FROM secrets WHERE id IN ({given})")  # noqa: S608 - it is ours
    with op.batch_alter_table("vms") as table:
        table.drop_column("screen_id")
        table.drop_column("boot")
