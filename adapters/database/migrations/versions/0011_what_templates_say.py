"""What templates say of their hardware and of themselves"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_COLUMNS = ("hardware", "about")


def upgrade() -> None:
    with op.batch_alter_table("templates") as table:
        for name in _COLUMNS:
            table.add_column(sa.Column(name, sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("templates") as table:
        for name in _COLUMNS:
            table.drop_column(name)
