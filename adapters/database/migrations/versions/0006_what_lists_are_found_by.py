"""What lists are found by"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_INDEXES = {
    "ix_vms_template_id": ("vms", ["template_id"]),
    "ix_volumes_vm_id": ("volumes", ["vm_id"]),
    "ix_volumes_pool_id": ("volumes", ["pool_id"]),
    "ix_hosts_name": ("hosts", ["name"]),
    "ix_hosts_of_family": ("hosts", ["family", "name"]),
    "ix_storage_devices_name": ("storage_devices", ["name"]),
    "ix_storage_pools_name": ("storage_pools", ["name"]),
    "ix_operations_of_enterprise": ("operations", ["enterprise_id", "accepted_at"]),
    "ix_operations_of_enterprise_by_state": (
        "operations",
        ["enterprise_id", "state", "accepted_at"],
    ),
    "ix_operations_of_enterprise_by_kind": (
        "operations",
        ["enterprise_id", "kind", "accepted_at"],
    ),
}
# MySQL has an index of its own for each of these foreign keys, until there is a better one.
_FOREIGN_KEYS = {
    "fk_vms_template_id": ("vms", ["template_id"]),
    "fk_volumes_vm_id": ("volumes", ["vm_id"]),
    "fk_volumes_pool_id": ("volumes", ["pool_id"]),
    "fk_operations_enterprise_id": ("operations", ["enterprise_id"]),
}


def upgrade() -> None:
    for name, (table, columns) in _INDEXES.items():
        op.create_index(op.f(name), table, columns)


def downgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        there = sa.inspect(op.get_bind())
        for name, (table, columns) in _FOREIGN_KEYS.items():
            if name not in {index["name"] for index in there.get_indexes(table)}:
                op.create_index(op.f(name), table, columns)
    for name, (table, _) in reversed(_INDEXES.items()):
        op.drop_index(op.f(name), table)
