"""Copies of images are claimed at their datastore, whichever hosts share it"""

from collections.abc import Mapping
from uuid import UUID

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"

_CLAIMS = sa.table("claims", sa.column("thing"), sa.column("holder"))
_THINGS = sa.table("shared_things", sa.column("name"))
_DISKS = sa.table("disks", sa.column("id", sa.Uuid()), sa.column("vm_id", sa.Uuid()))
_VMS = sa.table(
    "vms",
    sa.column("id", sa.Uuid()),
    sa.column("host_id", sa.Uuid()),
    sa.column("datastore_id", sa.Uuid()),
)
_STORES = sa.table("datastores", sa.column("id", sa.Uuid()), sa.column("uuid", sa.Uuid()))


def upgrade() -> None:
    _claim_at(_STORES.c.uuid)


def downgrade() -> None:
    _claim_at(_VMS.c.host_id)


def _claim_at(place: sa.Column[UUID]) -> None:
    """Let each disk claim its copy at that place of its VM's; nobody has claimed it there yet."""
    db = op.get_bind()
    query = (
        sa.select(_DISKS.c.id, place)
        .join(_VMS, _VMS.c.id == _DISKS.c.vm_id)
        .join(_STORES, _STORES.c.id == _VMS.c.datastore_id)
    )
    places = {f"disk:{disk}": where for disk, where in db.execute(query)}
    copies = _CLAIMS.c.thing.startswith("copy:")
    claims = [tuple(row) for row in db.execute(sa.select(_CLAIMS).where(copies))]
    renamed = {claim: _renamed(claim, places) for claim in claims}
    for name in {*renamed.values()} - {thing for thing, _ in claims}:
        db.execute(sa.insert(_THINGS).values(name=name))
    for (thing, holder), name in renamed.items():
        its = (_CLAIMS.c.thing == thing) & (_CLAIMS.c.holder == holder)
        db.execute(sa.update(_CLAIMS).where(its).values(thing=name))
    claimed = sa.select(_CLAIMS.c.thing)
    mine = _THINGS.c.name.startswith("copy:") & _THINGS.c.name.not_in(claimed)
    db.execute(sa.delete(_THINGS).where(mine))


def _renamed(claim: tuple[str, str], places: Mapping[str, UUID]) -> str:
    thing, holder = claim
    where = places.get(holder)
    return f"copy:{where}:{thing.rpartition(':')[2]}" if where else thing
