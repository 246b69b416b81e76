"""Labels: read and set on whatever has an id, by who may read and change that."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import RootModel
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.events import singular, tell
from adapters.database.labels import Labelled, label
from adapters.database.people import Role, User
from adapters.errors import Conflict
from adapters.privileges import Privilege
from api import finding, labelling, tokens
from api.dependencies import Caller
from api.matching import Match
from api.networking import require_his
from api.permissions import needs, require_no_mightier
from flows.cloud import cloud
from flows.policies.privileges import known

router = APIRouter(tags=["labels"])
Find = Callable[[Session, tokens.Caller, UUID], Any]


class Labels(RootModel[labelling.Labels]):
    """What is written on a thing: keys, each with a value."""


@dataclass(frozen=True)
class Kind:
    """How a thing is found, and which privileges reading and changing it take."""

    parameter: str
    read: Privilege
    change: Privilege
    find: Find


def _shared(table: Any) -> Find:
    return lambda db, _caller, ref: finding.shared(db, table, ref)


_SERVERS = (Privilege.PHYS_DC_RETRIEVE_DETAILS, Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS)
_STORAGE = (Privilege.PHYS_DC_RETRIEVE_DETAILS, Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE)
KINDS = {
    "enterprises": Kind(
        "enterprise_id",
        Privilege.ENTERPRISE_ENUMERATE,
        Privilege.USERS_MANAGE_ENTERPRISE,
        finding.enterprise,
    ),
    "users": Kind("user_id", Privilege.USERS_VIEW, Privilege.USERS_MANAGE_USERS, finding.user),
    "roles": Kind(
        "role_id", Privilege.USERS_VIEW_PRIVILEGES, Privilege.USERS_MANAGE_ROLES, finding.role
    ),
    "datacenters": Kind(
        "datacenter_id",
        Privilege.PHYS_DC_ENUMERATE,
        Privilege.PHYS_DC_MANAGE,
        _shared(models.Datacenter),
    ),
    "racks": Kind("rack_id", *_SERVERS, _shared(models.Rack)),
    "hosts": Kind("host_id", *_SERVERS, _shared(models.Host)),
    "storage-devices": Kind("device_id", *_STORAGE, _shared(models.StorageDevice)),
    "storage-pools": Kind("pool_id", *_STORAGE, _shared(models.StoragePool)),
    "tiers": Kind(
        "tier_id",
        Privilege.PHYS_DC_ENUMERATE,
        Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE,
        _shared(models.Tier),
    ),
    "templates": Kind(
        "template_id", Privilege.APPLIB_VIEW, Privilege.APPLIB_ALLOW_MODIFY, finding.own_template
    ),
    "template-repositories": Kind(
        "repository_id", Privilege.APPLIB_VIEW, Privilege.APPLIB_ALLOW_MODIFY, finding.repository
    ),
    "virtual-datacenters": Kind(
        "virtual_datacenter_id",
        Privilege.VDC_ENUMERATE,
        Privilege.VDC_MANAGE,
        finding.virtual_datacenter,
    ),
    "appliances": Kind(
        "appliance_id", Privilege.VDC_ENUMERATE, Privilege.VDC_MANAGE_VAPP, finding.appliance
    ),
    "vms": Kind("vm_id", Privilege.VDC_ENUMERATE, Privilege.VAPP_CUSTOMISE_SETTINGS, finding.vm),
    "volumes": Kind(
        "volume_id", Privilege.VDC_ENUMERATE, Privilege.VDC_MANAGE_STORAGE, finding.volume
    ),
    "networks": Kind(
        "network_id", Privilege.VDC_ENUMERATE, Privilege.VDC_MANAGE_NETWORK, finding.network
    ),
    "dhcp-servers": Kind(
        "server_id",
        Privilege.PHYS_DC_RETRIEVE_DETAILS,
        Privilege.PHYS_DC_ALLOW_MODIFY_NETWORK,
        _shared(models.DhcpServer),
    ),
}


def _add_routes(collection: str, kind: Kind) -> None:
    path = f"/{collection}/{{{kind.parameter}}}/labels"
    Id = Annotated[UUID, Path(alias=kind.parameter)]  # noqa: N806 - a type

    def read_labels(thing: Id, caller: Caller) -> Labels:
        """Read a thing's labels."""
        with cloud.database.read() as db:
            return _labels(kind.find(db, caller, thing))

    def set_labels(thing: Id, labels: Labels, caller: Caller, match: Match) -> Labels:
        """Let a thing have these labels, and no others."""

        def act(db: Session) -> Labels:
            row = finding.held(db, kind.find(db, caller, thing))
            match.require_same(_labels(row))
            _require_changeable(db, caller, row)
            label(db, row, labels.root)
            noun = singular(row.__tablename__)
            tell(db, f"{noun}.labels-changed", row, labels=labels.root)
            return labels

        return cloud.database.alone(act)

    router.get(path, dependencies=[needs(kind.read)])(read_labels)
    router.put(path, dependencies=[needs(kind.change)])(set_labels)


def _require_changeable(db: Session, caller: tokens.Caller, row: Any) -> None:
    """People are their equals' or betters' to change, roles too; networks their owners'."""
    if isinstance(row, User):
        require_no_mightier(caller, known(db.get_one(Role, row.role_id).privileges))
    if isinstance(row, Role):
        if row.blocked:
            raise Conflict(f"role {row.name} stays as it is", code="role-blocked")
        require_no_mightier(caller, known(row.privileges))
    if isinstance(row, models.Network):
        require_his(caller, row)


def _labels(row: Labelled) -> Labels:
    return Labels(row.labels)


for _collection, _kind in KINDS.items():
    _add_routes(_collection, _kind)
