"""People for tests: users with roles, as the API sees them."""

from collections.abc import Iterable
from uuid import UUID, uuid4

from adapters.database.people import Role, User
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.database.session import utc_now
from adapters.privileges import Privilege, Stock
from adapters.types import Scope
from api import tokens
from flows.cloud import cloud
from tests.api.conftest import Api


def user(
    api: Api,
    role: Stock | Iterable[Privilege],
    *,
    enterprise: UUID = FIRST_ENTERPRISE,
    name: str | None = None,
    virtual_datacenters: Iterable[UUID] = (),
) -> Api:
    """The API as a user of this role sees it, by a token with every scope."""
    made = uuid4()
    role_id = role.id if isinstance(role, Stock) else uuid4()
    name = name or f"u-{made.hex[:8]}"
    with cloud.database.write() as db:
        if not isinstance(role, Stock):
            db.add(
                Role(
                    id=role_id,
                    enterprise_id=enterprise,
                    name=f"r-{made.hex[:8]}",
                    blocked=False,
                    privileges=sorted(role),
                )
            )
            db.flush()
        db.add(
            User(
                id=made,
                enterprise_id=enterprise,
                role_id=role_id,
                name=name,
                full_name="",
                email="",
                password_hash="",
                active=True,
                virtual_datacenters=sorted(map(str, virtual_datacenters)),
                created_at=utc_now(),
            )
        )
    token = tokens.mint(cloud.database, name, enterprise, scopes=Scope, user=made)
    return Api(api.client, api.world, token, api.sent)
