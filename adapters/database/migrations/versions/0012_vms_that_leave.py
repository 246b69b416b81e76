"""VMs that leave"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    with op.batch_alter_table("vms") as table:
        table.add_column(
            sa.Column("leaving", sa.Boolean(), nullable=False, server_default=sa.false())
        )


def downgrade() -> None:
    with op.batch_alter_table("vms") as table:
        table.drop_column("leaving")
