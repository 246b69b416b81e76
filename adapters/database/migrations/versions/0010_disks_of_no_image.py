"""Disks that are made of no image"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    with op.batch_alter_table("disks") as table:
        table.alter_column("template_disk_id", existing_type=sa.Uuid(), nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM disks WHERE template_disk_id IS NULL")
    with op.batch_alter_table("disks") as table:
        table.alter_column("template_disk_id", existing_type=sa.Uuid(), nullable=False)
