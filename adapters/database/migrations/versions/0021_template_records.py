"""Whose templates are, what they are filed under, and who else sees them"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0021"
down_revision = "0020"

_LONG = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_OF = {"owner_id": "users", "master_id": "templates"}


def upgrade() -> None:
    with op.batch_alter_table("templates") as table:
        table.add_column(sa.Column("category", sa.String(length=63), nullable=True))
        table.add_column(
            sa.Column("shared", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        for name, other in _OF.items():
            table.add_column(sa.Column(name, sa.Uuid(), nullable=True))
            table.create_foreign_key(f"fk_templates_{name}", other, [name], ["id"])
    op.create_index("ix_templates_shared", "templates", ["shared", "state"])
    op.create_index("ix_templates_master_id", "templates", ["master_id"])
    op.create_table(
        "template_icons",
        sa.Column("template_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("png", _LONG, nullable=False),
        sa.ForeignKeyConstraint(
            ["template_id"], ["templates.id"], name="fk_template_icons_template_id"
        ),
        sa.PrimaryKeyConstraint("template_id", name="pk_template_icons"),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )


def downgrade() -> None:
    op.drop_table("template_icons")
    with op.batch_alter_table("templates") as table:
        for name in _OF:
            table.drop_constraint(f"fk_templates_{name}", type_="foreignkey")
    for name in ("shared", "master_id"):
        op.drop_index(f"ix_templates_{name}", table_name="templates")
    with op.batch_alter_table("templates") as table:
        for name in ("category", "shared", *_OF):
            table.drop_column(name)
