"""What a stream is asked for and how its events are read; the same of a document in memory."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId

from streamq.core.claim import CHANGED_BY, ENDS_BY
from streamq.core.wake import Wake, WakeKind
from streamq.core.wakes import ENDS, Interest, pipeline, wake_of, wake_of_document

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = ObjectId()
READ = (*ENDS, *ENDS_BY, *CHANGED_BY)
ALL = Interest(("q", "r"), timers=True, reply_to="m1", bell="b1", holder="m1")
NOTHING = Interest((), timers=False, reply_to=None, bell="b1")


def inserted(**fields: Any) -> dict[str, Any]:
    return {"operationType": "insert", "documentKey": {"_id": ID}, "wallTime": NOW, "fullDocument": fields}


def updated(**fields: Any) -> dict[str, Any]:
    told = {"updatedFields": fields}
    return {"operationType": "update", "documentKey": {"_id": ID}, "wallTime": NOW, "updateDescription": told}


def matched(interest: Interest) -> list[dict[str, Any]]:
    wanted: list[dict[str, Any]] = pipeline(interest)[0]["$match"]["$or"]
    return wanted


@pytest.mark.parametrize(
    ("event", "wake"),
    [
        (
            inserted(status="ready", queue="q", task="t", attempt=0, max_attempts=5),
            Wake("ready", ID, "q", "t", is_new=True, is_plain=True),
        ),
        (
            inserted(status="ready", queue="q", attempt=0, max_attempts=1),
            Wake("ready", ID, "q", is_new=True, durable=True, is_plain=True),
        ),
        (inserted(status="ready", queue="q", attempt=0), Wake("ready", ID, "q", is_new=True, durable=True)),
        (
            inserted(status="ready", queue="q", attempt=0, max_attempts=5, total_timeout_s=5.0),
            Wake("ready", ID, "q", is_new=True),
        ),
        (inserted(status="ready", queue="q", attempt=1, max_attempts=5), Wake("ready", ID, "q", is_new=True)),
        (inserted(status="ready", queue="q", attempt=[0], max_attempts=5), Wake("ready", ID, "q", is_new=True)),
        (inserted(status="ready", queue="q", attempt=0, max_attempts=[5]), Wake("ready", ID, "q", is_new=True)),
        (
            inserted(status="ready", queue="q", attempt=0, max_attempts=5, revision=0),
            Wake("ready", ID, "q", is_new=True),
        ),
        (
            inserted(status="ready", queue="q", attempt=0, max_attempts=5, group_lock="g"),
            Wake("ready", ID, "q", is_new=True),
        ),
        (inserted(status="delayed", due_at=NOW + timedelta(seconds=5)), Wake("delayed", ID, due_in_s=5.0)),
        (inserted(status="delayed", due_at=NOW - timedelta(seconds=5)), Wake("delayed", ID)),
        (inserted(status="delayed", due_at="soon"), Wake("delayed", ID)),
        (inserted(status="delayed"), Wake("delayed", ID)),
        (
            inserted(status="ready", queue="x", max_attempts=5, expires_at=NOW + timedelta(seconds=5)),
            Wake("ready", ID, "x", is_new=True, look_in_s=5.0),
        ),
        (
            inserted(status="delayed", due_at=NOW, expires_at=NOW, lifetime_until=NOW + timedelta(seconds=5)),
            Wake("delayed", ID, look_in_s=0.0),
        ),
        (
            inserted(status="blocked", queue="q", lifetime_until=NOW + timedelta(seconds=5)),
            Wake("delayed", ID, due_in_s=math.inf, look_in_s=5.0),
        ),
        (
            inserted(status="ready", queue="q", attempt=0, max_attempts=5, lifetime_until=NOW + timedelta(seconds=5)),
            Wake("ready", ID, "q", is_new=True, is_plain=True, look_in_s=5.0),
        ),
        (
            inserted(status="ready", queue="q", max_attempts=5, expires_at="soon"),
            Wake("ready", ID, "q", is_new=True, look_in_s=0.0),
        ),
        (inserted(kind="member", lease_s=7.0), Wake("member", lease_s=7.0)),
        (
            inserted(kind="member", lease_s=7.0, serves=[{"queue": "q"}]) | {"documentKey": {"_id": "member:m2"}},
            Wake("member", lease_s=7.0, member="member:m2", serves=[{"queue": "q"}]),
        ),
        (inserted(bell="b1"), Wake("bell")),
        (updated(bell="b1"), Wake("bell")),
        (updated(status="ready", ready_in="r"), Wake("ready", ID, "r")),
        (updated(status="delayed", due_at=NOW + timedelta(seconds=5)), Wake("delayed", ID, due_in_s=5.0)),
        (updated(status="delayed"), Wake("delayed", ID)),
        (
            updated(revision=1, expires_at=NOW + timedelta(seconds=5)),
            Wake("delayed", ID, due_in_s=math.inf, look_in_s=5.0),
        ),
        (updated(status="succeeded", settled_for=["m1"]), Wake("settled", ID)),
        (updated(cancel_to="m1"), Wake("cancel", ID)),
        (updated(status="failed", settled_for=["m1"], follow_up=1.0), Wake("settled", ID, follow_up=True)),
        (updated(status="failed", follow_up=0.0), Wake("follow_up", ID, follow_up=True)),
        (inserted(status="blocked", queue="q", follow_up=0.0), Wake("follow_up", ID, follow_up=True)),
        ({"operationType": "drop"}, None),
        ({"operationType": "invalidate"}, None),
        ({"operationType": "rename"}, None),
    ],
)
def test_an_event_is_read(event: dict[str, Any], wake: Wake | None) -> None:
    assert wake_of(event, ALL) == wake


@pytest.mark.parametrize(("paused", "kind"), [(True, "pause"), (False, "resume"), ("yes", "resume")])
def test_what_is_said_of_a_queue_is_read_from_both_kinds_of_event(paused: Any, kind: WakeKind) -> None:
    key = {"documentKey": {"_id": "control:queue:q"}}
    for event in (inserted(kind="control", paused=paused), updated(paused=paused)):
        assert wake_of(event | key, ALL) == Wake(kind, queue="q")


def test_an_event_without_the_servers_time_asks_to_look_now() -> None:
    event = inserted(status="delayed", due_at=NOW + timedelta(seconds=5))
    del event["wallTime"]
    assert wake_of(event, ALL) == Wake("delayed", ID, due_in_s=0.0)


def test_the_events_own_id_and_no_payload_is_projected() -> None:
    """Without its `_id` the driver closes the stream; with payloads a fat one would end it."""
    (_, stage) = pipeline(ALL)
    project = stage["$project"]
    assert "_id" not in project  # kept unless said otherwise
    assert set(project.values()) == {1}
    assert not any("payload" in name or "result" in name or name == "fullDocument" for name in project)


@pytest.mark.parametrize(
    "name", ["status", "due_at", "queue", "task", "attempt", "max_attempts", "kind", "lease_s", "bell", *READ]
)
def test_what_reading_an_insert_needs_is_projected(name: str) -> None:
    assert f"fullDocument.{name}" in pipeline(ALL)[1]["$project"]


@pytest.mark.parametrize("name", ["status", "due_at", "ready_in", "bell", "cancel_to"])
def test_what_reading_an_update_needs_is_projected(name: str) -> None:
    assert f"updateDescription.updatedFields.{name}" in pipeline(ALL)[1]["$project"]


def test_the_end_of_the_stream_is_always_asked_for() -> None:
    for interest in (ALL, NOTHING):
        assert {"operationType": {"$in": ["drop", "rename", "dropDatabase", "invalidate"]}} in matched(interest)


def test_a_stream_asks_for_what_its_interest_says_and_no_more() -> None:
    assert len(matched(NOTHING)) == 3  # the end, and its bell in two forms
    queues = {"$in": ["q", "r"]}
    assert [one for one in matched(ALL) if queues in one.values()] == [
        {"operationType": "insert", "fullDocument.status": "ready", "fullDocument.queue": queues},
        {"operationType": "update", "updateDescription.updatedFields.ready_in": queues},
        {"operationType": "update", "updateDescription.updatedFields.freed_in": queues},
    ]
    assert {"operationType": "update", "updateDescription.updatedFields.settled_for": "m1"} in matched(ALL)
    assert {"operationType": "insert", "fullDocument.kind": "member"} in matched(ALL)
    assert {"operationType": "update", "updateDescription.updatedFields.cancel_to": "m1"} in matched(ALL)


def test_every_wanted_event_names_its_operation() -> None:
    """Claims and extensions are updates too: a filter without the operation would hear them."""
    assert all("operationType" in one for one in matched(ALL))


@pytest.mark.parametrize(
    ("document", "is_new", "event"),
    [
        ({"status": "ready", "queue": "q", "task": "t", "max_attempts": 5}, True, inserted),
        ({"status": "ready", "queue": "q", "task": "t", "max_attempts": 1}, True, inserted),
        ({"status": "delayed", "queue": "x", "due_at": NOW + timedelta(seconds=9)}, True, inserted),
        ({"status": "ready", "queue": "x", "max_attempts": 5, "expires_at": NOW}, True, inserted),
        ({"status": "blocked", "queue": "q", "lifetime_until": NOW}, True, inserted),
        ({"status": "delayed", "queue": "x", "due_at": NOW, "expires_at": NOW}, True, inserted),
        ({"status": "ready", "queue": "q", "task": "t", "max_attempts": 1, "ready_in": "q"}, False, updated),
        ({"status": "delayed", "queue": "x", "due_at": NOW + timedelta(seconds=9)}, False, updated),
        ({"status": "ready", "queue": "q", "ready_in": "q", "expires_at": NOW}, False, updated),
        ({"status": "failed", "queue": "x", "settled_for": ["m0", "m1"]}, False, updated),
        ({"status": "running", "queue": "x", "cancel_to": "m1"}, False, updated),
        ({"status": "failed", "queue": "q", "freed_in": "q"}, False, updated),
        ({"status": "ready", "queue": "q", "ready_in": "q", "freed_in": "q", "max_attempts": 1}, False, updated),
        ({"status": "failed", "queue": "x", "settled_for": ["m1"], "follow_up": 1.0}, False, updated),
        ({"status": "failed", "queue": "x", "follow_up": 0.0}, False, updated),
        ({"status": "blocked", "queue": "x", "follow_up": 0.0}, True, inserted),
    ],
)
def test_a_document_in_memory_tells_what_its_event_would(document: dict[str, Any], is_new: bool, event: Any) -> None:
    told = wake_of_document({"_id": ID} | document, NOW, ALL, is_new=is_new)
    assert list(told) == [wake_of(event(**document), ALL)]


@pytest.mark.parametrize(
    ("document", "interest"),
    [
        ({"status": "ready", "queue": "x"}, ALL),
        ({"status": "ready", "queue": "q"}, NOTHING),
        ({"status": "delayed", "queue": "q", "due_at": NOW}, NOTHING),
        ({"status": "failed", "queue": "q", "settled_for": ["m2"]}, ALL),
        ({"status": "failed", "queue": "q"}, ALL),
        ({"status": "failed", "queue": "q", "settled_for": ["m1"]}, NOTHING),
        ({"status": "running", "queue": "q"}, ALL),
        ({"status": "running", "queue": "q", "cancel_to": "m2"}, ALL),
        ({"status": "running", "queue": "q", "cancel_to": "m1"}, NOTHING),
        ({"status": "blocked", "queue": "q"}, ALL),
        ({"status": "blocked", "queue": "q", "follow_up": 0.0}, NOTHING),
    ],
)
def test_a_document_in_memory_says_nothing_to_who_did_not_ask(document: dict[str, Any], interest: Interest) -> None:
    assert list(wake_of_document({"_id": ID} | document, NOW, interest, is_new=False)) == []
