"""People in the database: on both, and from a database that had none."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from alembic import command
from sqlalchemy import inspect, select, text

from adapters.database import models, people, schema
from adapters.database.schema import FIRST_ENTERPRISE, migrate
from adapters.database.session import Database, utc_now
from adapters.privileges import STOCK, Privilege, Stock
from adapters.settings import Settings
from adapters.types import Family, OperationState, Scope, VolumeState
from api import logins, passwords, tokens
from flows.cloud import cloud

BOTH = ["sqlite", pytest.param("mariadb", marks=pytest.mark.lab)]


@pytest.fixture(params=BOTH)
def database(request, tmp_path):
    url = f"sqlite:///{tmp_path / 'test.sqlite'}"
    if request.param == "mariadb":
        url = request.getfixturevalue("mariadb").fresh()
    cloud.become(Settings(home=tmp_path, database_url=url))
    made = Database(url)
    migrate(made, tmp_path)
    yield made
    made.engine.dispose()


def at(database, home, version):
    """Bring the schema to a version."""
    with schema._alone(database, home) as connection:
        step = command.upgrade if version == "head" else command.downgrade
        step(schema._config(connection), version)
        connection.commit()


def user(database, role=Stock.USER, password="correct horse"):
    row = people.User(
        id=uuid4(),
        enterprise_id=FIRST_ENTERPRISE,
        role_id=role.id,
        name="ada",
        full_name="",
        email="",
        password_hash=passwords.hashed(passwords.SecretStr(password)),
        active=True,
        created_at=utc_now(),
    )
    with database.write() as db:
        db.add(row)
    return row.id


def test_a_database_with_data_comes_up_and_goes_back(database, tmp_path):
    ids = [uuid4() for _ in range(8)]
    datacenter, device, tier, pool, vdc, volume, here, gone = ids
    with database.write() as db:
        rows = [
            models.Datacenter(id=datacenter, name="m", repository="/r", repository_marker=uuid4()),
            models.StorageDevice(
                id=device,
                datacenter_id=datacenter,
                name="d",
                technology="memory",
                host="h",
                port=1,
                control=0,
            ),
            models.Tier(id=tier, datacenter_id=datacenter, name="t"),
            models.StoragePool(
                id=pool, device_id=device, name="p", tier_id=tier, directory="", total_mib=1
            ),
            models.VirtualDatacenter(
                id=vdc,
                enterprise_id=FIRST_ENTERPRISE,
                datacenter_id=datacenter,
                name="v",
                family=Family.MEMORY,
            ),
            models.VolumeRow(
                id=volume,
                virtual_datacenter_id=vdc,
                pool_id=pool,
                name="data",
                size_mib=1,
                carved=True,
                state=VolumeState.DETACHED,
                position=0,
            ),
        ]
        for row in rows:
            db.add(row)
            db.flush()
        for operation, target in ((here, volume), (gone, uuid4())):
            db.add(
                models.Operation(
                    id=operation,
                    kind="delete_iscsi_volume",
                    version="1",
                    state=OperationState.ACCEPTED,
                    target_kind="volume",
                    target_id=target,
                    target_name="data",
                    arguments={},
                    objects=[],
                    enterprise_id=FIRST_ENTERPRISE,
                    datacenter_id=datacenter,
                    requested_by="tests",
                    accepted_at=utc_now(),
                    provisional=False,
                    left_behind=False,
                    epoch=0,
                    attempt=0,
                )
            )
    ours = tokens.mint(database, "old", scopes=Scope)
    theirs = tokens.mint(database, "ada's", user=user(database))
    token = tokens.bearer(database, ours).token_id
    with database.write() as db:
        for each in (token, tokens.bearer(database, theirs).token_id):
            db.add(
                models.IdempotencyKey(
                    token_id=each,
                    route="r",
                    key="k",
                    body_digest="",
                    status=200,
                    answer={},
                    created_at=utc_now(),
                )
            )
    at(database, tmp_path, "0001")
    with database.engine.connect() as connection:
        assert not {"users", "roles", "login_attempts"} & set(
            inspect(connection).get_table_names()
        )
        kept = connection.execute(text("SELECT name FROM api_tokens")).scalars().all()
        assert kept == ["old"]  # ada's would have been able to do more
    migrate(database, tmp_path)
    with database.engine.connect() as connection:
        assert schema.differences(connection) == []
    caller = tokens.bearer(database, ours)
    assert caller.privileges == STOCK[Stock.CLOUD_ADMIN]
    assert tokens.bearer(database, theirs) is None
    with database.read() as db:
        where = dict(
            db.execute(select(models.Operation.id, models.Operation.virtual_datacenter_id)).all()
        )
        assert where == {here: vdc, gone: None}
        assert [key.token_id for key in db.scalars(select(models.IdempotencyKey))] == [token]
    with pytest.raises(Exception, match=r"(?i)foreign key"), database.write() as db:
        db.execute(text("UPDATE idempotency_keys SET token_id = 'x'"))


def test_a_new_version_gives_stock_roles_their_new_privileges(database, tmp_path):
    with database.write() as db:
        db.get_one(people.Role, Stock.CLOUD_ADMIN.id).privileges = ["VDC_ENUMERATE", "VDC_BURN"]
    migrate(database, tmp_path)
    with database.read() as db:
        assert set(db.get_one(people.Role, Stock.CLOUD_ADMIN.id).privileges) == set(Privilege)


def test_logging_in_and_being_locked_out(database):
    user(database)
    right, wrong = passwords.SecretStr("correct horse"), passwords.SecretStr("wrong")
    made = logins.log_in(database, None, "ada", right, 60)
    assert made.expires_at > datetime.now(UTC)
    assert tokens.bearer(database, made.token).user_id == made.user_id
    for _ in range(5):
        assert logins.log_in(database, "default", "ada", wrong, 60) is None
        assert logins.log_in(database, None, "nobody", wrong, 60) is None
    assert logins.log_in(database, None, "ada", right, 60) is None
    with database.read() as db:
        rows = {row.user_id.int > 0: row for row in db.scalars(select(people.LoginAttempts))}
        assert {rows[True].failures, rows[False].failures} == {5}
        assert rows[True].locked_until > datetime.now(UTC)


def test_a_token_is_valid_by_the_databases_clock(database):
    ada = user(database)
    session = tokens.mint(database, "s", user=ada, session_s=60, scopes=Scope)
    assert tokens.bearer(database, session).name == "ada"
    with database.write() as db:
        row = db.scalars(select(people.ApiToken)).one()
        row.last_used_at = utc_now(-cloud.settings.session_idle_s)
    assert tokens.bearer(database, session) is None


def test_a_user_without_a_password_cannot_log_in(database):
    ada = user(database)
    with database.write() as db:
        db.get_one(people.User, ada).password_hash = ""
    assert logins.log_in(database, None, "ada", passwords.SecretStr("x"), 60) is None
