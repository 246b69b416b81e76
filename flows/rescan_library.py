"""Look for what people have put into a repository's inbox; whole and good, it becomes templates.

Each is imported by an operation of its own, whose id follows from the file: however often it is
seen, it is imported once. What this leaves there, it tells why.
"""

from datetime import timedelta
from uuid import UUID, uuid5

from pydantic_core import to_jsonable_python

from adapters.database.operations import Operation, Request
from adapters.database.records import NewTemplate
from adapters.images.inbox import placed_in
from adapters.placed import Placed
from adapters.types import Finding, Role
from flows.cloud import cloud
from flows.found import Looked, look_at_found
from flows.import_found import import_found
from flows.operation import operation
from flows.places import at_repository
from flows.policies.inbox import format_of, name_for
from flows.running import this_saga
from flows.steps import Effect, step
from flows.upkeep import publish_report

_EVERY = timedelta(hours=1)


@operation("datacenter", role=Role.IMAGES, every=_EVERY, wanted=lambda: cloud.settings.rescan)
def rescan_library(request: Operation) -> None:
    """Look at everything in the inbox, or in an enterprise's folder; import what is fit."""
    datacenter = request.datacenter_id
    with at_repository(datacenter):
        looked = [
            look_at_found(placed, datacenter)
            for placed in survey_inbox(datacenter, request.arguments.get("owner"))
        ]
    for each in looked:
        if each.importer:
            start_import(each.importer, each, datacenter)
    publish_report(request.kind, datacenter, [_told(each) for each in looked])


@step("survey-inbox")
def survey_inbox(datacenter: UUID, owner: str | None) -> list[Placed]:
    """What lies there, as much as one rescan takes."""
    return placed_in(cloud.repository(datacenter), owner)


@step("start-import", Effect.STAYS)
def start_import(importer: UUID, looked: Looked, datacenter: UUID) -> None:
    """Accept the operation that imports it; that goes on whatever becomes of this one."""
    if looked.enterprise and not cloud.operations.is_known(importer):
        template = NewTemplate(
            id=uuid5(importer, "template"),
            enterprise_id=looked.enterprise,
            datacenter_id=datacenter,
            name=name_for(looked.placed),
        )
        arguments = {
            "template": template,
            "placed": looked.placed,
            "format": format_of(looked.placed),
            "digest": looked.digest,
        }
        cloud.operations.accept(
            Request(
                id=importer,
                kind=import_found.kind,
                version=import_found.version,
                target_kind=import_found.target,
                target_id=template.id,
                target_name=template.name,
                arguments=to_jsonable_python(arguments),
                enterprise_id=looked.enterprise,
                datacenter_id=datacenter,
                requested_by=this_saga().operation.requested_by,
                locks=((import_found.target, template.id),),
            )
        )


@start_import.undo
def _(importer: UUID, looked: Looked, datacenter: UUID) -> None:
    """It is accepted whole or not at all."""


@start_import.look
def _(importer: UUID, looked: Looked, datacenter: UUID) -> bool:
    return cloud.operations.is_known(importer)


def _told(looked: Looked) -> Finding:
    placed = looked.placed
    state = looked.why or "being-imported"
    detail = looked.detail if looked.why else f"operation {looked.importer}"
    return Finding(what=placed.owner, name=placed.path, state=state, detail=detail)
