"""What lists are found and sorted by, beyond what the tables need for themselves."""

from sqlalchemy import Index

from adapters.database import models

_OPERATION, _VOLUME = models.Operation, models.VolumeRow
INDEXES = (
    Index(None, models.VirtualMachine.template_id),
    # Those of one enterprise, and beside them those that others share; instances by their master.
    Index("ix_templates_shared", models.Template.shared, models.Template.state),
    Index(None, models.Template.master_id),
    Index(None, _VOLUME.vm_id),
    Index(None, _VOLUME.pool_id),
    Index(None, models.Host.name),
    Index("ix_hosts_of_family", models.Host.family, models.Host.name),
    Index(None, models.StorageDevice.name),
    Index(None, models.StoragePool.name),
    # The history is the one list that only grows.
    Index("ix_operations_of_enterprise", _OPERATION.enterprise_id, _OPERATION.accepted_at),
    Index(
        "ix_operations_of_enterprise_by_state",
        _OPERATION.enterprise_id,
        _OPERATION.state,
        _OPERATION.accepted_at,
    ),
    Index(
        "ix_operations_of_enterprise_by_kind",
        _OPERATION.enterprise_id,
        _OPERATION.kind,
        _OPERATION.accepted_at,
    ),
)
