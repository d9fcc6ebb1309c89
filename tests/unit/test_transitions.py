"""The table of moves, and every move file held against it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_args

import pytest
from bson import ObjectId
from bson.timestamp import Timestamp

from streamq.core.claim import Ask
from streamq.core.document import DELAYED, READY, RUNNING, STATUSES, TERMINAL, Status, TaskDocument
from streamq.core.moves import cancel, claim, extend, release_due, report, requeue, settle, take_back
from streamq.core.moves.fence import HELD, IS_GROUPED
from streamq.core.moves.requeue import Requeue
from streamq.core.outcome import Raised
from streamq.core.report import Report
from streamq.core.settlement import Settlement, SettleMove
from streamq.core.transitions import BORN, TABLE, IllegalMove, is_terminal, next_status

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ERROR = Raised(type="$type", message="$message", traceback="$traceback")
SAID = Report(0.5, "$note")
ASK = Ask(queue="q", limit=1, claim_id=b"c", lease_s=30.0, worker="$worker")


def document_in(status: str, *, attempt: int = 1) -> TaskDocument:
    return {
        "_id": ObjectId("0" * 23 + "1"),
        "queue": "q",
        "task": "t",
        "status": cast(Status, status),
        "priority": 0,
        "seq": Timestamp(1, 1),
        "payload": None,
        "attempt": attempt,
        "max_attempts": 5,
        "claim_id": b"c",
        "started_at": NOW - timedelta(seconds=30),
        "lease_until": NOW,
        "due_at": NOW,
        "worker": "w",
    }


def settlement(move: SettleMove) -> Settlement:
    error = ERROR if move in ("retry", "retry_later", "fail") else None
    result = "$result" if move == "succeed" else None
    return Settlement(ObjectId(), "q", b"c", move, result=result, error=error, delay_s=5.0, keep_s=60.0)


AGAIN = Requeue(ObjectId(), 0.0, reset=True)
LATER = Requeue(ObjectId(), 5.0, reset=False)


def settle_apply(move: SettleMove) -> Callable[[TaskDocument], None]:
    return lambda document: settle.apply(document, settlement(move), NOW)


# Name of the move, status it starts from, attempts before, its twin in memory, its update.
MOVES: list[tuple[str, Status, int, Callable[[TaskDocument], None], list[dict[str, Any]]]] = [
    ("claim", READY, 1, lambda document: claim.apply(document, ASK, NOW), claim.update(ASK)),
    ("extend", RUNNING, 1, lambda document: extend.apply(document, 30.0, NOW), extend.update(30.0)),
    ("extend", RUNNING, 1, lambda document: report.apply(document, SAID, 30.0, NOW), report.update(SAID, 30.0)),
    ("release_due", DELAYED, 1, lambda document: release_due.apply(document, NOW), release_due.update()),
    ("take_back", RUNNING, 1, lambda document: take_back.apply(document, NOW), take_back.update("take_back")),
    (
        "take_back_later",
        RUNNING,
        2,
        lambda document: take_back.apply(document, NOW),
        take_back.update("take_back_later", 1.0),
    ),
    ("take_back_last", RUNNING, 5, lambda document: take_back.apply(document, NOW), take_back.update("take_back_last")),
    ("cancel", READY, 1, lambda document: cancel.apply(document, NOW), cancel.update()),
    ("requeue", "failed", 5, lambda document: requeue.apply(document, AGAIN, NOW), requeue.update(AGAIN)),
    ("requeue_later", "expired", 5, lambda document: requeue.apply(document, LATER, NOW), requeue.update(LATER)),
    *((move, RUNNING, 1, settle_apply(move), settle.update(settlement(move))) for move in get_args(SettleMove)),
]
NAMES = [move[0] for move in MOVES]


def written_by(update: list[dict[str, Any]], *, asked: bool = False) -> dict[str, Any]:
    """What an update writes on a task that nobody, or somebody (`asked`), wants cancelled."""
    fields: dict[str, Any] = {}
    for stage in update:
        for name, value in stage.get("$set", {}).items():
            match value:
                case {"$cond": [condition, then, _]} if condition == cancel.ASKED and asked:
                    fields[name] = then
                case {"$cond": [condition, _, other]} if condition == IS_GROUPED:
                    assert other == f"${name}", "what is of no group stays as the move wrote it"
                case {"$cond": [condition, _, other]} if condition == cancel.ASKED:
                    assert other == f"${name}", "what nobody asked to cancel stays as the move wrote it"
                case _:
                    fields[name] = value
    return {name: value for name, value in fields.items() if value != "$$REMOVE"}


def test_every_status_has_its_row() -> None:
    assert tuple(sorted(TABLE)) == tuple(sorted(STATUSES)) == tuple(sorted(get_args(Status)))


def test_every_step_leads_to_a_status() -> None:
    assert {status for row in TABLE.values() for status in row.values()} <= set(STATUSES)


@pytest.mark.parametrize("status", STATUSES)
def test_a_step_is_in_the_table_or_refused_naming_both(status: Status) -> None:
    for move in {move for row in TABLE.values() for move in row} | {"dance"}:
        if move in TABLE[status]:
            assert next_status(status, move) == TABLE[status][move]
            continue
        with pytest.raises(IllegalMove, match=rf"{status}.*{move}") as caught:
            next_status(status, move)
        assert (caught.value.status, caught.value.move) == (status, move)


def test_an_ended_task_leaves_by_requeue_only() -> None:
    for status in TERMINAL:
        assert TABLE[status] == {"requeue": READY, "requeue_later": DELAYED, "requeue_blocked": "blocked"}
        assert is_terminal(status)


def test_every_task_that_has_not_ended_can_end() -> None:
    """No trap: from each status some road leads to a terminal one without requeue."""
    for start in STATUSES:
        reached: set[Status] = {start}
        for _ in STATUSES:
            reached |= {after for status in reached - set(TERMINAL) for after in TABLE[status].values()}
        assert reached & set(TERMINAL), start


def test_each_move_starts_from_the_statuses_it_is_meant_for() -> None:
    """Said a second time on purpose: a row that gains a move by mistake must be noticed."""
    starts = {move: {status for status, row in TABLE.items() if move in row} for row in TABLE.values() for move in row}
    waiting = {"blocked", "delayed", "ready"}
    assert starts == {
        "unblock": {"blocked"},
        "unblock_later": {"blocked"},
        "release_due": {"delayed"},
        "claim": {"ready", "delayed"},
        "delay": {"ready"},
        "replace": waiting,
        "replace_later": waiting,
        **{
            move: {"running"}
            for move in ("extend", "take_back", "take_back_later", "take_back_last", *get_args(SettleMove))
        },
        "fail": {"blocked", "running"},
        "expire": waiting,
        "cancel": waiting | {"running"},
        "requeue": set(TERMINAL),
        "requeue_later": set(TERMINAL),
        "requeue_blocked": set(TERMINAL),
    }


def test_tasks_are_born_in_statuses_that_are_not_terminal() -> None:
    assert set(BORN.values()) <= set(STATUSES) - set(TERMINAL)


@pytest.mark.parametrize(("name", "start", "attempt", "apply", "update"), MOVES, ids=NAMES)
def test_a_move_in_memory_goes_where_the_table_says_or_changes_nothing(
    name: str, start: Status, attempt: int, apply: Any, update: Any
) -> None:
    for status in STATUSES:
        document = document_in(status, attempt=attempt)
        before = copy.deepcopy(document)
        if name in TABLE[status]:
            apply(document)
            assert document["status"] == TABLE[status][name]
            continue
        with pytest.raises(IllegalMove):
            apply(document)
        assert document == before


@pytest.mark.parametrize(("name", "start", "attempt", "apply", "update"), MOVES, ids=NAMES)
def test_an_update_writes_the_status_and_fields_that_its_twin_writes(
    name: str, start: Status, attempt: int, apply: Any, update: list[dict[str, Any]]
) -> None:
    document = document_in(start, attempt=attempt)
    document["reply_to"] = ["m1"]
    before = dict(copy.deepcopy(document))
    apply(document)
    written = written_by(update)
    assert written.get("status", start) == document["status"]
    changed = {field for field, value in document.items() if before.get(field, "missing") != value}
    assert changed <= written.keys()
    unset: set[str] = set()
    for stage in update:
        fields = stage.get("$unset", [])
        unset |= {fields} if isinstance(fields, str) else set(fields)
    assert before.keys() - document.keys() <= unset


@pytest.mark.parametrize(("name", "start", "attempt", "apply", "update"), MOVES, ids=NAMES)
def test_a_claim_lies_on_running_tasks_only(name: str, start: Status, attempt: int, apply: Any, update: Any) -> None:
    document = document_in(start, attempt=attempt)
    if start != RUNNING:
        del document["claim_id"], document["lease_until"]
    apply(document)
    held = {"claim_id", "lease_until"}
    assert held <= set(HELD)
    assert (document["status"] == RUNNING) == (held <= document.keys()) == bool(set(HELD) & document.keys())


@pytest.mark.parametrize(("name", "start", "attempt", "apply", "update"), MOVES, ids=NAMES)
def test_an_update_that_makes_a_task_ready_carries_the_queues_address(
    name: str, start: Status, attempt: int, apply: Any, update: list[dict[str, Any]]
) -> None:
    written = written_by(update)
    assert ("ready_in" in written) == (written.get("status") == READY)


@pytest.mark.parametrize(("name", "start", "attempt", "apply", "update"), MOVES, ids=NAMES)
def test_users_text_stands_in_an_update_under_literal_only(
    name: str, start: Status, attempt: int, apply: Any, update: list[dict[str, Any]]
) -> None:
    users = {"$type", "$message", "$traceback", "$result", "$note"} | ({"$worker"} if name == "claim" else set())

    def texts(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set().union(*(texts(one) for key, one in value.items() if key != "$literal"))
        if isinstance(value, list):
            return set().union(*map(texts, value))
        return {value} if isinstance(value, str) else set()

    assert not texts(update) & users


BACK = ["retry", "retry_later", "release", "snooze"]


@pytest.mark.parametrize("move", BACK)
def test_a_task_that_was_to_be_cancelled_does_not_go_back(move: SettleMove) -> None:
    document = document_in(RUNNING)
    document["reply_to"] = ["m1"]
    cancel.apply_ask(document)
    assert document["cancel_to"] == "w"
    before = dict(copy.deepcopy(document))
    settle.apply(document, settlement(move), NOW)
    assert document["status"] == "cancelled"
    written = written_by(settle.update(settlement(move)), asked=True)
    changed = {field for field, value in document.items() if before.get(field, "missing") != value}
    assert changed <= written.keys()
    assert written["status"] == "cancelled"
    assert {"finished_at", "remove_at", "settled_for"} <= document.keys()
    assert not {"ready_in", "cancel_to", "claim_id"} & document.keys()
    assert "ready_in" not in written


@pytest.mark.parametrize("move", ["succeed", "fail"])
def test_a_task_that_has_ended_before_its_holder_heard_has_ended_so(move: SettleMove) -> None:
    document = document_in(RUNNING)
    cancel.apply_ask(document)
    settle.apply(document, settlement(move), NOW)
    assert document["status"] == TABLE[RUNNING][move]
    assert "cancel_to" not in document


@pytest.mark.parametrize("attempt", [1, 5])
def test_a_task_that_was_to_be_cancelled_is_cancelled_when_its_holder_died(attempt: int) -> None:
    document = document_in(RUNNING, attempt=attempt)
    cancel.apply_ask(document)
    take_back.apply(document, NOW)
    assert document["status"] == "cancelled"
    assert document["errors"][-1]["type"] == "LeaseExpired"
    written = written_by(take_back.update("cancel"))
    assert written["status"] == "cancelled"


@pytest.mark.parametrize("move", ["release", "snooze"])
def test_a_task_given_back_has_not_used_its_attempt(move: SettleMove) -> None:
    document = document_in(RUNNING, attempt=3)
    settle.apply(document, settlement(move), NOW)
    assert document["attempt"] == 2


def test_a_lease_is_counted_in_whole_milliseconds() -> None:
    document = document_in(READY)
    claim.apply(document, Ask(queue="q", limit=1, claim_id=b"d", lease_s=1.2345, worker="w"), NOW)
    assert document["lease_until"] == NOW + timedelta(milliseconds=1234)
