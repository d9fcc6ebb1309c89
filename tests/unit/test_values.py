"""The small values: members and their ranks, indexes, queries, the document of a put, drafts of tasks."""

from __future__ import annotations

import inspect
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pytest
from bson import ObjectId
from bson.timestamp import Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamq.core import queries
from streamq.core.claim import Ask
from streamq.core.document import STATUSES, TERMINAL, TaskDocument
from streamq.core.handling import BareSettings, Handling
from streamq.core.indexes import INDEXES
from streamq.core.member import BEAT_S, MOST_BEAT_S, ROWS, Member, alive_s, beat_s, beat_update, roster_of
from streamq.core.moves import take_back
from streamq.core.moves.put import document_of, up_to_ms
from streamq.core.new_task import NewTask
from streamq.core.options import KEEP_FAILED_S, Options
from streamq.core.priority import Priority
from streamq.core.retry import Retry
from streamq.core.schema import Schema
from streamq.core.signature import signature_of
from streamq.drafting import task_of_handler, task_of_payload
from streamq.errors import OptionInvalid, PayloadInvalid, PayloadTooLarge

NOW = datetime(2026, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)
few = settings(max_examples=25, deadline=None)

# --- members ------------------------------------------------------------------------------------------------------


def member(id: str, *queues: str, lease_s: float = 30.0) -> Member:
    return Member(id, "host", 1, queues, 4, lease_s)


def row(id: str, *, age_s: float = 0.0, queues: tuple[str, ...] = ("q",), lease_s: float = 30.0) -> dict[str, Any]:
    beat_at = NOW - timedelta(seconds=age_s)
    return {"_id": f"member:{id}", "beat_at": beat_at, "queues": queues, "lease_s": lease_s}


def test_live_workers_are_ranked_by_id() -> None:
    rows = [row("c"), row("a"), row("b")]
    assert [roster_of(rows, member(id, "q"), NOW).rank for id in "abc"] == [0, 1, 2]


def test_who_has_no_row_or_no_queues_stands_behind_all() -> None:
    rows = [row("a"), row("b", queues=())]
    assert roster_of(rows, member("b"), NOW).rank == 1
    assert roster_of(rows, member("0", "q"), NOW).rank == 1
    assert roster_of([], member("a", "q"), NOW).rank == 0


@pytest.mark.parametrize("said", [{}, {"beat_s": 50.0}])
def test_a_silent_member_does_not_count(said: dict[str, float]) -> None:
    """Silent for two and a half of its beats; how often it beats its row says."""
    silent_s = 2.5 * said.get("beat_s", BEAT_S)
    rows = [row("a", age_s=silent_s, lease_s=1.0) | said, row("b")]
    roster = roster_of(rows, member("b", "q"), NOW)
    assert (roster.rank, roster.lease_s) == (0, 30.0)
    assert roster_of([row("a", age_s=silent_s - 0.1) | said, row("b")], member("b", "q"), NOW).rank == 1


def test_members_beat_twice_a_second_together_and_none_more_often_than_a_few() -> None:
    assert [beat_s(members) for members in (1, 30, 100, 10_000)] == [BEAT_S, BEAT_S, 50.0, MOST_BEAT_S]


@pytest.mark.parametrize("said", [None, "50", -1.0, 0.0, float("nan"), float("inf"), 1e300, True])
def test_a_row_that_says_nonsense_of_its_beats_counts_for_a_while(said: object) -> None:
    assert BEAT_S < alive_s({"beat_s": said}) <= 2.5 * MOST_BEAT_S


def test_the_shortest_lease_is_that_of_any_live_member_or_ones_own() -> None:
    """Who has no queues may claim too."""
    rows = [row("a", lease_s=20.0), row("b", lease_s=40.0), row("c", queues=(), lease_s=10.0)]
    assert roster_of(rows, member("b", "q", lease_s=40.0), NOW).lease_s == 10.0
    assert roster_of(rows, member("z", lease_s=5.0), NOW).lease_s == 5.0


def test_a_row_that_only_a_bell_made_is_no_member() -> None:
    assert roster_of([{"_id": "member:x", "bell": "b"}], member("a", "q"), NOW).rank == 0


def test_members_are_a_range_of_ids_beside_all_object_ids() -> None:
    low, high = ROWS["_id"]["$gte"], ROWS["_id"]["$lt"]
    for id in ("", "a", "\U0010ffff"):
        assert low <= member(id).row_id < high
    assert not low <= "membership" < high


def test_a_members_own_words_stand_under_literal() -> None:
    fields = beat_update(Member("m", "$host", 1, ("$q",), 1, 30.0))[0]["$set"]
    assert (fields["host"], fields["queues"]) == ({"$literal": "$host"}, {"$literal": ["$q"]})
    assert fields["beat_at"] == "$$NOW"


# --- indexes and queries ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", INDEXES, ids=lambda index: str(index.name))
def test_an_index_names_a_query_that_exists_and_is_partial(index: Any) -> None:
    """On a status; or, for what most tasks have nothing to do with, on the field that takes part."""
    named = re.findall(r"queries\.(\w+)", index.serves)
    assert named or index.expire_after_s is not None
    for name in named:
        assert inspect.isfunction(getattr(queries, name))
    if "status" not in index.partial:
        # Then on a field of its own, that tasks of no special kind do not have.
        ((field, condition),) = index.partial.items()
        assert condition == {"$exists": True}
        assert field in dict(index.keys)
        return
    statuses = index.partial.get("status", [])
    assert statuses or all(wanted == {"$exists": True} for wanted in index.partial.values())
    assert set(statuses["$in"] if isinstance(statuses, dict) else [statuses] if statuses else ()) <= set(STATUSES)


def test_only_what_has_ended_and_what_was_put_for_a_time_is_removed_by_time() -> None:
    removing = {index.keys: index.partial for index in INDEXES if index.expire_after_s is not None}
    assert removing == {
        (("remove_at", 1),): {"status": {"$in": list(TERMINAL)}},
        (("lifetime_until", 1),): {"lifetime_until": {"$exists": True}},
    }


def test_the_claim_index_serves_filter_then_order() -> None:
    (claim,) = [index for index in INDEXES if "queries.ready" in index.serves]
    keys = list(claim.keys)
    assert keys[0] == ("queue", 1)  # so that it can be the shard key
    place = keys.index(queries.CLAIM_ORDER[0])
    assert keys[place : place + 2] == queries.CLAIM_ORDER


def ask(**more: Any) -> Ask:
    given: dict[str, Any] = {"queue": "q", "limit": 3, "claim_id": b"c", "lease_s": 30.0, "worker": "w"}
    return Ask(**(given | more))


def test_a_claim_asks_for_ready_tasks_of_its_queue_with_sound_counters() -> None:
    """The server compares arrays element by element: `[1]` is of type number to it, and `["q"]` equals "q"."""
    found = queries.ready(ask())
    assert (found["status"], found["queue"]["$eq"]) == ("ready", "q")
    for field in ("queue", "attempt", "max_attempts"):
        assert found[field]["$not"] == {"$type": "array"}
    for field in ("attempt", "max_attempts"):
        assert found[field]["$type"] == ["int", "long", "double"]


def test_a_claim_asks_for_its_handlers_and_ids() -> None:
    found = queries.ready(ask(only=("a", None), ids=(ObjectId("0" * 24),)))
    assert found["task"] == {"$in": ["a", None], "$not": {"$type": "array"}}
    assert found["_id"] == {"$in": [ObjectId("0" * 24)]}
    assert queries.ready(ask(only=()))["task"]["$in"] == []


@pytest.mark.parametrize(("spare", "slots"), [(0, 3), (2, 1), (3, 0)])
def test_a_claim_for_waiting_only_asks_for_tasks_with_attempts_to_lose(spare: int, slots: int) -> None:
    one = ask(spare=spare)
    assert one.slots == slots
    assert (queries.ready(one)["max_attempts"].get("$gt") == 1) == (slots == 0)


@pytest.mark.parametrize("filter", [queries.due(), queries.lease_ended()])
def test_a_timers_filter_takes_dates_only(filter: dict[str, Any]) -> None:
    """`$lte` inside `$expr` matches missing fields and other types too."""
    ((compared, now),) = filter["$expr"].values()
    assert now == "$$NOW"
    assert filter[compared.removeprefix("$")] == {"$type": "date", "$not": {"$type": "array"}}


@pytest.mark.parametrize("move", ["take_back", "take_back_last"])
def test_taking_back_asks_for_the_lease_and_the_attempts(move: take_back.TakeBack) -> None:
    (lease, attempts) = take_back.guard(move)["$expr"]["$and"]
    assert lease == queries.lease_ended()["$expr"]
    assert ("$not" in attempts) == (move == "take_back")


def test_taking_back_leaves_what_was_asked_to_be_cancelled_meanwhile_to_its_own_move() -> None:
    for move in get_args(take_back.TakeBack):
        assert take_back.guard(move)["cancel_to"] == {"$exists": move == "cancel"}
    assert take_back.guard("cancel")["$expr"] == queries.lease_ended()["$expr"]


# --- the document of a put ----------------------------------------------------------------------------------------


def new_task(**options: Any) -> NewTask:
    return NewTask(ObjectId(), "q", "t", None, Options(**options), 5)


instants = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@few
@given(instants, st.floats(0, 1e6))
@example(NOW, 1e-9)
@example(NOW, 0.0005)
@example(NOW.replace(microsecond=999_999), 1e-6)
def test_a_delayed_task_is_never_due_early_and_at_most_a_millisecond_late(now: datetime, delay_s: float) -> None:
    document = document_of(new_task(delay_s=delay_s), now)
    wanted = now + timedelta(seconds=delay_s)
    if document["status"] == "delayed":
        assert wanted <= document["due_at"] < wanted + timedelta(milliseconds=1)
        assert document["due_at"].microsecond % 1_000 == 0
    else:
        assert wanted == now


@few
@given(instants, instants, st.integers(-14, 14))
def test_a_task_for_an_instant_waits_for_it_or_is_ready(now: datetime, at: datetime, hours: int) -> None:
    document = document_of(new_task(at=at.astimezone(timezone(timedelta(hours=hours)))), now)
    assert (document["status"] == "delayed") == (up_to_ms(at) > now) == ("due_at" in document)
    if "due_at" in document:
        assert document["due_at"] == up_to_ms(at)
        assert document["due_at"].utcoffset() == timedelta(0)


def test_the_last_instant_that_is_taken_can_be_rounded() -> None:
    at = datetime.max.replace(tzinfo=UTC) - timedelta(seconds=1)
    assert document_of(new_task(at=at), NOW)["due_at"] >= at


def test_a_new_document_lets_the_server_number_it_and_has_no_nulls_that_an_index_would_hold() -> None:
    document = document_of(new_task(), NOW)
    assert document["seq"] == Timestamp(0, 0)
    assert (document["status"], document["attempt"]) == ("ready", 0)
    assert document["created_at"] == NOW.replace(microsecond=123_000)
    absent = {"due_at", "claim_id", "lease_until", "ready_in", "reply_to", "headers", "keep_s", "remove_at"}
    absent |= {"expires_at", "total_timeout_s", "total_until", "lifetime_until", "tag", "keep_failed_s"}
    assert not absent & document.keys()


def test_a_task_that_is_deleted_at_its_end_keeps_no_address_for_its_result() -> None:
    new = NewTask(ObjectId(), "q", "t", None, Options(), 5, keep_s=0, reply_to="m1")
    document = document_of(new, NOW)
    assert "reply_to" not in document
    assert document["keep_s"] == 0.0


def test_headers_are_copied() -> None:
    headers = {"a": "b"}
    document = document_of(new_task(headers=headers), NOW)
    headers["a"] = "c"
    assert document["headers"] == {"a": "b"}


# --- drafts -------------------------------------------------------------------------------------------------------


BARE = BareSettings(retry=Retry(max_attempts=5), lease_s=30.0, limit_bytes=100)


def resize(path: str, width: int = 100) -> None: ...


def handling(**more: Any) -> Handling:
    given: dict[str, Any] = {"priority": 3, "keep_s": 9.0, "retry": Retry(max_attempts=7)}
    return Handling("resize", "images", resize, Schema(signature_of(resize)), is_async=False, **(given | more))


def test_a_draft_takes_from_the_handler_what_the_options_leave_open() -> None:
    new = task_of_handler(handling(), ("a.png",), {}, Options(), "m1")
    assert (new.queue, new.task, new.max_attempts, new.priority, new.keep_s) == ("images", "resize", 7, 3, 9.0)
    assert new.reply_to == "m1"


def test_options_win_over_the_handler_zero_included() -> None:
    id = ObjectId()
    new = task_of_handler(handling(), ("a.png",), {}, Options(priority=0, keep_s=0, max_attempts=1, id=id), None)
    assert (new.id, new.max_attempts, new.priority, new.keep_s) == (id, 1, 0, 0)


def test_a_named_priority_is_stored_as_a_plain_int() -> None:
    assert list(Priority) == [-100, 0, 100]
    drafts = [
        task_of_handler(handling(), ("a.png",), {}, Options(priority=Priority.HIGH), None),
        task_of_payload("q", 1, Options(priority=Priority.HIGH), BARE, None),
    ]
    assert [(type(new.priority), new.priority) for new in drafts] == [(int, 100)] * 2


def test_a_retention_is_stored_only_where_it_differs_from_the_default() -> None:
    def of(keep_failed_s: float | None) -> TaskDocument:
        return document_of(NewTask(ObjectId(), "q", "t", None, Options(), 5, keep_failed_s=keep_failed_s), NOW)

    assert of(0)["keep_failed_s"] == 0.0
    assert not any("keep_failed_s" in of(keep_s) for keep_s in (None, KEEP_FAILED_S))


@pytest.mark.parametrize(
    ("declared", "given", "expected"),
    [
        (None, {}, None),
        (60.0, {}, 60.0),
        (60.0, {"expires_in_s": 5}, 5),
        (60.0, {"expires_in_s": math.inf}, None),
        (math.inf, {}, None),
        (60.0, {"expires_at": NOW}, None),
    ],
)
def test_the_nearest_word_on_expiry_counts(
    declared: float | None, given: dict[str, Any], expected: float | None
) -> None:
    new = task_of_handler(handling(expires_in_s=declared), ("a.png",), {}, Options(**given), None)
    assert new.expires_in_s == expected


def test_no_total_limit_is_stored_as_none() -> None:
    given = [(60.0, None), (60.0, 5), (60.0, math.inf), (math.inf, None), (None, None)]
    drafts = [
        task_of_handler(handling(total_timeout_s=declared), ("a.png",), {}, Options(total_timeout_s=said), None)
        for declared, said in given
    ]
    assert [new.total_timeout_s for new in drafts] == [60.0, 5, None, None, None]


def test_a_delay_past_the_handlers_own_expiry_is_refused() -> None:
    """It would only ever expire: better said at the put than found out later."""
    with pytest.raises(OptionInvalid, match=r"expires_in_s=60.* delay_s=90"):
        task_of_handler(handling(expires_in_s=60.0), ("a.png",), {}, Options(delay_s=90), None)


@few
@given(instants, st.floats(1e-9, 1e6))
def test_a_task_never_expires_early_nor_more_than_a_millisecond_late(now: datetime, expires_in_s: float) -> None:
    document = document_of(NewTask(ObjectId(), "q", "t", None, Options(), 5, expires_in_s=expires_in_s), now)
    wanted = now + timedelta(seconds=expires_in_s)
    assert wanted <= document["expires_at"] < wanted + timedelta(milliseconds=1)


def test_two_drafts_have_two_ids() -> None:
    drafts = [task_of_payload("q", 1, Options(), BARE, None) for _ in range(2)]
    assert drafts[0].id != drafts[1].id


def test_a_draft_is_refused_for_its_arguments_and_its_size() -> None:
    with pytest.raises(PayloadInvalid):
        task_of_handler(handling(), (), {}, Options(), None)
    with pytest.raises(PayloadTooLarge, match="payload of resize"):
        task_of_handler(handling(limit_bytes=50), ("x" * 100,), {}, Options(), None)
    with pytest.raises(PayloadTooLarge, match="payload"):
        task_of_payload("q", "x" * 200, Options(), BARE, None)


def test_a_bare_payload_is_encoded_and_has_no_handler() -> None:
    new = task_of_payload("q", (1, 2), Options(priority=4), BARE, None)
    assert (new.task, new.payload, new.priority, new.max_attempts) == (None, {"~tuple": [1, 2]}, 4, 5)
