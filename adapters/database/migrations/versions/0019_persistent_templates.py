"""Disks of templates that are volumes"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

_PERSISTENT = "SELECT template_id FROM template_disks WHERE volume_id IS NOT NULL"


def upgrade() -> None:
    with op.batch_alter_table("template_disks") as table:
        table.add_column(sa.Column("volume_id", sa.Uuid(), nullable=True))
        table.create_foreign_key("fk_template_disks_volume_id", "volumes", ["volume_id"], ["id"])


def downgrade() -> None:
    op.execute(f"UPDATE templates SET state = 'ERROR' WHERE id IN ({_PERSISTENT})")  # noqa: S608 - it is ours
    with op.batch_alter_table("template_disks") as table:
        table.drop_constraint("fk_template_disks_volume_id", type_="foreignkey")
    with op.batch_alter_table("template_disks") as table:
        table.drop_column("volume_id")
