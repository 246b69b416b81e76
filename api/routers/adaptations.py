"""Guests that came from other hypervisors, made ready for KVM."""

from uuid import UUID, uuid5

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import Session

from adapters.database import operations as accepted
from adapters.database.records import NewTemplate
from adapters.errors import Conflict
from adapters.privileges import Privilege
from adapters.types import TemplateState
from api import finding
from api.dependencies import Caller, Name
from api.permissions import needs
from api.reports import Operation
from api.starting import Starting

router = APIRouter(prefix="/templates", tags=["templates"])


class Adaptation(BaseModel):
    """What the template will be called that has the guest made ready."""

    model_config = ConfigDict(extra="forbid")

    name: Name


@router.post(
    "/{template_id}/adapt",
    status_code=202,
    responses={202: {"model": Operation}},
    dependencies=[needs(Privilege.APPLIB_UPLOAD_IMAGE)],
)
def adapt(template_id: UUID, wish: Adaptation, caller: Caller, starter: Starting) -> Response:
    """Make a template whose guest has drivers for KVM, by virt-v2v, where that is installed."""

    def plan(db: Session) -> accepted.Request:
        row = finding.own_template(db, caller, template_id)
        starter.require_free(db, "template", row.id)
        if row.state is not TemplateState.AVAILABLE:
            text = f"template {row.name} is {row.state}"
            raise Conflict(text, code="template-not-available")
        where = row.datacenter_id
        taken = finding.own_templates(caller).filter_by(datacenter_id=where, name=wish.name)
        if db.scalars(taken).first():
            raise Conflict(f"there is a template called {wish.name}", code="name-taken")
        template = NewTemplate(
            id=uuid5(starter.id, "template"),
            enterprise_id=caller.enterprise_id,
            datacenter_id=where,
            name=wish.name,
            cpu=row.cpu,
            ram_mib=row.ram_mib,
            category=row.category,
            owner_id=caller.user_id,
            master_id=row.id,
        )
        return starter.request(
            "adapt_template",
            template.id,
            template.name,
            where,
            [("template", row.id)],
            template=template,
            source=row.id,
        )

    return starter.start(plan)
