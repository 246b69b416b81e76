"""Which firmware and disk bus guests expect, and which system they are"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"

_LONG = {"firmware": 16, "bus": 16, "guest_system": 64}


def upgrade() -> None:
    with op.batch_alter_table("vms") as table:
        for name, length in _LONG.items():
            table.add_column(sa.Column(name, sa.String(length=length), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("vms") as table:
        for name in _LONG:
            table.drop_column(name)
