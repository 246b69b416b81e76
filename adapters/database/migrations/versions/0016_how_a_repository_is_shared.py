"""How a repository is shared with hosts that take CIFS"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    with op.batch_alter_table("datacenters") as table:
        table.add_column(sa.Column("repository_share", sa.String(length=400), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("datacenters") as table:
        table.drop_column("repository_share")
