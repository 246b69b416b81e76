"""Which network cards guests expect"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    with op.batch_alter_table("nics") as table:
        table.add_column(sa.Column("model", sa.String(length=32), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("nics") as table:
        table.drop_column("model")
