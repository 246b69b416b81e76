"""The platform database: the same laws on SQLite and on MariaDB."""

import multiprocessing
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from adapters.database import models, people
from adapters.database.approvals import Approvals
from adapters.database.claims import Claims
from adapters.database.figures import Figures, Took
from adapters.database.inventory import Inventory
from adapters.database.journal import Journal, Line
from adapters.database.locks import Locked
from adapters.database.operations import (
    ENDED,
    LeaseLost,
    Operations,
    Request,
)
from adapters.database.receipts import Receipts
from adapters.database.records import VolumeRecord
from adapters.database.runners import Runner, machine, this_runner
from adapters.database.schema import FIRST_ENTERPRISE, differences, migrate
from adapters.database.secrets import Keyring, Secrets
from adapters.database.session import Database, Joined, utc_now
from adapters.errors import AdapterError, Conflict, InUse, NotAllowed, OutOfSpace, Transient
from adapters.settings import Settings
from adapters.types import Family, OperationState, StepState, TemplateState, VmState
from deployments.lab.mariadb import MariaDb
from tests.worlds import put_migrated

BOTH = ["sqlite", pytest.param("mariadb", marks=pytest.mark.lab)]
PATIENCE_S = 60
FORK = multiprocessing.get_context("fork")


@pytest.fixture(params=BOTH)
def url(request, tmp_path):
    """An empty database's URL."""
    if request.param == "mariadb":
        return request.getfixturevalue("mariadb").fresh()
    return f"sqlite:///{tmp_path / 'test.sqlite'}"


@pytest.fixture
def database(url, tmp_path):
    made = Database(url)
    if url.startswith("sqlite"):
        put_migrated(tmp_path / "test.sqlite")
    else:
        migrate(made, tmp_path)
    yield made
    made.engine.dispose()


@pytest.fixture
def datacenter(database):
    row = models.Datacenter(id=uuid4(), name="main", repository="/r", repository_marker=uuid4())
    with database.write() as db:
        db.add(row)
    return row.id


@pytest.fixture
def operations(database):
    return Operations(database, lease_s=600)


@pytest.fixture
def requested(datacenter):
    def made(*locks):
        return Request(
            id=uuid4(),
            kind="deploy_vm",
            version="1",
            target_kind="vm",
            target_id=uuid4(),
            target_name="db",
            enterprise_id=FIRST_ENTERPRISE,
            datacenter_id=datacenter,
            requested_by="tests",
            locks=[("vm", each) for each in locks],
        )

    return made


@pytest.fixture
def accepted(operations, requested):
    return operations.accept(requested()).id


def at_once(*calls):
    """Make the calls in threads that start together; answer what each answers or raises."""
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait(PATIENCE_S)
        try:
            return call()
        except AdapterError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def in_processes(engine: Engine, *calls):
    """Make the calls in processes of their own that start together; answer what they answer."""
    engine.dispose()  # a child must not speak on its parent's connection
    start, answers = FORK.Barrier(len(calls)), FORK.SimpleQueue()

    def run(call):
        start.wait(PATIENCE_S)
        answers.put(call())

    children = [FORK.Process(target=run, args=(call,)) for call in calls]
    for child in children:
        child.start()
    try:
        for child in children:
            child.join(PATIENCE_S)
        assert [child.exitcode for child in children] == [0] * len(children)
    finally:
        for child in children:
            child.kill()
            child.join()
    return [answers.get() for _ in children]


def change(database, operation: UUID, **values) -> None:
    with database.write() as db:
        db.execute(
            update(models.Operation).where(models.Operation.id == operation).values(**values)
        )


def due_in_s(database, operation: UUID) -> float:
    """How long from now the operation is somebody's, by the database's time."""
    with database.read() as db:
        due_at = db.get_one(models.Operation, operation).due_at
        return (due_at - db.scalar(select(utc_now()))).total_seconds()


def count(database, table) -> int:
    with database.read() as db:
        return db.scalar(select(func.count()).select_from(table))


# --- the schema -----------------------------------------------------------------------------


def test_the_migrations_make_what_the_models_say(database):
    with database.engine.connect() as connection:
        assert differences(connection) == []


def test_migrating_again_changes_nothing(database, tmp_path):
    installation = Inventory(database).installation
    migrate(database, tmp_path)
    assert Inventory(database).installation == installation
    assert count(database, models.Enterprise) == 1


def test_two_processes_migrate_at_once(url, tmp_path):
    """Of one machine on SQLite, of two on a server."""
    homes = [tmp_path / "a", tmp_path / ("a" if url.startswith("sqlite") else "b")]
    database = Database(url)

    def migrated(home: Path):
        def call():
            migrate(Database(url), home)
            return Inventory(Database(url)).installation

        return call

    first, second = in_processes(database.engine, *map(migrated, homes))
    assert first == second
    assert count(database, models.Installation) == 1
    database.engine.dispose()


# --- leases ---------------------------------------------------------------------------------


def test_of_many_processes_one_becomes_the_runner(database, operations, accepted):
    def claim():
        try:
            return operations.claim(accepted, this_runner()).epoch
        except LeaseLost:
            return None

    epochs = in_processes(database.engine, *[claim] * 5)
    assert sorted(epochs, key=str) == [1, None, None, None, None]
    assert operations.read(accepted).epoch == 1


def test_of_many_threads_one_becomes_the_runner(operations, accepted):
    answers = at_once(*[lambda: operations.claim(accepted, this_runner())] * 5)
    assert sorted(isinstance(each, LeaseLost) for each in answers) == [False] + [True] * 4


def test_who_takes_over_learns_whose_it_was(database, operations, accepted):
    assert operations.claim(accepted, this_runner()).former is None
    change(database, accepted, due_at=utc_now())
    former = operations.claim(accepted, Runner(host="elsewhere", pid=1, started=1.5)).former
    assert former == this_runner()
    assert former.alive_here()


def test_a_runner_that_was_overtaken_writes_nothing(database, operations, accepted):
    old = operations.claim(accepted, this_runner())
    change(database, accepted, due_at=utc_now())
    new = operations.claim(accepted, this_runner())
    with pytest.raises(LeaseLost), operations.holding(old) as db:
        db.get_one(models.Operation, accepted).wish = "written"
    with operations.holding(new) as db:
        assert db.get_one(models.Operation, accepted).wish is None


def test_a_runner_past_its_lease_writes_nothing_although_nobody_has_taken_over(
    database, operations, accepted
):
    lease = operations.claim(accepted, this_runner())
    change(database, accepted, due_at=utc_now())
    with pytest.raises(LeaseLost), operations.holding(lease) as db:
        db.get_one(models.Operation, accepted).wish = "written"
    assert operations.read(accepted).wish is None


def test_nobody_takes_over_before_the_lease_has_expired(operations, accepted):
    operations.claim(accepted, this_runner())
    with pytest.raises(LeaseLost):
        operations.claim(accepted, this_runner())


def test_a_claim_waits_for_a_write_that_is_on_its_way(operations, accepted):
    """The write renews the lease, so whoever waited for it has lost."""
    lease = operations.claim(accepted, this_runner())
    with ThreadPoolExecutor(1) as pool:
        with operations.holding(lease):
            other = pool.submit(operations.claim, accepted, this_runner())
            time.sleep(0.2)
            assert not other.done()
        with pytest.raises(LeaseLost):
            other.result(PATIENCE_S)


@pytest.mark.parametrize("how", ["renewed", "written"])
def test_a_lease_is_extended(database, operations, accepted, how):
    lease = operations.claim(accepted, this_runner())
    change(database, accepted, due_at=utc_now(120))
    if how == "renewed":
        assert operations.renew(lease) is None
    else:
        operations.begin(lease, "1")
    assert 120 < due_in_s(database, accepted) <= 600


def test_renewing_tells_what_is_wished(operations, accepted):
    lease = operations.claim(accepted, this_runner())
    operations.want(accepted, "cancel")
    assert operations.renew(lease) == "cancel"


def test_the_leases_of_the_dead_lapse_at_once(database, operations, requested):
    runners = {
        "dead": Runner(host=machine(), pid=2, started=1.0),
        "alive": this_runner(),
        "elsewhere": Runner(host="elsewhere/boot", pid=2, started=1.0),
    }
    running = {name: operations.accept(requested()).id for name in runners}
    for name, runner in runners.items():
        operations.claim(running[name], runner)
    operations.bury(lambda runner: runner.alive_here() is None)
    lapsed = {name for name, each in running.items() if due_in_s(database, each) <= 0}
    assert lapsed == {"dead"}


def test_the_due_are_found_oldest_first(database, operations, requested, datacenter):
    late, early, running = (operations.accept(requested()).id for _ in range(3))
    change(database, early, due_at=utc_now(-60))
    operations.claim(running, this_runner())
    assert [each.id for each in operations.due(datacenter)] == [early, late]
    assert operations.due(uuid4()) == []


def test_a_runner_that_has_left_is_nobodys_former(database, operations, accepted):
    first = operations.claim(accepted, this_runner())
    change(database, accepted, due_at=utc_now())
    second = operations.claim(accepted, this_runner())
    operations.leave(first)
    change(database, accepted, due_at=utc_now())
    third = operations.claim(accepted, this_runner())
    assert third.former == this_runner()
    operations.leave(third)
    change(database, accepted, due_at=utc_now())
    assert operations.claim(accepted, this_runner()).former is None
    assert second.epoch == 2


# --- what people may do to an operation -----------------------------------------------------

LIVE = [OperationState.ACCEPTED, OperationState.RUNNING, OperationState.UNWINDING]
DEEDS = {
    "want": lambda operations, operation: operations.want(operation, "unwind"),
    "resume": lambda operations, operation: operations.resume(operation),
    "abandon": lambda operations, operation: operations.abandon(operation, "no use", "ann"),
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("state", sorted(ENDED))
def test_nothing_is_done_to_what_has_ended(database, operations, accepted, state, deed):
    change(database, accepted, state=state)
    with pytest.raises(Conflict) as refused:
        DEEDS[deed](operations, accepted)
    assert refused.value.code == "operation-ended"
    assert operations.read(accepted).wish is None


@pytest.mark.parametrize("deed", ["resume", "abandon"])
@pytest.mark.parametrize("state", LIVE)
def test_only_what_is_stuck_is_resumed_or_abandoned(database, operations, accepted, state, deed):
    change(database, accepted, state=state)
    with pytest.raises(Conflict) as refused:
        DEEDS[deed](operations, accepted)
    assert refused.value.code == "not-stuck"
    assert operations.read(accepted).state is state


@pytest.mark.parametrize("state", LIVE)
def test_a_wish_waits_for_the_runner(database, operations, accepted, state):
    operations.claim(accepted, this_runner())
    change(database, accepted, state=state)
    wished = operations.want(accepted, "cancel")
    assert (wished.state, wished.wish) == (state, "cancel")
    assert due_in_s(database, accepted) > 10


def test_a_stuck_operation_is_nobodys(database, operations, accepted):
    lease = operations.claim(accepted, this_runner())
    operations.stick(lease, {"code": "in-use", "detail": "…"})
    with database.read() as db:
        row = db.get_one(models.Operation, accepted)
        assert (row.state, row.due_at, row.runner_pid) == (OperationState.STUCK, None, None)
    with pytest.raises(LeaseLost):
        operations.claim(accepted, this_runner())


@pytest.mark.parametrize(
    ("deeds", "goes_on"),
    [
        (["resume"], OperationState.RUNNING),
        (["want"], OperationState.UNWINDING),
    ],
)
def test_a_stuck_operation_is_taken_up_again(database, operations, accepted, deeds, goes_on):
    operations.stick(operations.claim(accepted, this_runner()), {"code": "in-use"})
    for deed in deeds:
        DEEDS[deed](operations, accepted)
    assert operations.read(accepted).state is goes_on
    assert operations.claim(accepted, this_runner()).epoch == 2


def test_what_stuck_on_its_way_back_goes_on_back(database, operations, accepted):
    operations.want(accepted, "cancel")
    operations.stick(operations.claim(accepted, this_runner()), {"code": "in-use"})
    assert operations.resume(accepted).state is OperationState.UNWINDING


def test_an_abandoned_operation_says_by_whom_and_lets_go(operations, requested):
    thing = uuid4()
    stuck = operations.accept(requested(thing)).id
    operations.stick(operations.claim(stuck, this_runner()), {"code": "in-use"})
    ended = operations.abandon(stuck, "the pool is scrapped", "ann")
    assert (ended.state, ended.ended) == (OperationState.ABANDONED, True)
    assert ended.error == {
        "code": "in-use",
        "abandoned_by": "ann",
        "reason": "the pool is scrapped",
    }
    assert ended.ended_at is not None
    assert operations.claim(stuck, this_runner()).epoch == 2  # for its receipt
    operations.accept(requested(thing))


def test_the_newest_flow_run_is_remembered(operations, accepted):
    old, new = uuid4(), uuid4()
    operations.sent(accepted, 2, new)
    operations.sent(accepted, 1, old)
    read = operations.read(accepted)
    assert (read.attempt, read.flow_run_id) == (2, new)


# --- locks ----------------------------------------------------------------------------------


def test_locks_are_taken_all_or_none(database, operations, requested):
    ours, free = UUID(int=2), UUID(int=1)
    holder = operations.accept(requested(ours))
    refused = requested(free, ours)
    with pytest.raises(Locked) as locked:
        operations.accept(refused)
    assert locked.value.details == {"operation": str(holder.id)}
    with database.read() as db:
        assert set(db.scalars(select(models.Lock.object_id))) == {ours}
        assert db.get(models.Operation, refused.id) is None


def test_of_two_that_lock_the_same_at_once_one_gets_it(operations, requested):
    for _ in range(5):
        things = [uuid4() for _ in range(4)]
        asked = requested(*things), requested(*reversed(things))
        answers = at_once(*[lambda each=each: operations.accept(each) for each in asked])
        (winner,) = (each for each in answers if not isinstance(each, AdapterError))
        (loser,) = (each for each in answers if isinstance(each, AdapterError))
        assert isinstance(loser, Locked)
        assert loser.details == {"operation": str(winner.id)}


def test_locks_outlive_the_outcome_and_go_with_the_receipt(operations, requested):
    thing = uuid4()
    first = operations.accept(requested(thing)).id
    lease = operations.claim(first, this_runner())
    operations.end(lease, OperationState.SUCCEEDED)
    with pytest.raises(Locked):
        operations.accept(requested(thing))
    Receipts(operations).settle(lease, [], None)
    operations.accept(requested(thing))


def receipt(operation: UUID, *, as_expected: bool) -> models.Receipt:
    return models.Receipt(
        operation_id=operation,
        key="carve-volume",
        query="is it there?",
        expected="absent",
        answer="absent" if as_expected else "present",
        as_expected=as_expected,
        looked_at=datetime.now(UTC),
    )


def test_a_provisional_receipt_is_due_later_and_written_anew(database, operations, accepted):
    lease = operations.claim(accepted, this_runner())
    operations.end(lease, OperationState.FAILED)
    Receipts(operations).settle(lease, [receipt(accepted, as_expected=False)], look_again_s=60)
    assert operations.read(accepted).left_behind
    assert 50 < due_in_s(database, accepted) <= 60
    change(database, accepted, due_at=utc_now())
    lease = operations.claim(accepted, this_runner())
    Receipts(operations).settle(lease, [receipt(accepted, as_expected=True)], None)
    settled = operations.read(accepted)
    assert (settled.left_behind, settled.provisional) == (False, False)
    assert count(database, models.Receipt) == 1


@pytest.fixture
def provisional(operations, requested):
    """An operation that failed, and is to be looked at again; and the object that it had."""
    thing = uuid4()
    failed = operations.accept(requested(thing)).id
    lease = operations.claim(failed, this_runner())
    operations.end(lease, OperationState.FAILED)
    Receipts(operations).settle(lease, [], look_again_s=0)
    return failed, thing


def ended_as(operations, request, state, step):
    """Accept it, end it so with a step in this state, and settle it."""
    lease = operations.claim(operations.accept(request).id, this_runner())
    writer = Journal(operations).writer(lease)
    writer.intend(intended("step").model_copy(update={"state": step}))
    writer.close()
    operations.end(lease, state)
    Receipts(operations).settle(lease, [], None)


def test_a_second_look_takes_the_locks_again(operations, requested, provisional):
    failed, thing = provisional
    lease = operations.claim(failed, this_runner())
    assert Receipts(operations).lock_again(lease) == set()
    with pytest.raises(Locked):
        operations.accept(requested(thing))
    Receipts(operations).settle(lease, [], look_again_s=0)
    operations.accept(requested(thing))


def test_a_second_look_waits_for_a_later_operation_to_end(operations, requested, provisional):
    failed, thing = provisional
    operations.accept(requested(thing))
    with pytest.raises(Locked):
        Receipts(operations).lock_again(operations.claim(failed, this_runner()))


@pytest.mark.parametrize(
    ("state", "step", "changed"),
    [
        (OperationState.SUCCEEDED, StepState.DONE, True),
        (OperationState.ABANDONED, StepState.UNDOING, True),
        (OperationState.FAILED, StepState.DONE, True),  # partly, and kept the rest
        (OperationState.FAILED, StepState.UNDONE, False),
        (OperationState.CANCELLED, StepState.SKIPPED, False),
    ],
)
def test_a_second_look_leaves_what_a_later_operation_has_changed(
    state, step, changed, operations, requested, provisional
):
    failed, thing = provisional
    ended_as(operations, requested(thing), state, step)
    lease = operations.claim(failed, this_runner())
    assert Receipts(operations).lock_again(lease) == ({thing} if changed else set())
    assert operations.locked_by(failed) == (() if changed else (thing,))


def test_a_second_look_takes_what_no_later_operation_had(operations, requested):
    hers, ours = uuid4(), uuid4()
    first = operations.accept(requested(hers, ours)).id
    lease = operations.claim(first, this_runner())
    operations.end(lease, OperationState.FAILED)
    Receipts(operations).settle(lease, [], look_again_s=0)
    ended_as(operations, requested(hers), OperationState.SUCCEEDED, StepState.DONE)
    assert hers in Receipts(operations).lock_again(operations.claim(first, this_runner()))
    assert operations.locked_by(first) == (ours,)


# --- claims ---------------------------------------------------------------------------------


@pytest.fixture
def remover(operations, requested):
    return operations.accept(requested(uuid4())).id


def test_a_thing_goes_with_its_last_claim(database, remover):
    claims = Claims(database)
    claims.claim("base", "disk:1")
    claims.claim("base", "disk:1")
    claims.claim("base", "disk:2")
    assert claims.holders("base") == ("disk:1", "disk:2")
    assert claims.release("base", "disk:1", remover) is False
    assert claims.release("base", "disk:2", remover) is True
    assert claims.release("base", "disk:2", remover) is True  # again: it is still to be removed


def test_what_is_being_removed_is_not_claimed_until_it_is_gone(database, remover):
    claims = Claims(database)
    claims.claim("base", "disk:1")
    claims.release("base", "disk:1", remover)
    with pytest.raises(Transient):
        claims.claim("base", "disk:2")
    assert claims.holders("base") == ()
    claims.removed("base", remover)
    claims.claim("base", "disk:2")
    claims.removed("base", remover)  # of a claimed thing: nothing
    assert claims.holders("base") == ("disk:2",)


def test_one_operation_removes_and_a_slower_one_does_not(database, operations, requested, remover):
    claims = Claims(database)
    slower = operations.accept(requested(uuid4())).id
    claims.claim("base", "disk:1")
    assert claims.release("base", "disk:1", remover) is True
    assert claims.release("base", "disk:2", slower) is False
    claims.removed("base", slower)
    with pytest.raises(Transient):
        claims.claim("base", "disk:3")
    claims.removed("base", remover)
    claims.claim("base", "disk:3")
    assert claims.holders("base") == ("disk:3",)


def test_a_remover_that_nobody_runs_any_more_is_in_nobodys_way(
    database, operations, requested, remover
):
    claims = Claims(database)
    slower = operations.accept(requested(uuid4())).id
    claims.release("base", "disk:1", remover)
    claims.release("file", "disk:1", remover)
    lease = operations.claim(remover, this_runner())
    operations.end(lease, OperationState.FAILED)
    with pytest.raises(Transient):  # it looks back yet, and may remove once more
        claims.claim("base", "disk:2")
    Receipts(operations).settle(lease, [], None)
    claims.claim("base", "disk:2")
    assert claims.release("file", "disk:2", slower) is True
    claims.removed("base", remover)
    assert claims.holders("base") == ("disk:2",)


def test_a_library_file_with_users_is_not_removed(database, remover):
    claims = Claims(database)
    claims.claim("file", "disk:1")
    with pytest.raises(InUse) as refused:
        claims.begin_removal("file", remover)
    assert refused.value.details == {"users": ["disk:1"]}
    claims.claim("file", "disk:2")
    claims.release("file", "disk:1", remover)
    claims.release("file", "disk:2", remover)
    claims.removed("file", remover)
    claims.begin_removal("file", remover)
    with pytest.raises(Transient):
        claims.claim("file", "disk:3")


def test_a_claim_and_a_removal_never_both_succeed(database, remover):
    claims = Claims(database)
    for n in range(15):
        thing = f"base-{n}"
        claims.claim(thing, "disk:1")
        claimed, last = at_once(
            lambda thing=thing: claims.claim(thing, "disk:2"),
            lambda thing=thing: claims.release(thing, "disk:1", remover),
        )
        assert (isinstance(claimed, Transient), last) in {(True, True), (False, False)}
        assert claims.holders(thing) == (() if last else ("disk:2",))


def test_first_claims_at_once_are_all_kept(database):
    claims = Claims(database)

    def claim(holder):
        while True:
            try:
                return claims.claim("base", holder)
            except Transient:  # what a saga does
                continue

    at_once(*[lambda n=n: claim(f"disk:{n}") for n in range(6)])
    assert len(claims.holders("base")) == 6


def test_the_removal_of_what_somebody_keeps_waits(database, remover):
    claims = Claims(database)
    claims.claim("export", "vm:1")
    kept = claims.keep("export")
    assert kept.is_claimed
    claims.claim("export", "vm:2")
    for removal in (
        lambda: claims.release("export", "vm:1", remover),
        lambda: claims.begin_removal("export", remover),
        lambda: claims.keep("export"),
    ):
        with pytest.raises(Transient):
            removal()
    assert claims.holders("export") == ("vm:1", "vm:2")
    assert claims.let_go(kept)
    assert claims.release("export", "vm:1", remover) is False
    assert claims.release("export", "vm:2", remover) is True


def test_what_is_kept_does_not_go_and_is_not_claimed_anew(database, remover):
    """By whoever was late with making it, and ends it again."""
    claims = Claims(database)
    claims.claim("export", "vm:1")
    claims.release("export", "vm:1", remover)
    kept = claims.keep("export")
    assert not kept.is_claimed
    with pytest.raises(Transient):
        claims.removed("export", remover)
    assert claims.let_go(kept)
    claims.removed("export", remover)
    kept = claims.keep("export")
    with pytest.raises(Transient):
        claims.claim("export", "vm:2")
    assert claims.let_go(kept)
    assert count(database, models.SharedThing) == 0
    claims.removed("export", remover)  # again: it is gone
    assert count(database, models.SharedThing) == 0
    claims.claim("export", "vm:2")


def test_who_keeps_a_thing_for_too_long_is_told(database, remover, monkeypatch):
    claims = Claims(database)
    claims.claim("export", "vm:1")
    with monkeypatch.context() as slow:
        slow.setattr("adapters.database.claims.KEPT_S", -1)
        late = claims.keep("export")
    again = claims.keep("export")
    assert not claims.let_go(late)
    with pytest.raises(Transient):  # it is another's, and stays so
        claims.release("export", "vm:1", remover)
    assert claims.let_go(again)
    assert claims.release("export", "vm:1", remover) is True


def test_keeping_and_removing_never_both_begin(database, remover):
    claims = Claims(database)
    for n in range(15):
        thing = f"export-{n}"
        claims.claim(thing, "vm:1")
        kept, last = at_once(
            lambda thing=thing: claims.keep(thing),
            lambda thing=thing: claims.release(thing, "vm:1", remover),
        )
        assert (kept.is_claimed, last is True) in {(True, False), (False, True)}


def test_the_longest_name_of_a_file_can_be_claimed(database):
    """A repository's path has up to 255 characters, and what is in it has more."""
    claims = Claims(database)
    thing = f"file:/{'r' * 254}/conversions/ab/{uuid4()}.qcow2"
    claims.claim(thing, "disk:1")
    assert claims.holders(thing) == ("disk:1",)


# --- secrets --------------------------------------------------------------------------------


def settings(home: Path, *keys: bytes) -> Settings:
    return Settings(home=home, secret_keys=b",".join(keys).decode() if keys else None)


def test_a_password_is_encrypted_at_rest(database, tmp_path):
    secret = uuid4()
    chap = Secrets(database, Keyring(settings(tmp_path))).ensure(secret)
    with database.read() as db:
        ciphertext = db.get_one(models.Secret, secret).ciphertext
    assert chap.password.get_secret_value().encode() not in ciphertext
    assert len(ciphertext) > 100


def test_a_secret_is_made_once_and_forgotten(database, tmp_path):
    kept = Secrets(database, Keyring(settings(tmp_path)))
    secret, other = uuid4(), uuid4()
    chap = kept.ensure(secret)
    assert kept.ensure(secret) == chap == kept.read(secret)
    assert kept.ensure(other).password != chap.password
    kept.forget(secret)
    kept.forget(secret)
    with pytest.raises(AdapterError, match="no secret"):
        kept.read(secret)
    assert kept.ensure(secret).password != chap.password


def test_a_new_key_goes_first_and_the_old_one_still_opens(database, tmp_path):
    old, new, other = (Fernet.generate_key() for _ in range(3))
    before, after = uuid4(), uuid4()
    chap = Secrets(database, Keyring(settings(tmp_path, old))).ensure(before)
    rotated = Secrets(database, Keyring(settings(tmp_path, new, old)))
    assert rotated.read(before) == chap
    fresh = rotated.ensure(after)
    assert Secrets(database, Keyring(settings(tmp_path, new))).read(after) == fresh
    with pytest.raises(NotAllowed):
        Secrets(database, Keyring(settings(tmp_path, other))).read(before)


def test_the_key_is_made_once_for_its_owner_alone(tmp_path):
    Keyring(settings(tmp_path))
    key = tmp_path / "secret.key"
    first = key.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    Keyring(settings(tmp_path))
    assert key.read_bytes() == first
    assert list(tmp_path.iterdir()) == [key]


# --- names, times, journal ------------------------------------------------------------------


def test_names_compare_by_bytes(database):
    def enter(name):
        with database.write() as db:
            db.add(models.Enterprise(id=uuid4(), name=name))

    for name in ("data", "Data", "d\u00e4ta", "da\u0308ta", "\U0001f4be"):
        enter(name)
    with pytest.raises(IntegrityError):
        enter("Data")
    with database.read() as db:
        found = db.scalars(select(models.Enterprise.name).where(models.Enterprise.name == "data"))
        assert found.all() == ["data"]


def test_times_are_utc_with_microseconds(database, datacenter):
    there = datetime(2026, 7, 1, 12, 0, 0, 123457, tzinfo=timezone(timedelta(hours=2)))
    appliance = models.Appliance(id=uuid4(), name="a", created_at=there)
    with database.write() as db:
        vdc = models.VirtualDatacenter(
            id=uuid4(),
            enterprise_id=FIRST_ENTERPRISE,
            datacenter_id=datacenter,
            name="demo",
            family=Family.MEMORY,
        )
        db.add(vdc)
        db.flush()
        appliance.virtual_datacenter_id = vdc.id
        db.add(appliance)
    with database.read() as db:
        read = db.get_one(models.Appliance, appliance.id).created_at
    assert (read, read.tzinfo) == (there, UTC)
    assert read.microsecond == 123457


def test_the_databases_clock_is_utc_with_microseconds(database):
    with database.read() as db:
        before = datetime.now(UTC)
        times = [db.scalar(select(utc_now())) for _ in range(5)]
        after = datetime.now(UTC)
        later = db.scalar(select(utc_now(3600.25)))
    assert all(before <= each <= after for each in times)
    assert any(each.microsecond % 1000 for each in times)
    assert timedelta(0) <= later - times[-1] - timedelta(seconds=3600.25) < timedelta(seconds=5)


@pytest.fixture
def writing():
    """Make writers, and close them."""
    made = []

    def make(journal, lease):
        made.append(journal.writer(lease))
        return made[-1]

    yield make
    for writer in made:
        writer.close()


def test_the_journal_keeps_lines_as_they_were_written(operations, accepted, writing):
    journal = Journal(operations)
    writer = writing(journal, operations.claim(accepted, this_runner()))
    results = {"none": None, "word": "é", "no": False, "value": {"a": [1, None]}}
    for position, key in enumerate(results):
        line = Line(
            key=key,
            name="step",
            lane="Web",
            layer=1,
            position=position,
            arguments={"size": 2**60, "what": None},
            found=key == "no",
            state=StepState.RUNNING,
            attempts=1,
        )
        writer.intend(line)
        assert journal.lines(accepted)[-1] == line.model_copy(
            update={"started_at": journal.lines(accepted)[-1].started_at, "epoch": 1}
        )
        writer.settle(key, StepState.DONE, result=results[key])
    writer.flush()
    lines = journal.lines(accepted)
    assert {line.key: line.result for line in lines} == results
    assert {type(line.result) for line in lines} == {type(None), str, bool, dict}
    assert [line.found for line in lines] == [False, False, True, False]
    assert all(line.started_at <= line.ended_at for line in lines)


def test_the_journal_keeps_long_errors(operations, accepted, writing):
    journal = Journal(operations)
    writer = writing(journal, operations.claim(accepted, this_runner()))
    line = Line(
        key="step[1]",
        name="step",
        lane="",
        layer=0,
        position=1,
        arguments={},
        found=True,
        state=StepState.RUNNING,
        attempts=1,
    )
    writer.intend(line)
    error = "é" * 100_000
    writer.stumble(line.key, error)
    writer.flush()
    assert journal.lines(accepted)[0].error == error
    writer.attempt(line, StepState.UNDOING)
    writer.settle(line.key, StepState.UNDONE, result="not kept")
    writer.flush()
    (kept,) = journal.lines(accepted)
    assert (kept.state, kept.result, kept.attempts) == (StepState.UNDONE, None, 2)
    assert kept.found


def test_a_line_is_another_operations_own(operations, requested, writing):
    journal = Journal(operations)
    leases = [operations.claim(operations.accept(requested()).id, this_runner()) for _ in "ab"]
    line = Line(
        key="step",
        name="step",
        lane="",
        layer=0,
        position=1,
        arguments={},
        found=False,
        state=StepState.RUNNING,
        attempts=1,
    )
    writers = [writing(journal, lease) for lease in leases]
    for writer in writers:
        writer.intend(line)
    writers[0].settle("step", StepState.DONE, result=1)
    writers[0].flush()
    journal.start_over(leases[0], {"another"})
    assert journal.lines(leases[0].operation)[0].state is StepState.DONE
    journal.start_over(leases[0], {"step"})
    states = [journal.lines(lease.operation)[0].state for lease in leases]
    assert states == [StepState.PENDING, StepState.RUNNING]


def intended(key, position=1):
    return Line(
        key=key,
        name="step",
        lane="",
        layer=0,
        position=position,
        arguments={},
        found=False,
        state=StepState.RUNNING,
        attempts=1,
    )


def test_an_intent_is_never_there_without_the_outcome_before_it(operations, accepted, writing):
    journal = Journal(operations)
    writer = writing(journal, operations.claim(accepted, this_runner()))
    for n in range(20):
        writer.intend(intended(f"step[{n}]", n))
        states = [line.state for line in journal.lines(accepted)]
        assert states == [StepState.DONE] * n + [StepState.RUNNING]
        writer.settle(f"step[{n}]", StepState.DONE)


def test_an_intent_that_is_written_again_is_the_same(operations, accepted, writing):
    """The answer to its commit was lost."""
    journal = Journal(operations)
    writer = writing(journal, operations.claim(accepted, this_runner()))
    for _ in "ab":
        writer.intend(intended("step"))
    assert len(journal.lines(accepted)) == 1


def test_an_intent_that_cannot_be_written_is_not_taken_for_one_that_is_there(
    operations, accepted, writing
):
    """Only the same line is the same: nothing else is left out without a word."""
    journal = Journal(operations)
    writer = writing(journal, operations.claim(accepted, this_runner()))
    with pytest.raises(DBAPIError):
        writer.intend(intended("step").model_copy(update={"name": None}))
    assert journal.lines(accepted) == []


def test_many_lanes_share_a_transaction(operations, accepted, writing, monkeypatch):
    journal = Journal(operations)
    writer = writing(journal, operations.claim(accepted, this_runner()))
    holding, transactions = Operations.holding, []

    def slowly(self, lease):
        transactions.append(lease)
        time.sleep(0.05)
        return holding(self, lease)

    monkeypatch.setattr(Operations, "holding", slowly)
    at_once(*[lambda n=n: writer.intend(intended(f"step[{n}]", n)) for n in range(40)])
    assert len(journal.lines(accepted)) == 40
    assert len(transactions) < 20


def test_what_was_not_written_fails_whoever_writes_on(operations, accepted, writing):
    writer = writing(Journal(operations), operations.claim(accepted, this_runner()))
    writer.intend(intended("step"))
    with operations.database.write() as db:
        db.execute(update(models.Operation).values(due_at=utc_now(-1)))
    writer.settle("step", StepState.DONE)
    for _ in "ab":
        with pytest.raises(LeaseLost):
            writer.flush()


# --- the inventory --------------------------------------------------------------------------


@pytest.fixture
def vms(database, datacenter):
    """Two VMs, and one host with room for one of them."""
    ids = {name: uuid4() for name in ("host", "store", "vdc", "template", "appliance")}
    vms = [uuid4(), uuid4()]
    with database.write() as db:
        for row in (
            models.Host(
                id=ids["host"],
                datacenter_id=datacenter,
                name="host",
                family=Family.MEMORY,
                address="memory",
                cpu=4,
                ram_mib=64,
            ),
            models.Datastore(
                id=ids["store"], host_id=ids["host"], uuid=uuid4(), directory="/store"
            ),
            models.VirtualDatacenter(
                id=ids["vdc"],
                enterprise_id=FIRST_ENTERPRISE,
                datacenter_id=datacenter,
                name="demo",
                family=Family.MEMORY,
            ),
            models.Template(
                id=ids["template"],
                enterprise_id=FIRST_ENTERPRISE,
                datacenter_id=datacenter,
                name="tiny",
                state=TemplateState.AVAILABLE,
                cpu=1,
                ram_mib=64,
                created_at=utc_now(),
            ),
            models.Appliance(
                id=ids["appliance"],
                virtual_datacenter_id=ids["vdc"],
                name="shop",
                created_at=utc_now(),
            ),
            *(
                models.VirtualMachine(
                    id=vm,
                    appliance_id=ids["appliance"],
                    template_id=ids["template"],
                    name=f"vm-{n}",
                    position=n,
                    depends_on=[],
                    cpu=1,
                    ram_mib=64,
                    state=VmState.NOT_ALLOCATED,
                )
                for n, vm in enumerate(vms)
            ),
        ):
            db.add(row)
            db.flush()
    return vms


def slowly_choose(vms, situation):
    """Decide on what was seen a moment ago: wrong, unless the others wait."""
    (host,) = situation.hosts
    time.sleep(0.2)
    if host.ram_reserved_mib + 64 * len(vms) > host.ram_mib:
        raise OutOfSpace("full")
    return dict.fromkeys(vms, (host.id, host.stores[0].id))


def reserved(inventory, vm):
    record = inventory.vm(vm)
    inventory.reserve([vm], record.datacenter_id, slowly_choose)
    return inventory.vm(vm).host


def test_the_last_room_goes_to_one_of_two(database, vms):
    inventory = Inventory(database)
    answers = at_once(*[lambda vm=vm: reserved(inventory, vm) for vm in vms])
    assert sorted(isinstance(each, OutOfSpace) for each in answers) == [False, True]
    (load,) = inventory.loads(inventory.vm(vms[0]).datacenter_id)
    assert (load.cpu_reserved, load.ram_reserved_mib) == (1, 64)


def test_all_vms_have_hosts_or_none(database, vms):
    inventory = Inventory(database)
    with pytest.raises(OutOfSpace):
        inventory.reserve(vms, inventory.vm(vms[0]).datacenter_id, slowly_choose)
    assert not inventory.have_host(vms)


def test_a_vm_keeps_the_host_it_has_until_it_is_freed(database, vms):
    inventory = Inventory(database)
    host = reserved(inventory, vms[0])
    datacenter = inventory.vm(vms[0]).datacenter_id
    inventory.reserve([vms[0]], datacenter, lambda *_: pytest.fail("chosen again"))
    assert inventory.vm(vms[0]).host == host
    assert inventory.vm(vms[0]).state is VmState.ALLOCATED
    inventory.free([vms[0]])
    assert inventory.vm(vms[0]).host_id is None
    assert reserved(inventory, vms[1]) == host


def test_a_volumes_name_is_its_own_but_for_case(database, vms):
    inventory = Inventory(database)
    vdc = inventory.vm(vms[0]).virtual_datacenter_id
    pool, tier = uuid4(), uuid4()
    with database.write() as db:
        datacenter = inventory.vm(vms[0]).datacenter_id
        db.add(models.Tier(id=tier, datacenter_id=datacenter, name="default"))
        device = models.StorageDevice(
            id=uuid4(),
            datacenter_id=inventory.vm(vms[0]).datacenter_id,
            name="san",
            technology="memory",
            host="127.0.0.1",
            port=3260,
            control=0,
        )
        db.add(device)
        db.flush()
        db.add(
            models.StoragePool(
                id=pool,
                device_id=device.id,
                name="pool",
                tier_id=tier,
                directory="",
                total_mib=64,
            )
        )

    def volume(name):
        return VolumeRecord(
            id=uuid4(), name=name, virtual_datacenter_id=vdc, pool_id=pool, size_mib=8
        )

    data = volume("data")
    inventory.enter_volume(data)
    inventory.enter_volume(data)
    inventory.enter_volume(volume("Data"))
    with pytest.raises(Conflict) as taken:
        inventory.enter_volume(volume("data"))
    assert taken.value.code == "name-taken"
    assert inventory.volume(data.id) == data


# --- MariaDB alone --------------------------------------------------------------------------


@pytest.mark.lab
def test_a_deadlock_is_transient_also_where_a_part_may_fail(mariadb: MariaDb, tmp_path):
    """The server rolls the whole transaction back, and with it the savepoint we would go to."""
    database = Database(mariadb.fresh())
    migrate(database, tmp_path)
    crossed = threading.Barrier(2)

    def enter(first, second):
        with database.write() as db:
            db.add(models.Enterprise(id=uuid4(), name=first))
            db.flush()
            crossed.wait(PATIENCE_S)
            with db.begin_nested():
                db.add(models.Enterprise(id=uuid4(), name=second))

    answers = at_once(lambda: enter("a", "b"), lambda: enter("b", "a"))
    assert sorted(isinstance(each, Transient) for each in answers) == [False, True]
    assert count(database, models.Enterprise) == 3
    database.engine.dispose()


@pytest.mark.lab
def test_a_database_that_is_away_is_transient_and_comes_back(tmp_path):
    server = MariaDb(tmp_path / "server")
    try:
        server.start()
        database = Database(server.fresh())
        with database.read() as db:
            db.execute(select(utc_now()))
        server._process.kill()
        for _ in range(2):  # the connection that was open, and a new one
            with pytest.raises(Transient), database.read() as db:
                db.execute(select(utc_now()))
        server.start()
        with database.read() as db:
            assert db.scalar(select(utc_now()))
        database.engine.dispose()
    finally:
        server.stop()


@pytest.mark.lab
def test_the_other_name_of_the_same_database_means_the_same(mariadb: MariaDb, tmp_path):
    """`mariadb+pymysql://` is a dialect of its own to SQLAlchemy."""
    database = Database(mariadb.fresh().replace("mysql+", "mariadb+"))
    migrate(database, tmp_path)
    with database.engine.connect() as connection:
        assert differences(connection) == []
    there = datetime(2026, 7, 1, 12, 0, 0, 123457, tzinfo=UTC)
    token = people.ApiToken(
        id=uuid4(), enterprise_id=FIRST_ENTERPRISE, name="t", digest="", created_at=there
    )
    with database.write() as db:
        db.add(token)
    with database.read() as db:
        assert db.get_one(people.ApiToken, token.id).created_at == there
    database.engine.dispose()


# --- approvals --------------------------------------------------------------------------------


def decided(database, operation, verdicts):
    """All decide at once; answers what each was told, a state or a code."""
    approvals, barrier = Approvals(Operations(database, lease_s=600)), threading.Barrier(4)

    def decide(verdict):
        barrier.wait()
        try:
            if verdict == "time_out":
                return approvals.time_out(operation).state
            if verdict == "withdraw":
                return approvals.withdraw(operation, "cancel")
            return getattr(approvals, verdict)(operation, "first", uuid4(), None).state
        except Conflict as refusal:
            return refusal.code

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(decide, verdicts))


@pytest.mark.parametrize(
    "verdicts", ["approve approve approve approve", "approve reject approve reject"]
)
def test_of_decisions_that_race_exactly_one_is_taken(verdicts, database, operations, requested):
    for _ in range(5):
        vm = uuid4()
        asked = requested(vm).model_copy(update={"waits_s": 60.0})
        operation = operations.accept(asked)
        answers = decided(database, operation.id, verdicts.split())
        now = operations.read(operation.id)
        assert sorted(answers) == sorted([now.state, *["not-waiting"] * 3])
        assert operations.locked_by(operation.id) == (
            (vm,) if now.state is OperationState.ACCEPTED else ()
        )


def test_approving_and_timing_out_exclude_each_other(database, operations, requested):
    for wait_s in (0.0, 0.002, 0.004, 0.006, 60.0):
        asked = requested(uuid4()).model_copy(update={"waits_s": wait_s})
        operation = operations.accept(asked)
        race = ["approve", "time_out", "approve", "time_out"]
        answers = decided(database, operation.id, race)
        Approvals(operations).time_out(operation.id)
        now = operations.read(operation.id)
        if now.state is OperationState.ACCEPTED:
            assert sum(answers[n] == OperationState.ACCEPTED for n in (0, 2)) == 1
            assert OperationState.CANCELLED not in answers
        else:
            assert now.error["code"] == "approval-timeout"
            assert {answers[0], answers[2]} <= {"approval-timeout", "not-waiting"}
            assert now.due_at is None
            assert operations.locked_by(operation.id) == ()


@pytest.mark.lab
@pytest.mark.parametrize("url", ["mariadb"], indirect=True)  # a writer of SQLite's is alone
def test_what_was_read_before_it_was_decided_is_read_again(database, operations, requested):
    """The API reads the row before it decides, in the same transaction."""
    asked = requested(uuid4()).model_copy(update={"waits_s": 60.0})
    operation = operations.accept(asked)
    with database.write() as db:
        read = db.get_one(models.Operation, operation.id)
        assert read.state is OperationState.WAITING
        Approvals(operations).reject(operation.id, "other", uuid4(), None)
        late = Approvals(Operations(Joined(db), lease_s=600))
        with pytest.raises(Conflict) as refusal:
            late.approve(operation.id, "first", uuid4(), None)
        assert refusal.value.code == "not-waiting"


def test_runners_that_add_at_once_lose_no_figure(database):
    took = [Took("step", f"step-{n}", "done", 0.01, 1) for n in range(5)]
    orders = [took, took[::-1]] * 4

    def adds(order: list[Took]) -> None:
        for _ in range(5):
            Figures(database).add(order)

    with ThreadPoolExecutor(len(orders)) as pool:
        list(pool.map(adds, orders))
    found = Figures(database).durations()
    assert {(each.name, each.within_ms, each.times, each.retries) for each in found} == {
        (f"step-{n}", 10, 40, 40) for n in range(5)
    }
    assert sum(each.seconds for each in found) == pytest.approx(2.0)
