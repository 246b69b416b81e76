"""How VMs are deployed: a body that forces, and says what the deployment waits for."""

from typing import Any

from pydantic import Field

from adapters.lan import WaitFor
from api.forcing import Forcing


class Deploying(Forcing):
    """How a VM is deployed."""

    wait_for: WaitFor | None = Field(
        None,
        description="`lease`: succeed only once its guest has been told its addresses; `nothing`: "
        "do not wait for that. Unless said, as the blueprint does.",
        examples=["lease"],
    )

    @property
    def waits(self) -> dict[str, Any]:
        """What the operation is asked to wait for, as its arguments say it."""
        return {"wait_for": self.wait_for} if self.wait_for else {}
