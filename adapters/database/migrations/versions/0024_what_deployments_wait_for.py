"""What a deployment of VMs waits for"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    for each in ("appliances", "vms"):
        with op.batch_alter_table(each) as table:
            table.add_column(sa.Column("wait_for", sa.String(length=16), nullable=True))


def downgrade() -> None:
    for each in ("vms", "appliances"):
        with op.batch_alter_table(each) as table:
            table.drop_column("wait_for")
