"""What the real store says and does when the server or the network fails in the middle of a call.

A command fails before it is executed by the server's own fail points, for this test's client only. A reply that is
lost after execution is played by a collection whose method does its work and then raises what the driver would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from bson import ObjectId
from bson.errors import InvalidBSON, InvalidDocument
from pymongo import DeleteMany, MongoClient
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure, ServerSelectionTimeoutError

from streamq.core import put_many
from streamq.core.outcome import Raised
from streamq.embedded.ports import free_port
from streamq.errors import (
    ClaimUnknown,
    FeedEnded,
    OutcomeUnknown,
    PayloadTooLarge,
    PutUnknown,
    StoreError,
    StoreUnavailable,
)
from streamq.store import putting
from streamq.store.mongo import MongoStore

if TYPE_CHECKING:
    from tests.conformance.conftest import MongoLab

APP = "faulty"
ALWAYS = 1_000_000
BOOM = Raised(type="Boom", message="it broke")


class Fail(Protocol):
    def __call__(self, *commands: str, times: int = 1, **how: Any) -> None: ...


@pytest.fixture
def faulty(mongo: MongoLab, uri: str, database: str) -> Iterator[MongoLab]:
    """A lab whose store's client is the one that fail points fail."""
    client = MongoClient[dict[str, Any]](uri, appname=APP)
    yield mongo.on(MongoStore(client, database))
    client.close()


@pytest.fixture
def hasty(mongo: MongoLab, faulty: MongoLab, database: str) -> MongoLab:
    """The same with little patience: within its deadline the driver repeats what may be repeated again and again."""
    return mongo.on(MongoStore(faulty.mongo.client, database, timeout_s=0.4))


@pytest.fixture
def fail(admin_uri: str) -> Iterator[Fail]:
    """Let the next commands of the faulty client fail, on the server, before they are executed."""
    with MongoClient[dict[str, Any]](admin_uri) as client:

        def configure(*commands: str, times: int = 1, **how: Any) -> None:
            data = {"failCommands": list(commands), "appName": APP} | how
            client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": times}, "data": data})

        yield configure
        client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@contextmanager
def lost_replies(collection: Any, method: str, *, times: int = 1) -> Iterator[None]:
    """Let the next calls of a collection's method be executed and their replies be lost."""

    def instead(real: Any, args: Any, more: Any) -> None:
        real(*args, **more)
        drop_line()

    with replaced(collection, method, times, instead):
        yield


@contextmanager
def not_sent(collection: Any, method: str, *, times: int = 1, error: Exception | None = None) -> Iterator[None]:
    """Let the next calls of a collection's method fail without being executed."""
    with replaced(collection, method, times, lambda real, args, more: drop_line(error)):
        yield


def drop_line(error: Exception | None = None) -> None:
    raise error or AutoReconnect("connection closed")


@contextmanager
def replaced(
    collection: Any, method: str, times: int, instead: Callable[[Any, Any, Mapping[str, Any]], Any]
) -> Iterator[None]:
    real = getattr(collection, method)
    left = times

    def call(*args: Any, **more: Any) -> Any:
        nonlocal left
        if left == 0:
            return real(*args, **more)
        left -= 1
        return instead(real, args, more)

    setattr(collection, method, call)
    try:
        yield
    finally:
        delattr(collection, method)
    assert left == 0, f"{method} was called {times - left} times only"


def statuses(lab: MongoLab) -> Mapping[str, int]:
    return lab.store.counts().get("q", {})


# --- claiming -----------------------------------------------------------------------------------------------------


def test_a_batch_claim_that_was_not_executed_is_unknown_and_holds_nothing(faulty: MongoLab, fail: Fail) -> None:
    ids = [faulty.put() for _ in range(3)]
    ask = faulty.ask()
    fail("update", closeConnection=True)
    with pytest.raises(ClaimUnknown) as caught:
        faulty.store.claim(ask)
    assert (caught.value.claim_id, caught.value.ids, caught.value.queue) == (ask.claim_id, tuple(ids), "q")
    assert faulty.store.abandon(caught.value) == 0
    assert [claim.attempt for claim in faulty.claim()] == [1, 1, 1]


def test_a_batch_claim_whose_reply_was_lost_is_held_once(mongo: MongoLab) -> None:
    ids = [mongo.put() for _ in range(3)]
    with lost_replies(mongo.mongo._tasks.quick, "update_many"):
        claims = mongo.claim()
    assert [(claim.id, claim.attempt) for claim in claims] == [(id, 1) for id in ids]
    assert mongo.store.extend(claims) == []


def test_a_batch_claim_that_was_half_executed_is_unknown_and_goes_back_uncounted(mongo: MongoLab) -> None:
    ids = [mongo.put() for _ in range(4)]

    def half(real: Any, args: Any, more: Any) -> None:
        filter, *rest = args
        real(filter | {"_id": {"$in": filter["_id"]["$in"][:2]}}, *rest, **more)
        drop_line()

    with (
        replaced(mongo.mongo._tasks.quick, "update_many", 1, half),
        pytest.raises(ClaimUnknown) as caught,
    ):
        mongo.claim()
    assert set(caught.value.ids) == set(ids)
    assert statuses(mongo) == {"running": 2, "ready": 2}
    assert mongo.store.abandon(caught.value) == 2
    assert mongo.store.abandon(caught.value) == 0
    assert [(claim.id, claim.attempt) for claim in mongo.claim()] == [(id, 1) for id in ids]


def test_a_claim_whose_reply_and_read_back_were_lost_is_unknown_and_goes_back(mongo: MongoLab) -> None:
    ids = [mongo.put() for _ in range(2)]
    quick = mongo.mongo._tasks.quick
    with (
        lost_replies(quick, "update_many"),
        replaced(quick, "find", 2, first_of_two_works()),
        pytest.raises(ClaimUnknown) as caught,
    ):
        mongo.claim()
    assert set(caught.value.ids) == set(ids)
    assert mongo.store.abandon(caught.value) == 2
    assert statuses(mongo) == {"ready": 2}


def first_of_two_works() -> Callable[[Any, Any, Any], Any]:
    calls: list[None] = []

    def instead(real: Any, args: Any, more: Any) -> Any:
        calls.append(None)
        return real(*args, **more) if len(calls) == 1 else drop_line()

    return instead


@pytest.mark.parametrize("error", [AutoReconnect("closed"), ServerSelectionTimeoutError("nobody")])
def test_a_lost_race_whose_read_back_fails_is_unknown(mongo: MongoLab, error: Exception) -> None:
    """Some of the batch is ours and we cannot learn which: saying that nothing changed would leave these tasks to
    their leases, with an attempt used up."""
    ids = [mongo.put() for _ in range(3)]
    quick = mongo.mongo._tasks.quick
    update_many = quick.update_many

    def raced(real: Any, args: Any, more: Any) -> Any:
        found = list(real(*args, **more))
        update_many({"_id": ids[1]}, {"$set": {"attempt": 7}})
        quick.find = lambda *args, **more: drop_line(error)  # type: ignore[method-assign,assignment]
        return Found(found)

    with replaced(quick, "find", 1, raced), pytest.raises(ClaimUnknown) as caught:
        mongo.claim()
    assert set(caught.value.ids) == set(ids)
    assert mongo.store.abandon(caught.value) == 2


class Found(list[dict[str, Any]]):
    """What a cursor found, already read."""

    def sort(self, *_: Any) -> Found:  # type: ignore[override]
        return self

    def limit(self, _: int) -> Found:
        return self

    def batch_size(self, _: int) -> Found:
        return self


@pytest.mark.parametrize("error", [AutoReconnect("closed"), ServerSelectionTimeoutError("nobody")])
def test_when_a_part_of_a_claim_fails_the_part_before_goes_back_too(mongo: MongoLab, error: Exception) -> None:
    """Tasks of one attempt and of several are taken by two updates; the second finds no server."""
    ids = [mongo.put(), mongo.put(max_attempts=1)]
    with not_sent(mongo.mongo._tasks.durable, "update_many", error=error), pytest.raises(ClaimUnknown) as caught:
        mongo.claim()
    assert statuses(mongo) == {"running": 1, "ready": 1}
    assert set(caught.value.ids) == set(ids)
    assert mongo.store.abandon(caught.value) == 1
    assert [claim.attempt for claim in mongo.claim()] == [1, 1]


def test_a_claim_that_no_server_was_asked_for_is_not_unknown(mongo: MongoLab) -> None:
    mongo.put()
    with (
        not_sent(mongo.mongo._tasks.quick, "update_many", error=ServerSelectionTimeoutError("nobody")),
        pytest.raises(StoreUnavailable),
    ):
        mongo.claim()
    assert statuses(mongo) == {"ready": 1}


def test_a_look_that_fails_says_that_nothing_changed(mongo: MongoLab, hasty: MongoLab, fail: Fail) -> None:
    mongo.put()
    fail("find", times=ALWAYS, closeConnection=True)
    with pytest.raises(StoreUnavailable):
        hasty.claim()
    assert statuses(mongo) == {"ready": 1}


def test_a_single_claim_whose_reply_was_lost_is_repeated_by_the_driver_and_counted_once(
    faulty: MongoLab, uri: str
) -> None:
    id = faulty.put()
    with MongoClient[dict[str, Any]](uri) as client:
        client.admin.command(
            {
                "configureFailPoint": "onPrimaryTransactionalWrite",
                "mode": {"times": 1},
                "data": {"closeConnection": True},
            }
        )
        (claim,) = faulty.claim(ids=(id,))
        client.admin.command({"configureFailPoint": "onPrimaryTransactionalWrite", "mode": "off"})
    assert (claim.id, claim.attempt, faulty.stored(id)["attempt"]) == (id, 1, 1)
    assert faulty.store.extend([claim]) == []


def sender_of(mongo: MongoLab, *, plain: bool) -> tuple[Any, str]:
    """Return by what method of what a single claim goes out."""
    quick = mongo.mongo._tasks.quick
    return (quick.database, "command") if plain else (quick, "find_one_and_update")


@pytest.mark.parametrize("plain", [True, False])
def test_a_single_claim_whose_reply_was_lost_for_good_is_read_back(mongo: MongoLab, plain: bool) -> None:
    id = mongo.put(payload={"x": 1})
    with lost_replies(*sender_of(mongo, plain=plain)):
        (claim,) = mongo.claim(ids=(id,), plain=plain)
    assert (claim.id, claim.attempt, claim.payload) == (id, 1, {"x": 1})
    assert mongo.store.extend([claim]) == []


@pytest.mark.parametrize("plain", [True, False])
def test_a_single_claim_that_was_not_executed_is_unknown_and_holds_nothing(
    mongo: MongoLab, hasty: MongoLab, fail: Fail, plain: bool
) -> None:
    id = mongo.put()
    fail("findAndModify", times=ALWAYS, closeConnection=True)
    with pytest.raises(ClaimUnknown) as caught:
        hasty.claim(ids=(id,), plain=plain)
    assert caught.value.ids == (id,)
    assert mongo.store.abandon(caught.value) == 0
    assert statuses(mongo) == {"ready": 1}


@pytest.mark.parametrize("single", [True, False])
def test_a_durable_claim_is_started_only_when_it_cannot_be_rolled_back(mongo: MongoLab, single: bool) -> None:
    """The write is on the primary, the majority did not answer: rolled back, its attempt would not count, and a task
    that must run once would run twice. What a majority read does not show is not ours to start."""
    ids = [mongo.put(max_attempts=1) for _ in range(1 if single else 2)]
    tasks = mongo.mongo._tasks
    method = "find_one_and_update" if single else "update_many"
    with (
        lost_replies(tasks.durable, method),
        replaced(tasks.committed, "find", 1, lambda real, args, more: iter(())),
        pytest.raises(ClaimUnknown) as caught,
    ):
        mongo.claim(ids=tuple(ids), durable=True)
    assert mongo.store.abandon(caught.value) == len(ids)


@pytest.mark.parametrize("single", [True, False])
def test_a_durable_claim_that_the_majority_has_is_started(mongo: MongoLab, single: bool) -> None:
    ids = [mongo.put(max_attempts=1) for _ in range(1 if single else 2)]
    with lost_replies(mongo.mongo._tasks.durable, "find_one_and_update" if single else "update_many"):
        claims = mongo.claim(ids=tuple(ids), durable=True)
    assert [(claim.id, claim.attempt) for claim in claims] == [(id, 1) for id in ids]


def test_a_claim_that_the_server_sits_on_is_answered_in_time_and_takes_no_effect_later(
    mongo: MongoLab, hasty: MongoLab, admin_uri: str, fail: Fail
) -> None:
    mongo.put()
    mongo.put()
    hasty.store.queues_behind(["q"])  # connected: the time below is the command's own
    fail("update", blockConnection=True, blockTimeMS=1_000)
    asked_at = time.monotonic()
    with pytest.raises(ClaimUnknown) as caught:
        hasty.store.claim(mongo.ask())
    assert time.monotonic() - asked_at < 3
    assert caught.value.settles_in_s == 0.4
    with MongoClient[dict[str, Any]](admin_uri) as client:
        until = time.monotonic() + 10
        while client.admin.command({"currentOp": 1, "appName": APP, "command.update": "tasks"})["inprog"]:
            assert time.monotonic() < until
    mongo.store.abandon(caught.value)
    assert [claim.attempt for claim in mongo.claim()] == [1, 1]


# --- abandoning and extending --------------------------------------------------------------------------------------


def test_abandoning_again_after_a_lost_reply_releases_once(mongo: MongoLab) -> None:
    id = mongo.put()
    (claim,) = mongo.claim()
    unknown = ClaimUnknown("q", claim.claim_id, (id,), 0.0, "test")
    with lost_replies(mongo.mongo._tasks.durable, "update_many"), pytest.raises(OutcomeUnknown):
        mongo.store.abandon(unknown)
    assert mongo.store.abandon(unknown) == 0
    assert (mongo.stored(id)["status"], mongo.stored(id)["attempt"]) == ("ready", 0)


def test_extending_again_after_a_lost_reply_keeps_the_claim(mongo: MongoLab) -> None:
    claim = mongo.claimed()
    with lost_replies(mongo.mongo._tasks.durable, "bulk_write"), pytest.raises(StoreUnavailable):
        mongo.store.extend([claim])
    assert mongo.store.extend([claim]) == []


def undecoded_replies(collection: Any, method: str) -> AbstractContextManager[None]:
    """Let the next call of a collection's method be executed and its answer be undecodable."""

    def instead(real: Any, args: Any, more: Any) -> None:
        real(*args, **more)
        raise InvalidBSON("bad")

    return replaced(collection, method, 1, instead)


@pytest.mark.parametrize("single", [True, False])
def test_a_claim_whose_answer_cannot_be_decoded_is_read_back(mongo: MongoLab, single: bool) -> None:
    """The claim is applied: silence would leave the task held by nobody until its lease ends."""
    id = mongo.put()
    method = "find_one_and_update" if single else "update_many"
    with undecoded_replies(mongo.mongo._tasks.quick, method):
        (claim,) = mongo.claim(ids=(id,)) if single else mongo.claim()
    assert mongo.settle(claim, "release") == "settled"


@pytest.mark.parametrize("plain", [True, False])
def test_a_claim_that_cannot_be_decoded_at_all_is_unknown_and_goes_back(mongo: MongoLab, plain: bool) -> None:
    id = mongo.put()
    with (
        undecoded_replies(*sender_of(mongo, plain=plain)),
        not_sent(mongo.mongo._tasks.quick, "find", error=InvalidBSON("bad")),
        pytest.raises(ClaimUnknown, match="bad") as caught,
    ):
        mongo.claim(ids=(id,), plain=plain)
    assert mongo.store.abandon(caught.value) == 1
    assert mongo.stored(id)["attempt"] == 0


@pytest.mark.parametrize("error", [InvalidBSON("bad"), InvalidDocument("bad")])
def test_no_error_of_encoding_or_decoding_leaves_the_store(mongo: MongoLab, error: Exception) -> None:
    claim = mongo.claimed()
    unknown = ClaimUnknown("q", claim.claim_id, (claim.id,), 0.0, "test")
    tasks = mongo.mongo._tasks
    for collection, method, call in (
        (tasks.quick, "find", mongo.claim),
        (tasks.quick, "aggregate", mongo.store.tick),
        (tasks.durable, "insert_one", mongo.put),
        (tasks.durable, "update_many", lambda: mongo.store.abandon(unknown)),
        (tasks.committed, "aggregate", mongo.hear),
    ):
        with not_sent(collection, method, error=error), pytest.raises(StoreError, match="bad"):
            call()


def test_a_feed_whose_events_cannot_be_decoded_is_to_be_opened_anew(mongo: MongoLab) -> None:
    """The events of that answer are lost: read on, the same feed would never tell them."""
    ear = mongo.hear("q")
    stream = ear.feed._stream  # type: ignore[attr-defined]
    with not_sent(stream, "try_next", error=InvalidBSON("bad")), pytest.raises(FeedEnded, match="bad"):
        ear.feed.read()
    ear.feed.close()


# --- settling -----------------------------------------------------------------------------------------------------


def test_a_settlement_that_was_not_executed_is_repeated(faulty: MongoLab, fail: Fail) -> None:
    claims = [faulty.claimed() for _ in range(2)]
    fail("update", closeConnection=True)
    assert faulty.store.settle([faulty.settlement(one, "succeed") for one in claims]) == ["settled"] * 2
    assert statuses(faulty) == {"succeeded": 2}


def test_a_retry_whose_reply_was_lost_is_written_once(mongo: MongoLab) -> None:
    claim = mongo.claimed()
    with lost_replies(mongo.mongo._tasks.durable, "bulk_write"):
        assert mongo.settle(claim, "retry", error=BOOM) == "settled"
    stored = mongo.stored(claim.id)
    assert (stored["status"], stored["attempt"], len(stored["errors"])) == ("ready", 1, 1)


def test_a_release_whose_reply_was_lost_is_counted_back_once(mongo: MongoLab) -> None:
    claim = mongo.claimed()
    with lost_replies(mongo.mongo._tasks.durable, "bulk_write"):
        assert mongo.settle(claim, "release") == "settled"
    assert mongo.stored(claim.id)["attempt"] == 0


def test_a_retry_whose_reply_was_lost_is_settled_though_others_hold_the_task_now(mongo: MongoLab) -> None:
    claim = mongo.claimed()

    def settled_and_claimed(real: Any, args: Any, more: Any) -> None:
        real(*args, **more)
        assert len(mongo.claim(worker="other")) == 1
        drop_line()

    with replaced(mongo.mongo._tasks.durable, "bulk_write", 1, settled_and_claimed):
        assert mongo.settle(claim, "retry", error=BOOM) == "settled"
    assert mongo.stored(claim.id)["worker"] == "other"


def test_a_delete_whose_reply_was_lost_is_unknown(mongo: MongoLab) -> None:
    """The task is gone: by this settlement, or by that of another holder. Nobody can know."""
    claim = mongo.claimed()
    with lost_replies(mongo.mongo._tasks.durable, "bulk_write"):
        assert mongo.settle(claim, "succeed", keep_s=0.0) == "unknown"
    assert mongo.store.get(claim.id) is None


def test_a_batch_that_was_half_executed_is_finished(mongo: MongoLab) -> None:
    deleted, updated, failed = (mongo.claimed() for _ in range(3))

    def deletes_only(real: Any, args: Any, more: Any) -> None:
        real([one for one in args[0] if isinstance(one, DeleteMany)], **more)
        drop_line()

    with replaced(mongo.mongo._tasks.durable, "bulk_write", 1, deletes_only):
        verdicts = mongo.store.settle(
            [
                mongo.settlement(deleted, "succeed", keep_s=0.0),
                mongo.settlement(updated, "release"),
                mongo.settlement(failed, "fail", error=BOOM),
            ]
        )
    assert verdicts == ["unknown", "settled", "settled"]
    assert statuses(mongo) == {"ready": 1, "failed": 1}
    assert len(mongo.stored(failed.id)["errors"]) == 1


def test_a_settlement_is_lost_when_the_task_was_taken_over_during_the_repetition(mongo: MongoLab) -> None:
    claim = mongo.claimed()

    def taken_over(real: Any, args: Any, more: Any) -> None:
        mongo.pass_time(31)
        mongo.store.tick()
        drop_line()

    with replaced(mongo.mongo._tasks.durable, "bulk_write", 1, taken_over):
        assert mongo.settle(claim, "succeed") == "lost"
    assert (mongo.stored(claim.id)["status"], mongo.stored(claim.id)["attempt"]) == ("ready", 1)


def test_a_settlement_without_a_majority_is_read_back(faulty: MongoLab, fail: Fail) -> None:
    claim = faulty.claimed()
    fail("update", writeConcernError={"code": 64, "errmsg": "timed out", "errInfo": {"wtimeout": True}})
    assert faulty.settle(claim, "retry", error=BOOM) == "settled"
    assert len(faulty.stored(claim.id)["errors"]) == 1


@pytest.mark.parametrize("error", [AutoReconnect("closed"), ServerSelectionTimeoutError("nobody")])
def test_a_settlement_whose_read_back_fails_is_unknown_and_can_be_repeated(mongo: MongoLab, error: Exception) -> None:
    claim = mongo.claimed()
    tasks = mongo.mongo._tasks
    with (
        lost_replies(tasks.durable, "bulk_write"),
        not_sent(tasks.committed, "find", error=error),
        pytest.raises(OutcomeUnknown),
    ):
        mongo.settle(claim, "retry", error=BOOM)
    assert mongo.settle(claim, "retry", error=BOOM) == "settled"
    assert len(mongo.stored(claim.id)["errors"]) == 1


def test_a_settlement_that_finds_no_server_after_a_lost_reply_is_unknown(mongo: MongoLab) -> None:
    claim = mongo.claimed()
    answers = iter([AutoReconnect("closed"), ServerSelectionTimeoutError("nobody")])
    with (
        replaced(mongo.mongo._tasks.durable, "bulk_write", 2, lambda real, args, more: drop_line(next(answers))),
        pytest.raises(OutcomeUnknown),
    ):
        mongo.settle(claim, "succeed")


def test_a_settlement_that_no_server_was_asked_for_is_not_unknown(mongo: MongoLab) -> None:
    claim = mongo.claimed()
    error = ServerSelectionTimeoutError("nobody")
    with not_sent(mongo.mongo._tasks.durable, "bulk_write", error=error), pytest.raises(StoreUnavailable):
        mongo.settle(claim, "succeed")


def test_a_settlement_without_any_answer_gives_up_at_the_deadline(mongo: MongoLab, hasty: MongoLab, fail: Fail) -> None:
    claim = mongo.claimed()
    fail("update", times=ALWAYS, closeConnection=True)
    asked_at = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        hasty.settle(claim, "succeed")
    assert time.monotonic() - asked_at < 3
    assert mongo.settle(claim, "succeed") == "settled"


@pytest.mark.parametrize("move", ["succeed", "retry"])
def test_a_task_that_would_outgrow_the_servers_limit_fails_and_leaves_the_rest_of_its_batch_alone(
    mongo: MongoLab, move: Any
) -> None:
    """Payload and result are each below the limit, together they are not. Refused as a whole, the batch would be
    sent again for ever."""
    fat = mongo.claimed(payload="p" * 15_000_000, reply_to="m1")
    other, deleted = mongo.claimed(), mongo.claimed()
    more = {"result": "r" * 3_000_000} if move == "succeed" else {"error": Raised(type="E", message="m" * 3_000_000)}
    assert mongo.store.settle(
        [
            mongo.settlement(other, "succeed", result=1),
            mongo.settlement(fat, move, **more),
            mongo.settlement(deleted, "succeed", keep_s=0.0),
        ]
    ) == ["settled", "settled", "settled"]
    stored = mongo.stored(fat.id)
    assert (stored["status"], stored["settled_for"], "result" in stored) == ("failed", ["m1"], False)
    assert stored["errors"][-1]["type"] == "PayloadTooLarge"
    assert mongo.stored(other.id)["status"] == "succeeded"
    assert mongo.store.get(deleted.id) is None


@contextmanager
def validator(mongo: MongoLab, rule: Any) -> Iterator[None]:
    """Let the collection take only documents that fit `rule`, as a user may have configured it."""
    database = mongo.database
    database.command("collMod", "tasks", validator=rule)
    yield
    database.command("collMod", "tasks", validator={})


def test_a_result_that_a_validator_refuses_fails_its_task_and_leaves_the_rest_of_its_batch_alone(
    mongo: MongoLab,
) -> None:
    claims = [mongo.claimed() for _ in range(4)]
    with validator(mongo, {"result": {"$ne": "bad"}}):
        assert (
            mongo.store.settle(
                [
                    mongo.settlement(claims[0], "succeed", result=1),
                    mongo.settlement(claims[1], "succeed", result="bad"),
                    mongo.settlement(claims[2], "succeed", keep_s=0.0),
                    mongo.settlement(claims[3], "retry", error=BOOM),
                ]
            )
            == ["settled"] * 4
        )
    stored = mongo.stored(claims[1].id)
    assert (stored["status"], "result" in stored) == ("failed", False)
    assert stored["errors"][-1]["type"] == "SettlementRefused"
    assert "Document failed validation (code 121)" in stored["errors"][-1]["message"]
    assert mongo.stored(claims[0].id)["status"] == "succeeded"
    assert mongo.stored(claims[3].id)["status"] == "ready"
    assert mongo.store.get(claims[2].id) is None


def test_of_settlements_that_share_a_statement_only_the_refused_one_fails(mongo: MongoLab) -> None:
    """The counter of one is no number any more, so an attempt cannot be taken off it."""
    ids = [mongo.put() for _ in range(5)]
    claims = mongo.claim()
    mongo.edit(ids[2], {"$set": {"attempt": "one"}})
    assert mongo.store.settle([mongo.settlement(one, "release") for one in claims]) == ["settled"] * 5
    assert [mongo.stored(id)["status"] for id in ids] == ["ready", "ready", "failed", "ready", "ready"]
    assert [mongo.stored(id)["attempt"] for id in ids] == [0, 0, "one", 0, 0]


def test_a_settlement_of_which_the_server_takes_no_form_is_refused_and_the_others_settle(mongo: MongoLab) -> None:
    ids = [mongo.put(payload=place) for place in range(3)]
    claims = mongo.claim()
    with validator(mongo, {"$or": [{"payload": {"$ne": 1}}, {"status": "running"}]}):
        batch = [mongo.settlement(one, "succeed", result=1) for one in claims]
        assert mongo.store.settle(batch) == ["settled", "refused", "settled"]
        assert mongo.store.settle(batch) == ["settled", "refused", "settled"]
        batch = [mongo.settlement(claims[1], "fail", error=BOOM)]
        assert mongo.store.settle(batch) == ["refused"]
    assert [mongo.stored(id)["status"] for id in ids] == ["succeeded", "running", "succeeded"]
    assert mongo.settle(claims[1], "release") == "settled"


@pytest.mark.parametrize("size_bytes", [16_800_000, 49_000_000])
def test_a_result_that_cannot_even_be_sent_fails_its_task_alone(mongo: MongoLab, size_bytes: int) -> None:
    """The server refuses the whole command, or the driver to encode it: nothing tells which of the batch it is."""
    claims = [mongo.claimed() for _ in range(5)]
    batch = [mongo.settlement(one, "succeed", result="r" * size_bytes if one is claims[3] else 1) for one in claims]
    batch[0] = mongo.settlement(claims[0], "succeed", keep_s=0.0)
    assert mongo.store.settle(batch)[1:] == ["settled"] * 4
    assert mongo.stored(claims[3].id)["errors"][-1]["type"] == "PayloadTooLarge"
    assert [mongo.stored(one.id)["status"] for one in claims[1:]] == ["succeeded", "succeeded", "failed", "succeeded"]


@pytest.mark.parametrize("keep_s", [0.0, 60.0])
@pytest.mark.parametrize(
    "error",
    [
        BulkWriteError({"writeErrors": [{"index": 0, "code": 14031, "errmsg": "no space"}]}),
        OperationFailure("write conflict", 112),
    ],
    ids=["of the statement", "of the command"],
)
def test_a_settlement_that_fails_by_the_servers_state_is_written_again(
    mongo: MongoLab, error: Exception, keep_s: float
) -> None:
    """Given up, its task would run again once its lease has ended."""
    claim = mongo.claimed()
    with not_sent(mongo.mongo._tasks.durable, "bulk_write", error=error):
        assert mongo.settle(claim, "succeed", result=1, keep_s=keep_s) == "settled"


def test_a_settlement_that_the_servers_state_does_not_let_through_in_time_is_unknown(
    hasty: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = hasty.claimed()
    with monkeypatch.context() as busy:
        no_space = OperationFailure("no space", 14031)
        busy.setattr(hasty.mongo._tasks.durable, "bulk_write", lambda *_, **__: drop_line(no_space))
        with pytest.raises(OutcomeUnknown):
            hasty.settle(claim, "succeed", result=1)
    assert hasty.settle(claim, "succeed", result=1) == "settled"


@pytest.mark.parametrize("keep_s", [0.0, 60.0])
def test_a_majority_that_lags_behind_does_not_make_a_settlement_lost(mongo: MongoLab, keep_s: float) -> None:
    """Claim and settlement are on the primary, the majority still has the task as it was before the claim."""
    id = mongo.put()
    tasks = mongo.mongo._tasks
    before = Found([mongo.stored(id)])
    (claim,) = mongo.claim()

    def lagging(real: Any, args: Any, more: Any) -> Any:
        return before

    with lost_replies(tasks.durable, "bulk_write"), replaced(tasks.committed, "find", 1, lagging):
        assert mongo.settle(claim, "succeed", keep_s=keep_s) == ("settled" if keep_s else "unknown")


def test_a_majority_that_lags_behind_for_too_long_makes_the_outcome_unknown(
    hasty: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = hasty.put()
    tasks = hasty.mongo._tasks
    before = Found([hasty.stored(id)])
    (claim,) = hasty.claim()

    monkeypatch.setattr(tasks.committed, "find", lambda *_: before)
    with lost_replies(tasks.durable, "bulk_write"), pytest.raises(OutcomeUnknown):
        hasty.settle(claim, "succeed")
    monkeypatch.undo()
    assert hasty.settle(claim, "succeed") == "settled"


# --- putting ------------------------------------------------------------------------------------------------------


def test_a_put_that_was_not_executed_is_repeated_by_the_driver(faulty: MongoLab, fail: Fail) -> None:
    fail("insert", closeConnection=True)
    replies = faulty.store.put([faulty.new() for _ in range(3)])
    assert all(reply.created for reply in replies)
    assert statuses(faulty) == {"ready": 3}


def test_a_put_whose_reply_was_lost_is_stored_once_and_created(faulty: MongoLab, uri: str) -> None:
    with MongoClient[dict[str, Any]](uri) as client:
        client.admin.command(
            {
                "configureFailPoint": "onPrimaryTransactionalWrite",
                "mode": {"times": 1},
                "data": {"closeConnection": True},
            }
        )
        replies = faulty.store.put([faulty.new() for _ in range(3)])
        client.admin.command({"configureFailPoint": "onPrimaryTransactionalWrite", "mode": "off"})
    assert all(reply.created for reply in replies)
    assert statuses(faulty) == {"ready": 3}


def test_a_put_without_answer_is_unknown_and_repeating_it_stores_the_missing_once(
    mongo: MongoLab, hasty: MongoLab, fail: Fail
) -> None:
    new = [mongo.new() for _ in range(3)]
    hasty.store.now()
    fail("insert", times=ALWAYS, closeConnection=True)
    with pytest.raises(PutUnknown) as caught:
        hasty.store.put(new)
    assert caught.value.ids == [one.id for one in new]
    assert [reply.created for reply in mongo.store.put(new)] == [True] * 3
    assert statuses(mongo) == {"ready": 3}


@pytest.mark.parametrize(("method", "count"), [("insert_one", 1), ("insert_many", 3)])
def test_a_put_that_was_stored_without_answer_is_not_stored_again(mongo: MongoLab, method: str, count: int) -> None:
    new = [mongo.new() for _ in range(count)]
    with lost_replies(mongo.mongo._tasks.durable, method), pytest.raises(PutUnknown):
        mongo.store.put(new)
    assert [reply.created for reply in mongo.store.put(new)] == [False] * count
    assert statuses(mongo) == {"ready": count}


def test_a_put_without_a_majority_is_unknown(faulty: MongoLab, fail: Fail) -> None:
    new = [faulty.new(), faulty.new()]
    fail("insert", writeConcernError={"code": 64, "errmsg": "timed out", "errInfo": {"wtimeout": True}})
    with pytest.raises(PutUnknown) as caught:
        faulty.store.put(new)
    assert caught.value.ids == [one.id for one in new]
    assert [reply.created for reply in faulty.store.put(new)] == [False] * 2


@pytest.mark.parametrize("count", [1, 2])
def test_a_put_again_without_a_majority_is_unknown_too(faulty: MongoLab, fail: Fail, count: int) -> None:
    """That the task is stored on the primary does not say that it lasts."""
    new = [faulty.new() for _ in range(count)]
    faulty.store.put(new[:1])
    fail("insert", times=ALWAYS, writeConcernError={"code": 64, "errmsg": "timed out", "errInfo": {"wtimeout": True}})
    with pytest.raises(PutUnknown):
        faulty.store.put(new)


@pytest.mark.parametrize("error", [AutoReconnect("closed"), ServerSelectionTimeoutError("nobody")])
def test_a_put_whose_second_part_fails_is_unknown_and_names_what_is_missing(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Saying that nothing is stored would invite to put again, with new ids."""
    for module in (putting, put_many):
        monkeypatch.setattr(module, "MOST_A_CHUNK", 2)
    new = [mongo.new() for _ in range(5)]
    calls: list[None] = []

    def second_fails(real: Any, args: Any, more: Any) -> Any:
        calls.append(None)
        return drop_line(error) if len(calls) == 2 else real(*args, **more)

    with (
        replaced(mongo.mongo._tasks.durable, "insert_many", 2, second_fails),
        pytest.raises(PutUnknown) as caught,
    ):
        mongo.store.put(new)
    assert caught.value.ids == [one.id for one in new[2:]]
    assert [reply.created for reply in mongo.store.put(new)] == [False, False, True, True, True]


@pytest.mark.parametrize("size_bytes", [16_777_216, 17_000_000])
def test_a_task_over_the_servers_limit_is_refused_with_its_size(mongo: MongoLab, size_bytes: int) -> None:
    fat = mongo.new(payload="p" * size_bytes)
    for new in ([fat], [mongo.new(), fat, mongo.new()]):
        with pytest.raises(PayloadTooLarge) as caught:
            mongo.store.put(new)
        assert caught.value.size_bytes > size_bytes
    assert mongo.store.get(fat.id) is None


def test_without_a_server_every_call_says_so_in_time() -> None:
    store = MongoStore.connect(f"mongodb://127.0.0.1:{free_port()}/?directConnection=true", "gone", timeout_s=0.1)
    calls: list[Callable[[], object]] = [
        store.prepare,
        store.tick,
        store.now,
        store.counts,
        lambda: store.get(ObjectId()),
        lambda: store.queues_behind(["q"]),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            call()
    store.close()


# --- the scheduler ------------------------------------------------------------------------------------------------


def test_a_tick_whose_reply_was_lost_is_finished_by_the_next_one(mongo: MongoLab) -> None:
    due, ended = mongo.put(options={"delay_s": 5}), mongo.claimed().id
    mongo.pass_time(31)
    durable = mongo.mongo._tasks.durable
    with lost_replies(durable, "update_many"), pytest.raises(StoreUnavailable):
        mongo.store.tick()
    with lost_replies(durable, "update_many"), pytest.raises(StoreUnavailable):
        mongo.store.tick()
    mongo.store.tick()
    assert [mongo.stored(id)["status"] for id in (due, ended)] == ["ready", "ready"]
    assert len(mongo.stored(ended)["errors"]) == 1


def test_two_schedulers_that_see_the_same_ended_lease_take_it_back_once(mongo: MongoLab) -> None:
    claim = mongo.claimed()
    mongo.pass_time(31)

    def other_first(real: Any, args: Any, more: Any) -> Any:
        mongo.store.tick()
        return real(*args, **more)

    with replaced(mongo.mongo._tasks.durable, "update_many", 1, other_first):
        mongo.store.tick()
    assert len(mongo.stored(claim.id)["errors"]) == 1


def test_a_lease_that_is_extended_while_it_is_being_taken_back_stays(mongo: MongoLab) -> None:
    claim = mongo.claimed()
    mongo.pass_time(31)

    def extended_first(real: Any, args: Any, more: Any) -> Any:
        assert mongo.store.extend([claim]) == []
        return real(*args, **more)

    with replaced(mongo.mongo._tasks.durable, "update_many", 1, extended_first):
        mongo.store.tick()
    assert mongo.stored(claim.id)["claim_id"] == claim.claim_id


STOPPED = OperationFailure("PlanExecutor error :: caused by :: collection dropped", 175)


def test_a_claim_reads_anew_when_the_server_stops_its_read(mongo: MongoLab) -> None:
    id = mongo.put()
    with not_sent(mongo.mongo._tasks.quick, "find", times=2, error=STOPPED):
        assert [claim.id for claim in mongo.claim()] == [id]


def test_a_look_at_what_is_due_reads_anew_when_the_server_stops_its_read(mongo: MongoLab) -> None:
    with not_sent(mongo.mongo._tasks.quick, "aggregate", times=2, error=STOPPED):
        assert mongo.store.tick().released == ()


def test_a_read_that_is_stopped_each_time_says_so(mongo: MongoLab) -> None:
    with not_sent(mongo.mongo._tasks.quick, "find", times=3, error=STOPPED), pytest.raises(StoreUnavailable):
        mongo.claim()
