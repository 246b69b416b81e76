"""Transfers: what somebody may send to the image gateway, and the import that it becomes."""

from functools import partial
from typing import Any, ClassVar, Literal
from uuid import UUID

from adapters.amounts import Force
from adapters.database.operations import Request
from adapters.database.records import NewTemplate
from adapters.errors import BadImage
from adapters.packages import PACKAGE, Expected, Wishes
from adapters.privileges import Privilege
from adapters.types import Format, Value
from api import tokens
from api.dependencies import Send
from api.errors import Problem
from api.once import Once
from api.planning import starter_of
from api.starting import Starter
from api.tickets import Ticket, sign
from flows.charges import require_within
from flows.cloud import cloud
from flows.unpacking import package_of
from flows.uploads import take_upload

VALID_S = 3600


class Import(Value):
    """What becomes a template, as whoever will send it says."""

    template: NewTemplate
    force: Force | None
    format: str
    digest: str | None
    wishes: Wishes
    expects: Expected
    size_bytes: int | None


class Transfer(Ticket):
    """One upload that somebody may make: which template it becomes, and for whom."""

    use: ClassVar[str] = "transfer"
    privilege: ClassVar[Privilege] = Privilege.APPLIB_UPLOAD_IMAGE

    route: str
    key: str | None
    request: str
    template: NewTemplate
    force: Force | None = None
    format: Format | Literal["ova"]
    digest: str | None
    wishes: Wishes = Wishes()  # that win over a package's own
    expects: Expected = Expected()
    size_bytes: int | None = None  # as it was said
    plan: UUID | None = None  # that it carries out

    @property
    def scratch(self) -> str:
        """The name of its file in the repository's incoming folder."""
        return f"upload-{self.id}"

    @property
    def operation(self) -> UUID:
        """The import's id, once it has arrived."""
        return self.plan or self.id

    @property
    def wish(self) -> "Import":
        """What was asked for: the same of a plan, and of what carries it out."""
        said = self.model_dump(include=set(Import.model_fields))
        return Import.model_validate(said)

    @property
    def stand_ins(self) -> dict[str, Any]:
        """What stands for what is known only once all has been sent, while looking ahead."""
        return {"upload": "upload", "digest": self.digest or ""}

    def request_of(self, starter: Starter, digest: str, **more: Any) -> Request:
        """The import that is started once it has been sent."""
        return starter.request(
            "import_package" if self.format == PACKAGE else "import_image",
            self.template.id,
            self.template.name,
            self.template.datacenter_id,
            template=self.template,
            digest=digest,
            upload=self.scratch,
            force=self.force,
            **self.arguments,
            **more,
        )

    @property
    def first_file(self) -> str:
        """What a form's first file is called."""
        return f"disk-0.{PACKAGE}" if self.format == PACKAGE else self.format.disk_file

    @property
    def arguments(self) -> dict[str, Any]:
        """What only an import of this kind is asked."""
        said = {"expects": self.expects} if self.expects != Expected() else {}
        if self.format == PACKAGE:
            return {"wishes": self.wishes, **said}
        return {"format": self.format, **said}

    def once(self, caller: tokens.Caller) -> Once:
        """Its request under its caller's key. Raises `Replay`."""
        return Once(caller, self.route, self.key, self.request.encode())


def address(transfer: Transfer) -> str:
    """The path where this one transfer may be made."""
    return f"/gateway/uploads/{sign(transfer)}"


def require_small(size_bytes: int) -> None:
    """Raise `Problem` when that is more than is taken."""
    limit_mib = cloud.settings.max_upload_mib
    if size_bytes > limit_mib * 2**20:
        raise Problem(413, "upload-too-large", f"at most {limit_mib} MiB are taken")


def start(
    transfer: Transfer, caller: tokens.Caller, once: Once, send: Send, digest: str, size_mib: int
) -> Any:
    """Start the import of what has arrived; answers 202. Raises `BadImage`."""
    if transfer.digest not in {None, digest}:
        text = "what arrived is not what was declared"
        raise BadImage(text, code="image-digest-mismatch")
    starter = starter_of(caller, once, send, transfer.route, plan=transfer.plan)
    starter.id = transfer.operation
    template = transfer.template
    uses = [cloud.ledger.of_template(template, size_mib)]
    taken = take_upload.intent(template.id, template.datacenter_id, transfer.scratch)
    package = None
    if transfer.plan and transfer.format == PACKAGE:
        package = package_of(template.datacenter_id, transfer.scratch)
    starter.foresee(transfer.stand_ins, size_mib=size_mib, ova=package)
    return starter.start(
        lambda _db: transfer.request_of(starter, digest, intents=[taken]),
        partial(require_within, uses, transfer.force),
        wish=transfer.wish,
    )
