"""What only a real server can show: what pipelines do with users' text, what the fence lets through, which plans the
server chooses, what becomes of documents that somebody changed by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import bson
import msgspec
import pytest
from bson import DatetimeMS, ObjectId
from bson.decimal128 import Decimal128
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo import MongoClient

from streamq.core import queries
from streamq.core.claim import Ask
from streamq.core.codec import from_stored
from streamq.core.control import paused_of
from streamq.core.features import FEATURES
from streamq.core.indexes import INDEXES, META_INDEXES, Index
from streamq.core.member import FORGOTTEN_S
from streamq.core.outcome import Raised
from streamq.core.search import Search
from streamq.core.wakes import Interest
from streamq.errors import ClaimUnknown, FeedEnded, OptionInvalid, PayloadUndecodable, StoreError
from streamq.store import claiming
from streamq.store.contract import Feed
from streamq.store.mongo import MongoStore

if TYPE_CHECKING:
    from tests.conformance.conftest import MongoLab

NASTY = "$payload"
NASTY_VALUES = [
    NASTY,
    "$$NOW",
    "$$ROOT",
    {"$literal": "$payload"},
    {"$add": [1, 2]},
    ["$_id", {"$gt": 1, "a.b": {"$set": "$queue"}, "": 0}],
    {"$$REMOVE": "$$REMOVE"},
]


# --- users' values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", NASTY_VALUES)
def test_a_result_is_stored_as_it_is(mongo: MongoLab, value: Any) -> None:
    claim = mongo.claimed(payload={"secret": 1})
    assert mongo.settle(claim, "succeed", result=value) == "settled"
    assert mongo.stored(claim.id)["result"] == value


@pytest.mark.parametrize("value", NASTY_VALUES)
def test_a_payload_is_stored_as_it_is(mongo: MongoLab, value: Any) -> None:
    mongo.put(payload=value)
    (claim,) = mongo.claim()
    assert claim.payload == value


@pytest.mark.parametrize("move", ["retry", "fail"])
def test_an_errors_text_is_stored_as_it_is(mongo: MongoLab, move: Any) -> None:
    claim = mongo.claimed(payload="secret")
    error = Raised(type=NASTY, message="$$ROOT", traceback="$queue")
    assert mongo.settle(claim, move, error=error, keep_s=60.0) == "settled"
    stored = mongo.stored(claim.id)["errors"][0]
    assert (stored["type"], stored["message"], stored["traceback"]) == (NASTY, "$$ROOT", "$queue")


def test_names_and_headers_are_stored_as_they_are(mongo: MongoLab) -> None:
    headers = {"$payload": "$payload", "a.b": "$$NOW", "": ""}
    id = mongo.put(task=NASTY, payload="secret", options={"headers": headers})
    (claim,) = mongo.claim(worker=NASTY, only=(NASTY,))
    assert claim.headers == headers
    mongo.settle(claim, "retry", error=Raised(type="E", message="m"))
    stored = mongo.stored(id)
    assert (stored["task"], stored["worker"], stored["headers"]) == (NASTY, NASTY, headers)
    assert stored["errors"][0]["worker"] == NASTY


def test_a_members_names_are_stored_as_they_are(mongo: MongoLab) -> None:
    member = msgspec.structs.replace(mongo.member("$_id", queues=("$queue",)), host="$$NOW")
    mongo.store.beat(member)
    row = mongo.mongo._tasks.quick.find_one({"_id": "member:$_id"}) or {}
    assert (row["host"], row["queues"]) == ("$$NOW", ["$queue"])


def test_unknown_fields_are_kept_through_the_whole_road(mongo: MongoLab) -> None:
    id = mongo.put(max_attempts=9, options={"delay_s": 5})
    foreign = {"v": 99, "newer": {"a": ["$x", 1]}, "lock": b"1"}
    mongo.edit(id, {"$set": foreign})
    mongo.pass_time(6)
    mongo.store.tick()
    for move, more in (
        ("retry", {"error": Raised(type="E", message="m")}),
        ("retry_later", {"error": Raised(type="E", message="m"), "delay_s": 5.0}),
        ("release", {}),
        ("snooze", {"delay_s": 5.0}),
        ("succeed", {}),
    ):
        mongo.pass_time(6)
        mongo.store.tick()
        (claim,) = mongo.claim()
        mongo.store.extend([claim])
        assert mongo.settle(claim, move, **more) == "settled"  # type: ignore[arg-type]
    assert mongo.stored(id).items() >= foreign.items()


def test_unknown_fields_are_kept_when_a_lease_is_taken_back(mongo: MongoLab) -> None:
    id = mongo.put(max_attempts=2)
    mongo.edit(id, {"$set": {"newer": 1}})
    for _ in range(2):
        mongo.store.tick()
        mongo.claim()
        mongo.pass_time(31)
        mongo.store.tick()
        mongo.pass_time(31)
    stored = mongo.stored(id)
    assert (stored["status"], stored["newer"]) == ("failed", 1)


# --- the fence ----------------------------------------------------------------------------------------------------


def test_a_stale_claim_does_not_pass_beside_a_live_claim_of_the_same_task(mongo: MongoLab) -> None:
    """One process holds task A again under a newer claim and still has the stale one in its batch: matched as two
    sets of ids and claim ids, the stale one would pass."""
    stale = mongo.claimed()
    mongo.pass_time(31)
    mongo.store.tick()
    mongo.put()
    live, other = mongo.claim()
    assert live.id == stale.id
    assert mongo.store.settle(
        [mongo.settlement(stale, "succeed", result="stale"), mongo.settlement(other, "release")]
    ) == ["lost", "settled"]
    assert mongo.stored(live.id)["claim_id"] == live.claim_id
    assert mongo.store.extend([stale, live]) == [stale.id]
    assert mongo.store.settle([mongo.settlement(stale, "succeed"), mongo.settlement(live, "release")]) == [
        "lost",
        "settled",
    ]
    stored = mongo.stored(live.id)
    assert (stored["status"], stored["settled_by"]) == ("ready", live.claim_id)


@pytest.mark.parametrize("keep_s", [0.0, 60.0])
def test_a_stale_claim_does_not_pass_beside_a_live_claim_of_another_task(mongo: MongoLab, keep_s: float) -> None:
    stale = mongo.claimed()
    mongo.pass_time(31)
    mongo.store.tick()
    (others,) = mongo.claim(worker="somebody else")
    mine = mongo.claimed()
    batch = [mongo.settlement(one, "succeed", keep_s=keep_s) for one in (stale, mine)]
    assert mongo.store.settle(batch) == ["lost", "settled"]
    assert mongo.stored(stale.id)["claim_id"] == others.claim_id
    assert mongo.store.extend([stale]) == [stale.id]


def test_a_claim_is_guarded_by_the_attempt_it_read(mongo: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the update of one claimer, another claims the task and puts it back: the first would
    believe in attempt 1 while the document says 2."""
    id, untouched = mongo.put(), mongo.put()
    take = claiming.take

    def slowly(tasks: Any, ask: Ask, wanted: list[dict[str, Any]], refused: Any, **how: Any) -> list[ObjectId]:
        monkeypatch.undo()
        (claim,) = mongo.claim(ids=(id,))
        mongo.settle(claim, "retry", error=Raised(type="E", message="m"))
        return take(tasks, ask, wanted, refused, **how)

    monkeypatch.setattr(claiming, "take", slowly)
    first = mongo.store.claim(mongo.ask(2))
    assert [claim.id for claim in first.claims] == [untouched]
    assert first.more
    (second,) = mongo.claim()
    assert (second.id, second.attempt, mongo.stored(id)["attempt"]) == (id, 2, 2)


def test_tasks_of_different_attempts_are_claimed_in_one_call(mongo: MongoLab) -> None:
    ids = [mongo.put(max_attempts=1 if place == 3 else 5) for place in range(5)]
    (first,) = mongo.claim(1)
    mongo.settle(first, "retry", error=Raised(type="E", message="m"))
    claims = mongo.claim(5)
    assert [claim.id for claim in claims] == ids
    assert [claim.attempt for claim in claims] == [2, 1, 1, 1, 1]
    assert [mongo.stored(id)["attempt"] for id in ids] == [2, 1, 1, 1, 1]


# --- documents somebody changed by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "soon", 0, Timestamp(1, 1), False, [], {}, "missing"])
@pytest.mark.parametrize("field", ["due_at", "lease_until"])
def test_an_instant_that_is_no_date_is_no_instant(mongo: MongoLab, field: str, value: Any) -> None:
    bad, good = (
        (mongo.put(options={"delay_s": 50}), mongo.put(options={"delay_s": 50}))
        if field == "due_at"
        else (mongo.claimed().id, mongo.claimed().id)
    )
    mongo.edit(bad, {"$unset": {field: 1}} if value == "missing" else {"$set": {field: value}})
    before = mongo.stored(bad)
    next_s = mongo.store.tick().next_s
    assert next_s is not None
    assert next_s > 1
    mongo.pass_time(60)
    assert [id for id, _ in mongo.store.tick().released] == [good]
    assert mongo.store.tick().next_s is None
    assert mongo.stored(bad) == before


@pytest.mark.parametrize("field", ["attempt", "max_attempts", "errors"])
@pytest.mark.parametrize("value", [None, "3", "missing"])
def test_a_lease_of_a_task_with_broken_fields_is_taken_back_all_the_same(
    mongo: MongoLab, field: str, value: Any
) -> None:
    bad, good = mongo.claimed().id, mongo.claimed().id
    mongo.edit(bad, {"$unset": {field: 1}} if value == "missing" else {"$set": {field: value}})
    mongo.pass_time(31)
    mongo.store.tick()
    assert mongo.stored(bad)["status"] in ("ready", "failed")
    assert mongo.stored(good)["status"] == "ready"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("attempt", [None, "1", [1], ["1"], {}, Decimal128("1"), float("nan"), float("inf"), -1, 1e300, "missing"]),
        ("max_attempts", [None, "3", [3], {}, Decimal128("3"), True, "missing"]),
        ("queue", [["q"], "missing"]),
        ("task", [["t"]]),
    ],
)
@pytest.mark.parametrize("how", ["batch", "single", "durable", "spare"])
def test_a_task_that_cannot_be_counted_or_named_stays_where_it_is_and_stops_nobody(
    mongo: MongoLab, field: str, values: list[Any], how: str
) -> None:
    """The server compares an array element by element: `[1]` is a number to it, and `["q"]` is in queue q."""
    bad = [mongo.put() for _ in values]
    for id, value in zip(bad, values, strict=True):
        mongo.edit(id, {"$unset": {field: 1}} if value == "missing" else {"$set": {field: value}})
    before = [str(mongo.stored(id)) for id in bad]  # as text: a NaN is not equal to itself
    good = mongo.put()
    for id in [*bad, good] if how in ("single", "durable") else [good]:
        more: dict[str, Any] = {"ids": (id,), "durable": how == "durable"} if how in ("single", "durable") else {}
        claimed = mongo.store.claim(mongo.ask(only=("t",), spare=10 if how == "spare" else 0, **more))
        assert [claim.id for claim in claimed.claims] == ([good] if id == good else [])
        assert not claimed.more
    assert [str(mongo.stored(id)) for id in bad] == before
    assert mongo.store.queues_behind(["q"]) in ([], ["q"])
    counts = mongo.store.counts()
    assert sum(of_queue.get("ready", 0) for of_queue in counts.values()) == len(bad)


def test_a_task_whose_id_is_a_document_stays_where_it_is(mongo: MongoLab) -> None:
    ear = mongo.hear("q", timers=True)
    bad = put_raw(mongo, _id={"a": 1})
    due = put_raw(mongo, _id={"a": 2}, status="delayed", due_at=datetime(2020, 1, 1, tzinfo=UTC))
    good = mongo.put()
    mongo.store.tick()
    assert [claim.id for claim in mongo.claim()] == [good]
    assert [mongo.stored(id)["status"] for id in (bad, due)] == ["ready", "ready"]
    assert [wake.id for wake in ear.rest() if wake.kind != "member"] == [good]


@pytest.mark.parametrize("single", [True, False])
def test_a_claim_reads_broken_fields_as_if_they_were_not_there(mongo: MongoLab, single: bool) -> None:
    broken: dict[str, list[Any]] = {
        "keep_s": [None, "1 day", float("inf"), float("nan"), 1e300, -1, True, [1], {}, Decimal128("1")],
        "headers": ["a", 1, ["a"]],
        "created_at": ["now", 1, FAR, Timestamp(1, 1)],
        "priority": ["1", [1], {}, float("nan"), True],
        "task": [1, {"a": 1}],
    }
    defaults = {"keep_s": None, "headers": None, "created_at": None, "priority": 0, "task": None}
    for field, values in broken.items():
        for value in values:
            id = put_raw(mongo, **{field: value})
            (claim,) = mongo.claim(ids=(id,)) if single else mongo.claim()
            assert getattr(claim, field) == defaults[field], (field, value)
            assert mongo.settle(claim, "succeed", result=1) == "settled"


def test_a_claim_reads_odd_numbers_as_far_as_they_can_be_counted(mongo: MongoLab) -> None:
    put_raw(mongo, attempt=1.0, max_attempts=float("inf"), priority=2.0, keep_s=60, headers={"a": "b", "c": 1})
    (claim,) = mongo.claim()
    assert (claim.attempt, type(claim.attempt), claim.max_attempts) == (2, int, 2**31 - 1)
    assert (claim.priority, claim.keep_s, claim.headers) == (2, 60.0, {"a": "b"})
    mongo.settle(claim, "succeed")
    put_raw(mongo, max_attempts=float("nan"))
    (claim,) = mongo.claim()
    assert claim.is_last_attempt


@pytest.mark.parametrize("queue", [None, ["q"], {"a": 1}, 5, "missing"])
def test_a_task_without_a_queue_is_moved_and_wakes_nobody(mongo: MongoLab, queue: Any) -> None:
    delayed, running, good = mongo.put(options={"delay_s": 5}), mongo.claimed().id, mongo.claimed().id
    ear = mongo.hear("q", timers=True)
    for id in (delayed, running):
        mongo.edit(id, {"$unset": {"queue": 1}} if queue == "missing" else {"$set": {"queue": queue}})
    mongo.pass_time(31)
    assert [id for id, _ in mongo.store.tick().released] == [good]
    assert [mongo.stored(id)["status"] for id in (delayed, running)] == ["ready", "ready"]
    assert mongo.store.counts()["?"] == {"ready": 2}
    assert [wake.id for wake in ear.rest() if wake.kind == "ready"] == [good]


def test_an_array_of_dates_is_no_instant(mongo: MongoLab) -> None:
    """Subtracting from it fails, and with it the look for all that is due."""
    bad, good = put_raw(mongo, status="delayed", due_at=[datetime(2020, 1, 1, tzinfo=UTC)]), mongo.claimed().id
    put_raw(mongo, status="running", lease_until=[datetime(2020, 1, 1, tzinfo=UTC)])
    mongo.pass_time(31)
    assert [id for id, _ in mongo.store.tick().released] == [good]
    assert mongo.stored(bad)["status"] == "delayed"


# --- values that only other producers store -----------------------------------------------------------------------

FAR = DatetimeMS(2**55)
"""A BSON date of about the year 1,143,000."""


def put_raw(mongo: MongoLab, **fields: Any) -> Any:
    """Store a ready task as another producer may: each 0x01 in its text becomes a byte that is no UTF-8."""
    task: dict[str, Any] = {
        "_id": next(id for id in iter(ObjectId, None) if b"\x01\x01" not in id.binary),
        "queue": "q",
        "task": "t",
        "status": "ready",
        "priority": 0,
        "seq": Timestamp(1, 1),
    }
    task |= {"payload": None, "attempt": 0, "max_attempts": 5} | fields
    raw = bson.encode(task).replace(b"\x01\x01", b"\xff\xfe")
    mongo.mongo._tasks.durable.insert_one(RawBSONDocument(raw))
    return task["_id"]


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(
    ("payload", "read"), [({"when": FAR}, {"when": FAR}), ({"text": "a\1\1b"}, {"text": "a\ufffd\ufffdb"})]
)
def test_a_payload_that_python_cannot_hold_is_claimed_like_any_other(
    mongo: MongoLab, single: bool, payload: Any, read: Any
) -> None:
    """Were the answer of a claim not decoded, the task would be held by nobody until its lease ends, and then again."""
    bad, good = put_raw(mongo, payload=payload), mongo.put()
    if single:
        (claim,) = mongo.claim(1, ids=(bad,), durable=True)
    else:
        claim, other = mongo.claim()
        assert other.id == good
    assert (claim.id, claim.payload) == (bad, read)
    assert mongo.settle(claim, "fail", error=Raised(type="E", message="m"), keep_s=60.0) == "settled"
    assert mongo.store.find(Search(queue="q"), limit=10)


def test_a_date_outside_of_pythons_years_is_refused_by_its_path() -> None:
    with pytest.raises(PayloadUndecodable, match=r"payload\.items\[0\].*outside of the years"):
        from_stored({"items": [FAR]})


def test_normal_values_are_read_exactly(mongo: MongoLab) -> None:
    payload = {
        "first": datetime(1, 1, 1, tzinfo=UTC),
        "last": datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
        "text": "\ufffd \U0001f600 \0 é",
        "bytes": b"\xff\xfe",
    }
    mongo.put(payload=payload)
    (claim,) = mongo.claim()
    assert claim.payload == payload
    assert claim.payload["last"].utcoffset() == timedelta(0)


def test_instants_that_python_cannot_hold_stop_nobody(mongo: MongoLab) -> None:
    good = mongo.put(options={"delay_s": 5})
    ear = mongo.hear("q", timers=True)
    far = put_raw(mongo, status="delayed", due_at=FAR, created_at=FAR)
    past = put_raw(mongo, status="delayed", due_at=DatetimeMS(-(2**62)), created_at=FAR)
    assert {wake.id for wake in ear.rest() if wake.kind == "delayed"} == {far, past}
    mongo.pass_time(6)
    assert {id for id, _ in mongo.store.tick().released} == {good, past}
    assert {claim.id: claim.created_at is None for claim in mongo.claim()} == {good: False, past: True}
    stored = mongo.store.get(far)
    assert stored is not None
    assert stored["status"] == "delayed"
    assert "due_at" not in stored


FULL_BYTES = 16 * 1024 * 1024


def put_full(mongo: MongoLab, **fields: Any) -> Any:
    """Store a task that has no room for one more field."""
    measured = put_raw(mongo, payload="", **fields)
    room = FULL_BYTES - len(bson.encode(mongo.stored(measured)))
    mongo.store.delete(measured, force=True)
    # Inserted whole: an update of so much passes what the test server's small cache takes, now and then.
    return put_raw(mongo, payload="p" * room, **fields)


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_a_task_without_room_for_a_claim_is_passed_over(mongo: MongoLab, limit: int) -> None:
    """It stands at the head of its queue; whoever claims the head would never see what is behind."""
    first = put_raw(mongo, max_attempts=1)
    bad = [put_full(mongo), put_full(mongo)]
    behind = [mongo.put(max_attempts=3) for _ in range(5)]
    got: list[ObjectId] = []
    for _ in range(7):
        claimed = mongo.store.claim(mongo.ask(limit))
        got += [claim.id for claim in claimed.claims]
    assert got == [first, *behind]
    assert not claimed.more
    assert [one.id for one in claimed.refused] == bad
    assert "larger than" in claimed.refused[0].said
    single = mongo.store.claim(mongo.ask(ids=(bad[0],)))
    assert (single.claims, [one.id for one in single.refused]) == ((), bad[:1])
    beside = mongo.put()
    several = mongo.store.claim(mongo.ask(1, ids=(*bad, beside)))
    assert [claim.id for claim in several.claims] == [beside]
    assert [one.id for one in several.refused] == bad
    assert [mongo.stored(id)["status"] for id in bad] == ["ready", "ready"]
    assert all(mongo.stored(id)["attempt"] == 1 for id in got)


@pytest.mark.parametrize("move", ["release", "take back"])
def test_a_task_without_room_is_passed_over_by_the_scheduler_and_does_not_let_it_spin(
    mongo: MongoLab, move: str
) -> None:
    past = datetime.now(UTC) - timedelta(seconds=60)
    state = {"release": {"status": "delayed", "due_at": past}, "take back": {"status": "running", "lease_until": past}}
    good = [put_raw(mongo, **state[move])]
    bad = put_full(mongo, **state[move], **({"attempt": 1} if move == "take back" else {}))
    good += [put_raw(mongo, **state[move]) for _ in range(3)]
    tick = mongo.store.tick()
    assert [id for id, _ in tick.released] == good
    assert [one.id for one in tick.refused] == [bad]
    tick = mongo.store.tick()
    assert (tick.released, tick.failed, [one.id for one in tick.refused]) == ((), 0, [bad])
    assert tick.next_s is not None
    assert tick.next_s >= 1
    assert [mongo.stored(id)["status"] for id in good] == ["ready"] * 4
    assert mongo.stored(bad)["status"] == state[move]["status"]


# --- members and streams ------------------------------------------------------------------------------------------


def test_members_that_have_not_beaten_do_not_count_and_are_forgotten_after_a_day(mongo: MongoLab) -> None:
    silent, dead = mongo.member("a"), mongo.member("b")
    for member, age_s in ((silent, 60.0), (dead, FORGOTTEN_S + 60)):
        mongo.store.beat(member)
        mongo.mongo._tasks.quick.update_one(
            {"_id": member.row_id}, [{"$set": {"beat_at": {"$subtract": ["$$NOW", round(age_s * 1000)]}}}]
        )
    me = mongo.member("z")
    assert mongo.store.beat(me).rank == 0
    ids = {row["_id"] for row in mongo.mongo._tasks.quick.find({"kind": "member"})}
    assert ids == {silent.row_id, me.row_id}


def test_a_row_that_only_a_bell_made_is_forgotten_at_the_next_beat(mongo: MongoLab) -> None:
    gone, me = mongo.member("a"), mongo.member("z")
    mongo.store.beat(gone)
    mongo.store.leave(gone)
    mongo.store.ring(gone, "b")
    assert mongo.store.beat(me).rank == 0
    assert [row["_id"] for row in mongo.mongo._tasks.quick.find({"_id": {"$type": "string"}})] == [me.row_id]
    mongo.store.ring(me, "b")
    assert mongo.store.beat(me).rank == 0
    assert mongo.mongo._tasks.quick.find_one({"_id": me.row_id, "bell": "b"})


def read_on(feed: Feed) -> None:
    for _ in range(100):
        feed.read()


@pytest.mark.parametrize("end", ["drop", "rename"])
def test_a_feed_whose_collection_goes_ends_with_an_error(mongo: MongoLab, end: str) -> None:
    mongo.put()
    feed = mongo.store.feed(Interest(("q",), timers=True, reply_to="m", bell="b"), 0.1)
    tasks = mongo.database["tasks"]
    if end == "drop":
        tasks.drop()
    else:
        tasks.rename("elsewhere")
    with pytest.raises(FeedEnded):
        read_on(feed)
    feed.close()


def test_payloads_do_not_travel_on_the_stream(mongo: MongoLab) -> None:
    feed = mongo.mongo.feed(Interest(("q",), timers=True, reply_to="m1", bell="b"), 0.1)
    claim = mongo.claimed(payload="P" * 50, reply_to="m1")
    mongo.settle(claim, "release")
    (claim,) = mongo.claim()
    mongo.settle(claim, "succeed", result="R" * 50)
    events: list[Any] = []
    for _ in range(100):
        event = feed._stream.try_next()
        if event is not None:
            events.append(event)
        if len(events) == 3:
            break
    feed.close()
    assert [event["operationType"] for event in events] == ["insert", "update", "update"]
    assert "PPP" not in str(events)
    assert "RRR" not in str(events)


def test_a_fat_update_does_not_end_the_stream(mongo: MongoLab) -> None:
    claim = mongo.claimed(payload="P" * 8_000_000, reply_to="m1")
    ear = mongo.hear("q", reply_to="m1")
    mongo.settle(claim, "succeed", result="R" * 7_000_000)
    id = mongo.put()
    assert [(wake.kind, wake.id) for wake in ear.rest()] == [("settled", claim.id), ("ready", id)]


# --- transactions -------------------------------------------------------------------------------------------------


def test_a_put_in_a_transaction_exists_if_and_only_if_it_commits(mongo: MongoLab) -> None:
    client = mongo.mongo.client
    ear = mongo.hear("q")
    with client.start_session() as session:
        session.start_transaction()
        mongo.store.put([mongo.new()], session)
        session.abort_transaction()
        assert mongo.store.counts() == {}
        session.start_transaction()
        (reply,) = mongo.store.put([mongo.new()], session)
        assert mongo.claim() == []
        session.commit_transaction()
    assert [wake.id for wake in ear.rest()] == [reply.id]
    assert [claim.id for claim in mongo.claim()] == [reply.id]


def test_a_session_of_another_client_is_refused_by_name(mongo: MongoLab, uri: str) -> None:
    with (
        MongoClient[dict[str, Any]](uri) as other,
        other.start_session() as session,
        pytest.raises(OptionInvalid, match="session"),
    ):
        mongo.store.put([mongo.new()], session)
    assert mongo.store.counts() == {}


# --- indexes ------------------------------------------------------------------------------------------------------


def test_the_indexes_on_the_server_are_those_declared(mongo: MongoLab) -> None:
    mongo.store.prepare()
    for collection, indexes in ((mongo.mongo._tasks.quick, INDEXES), (mongo.mongo._tasks.meta, META_INDEXES)):
        same_indexes(collection, indexes)


def same_indexes(collection: Any, indexes: Sequence[Index]) -> None:
    found = {index["name"]: index for index in collection.list_indexes()}
    del found["_id_"]
    assert found.keys() == {index.name for index in indexes}
    for index in indexes:
        on_server = found[index.name]
        assert tuple(on_server["key"].items()) == index.keys
        assert on_server["partialFilterExpression"] == index.partial
        assert on_server.get("expireAfterSeconds") == index.expire_after_s
        assert on_server.get("unique", False) == index.unique


@pytest.mark.parametrize(
    ("keys", "more"),
    [
        ([("due_at", 1)], {}),
        ([("due_at", -1)], {"partialFilterExpression": {"status": "delayed"}}),
        ([("due_at", 1)], {"partialFilterExpression": {"status": "ready"}}),
        ([("due_at", 1)], {"partialFilterExpression": {"status": "delayed"}, "unique": True}),
        ([("due_at", 1)], {"partialFilterExpression": {"status": "delayed"}, "expireAfterSeconds": 9}),
    ],
)
def test_an_index_that_differs_is_refused_with_what_to_do(
    uri: str,
    empty_database: str,
    admin: MongoClient[dict[str, Any]],
    keys: list[tuple[str, int]],
    more: dict[str, Any],
) -> None:
    store = MongoStore.connect(uri, empty_database)
    tasks = admin[empty_database]["tasks"]
    tasks.create_index(keys, name="streamq_due", **more)
    with pytest.raises(StoreError, match=r"(?s)streamq_due.*Drop the index"):
        store.prepare()
    tasks.drop_index("streamq_due")
    store.prepare()
    store.close()


# --- plans --------------------------------------------------------------------------------------------------------

CROWD = 100_000


class Plan(msgspec.Struct):
    """What the server did for one command."""

    stages: list[str]
    keys: int
    documents: int
    returned: int


@pytest.fixture(scope="module")
def crowd(admin_uri: str) -> Iterator[MongoStore]:
    """A store with 100,000 ready and 100,000 delayed tasks, 2,000 running ones, of many queues and handlers."""
    store = MongoStore.connect(admin_uri, f"test_crowd_{ObjectId()}")
    store.prepare()
    store.use(FEATURES)
    now = datetime.now(UTC)
    count = itertools.count()

    def document(status: str, **more: Any) -> dict[str, Any]:
        n = next(count)
        queue = "q" if n % 10 else f"q{n % 7}"
        return {
            "queue": queue,
            "task": f"t{n % 2}",
            "status": status,
            "priority": n % 5,
            "seq": Timestamp(1, n + 1),
            "attempt": 0,
            "max_attempts": 5,
        } | more

    tasks = store._tasks.quick
    tasks.insert_many((document("ready") for _ in range(CROWD)), ordered=False)
    tasks.insert_many((document("ready", queue="strangers", task=f"u{n}") for n in range(2_000)), ordered=False)
    tasks.insert_many((document("ready", queue="strangers", task="mine") for n in range(20)), ordered=False)
    ahead, over = (dict.fromkeys(("expires_at", "lifetime_until"), now + timedelta(hours=n)) for n in (24, -1))
    tasks.insert_many((document("ready", **ahead) for _ in range(1_000)), ordered=False)
    tasks.insert_many((document("ready", queue="late", **over) for _ in range(20)), ordered=False)
    tasks.insert_many((document("ready", queue="late", attempt=1, **over) for _ in range(9)), ordered=False)
    tasks.insert_many((document("expired", queue="late", expires_at=now) for n in range(9)), ordered=False)
    later = (document("delayed", due_at=now + timedelta(days=1, seconds=n)) for n in range(CROWD))
    tasks.insert_many(later, ordered=False)
    tasks.insert_many((document("delayed", due_at=now - timedelta(seconds=n + 1)) for n in range(20)), ordered=False)
    ends = (document("running", lease_until=now + timedelta(seconds=n - 20), claim_id=b"c") for n in range(2_000))
    tasks.insert_many(ends, ordered=False)
    yield store
    store.client.drop_database(store._database)
    store.close()


def plan_of(store: MongoStore, command: dict[str, Any]) -> Plan:
    said = store._database.command({"explain": command, "verbosity": "executionStats"})
    stats = said.get("executionStats") or said["stages"][0]["$cursor"]["executionStats"]
    stages: list[str] = []

    def walk(stage: dict[str, Any]) -> None:
        stages.append(stage["stage"] + (f" {stage['indexName']}" if "indexName" in stage else ""))
        for inner in (*stage.get("inputStages", ()), *([stage["inputStage"]] if "inputStage" in stage else ())):
            walk(inner)

    walk(stats["executionStages"])
    return Plan(stages, stats["totalKeysExamined"], stats["totalDocsExamined"], stats["nReturned"])


def plan_of_find(store: MongoStore, filter: dict[str, Any], order: dict[str, int], limit: int) -> Plan:
    return plan_of(store, {"find": "tasks", "filter": filter, "sort": order, "limit": limit})


def ask_of(limit: int = 10, **more: Any) -> Ask:
    given: dict[str, Any] = {"queue": "q", "claim_id": b"x" * 16, "lease_s": 30.0, "worker": "w"}
    return Ask(limit=limit, **(given | more))


@pytest.mark.parametrize("beside", [{}, queries.UNEXPIRED], ids=["", "expiry"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"spare": 10},
        {"only": ("t0", "t1", *(f"unknown{n}" for n in range(300)))},
    ],
    ids=["all", "spare", "many handlers"],
)
def test_claiming_ten_of_100_000_examines_ten_keys(
    crowd: MongoStore, more: dict[str, Any], beside: dict[str, Any]
) -> None:
    plan = plan_of_find(crowd, queries.ready(ask_of(**more)) | beside, dict(queries.CLAIM_ORDER), 10)
    assert plan.stages == ["LIMIT", "FETCH", "IXSCAN streamq_claim"]
    assert plan.returned == 10
    assert plan.keys <= 12
    assert plan.documents == 10


def test_claiming_ten_with_a_look_for_a_pause_examines_ten_keys(crowd: MongoStore) -> None:
    stages = queries.first_and(queries.ready(ask_of()), 10, "tasks", [{"$match": paused_of(["q"])}])
    plan = plan_of(crowd, {"aggregate": "tasks", "pipeline": stages, "cursor": {}})
    assert plan.stages == ["LIMIT", "FETCH", "IXSCAN streamq_claim"]
    assert plan.returned == 10
    assert plan.keys <= 12
    assert plan.documents == 10


def test_tasks_of_unknown_handlers_cost_a_key_each_and_no_document(crowd: MongoStore) -> None:
    filter = queries.ready(ask_of(queue="strangers", only=("mine",)))
    plan = plan_of_find(crowd, filter, dict(queries.CLAIM_ORDER), 10)
    assert plan.stages == ["LIMIT", "FETCH", "IXSCAN streamq_claim"]
    assert (plan.returned, plan.documents) == (10, 10)
    assert plan.keys <= 2_020


def test_claiming_by_ids_looks_at_these_only(crowd: MongoStore) -> None:
    last = list(crowd._tasks.quick.find({"status": "ready", "queue": "q"}, {"_id": 1}).sort("seq", -1).limit(10))
    filter = queries.ready(ask_of(ids=tuple(one["_id"] for one in last)))
    plan = plan_of_find(crowd, filter, dict(queries.CLAIM_ORDER), 10)
    assert "IXSCAN _id_" in plan.stages
    assert plan.returned == 10
    assert plan.keys <= 21
    assert plan.documents <= 20


@pytest.mark.parametrize(
    ("filter", "field", "index", "ready"),
    [
        (queries.due(), "due_at", "streamq_due", 20),
        (queries.lease_ended(), "lease_until", "streamq_lease", 20),
        (queries.expired(), "expires_at", "streamq_expire", 20),
        (queries.outlived(), "lifetime_until", "streamq_lifetime", 29),
    ],
)
def test_timers_read_their_index_up_to_now_only(
    crowd: MongoStore, filter: dict[str, Any], field: str, index: str, ready: int
) -> None:
    plan = plan_of_find(crowd, filter, {field: 1}, 1_000)
    assert plan.stages == ["LIMIT", "FETCH", f"IXSCAN {index}"]
    # The leases run on while the crowd is stored.
    assert ready <= plan.returned < 1_000
    assert plan.keys <= plan.returned + 1


@pytest.mark.parametrize(
    ("stages", "index"),
    [
        (queries.next_due(), "streamq_due"),
        (queries.next_lease_end(), "streamq_lease"),
        (queries.next_expiry(), "streamq_expire"),
        (queries.next_lifetime_end(), "streamq_lifetime"),
    ],
)
def test_the_next_instant_is_one_key(crowd: MongoStore, stages: list[dict[str, Any]], index: str) -> None:
    plan = plan_of(crowd, {"aggregate": "tasks", "pipeline": stages, "cursor": {}})
    assert f"IXSCAN {index}" in plan.stages
    assert "SORT" not in plan.stages
    assert (plan.keys, plan.documents, plan.returned) == (1, 1, 1)


def test_nothing_marked_costs_no_key(crowd: MongoStore) -> None:
    plan = plan_of(crowd, {"aggregate": "tasks", "pipeline": queries.first_mark(), "cursor": {}})
    assert "IXSCAN streamq_follow_up" in plan.stages
    assert (plan.keys, plan.documents) == (0, 0)


def test_the_safety_scan_probes_one_key_a_queue(crowd: MongoStore) -> None:
    queues = ["q", "q0", "q1", "never", "strangers"]
    plan = plan_of(crowd, {"distinct": "tasks", "key": "queue", "query": queries.behind(queues)})
    assert "DISTINCT_SCAN streamq_claim" in plan.stages
    assert plan.documents == 0
    assert plan.keys <= 2 * len(queues)
    assert sorted(crowd.queues_behind(queues)) == ["q", "q0", "q1", "strangers"]


# --- leftovers ----------------------------------------------------------------------------------------------------


def test_seq_is_the_servers_and_strictly_increases_over_many_puts(mongo: MongoLab) -> None:
    ids = [reply.id for _ in range(3) for reply in mongo.store.put([mongo.new() for _ in range(1_500)])]
    order = [document["_id"] for document in mongo.mongo._tasks.quick.find().sort("seq", 1)]
    assert order == ids
    assert len(mongo.mongo._tasks.quick.distinct("seq")) == len(ids)


def test_two_unknown_claims_of_one_queue_are_abandoned_apart(mongo: MongoLab) -> None:
    mongo.put()
    mongo.put()
    (first,), (second,) = mongo.claim(1), mongo.claim(1)
    assert mongo.store.abandon(ClaimUnknown("q", first.claim_id, (first.id, second.id), 0.0, "test")) == 1
    assert mongo.stored(second.id)["status"] == "running"


# --- plans of what follows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (queries.children([ObjectId()]), "streamq_blocked_by"),
        (queries.marked(), "streamq_follow_up"),
        (queries.turns("q", ["g"]), "streamq_group"),
        (queries.oldest("q", "g")[0]["$match"], "streamq_blocked"),
    ],
)
def test_followers_are_found_by_an_index_of_their_own(mongo: MongoLab, wanted: dict[str, Any], index: str) -> None:
    mongo.store.put([mongo.new(options={"group": f"g{n}"}) for n in range(20)])
    mongo.store.tick()
    plan = str(mongo.mongo._tasks.quick.find(wanted).explain()["queryPlanner"]["winningPlan"])
    assert f"'indexName': '{index}'" in plan


def test_a_claim_tells_what_it_takes_before_it_does(mongo: MongoLab) -> None:
    """Whoever is told looks meanwhile, and finds what comes behind."""
    first, second, third = [mongo.put() for _ in range(3)]
    meanwhile: list[list[ObjectId]] = []

    def taking(ids: Sequence[ObjectId]) -> None:
        assert mongo.stored(first)["status"] == "ready"
        meanwhile.append([claim.id for claim in mongo.claim(2, beside=tuple(ids))])

    claimed = mongo.store.claim(mongo.ask(2), taking)
    assert [claim.id for claim in claimed.claims] == [first, second]
    assert meanwhile == [[third]]


def test_a_claim_says_how_many_others_were_quicker_to_take(mongo: MongoLab) -> None:
    first, second, third = [mongo.put() for _ in range(3)]

    def race(ids: Sequence[ObjectId]) -> None:
        assert [claim.id for claim in mongo.claim(2)] == [first, second]

    claimed = mongo.store.claim(mongo.ask(3), race)
    assert [claim.id for claim in claimed.claims] == [third]
    assert claimed.lost == 2
    assert mongo.store.claim(mongo.ask(3)).lost == 0


def test_a_claim_that_looks_past_what_is_refused_leaves_out_what_another_is_about_to_take(mongo: MongoLab) -> None:
    first, second, third = [mongo.put() for _ in range(3)]
    mongo.database.command(
        {
            "collMod": mongo.mongo._tasks.quick.name,
            "validator": {"$or": [{"_id": {"$ne": first}}, {"status": "ready"}]},
            "validationLevel": "strict",
        }
    )
    assert [claim.id for claim in mongo.claim(1, beside=(second,))] == [third]
