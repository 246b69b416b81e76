"""How a VM starts, and what opens its screen, as somebody wants it."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy.orm import Session

from adapters.guests import Boot
from adapters.types import Chap, Settings
from flows.cloud import cloud


def _each_once(boot: list[Boot]) -> list[Boot]:
    if len({*boot}) < len(boot):
        raise ValueError("each once")
    return boot


BootOrder = Annotated[
    list[Boot], Field(min_length=1, max_length=len(Boot)), AfterValidator(_each_once)
]
BOOT = "What the VM starts from: the first that works. The disk, if not said."
Password = Annotated[
    SecretStr,
    Field(
        min_length=1,
        max_length=8,
        description="VNC knows no longer ones. It is kept encrypted, and never told again.",
    ),
]


class Wish(BaseModel):
    """What is to be different; what is not said stays."""

    model_config = ConfigDict(extra="forbid")

    boot: BootOrder | None = Field(None, description=BOOT)
    vnc_password: Password | None = Field(
        None, description="What its screen asks for; `null`: nothing, the line is enough."
    )

    def over(self, former: Settings, fresh: UUID) -> Settings:
        """The settings that these become, a password being the secret of this id."""
        changes: dict[str, Any] = {}
        if self.boot:
            changes["boot"] = tuple(self.boot)
        if "vnc_password" in self.model_fields_set:
            changes["screen"] = fresh if self.vnc_password else None
        return former.model_copy(update=changes)

    def keep(self, db: Session, fresh: UUID) -> None:
        """Keep the password under this id, in this transaction, if there is one."""
        if self.vnc_password:
            cloud.secrets.keep(db, fresh, Chap(user="", password=self.vnc_password))

    @property
    def told(self) -> dict[str, Any]:
        """What events tell of it."""
        said: dict[str, Any] = {"boot": self.boot} if self.boot else {}
        if "vnc_password" in self.model_fields_set:
            said["has_vnc_password"] = self.vnc_password is not None
        return said
