"""Keys are rotated while everything runs; killed anywhere, it loses nothing and goes on."""

import multiprocessing
import stat
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import select

from adapters.database import models, rotation
from adapters.database.events import EventRow, acting
from adapters.database.rotation import rotate
from adapters.database.secrets import Keyring, Secrets
from adapters.database.session import Database
from adapters.errors import Conflict, NotAllowed
from adapters.settings import Settings
from tests.adapters.test_database import database, url  # noqa: F401 - fixtures

FORK = multiprocessing.get_context("fork")


def keys_in(home: Path) -> list[str]:
    return (home / "secret.key").read_text().split()


def passwords(kept: Secrets, ids: list[UUID]) -> list[str]:
    return [kept.read(each).password.get_secret_value() for each in ids]


def made(database: Database, home: Path, number: int) -> tuple[list[UUID], list[str]]:  # noqa: F811
    kept, ids = Secrets(database, Keyring(Settings(home=home))), [uuid4() for _ in range(number)]
    return ids, [kept.ensure(each).password.get_secret_value() for each in ids]


def test_all_is_encrypted_anew_and_the_old_key_goes(database, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(rotation, "BATCH", 3)
    ids, before = made(database, tmp_path, 7)
    running = Secrets(database, Keyring(Settings(home=tmp_path)))
    assert passwords(running, ids) == before
    (old,) = keys_in(tmp_path)
    with acting("operator"):
        done = rotate(database, Keyring(Settings(home=tmp_path)))
    assert (done.secrets, done.anew, done.dropped) == (7, 7, 1)
    (new,) = keys_in(tmp_path)
    assert new != old
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600
    assert passwords(running, ids) == before  # it had read the old key
    with database.read() as db:
        for row in db.scalars(select(models.Secret)):
            Fernet(new).decrypt(row.ciphertext)
        event = db.scalars(select(EventRow)).one()
        assert (event.kind, event.who) == ("keyring.rotated", "operator")
        assert event.details == done.model_dump()


@pytest.mark.parametrize("deaths", [["batch"], ["batch"] * 4, ["replace"], ["drop"], ["end"]])
def test_killed_anywhere_it_goes_on_where_it_was(database, tmp_path, monkeypatch, deaths):  # noqa: F811
    """A transaction that is not committed and a file that is not replaced: what a kill leaves."""

    class Killed(BaseException):
        """The process is gone."""

    monkeypatch.setattr(rotation, "BATCH", 3)
    ids, before = made(database, tmp_path, 8)
    (old,) = keys_in(tmp_path)
    encrypt, replace, tell = rotation._encrypt_batch, Keyring.replace, rotation.tell
    for nth, death in enumerate(deaths, start=1):
        calls = {"batch": 0}

        def batch(*args, nth=nth, calls=calls):
            calls["batch"] += 1
            if calls["batch"] == nth:
                raise Killed
            return encrypt(*args)

        def replaced(keys, fresh, death=death):
            if death == "replace" or (death == "drop" and len(fresh) == 1):
                raise Killed
            replace(keys, fresh)

        def ended(*args, death=death, **more):
            tell(*args, **more)
            if death == "end":
                raise Killed

        with monkeypatch.context() as patch:
            if death == "batch":
                patch.setattr(rotation, "_encrypt_batch", batch)
            patch.setattr(Keyring, "replace", replaced)
            patch.setattr(rotation, "tell", ended)
            with pytest.raises(Killed):
                rotate(database, Keyring(Settings(home=tmp_path)))
        assert len(keys_in(tmp_path)) == (1 if death == "replace" else 2)
        assert passwords(Secrets(database, Keyring(Settings(home=tmp_path))), ids) == before
    rotate(database, Keyring(Settings(home=tmp_path)))
    (new,) = keys_in(tmp_path)
    assert new != old
    assert passwords(Secrets(database, Keyring(Settings(home=tmp_path))), ids) == before


def test_who_reads_and_makes_secrets_meanwhile_notices_nothing(database, tmp_path):  # noqa: F811
    ids, before = made(database, tmp_path, 5)
    address = database.engine.url.render_as_string(hide_password=False)
    database.engine.dispose()
    stop, answers = FORK.Event(), FORK.SimpleQueue()

    def work():
        kept, mine = Secrets(Database(address), Keyring(Settings(home=tmp_path))), {}
        while not stop.is_set() or len(mine) < 10:
            fresh = uuid4()
            mine[fresh] = kept.ensure(fresh).password.get_secret_value()
            assert passwords(kept, ids) == before
        answers.put(mine)

    workers = [FORK.Process(target=work) for _ in range(2)]
    for each in workers:
        each.start()
    for _ in range(5):
        rotate(database, Keyring(Settings(home=tmp_path)))
    stop.set()
    mine = {secret: said for _ in workers for secret, said in answers.get().items()}
    for each in workers:
        each.join(30)
        assert each.exitcode == 0
    assert len(keys_in(tmp_path)) == 1
    kept = Secrets(database, Keyring(Settings(home=tmp_path)))
    assert passwords(kept, list(mine)) == list(mine.values())


def test_what_no_key_opens_keeps_every_key(database, tmp_path):  # noqa: F811
    made(database, tmp_path, 2)
    strange = models.Secret(
        id=uuid4(), user="x", ciphertext=Fernet(Fernet.generate_key()).encrypt(b"")
    )
    with database.write() as db:
        db.add(strange)
    (old,) = keys_in(tmp_path)
    with pytest.raises(NotAllowed, match=str(strange.id)):
        rotate(database, Keyring(Settings(home=tmp_path)))
    assert old in keys_in(tmp_path)


def test_keys_that_are_set_are_rotated_to_and_never_dropped(database, tmp_path):  # noqa: F811
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    ids = [uuid4()]
    said = Secrets(database, Keyring(Settings(home=tmp_path, secret_keys=old))).ensure(ids[0])
    done = rotate(database, Keyring(Settings(home=tmp_path, secret_keys=f"{new},{old}")))
    assert (done.anew, done.dropped) == (1, 0)
    kept = Secrets(database, Keyring(Settings(home=tmp_path, secret_keys=new)))
    assert kept.read(ids[0]) == said
    assert not (tmp_path / "secret.key").exists()


def test_one_rotation_at_a_time(database, tmp_path):  # noqa: F811
    keys = Keyring(Settings(home=tmp_path))
    with rotation._alone(keys.file), pytest.raises(Conflict, match="another"):
        rotate(database, keys)
