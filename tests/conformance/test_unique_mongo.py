"""Unique keys on the real server: races, transactions, lost replies, roles."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError

from streamq.core import queries
from streamq.core.new_task import NewTask, PutReply
from streamq.core.unique_key import lock_of
from streamq.errors import PutUnknown, StoreError, UniqueConflict
from streamq.store import claiming, inserting, putting, transacted, twins
from streamq.store.collections import Tasks
from streamq.store.mongo import MongoStore

if TYPE_CHECKING:
    from streamq.core.claim import Ask
    from tests.conformance.conftest import MongoLab

THREADS = 8
SCOPES: list[dict[str, Any]] = [{}, {"unique_for_s": 60.0}, {"unique_for_s": math.inf}]


def keyed(lab: MongoLab, key: Any = "k", *, payload: Any = None, id: ObjectId | None = None, **options: Any) -> NewTask:
    given: Any = {"unique": key, **options}
    return lab.new(payload=payload, id=id, options=given)


def put(lab: MongoLab, new: NewTask, session: Any = None) -> PutReply:
    (reply,) = lab.store.put([new], session)
    return reply


@pytest.fixture
def hasty(mongo: MongoLab) -> MongoStore:
    """The same place with a short deadline."""
    return MongoStore(mongo.mongo.client, mongo.mongo._database.name, timeout_s=0.3)


@contextmanager
def failing(lab: MongoLab, command: str, mode: Any = "alwaysOn", **data: Any) -> Iterator[None]:
    """Let a command on the tasks fail."""
    admin = lab.admin.admin
    space = {} if command == "commitTransaction" else {"namespace": lab.mongo._tasks.quick.full_name}
    admin.command("configureFailPoint", "failCommand", mode=mode, data={"failCommands": [command]} | space | data)
    try:
        yield
    finally:
        admin.command("configureFailPoint", "failCommand", mode="off")


def end(lab: MongoLab, id: ObjectId) -> None:
    (claim,) = lab.claim(ids=(id,), durable=True)
    assert lab.settle(claim, "succeed") == "settled"


# --- races ---------------------------------------------------------------------------------------------------------


def race(uri: str, lab: MongoLab, make: Callable[[int], Sequence[NewTask]]) -> list[PutReply]:
    """Let as many programs put at one moment."""
    barrier = threading.Barrier(THREADS)
    database = lab.mongo._database.name

    def put_one(place: int) -> Sequence[PutReply]:
        store = MongoStore.connect(uri, database)
        try:
            store.now()
            new = make(place)
            barrier.wait()
            return store.put(new)
        finally:
            store.close()

    with ThreadPoolExecutor(THREADS) as pool:
        return [reply for replies in pool.map(put_one, range(THREADS)) for reply in replies]


@pytest.mark.parametrize("on_conflict", ["existing", "raise", "replace"])
@pytest.mark.parametrize("scope", SCOPES, ids=["live", "period", "forever"])
def test_of_racing_puts_of_one_key_exactly_one_is_created(
    uri: str, mongo: MongoLab, scope: dict[str, Any], on_conflict: str
) -> None:
    replies = race(uri, mongo, lambda place: [keyed(mongo, payload=place, on_conflict=on_conflict, **scope)])
    said = {"existing": "existing", "raise": "refused", "replace": "replaced"}[on_conflict]
    assert Counter(reply.outcome for reply in replies) == {"created": 1, said: THREADS - 1}
    assert len({reply.id for reply in replies}) == 1
    (claim,) = mongo.claim()
    assert claim.id == replies[0].id
    if on_conflict == "replace":
        assert mongo.stored(claim.id)["revision"] == THREADS - 1


def test_of_racing_puts_of_many_each_key_is_created_once_and_the_rest_all_stored(uri: str, mongo: MongoLab) -> None:
    replies = race(
        uri, mongo, lambda place: [*(keyed(mongo, key) for key in range(20)), *(mongo.new() for _ in range(20))]
    )
    assert Counter(reply.outcome for reply in replies) == {"created": 20 + 20 * THREADS, "existing": 20 * (THREADS - 1)}
    assert mongo.store.counts() == {"q": {"ready": 20 + 20 * THREADS}}


def test_a_claim_that_read_a_task_before_it_was_replaced_does_not_run_the_old_payload(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim by query reads first and takes then; in between the put is told "replaced"."""
    id, plain = put(mongo, keyed(mongo, payload="old")).id, mongo.put()
    take = claiming.take

    def slowly(tasks: Any, ask: Ask, wanted: list[dict[str, Any]], refused: Any) -> list[ObjectId]:
        monkeypatch.undo()
        assert put(mongo, keyed(mongo, payload="new", on_conflict="replace")).replaced
        return take(tasks, ask, wanted, refused)

    monkeypatch.setattr(claiming, "take", slowly)
    first = mongo.store.claim(mongo.ask(2))
    assert [claim.id for claim in first.claims] == [plain]
    assert first.more
    (second,) = mongo.claim()
    assert (second.id, second.payload) == (id, "new")


def test_tasks_with_and_without_keys_are_claimed_in_one_call(mongo: MongoLab) -> None:
    ids = [mongo.put(), put(mongo, keyed(mongo, 1)).id, put(mongo, keyed(mongo, 2)).id, mongo.put()]
    put(mongo, keyed(mongo, 2, on_conflict="replace"))
    assert [claim.id for claim in mongo.claim()] == ids


@pytest.mark.parametrize("revision", ["x", None, [1], {"a": 1}, math.nan, True, 2.5])
def test_a_revision_that_is_no_number_stops_nobody(mongo: MongoLab, revision: Any) -> None:
    id, plain = put(mongo, keyed(mongo)).id, mongo.put()
    mongo.edit(id, {"$set": {"revision": revision}})
    assert [claim.id for claim in mongo.claim()] == [id, plain]


def test_a_twin_that_ended_between_the_conflict_and_the_look_frees_the_key(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(mongo, keyed(mongo)).id
    meet = twins.meet

    def slowly(*args: Any) -> Any:
        monkeypatch.undo()
        end(mongo, first)
        return meet(*args)

    monkeypatch.setattr(twins, "meet", slowly)
    second, plain = mongo.store.put([keyed(mongo), mongo.new()])
    assert second.created
    assert plain.created
    assert mongo.store.counts() == {"q": {"ready": 2, "succeeded": 1}}


def test_twins_that_come_and_go_without_end_are_told_and_harm_no_other(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(mongo, keyed(mongo))
    monkeypatch.setattr(twins, "meet", lambda tasks, new, documents: [None] * len(new))
    plain = mongo.new()
    with pytest.raises(StoreError, match="came and went 10 times"):
        mongo.store.put([keyed(mongo), plain])
    assert mongo.stored(plain.id)["status"] == "ready"


# --- lost replies, refusals ----------------------------------------------------------------------------------------


def test_a_put_whose_look_at_the_twin_fails_is_unknown_and_can_be_repeated(mongo: MongoLab, hasty: MongoStore) -> None:
    first = put(mongo, keyed(mongo)).id
    again = [keyed(mongo), mongo.new()]
    with failing(mongo, "find", closeConnection=True), pytest.raises(PutUnknown) as caught:
        hasty.put(again)
    assert caught.value.ids == [one.id for one in again]
    assert [reply.id for reply in mongo.store.put(again)] == [first, again[1].id]
    assert mongo.store.counts() == {"q": {"ready": 2}}


def test_a_put_beside_one_whose_twin_has_ended_is_unknown_when_the_server_goes_then(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored; the other is not, and nobody must say "nothing has changed"."""
    put(mongo, keyed(mongo))
    monkeypatch.setattr(twins, "meet", lambda tasks, new, documents: [None] * len(new))
    real, again = inserting.insert, [keyed(mongo), mongo.new()]

    def insert(tasks: Tasks, documents: list[dict[str, Any]]) -> inserting.Inserted:
        if len(documents) == len(again):
            return real(tasks, documents)
        raise ServerSelectionTimeoutError("no primary")

    monkeypatch.setattr(putting, "insert", insert)
    with pytest.raises(PutUnknown) as caught:
        mongo.store.put(again)
    assert caught.value.ids == [one.id for one in again]
    assert mongo.store.counts() == {"q": {"ready": 2}}


@pytest.mark.parametrize(("command", "scope"), [("insert", {}), ("commitTransaction", {"unique_for_s": 60.0})])
def test_a_put_whose_reply_was_lost_is_its_own_twin_and_not_a_conflict(
    mongo: MongoLab, hasty: MongoStore, command: str, scope: dict[str, Any]
) -> None:
    new = keyed(mongo, on_conflict="raise", **scope)
    error = {"code": 64, "errmsg": "waited too long"}
    with failing(mongo, command, writeConcernError=error), pytest.raises(PutUnknown):
        hasty.put([new])
    assert put(mongo, new) == PutReply(new.id, "existing")
    assert mongo.store.counts() == {"q": {"ready": 1}}


@pytest.mark.parametrize("on_conflict", ["existing", "raise", "replace"])
def test_a_role_that_may_only_insert_learns_that_there_is_a_twin(mongo: MongoLab, on_conflict: str) -> None:
    put(mongo, keyed(mongo, payload=1))
    new = [mongo.new(), keyed(mongo, payload=2, on_conflict=on_conflict)]
    with failing(mongo, "findAndModify" if on_conflict == "replace" else "find", errorCode=13):
        plain, hidden = mongo.store.put(new)
    assert (plain.created, hidden) == (True, PutReply(new[1].id, "hidden"))
    assert not hidden.created


def test_who_has_a_key_is_read_from_the_index(mongo: MongoLab) -> None:
    mongo.store.put([keyed(mongo, key) for key in range(200)] + [mongo.new() for _ in range(200)])
    find = {"find": "tasks", "filter": queries.twins("q", [lock_of(7), lock_of(8)])}
    said = mongo.database.command({"explain": find, "verbosity": "executionStats"})
    assert said["executionStats"]["totalDocsExamined"] == 2
    assert said["executionStats"]["totalKeysExamined"] <= 4
    assert "streamq_unique" in str(said["queryPlanner"]["winningPlan"])


# --- transactions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES, ids=["live", "period", "forever"])
def test_a_duplicate_in_the_callers_transaction_does_not_end_it(mongo: MongoLab, scope: dict[str, Any]) -> None:
    first = put(mongo, keyed(mongo, payload=1, **scope))
    plain = mongo.new()
    with mongo.mongo.client.start_session() as session, session.start_transaction():
        replies = [put(mongo, keyed(mongo, **scope), session), put(mongo, plain, session)]
        replies.append(put(mongo, keyed(mongo, on_conflict="raise", **scope), session))
        replies.append(put(mongo, keyed(mongo, payload=2, on_conflict="replace", **scope), session))
    assert [reply.outcome for reply in replies] == ["existing", "created", "refused", "replaced"]
    assert [reply.id for reply in replies] == [first.id, plain.id, first.id, first.id]
    assert mongo.stored(first.id)["payload"] == 2


@pytest.mark.parametrize("scope", SCOPES, ids=["live", "period", "forever"])
def test_duplicates_in_one_put_in_a_transaction_each_get_their_answer(mongo: MongoLab, scope: dict[str, Any]) -> None:
    new = [keyed(mongo, on_conflict=on_conflict, **scope) for on_conflict in ("raise", "existing", "raise", "replace")]
    with mongo.mongo.client.start_session() as session, session.start_transaction():
        replies = mongo.store.put([*new, mongo.new()], session)
    assert [reply.outcome for reply in replies] == ["created", "existing", "refused", "replaced", "created"]
    assert mongo.store.counts() == {"q": {"ready": 2}}


@pytest.mark.parametrize("scope", SCOPES, ids=["live", "period", "forever"])
def test_a_transaction_that_is_rolled_back_leaves_its_keys_free(mongo: MongoLab, scope: dict[str, Any]) -> None:
    with mongo.mongo.client.start_session() as session:
        session.start_transaction()
        assert put(mongo, keyed(mongo, **scope), session).created
        session.abort_transaction()
    assert put(mongo, keyed(mongo, **scope)).created


@pytest.mark.parametrize("scope", SCOPES, ids=["live", "period", "forever"])
def test_a_twin_that_comes_while_a_transaction_runs_makes_it_run_again(mongo: MongoLab, scope: dict[str, Any]) -> None:
    """Between the transaction's first read and its put another program puts the key."""
    others: list[PutReply] = []

    def body(session: Any) -> PutReply:
        mongo.mongo._tasks.durable.find_one({}, session=session)  # from here on it sees no later commit
        if not others:
            others.append(put(mongo, keyed(mongo, **scope)))
        return put(mongo, keyed(mongo, **scope), session)

    with mongo.mongo.client.start_session() as session:
        reply = session.with_transaction(body)
    assert reply == PutReply(others[0].id, "existing")
    assert mongo.store.counts() == {"q": {"ready": 1}}


@pytest.mark.parametrize("scope", SCOPES, ids=["live", "period", "forever"])
def test_the_error_of_a_race_inside_a_transaction_asks_for_it_to_be_run_again(
    mongo: MongoLab, scope: dict[str, Any]
) -> None:
    with mongo.mongo.client.start_session() as session, session.start_transaction():
        mongo.mongo._tasks.durable.find_one({}, session=session)
        put(mongo, keyed(mongo, **scope))
        with pytest.raises(OperationFailure) as caught:
            put(mongo, keyed(mongo, **scope), session)
        assert caught.value.has_error_label("TransientTransactionError")
        session.abort_transaction()


def test_a_failed_insert_frees_the_key_that_was_to_outlive_it(mongo: MongoLab) -> None:
    new = keyed(mongo, unique_for_s=60.0)
    with failing(mongo, "insert", mode={"times": 1}, errorCode=121), pytest.raises(StoreError):
        put(mongo, new)
    assert mongo.mongo._tasks.meta.count_documents({"kind": "unique"}) == 0
    assert put(mongo, keyed(mongo, unique_for_s=60.0)).created


def test_a_key_that_is_held_for_a_time_is_left_to_the_server_to_remove(mongo: MongoLab) -> None:
    id = put(mongo, keyed(mongo, ("$a", 1), unique_for_s=60.0)).id
    put(mongo, keyed(mongo, "b", unique_for_s=math.inf))
    first, second = mongo.mongo._tasks.meta.find({"kind": "unique"}).sort("taken_at")
    assert (first["kind"], first["queue"], first["unique_key"], first["task_id"]) == ("unique", "q", ["$a", 1], id)
    assert 59 < (first["remove_at"] - first["taken_at"]).total_seconds() < 61
    assert "remove_at" not in second


def test_tasks_with_keys_go_in_one_insert_with_the_others(mongo: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    insert = inserting.insert

    def counted(tasks: Any, documents: list[dict[str, Any]]) -> Any:
        sizes.append(len(documents))
        return insert(tasks, documents)

    monkeypatch.setattr(putting, "insert", counted)
    mongo.store.put([mongo.new(), keyed(mongo, 1), keyed(mongo, 1), mongo.new(), keyed(mongo, 2)])
    assert sizes == [5]


def test_a_duplicate_that_ended_a_transaction_all_the_same_is_named(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(mongo, keyed(mongo))
    monkeypatch.setattr(twins, "holders", lambda *_: {})  # as if it had come in after the look
    with mongo.mongo.client.start_session() as session, session.start_transaction():
        with pytest.raises(UniqueConflict, match=r"unique='k'.*run it again") as caught:
            put(mongo, keyed(mongo), session)
        assert caught.value.task_id is None
        session.abort_transaction()


def test_a_first_copy_of_a_put_that_the_server_turned_away_for_its_key_is_its_own(mongo: MongoLab) -> None:
    """Which of two unique indexes a server names, that of `_id` or that of the key, is not promised."""
    new = keyed(mongo, on_conflict="raise")
    put(mongo, new)
    document = mongo.stored(new.id)
    assert twins.meet(mongo.mongo._tasks, [new], [document]) == [PutReply(new.id, "existing")]


# --- many keys that outlive their tasks ----------------------------------------------------------------------------


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tasks each transaction of the store's own was begun with."""
    sizes: list[int] = []
    within = transacted.put_within

    def counted(session: Any, tasks: Any, new: Sequence[NewTask], documents: Any) -> Any:
        sizes.append(len(new))
        return within(session, tasks, new, documents)

    monkeypatch.setattr(transacted, "put_within", counted)
    return sizes


@pytest.mark.parametrize("scope", SCOPES[1:], ids=["period", "forever"])
def test_many_with_keys_that_outlive_them_go_in_one_transaction(
    mongo: MongoLab, scope: dict[str, Any], transactions: list[int]
) -> None:
    there = put(mongo, keyed(mongo, 3, payload="old", **scope))
    del transactions[:]
    new = [mongo.new(), *(keyed(mongo, key, **scope) for key in (1, 2, 1, 3, 4))]
    new += [keyed(mongo, 1, on_conflict="raise", **scope), keyed(mongo, 3, on_conflict="replace", payload="x", **scope)]
    replies = mongo.store.put(new)
    assert [one.outcome for one in replies] == [
        *("created", "created", "created", "existing", "existing", "created", "refused", "replaced")
    ]
    assert [one.id for one in replies[3:]] == [new[1].id, there.id, new[5].id, new[1].id, there.id]
    assert transactions == [7]
    assert mongo.stored(there.id)["payload"] == "x"


def test_many_that_are_put_again_are_recognised_at_once(mongo: MongoLab, transactions: list[int]) -> None:
    """As after a lost reply: nobody goes through them one by one."""
    new = [keyed(mongo, key, unique_for_s=60.0) for key in range(20)]
    mongo.store.put(new[:15])
    del transactions[:]
    assert [one.outcome for one in mongo.store.put(new)] == ["existing"] * 15 + ["created"] * 5
    assert sum(transactions) < 40


def test_one_id_twice_in_one_put_is_stored_once(mongo: MongoLab) -> None:
    new = keyed(mongo, unique_for_s=60.0)
    assert [one.outcome for one in mongo.store.put([new, new])] == ["created", "existing"]


def test_a_key_that_somebody_is_writing_holds_up_no_other_of_the_put(mongo: MongoLab, transactions: list[int]) -> None:
    """The half that has it goes on its own, and so on, until the key is waited for by its own task alone."""
    new = [keyed(mongo, key, unique_for_s=60.0) for key in range(16)]
    stored_when_it_was_met: list[int] = []

    def alone(tasks: Any, one: NewTask, document: Any) -> PutReply:
        if one.options.unique == 9 and other.in_transaction:
            stored_when_it_was_met.append(mongo.mongo._tasks.durable.count_documents({}))
            other.commit_transaction()
        return put_one(tasks, one, document)

    put_one = transacted._put_one_apart
    with mongo.mongo.client.start_session() as other, pytest.MonkeyPatch.context() as patch:
        patch.setattr(transacted, "_put_one_apart", alone)
        other.start_transaction()
        theirs = keyed(mongo, 9, unique_for_s=60.0)
        mongo.store.put([theirs], other)
        replies = mongo.store.put(new)
    assert stored_when_it_was_met == [9]  # keys 0 to 8, of which 8 went alone at last
    assert [one.outcome for one in replies] == ["created"] * 9 + ["existing"] + ["created"] * 6
    assert replies[9].id == theirs.id


@pytest.mark.parametrize("overlap", [1, 30])
def test_of_racing_puts_of_many_each_key_has_one_task(uri: str, mongo: MongoLab, overlap: int) -> None:
    def make(place: int) -> list[NewTask]:
        keys = [*range(overlap), *((place, n) for n in range(10))]
        return [keyed(mongo, key, unique_for_s=60.0) for key in (keys if place % 2 else keys[::-1])]

    replies = race(uri, mongo, make)
    assert Counter(one.outcome for one in replies)["created"] == overlap + THREADS * 10
    assert mongo.store.counts() == {"q": {"ready": overlap + THREADS * 10}}


def test_a_put_of_many_whose_later_half_finds_no_server_does_not_say_that_nothing_is_stored(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = [keyed(mongo, key, unique_for_s=60.0) for key in range(4)]
    real = transacted._in_transaction

    def away(tasks: Any, part: Sequence[transacted.Put], *, again: bool) -> list[PutReply]:
        if len(part) == 4:
            raise transacted._Crossed
        if part[0][0] is new[2]:
            raise ServerSelectionTimeoutError("no primary")
        return real(tasks, part, again=again)

    monkeypatch.setattr(transacted, "_in_transaction", away)
    with pytest.raises(PutUnknown) as caught:
        mongo.store.put(new)
    assert caught.value.ids == [one.id for one in new]
    assert mongo.store.counts() == {"q": {"ready": 2}}


def test_a_put_of_many_whose_keys_find_no_server_does_not_say_that_nothing_is_stored(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = [mongo.new(), keyed(mongo, unique_for_s=60.0)]

    def away(*_: Any) -> None:
        raise ServerSelectionTimeoutError("no primary")

    monkeypatch.setattr(putting, "put_apart", away)
    with pytest.raises(PutUnknown) as caught:
        mongo.store.put(new)
    assert caught.value.ids == [one.id for one in new]
