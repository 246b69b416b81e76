"""Where a datacenter's DHCP relays are, by VLAN"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    with op.batch_alter_table("datacenters") as table:
        table.add_column(sa.Column("relays", sa.String(length=18), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("datacenters") as table:
        table.drop_column("relays")
