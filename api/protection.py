"""Protection: whoever would destroy a VM asks here, and is told which ones are protected."""

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.vms import parts
from flows.policies import lifecycle


def require_unprotected(db: Session, deed: str, vms: Iterable[models.VirtualMachine]) -> None:
    """Raise `Conflict` when the deed destroys, and any of these VMs is protected.

    To be asked in the transaction that accepts or does it, once the VMs are locked: who protects
    one meanwhile is waited for, and who comes later finds it locked.
    """
    table = models.VirtualMachine
    protected: list[str] = []
    for some in parts([vm.id for vm in vms]):
        query = select(table.name, table.protected).where(table.id.in_(some))
        rows = db.execute(query.with_for_update(read=True))
        protected += [row.name for row in rows if row.protected]
    lifecycle.require_unprotected(deed, protected)
