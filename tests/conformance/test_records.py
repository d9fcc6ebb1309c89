"""What people ask of the stored tasks: one suite that every store must pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from streamq.core.codec import to_stored
from streamq.core.document import TERMINAL
from streamq.core.moves.requeue import Requeue
from streamq.core.outcome import Raised
from streamq.core.search import Search, search_of
from streamq.errors import ClaimUnknown

if TYPE_CHECKING:
    from streamq.core.claim import Claim
    from tests.conformance.conftest import Lab, MongoLab

ENDED = Search(statuses=TERMINAL)


def found(lab: Lab, limit: int = 10, after: ObjectId | None = None, **sought: Any) -> list[ObjectId]:
    search = search_of(sought)  # type: ignore[arg-type]
    return [one["_id"] for one in lab.store.find(search, limit=limit, after=after)]


def failed(lab: Lab, type: str = "Boom", **more: Any) -> Claim:
    """Put a task and fail it for good."""
    claim = lab.claimed(**more)
    assert lab.settle(claim, "fail", error=Raised(type, "it broke", "line 1"), keep_s=1_000.0) == "settled"
    return claim


def how(**more: Any) -> Requeue:
    return Requeue(ObjectId(), **more)


# --- looking -------------------------------------------------------------------------------------------------------


def test_tasks_are_listed_newest_first_by_queue_and_status(lab: Lab) -> None:
    a, b, c = lab.put("x"), lab.put("y"), lab.put("x")
    later = lab.put("x", options={"delay_s": 60})
    assert found(lab) == [later, c, b, a]
    assert found(lab, limit=2) == [later, c]
    assert found(lab, limit=0) == []
    assert found(lab, queue="x") == [later, c, a]
    assert found(lab, queue="x", status="ready") == [c, a]
    assert found(lab, queue="x", status=["ready", "delayed"]) == [later, c, a]
    assert found(lab, status="running") == []


def test_pages_go_on_beyond_the_last_id_whatever_came_and_went(lab: Lab) -> None:
    ids = [lab.put() for _ in range(5)]
    assert found(lab, limit=2) == [ids[4], ids[3]]
    lab.put()
    lab.store.delete(ids[3])
    assert found(lab, limit=2, after=ids[3]) == [ids[2], ids[1]]
    assert found(lab, limit=2, after=ids[1]) == [ids[0]]
    assert found(lab, limit=2, after=ids[0]) == []
    assert lab.store.ids(Search(), limit=2) == ids[:2]
    assert lab.store.ids(Search(), limit=2, after=ids[1]) == [ids[2], ids[4]]


def test_a_page_holds_what_find_finds(lab: Lab) -> None:
    ids = [lab.put() for _ in range(3)]
    assert [one["_id"] for one in lab.store.page(Search())] == ids[::-1]
    assert [one["_id"] for one in lab.store.page(Search(), ids[1])] == [ids[0]]
    assert lab.store.page(Search(), ids[0]) == []


def test_tasks_are_found_by_handler_and_by_what_they_failed_with(lab: Lab) -> None:
    plain = lab.put(task="u")
    twice = lab.claimed(task="t")
    lab.settle(twice, "retry", error=Raised("Flaky", "m"))
    ended = failed(lab)
    assert found(lab, handler="u") == [plain]
    assert found(lab, error_type="Flaky") == [twice.id]
    assert found(lab, error_type="Boom", handler="t") == [ended.id]
    assert found(lab, error_type="$Boom") == []


def test_tasks_are_found_by_the_time_of_their_put_and_of_their_end(lab: Lab) -> None:
    ended = failed(lab)
    put_at, ended_at = lab.stored(ended.id)["created_at"], lab.stored(ended.id)["finished_at"]
    later = timedelta(milliseconds=1)
    assert found(lab, created_from=put_at, created_until=put_at + later) == [ended.id]
    assert found(lab, created_until=put_at) == []
    assert found(lab, finished_from=ended_at, status="failed") == [ended.id]
    assert found(lab, finished_from=ended_at + later) == []
    lab.put()
    assert found(lab, finished_until=datetime(2200, 1, 1, tzinfo=UTC)) == [ended.id]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("user.id", 7),
        ("user.id", 7.0),
        ("user.id", Decimal(7)),
        ("user", {"id": 7, "name": "$name"}),
        ("user.name", "$name"),
        ("tags", "b"),
        ("tags", ["a", "b"]),
        ("tags.1", "b"),
        ("items.sku", 2),
        ("items.0.sku", 1),
        ("none", None),
        ("yes", True),
        ("pair", (1, 2)),
        ("huge", 2**80),
        ("day", datetime(2026, 1, 2, tzinfo=UTC)),
        ("blob", b"\0x"),
        ("pair.~tuple", 2),
    ],
)
def test_tasks_are_found_by_a_field_of_their_payload(lab: Lab, path: str, value: Any) -> None:
    payload = {
        "user": {"id": 7, "name": "$name"},
        "tags": ["a", "b"],
        "items": [{"sku": 1}, {"sku": 2}],
        "none": None,
        "yes": True,
        "pair": (1, 2),
        "huge": 2**80,
        "day": datetime(2026, 1, 2, tzinfo=UTC),
        "blob": b"\0x",
    }
    lab.put(payload={"user": {"id": 8}, "tags": "c", "items": []})
    lab.put(payload=7)
    id = lab.put(payload=to_stored(payload))
    assert found(lab, payload={path: value}) == [id]


@pytest.mark.parametrize(
    ("path", "value"),
    [("a", 1), ("b", "1"), ("b", True), ("b.c", None), ("missing", None), ("l.2", 1), ("l", [2, 1]), ("l.x", 1)],
)
def test_a_payload_field_is_compared_by_type_and_place(lab: Lab, path: str, value: Any) -> None:
    lab.put(payload={"a": True, "b": 1, "l": [1, 2]})
    assert found(lab, payload={path: value}) == []


def test_a_peek_shows_head_and_tail_in_claim_order_and_claims_nothing(lab: Lab) -> None:
    a, b, c = (lab.put(payload=n) for n in "abc")
    first = lab.put(priority=3)
    lab.put("other")
    lab.put(options={"delay_s": 60})

    def peeked(limit: int, *, tail: bool = False) -> list[ObjectId]:
        return [one["_id"] for one in lab.store.peek("q", limit=limit, tail=tail)]

    assert peeked(2) == [first, a]
    assert peeked(2, tail=True) == [b, c]
    assert peeked(10) == peeked(10, tail=True) == [first, a, b, c]
    assert [claim.id for claim in lab.claim()] == [first, a, b, c]
    assert peeked(10) == []


def test_tasks_are_counted_by_handler(lab: Lab) -> None:
    lab.put(task="t")
    lab.put(task=None)
    lab.claimed(task="u")
    assert lab.store.counts_by_handler() == {"q": {"": {"ready": 1}, "t": {"ready": 1}, "u": {"running": 1}}}


# --- requeue -------------------------------------------------------------------------------------------------------


def test_a_requeued_task_is_ready_in_its_old_place_as_if_new_but_for_its_errors(lab: Lab) -> None:
    ended = failed(lab, reply_to="m1", payload=1)
    newer = lab.put()
    before = lab.stored(ended.id)
    ear = lab.hear("q")
    (requeued,) = lab.store.requeue([ended.id], how())
    assert requeued.verdict == "requeued"
    stored = lab.stored(ended.id)
    assert {"finished_at", "remove_at", "settled_for", "result"}.isdisjoint(stored)
    assert (stored["status"], stored["attempt"], stored["reply_to"]) == ("ready", 0, ["m1"])
    assert stored["errors"] == before["errors"]
    assert (ear.next().kind, ear.rest()) == ("ready", [])
    claims = lab.claim()
    assert [(claim.id, claim.attempt) for claim in claims] == [(ended.id, 1), (newer, 1)]


def test_who_waits_hears_of_the_end_of_a_requeued_task_again(lab: Lab) -> None:
    claim = lab.claimed(reply_to="m1")
    ear = lab.hear(reply_to="m1")
    lab.settle(claim, "succeed", result="old")
    lab.store.requeue([claim.id], how())
    (again,) = lab.claim()
    lab.settle(again, "succeed")
    assert [wake.kind for wake in ear.rest()] == ["settled", "settled"]
    assert "result" not in lab.stored(claim.id)


def test_a_task_requeued_for_later_waits_until_then(lab: Lab) -> None:
    ended = failed(lab)
    ear = lab.hear(timers=True)
    lab.store.requeue([ended.id], how(delay_s=60.0))
    assert ear.next().kind == "delayed"
    assert lab.stored(ended.id)["status"] == "delayed"
    assert lab.store.tick().released == ()
    lab.pass_time(61)
    assert lab.store.tick().released == ((ended.id, "q"),)


def test_a_requeue_that_does_not_reset_attempts_allows_one_more_if_none_was_left(lab: Lab) -> None:
    used_up = failed(lab, max_attempts=1)
    some_left = failed(lab, max_attempts=5)
    lab.store.requeue([used_up.id, some_left.id], how(reset=False))
    stored = [lab.stored(id) for id in (used_up.id, some_left.id)]
    assert [(one["attempt"], one["max_attempts"]) for one in stored] == [(1, 2), (1, 5)]
    (claim,) = lab.claim(ids=(used_up.id,), durable=True)
    assert claim.is_last_attempt


def test_each_task_of_a_requeue_is_reported_apart(lab: Lab) -> None:
    ended, waiting, running, gone = failed(lab).id, lab.put(), lab.claimed("other").id, ObjectId()
    before = [lab.stored(id) for id in (waiting, running)]
    report = lab.store.requeue([waiting, ended, gone, running], how())
    assert [(one.id, one.verdict) for one in report] == [
        (waiting, "not terminal"),
        (ended, "requeued"),
        (gone, "gone"),
        (running, "not terminal"),
    ]
    assert [lab.stored(id) for id in (waiting, running)] == before
    assert lab.store.requeue([], how()) == []


def test_of_two_who_requeue_a_task_one_does_and_repeating_is_no_second(lab: Lab) -> None:
    ended = failed(lab)
    mine = how()
    assert [one.verdict for one in lab.store.requeue([ended.id], mine)] == ["requeued"]
    assert [one.verdict for one in lab.store.requeue([ended.id], how())] == ["not terminal"]
    lab.claim()
    assert [one.verdict for one in lab.store.requeue([ended.id], mine)] == ["requeued"]
    assert lab.stored(ended.id)["status"] == "running"


def test_tasks_are_found_by_their_unique_key_and_by_no_part_of_it(lab: Lab) -> None:
    keys: list[Any] = ["a", ("a", 1), (("a", 1), 2), b"a", 7]
    ids = [lab.put(options={"unique": key}) for key in keys]
    lab.put()
    assert [found(lab, unique=key) for key in keys] == [[id] for id in ids]
    assert found(lab, unique=1) == []
    failed(lab, options={"unique": "b"})
    assert len(found(lab, unique="b", status="failed")) == 1


def test_a_requeued_task_has_its_unique_key_again(lab: Lab) -> None:
    ended = failed(lab, options={"unique": ("a", 1)})
    assert [one.verdict for one in lab.store.requeue([ended.id], how())] == ["requeued"]
    (reply,) = lab.store.put([lab.new(options={"unique": ("a", 1)})])
    assert (reply.id, reply.created) == (ended.id, False)


def test_a_requeue_that_meets_a_twin_is_a_conflict_for_that_task_alone(lab: Lab) -> None:
    hindered, older = failed(lab, options={"unique": "a"}), failed(lab, options={"unique": "a"})
    others = [failed(lab).id, failed(lab, options={"unique": "b"}).id, failed(lab, "other", queue="o").id]
    twin = lab.put(options={"unique": "a"})
    before = [lab.stored(id) for id in (hindered.id, older.id, twin)]
    report = lab.store.requeue([others[0], hindered.id, *others[1:], older.id], how())
    assert [one.verdict for one in report] == ["requeued", "conflict", "requeued", "requeued", "conflict"]
    assert [lab.stored(id) for id in (hindered.id, older.id, twin)] == before


def test_of_two_ended_twins_one_is_requeued(lab: Lab) -> None:
    ids = [failed(lab, options={"unique": "a"}).id for _ in range(2)]
    assert [one.verdict for one in lab.store.requeue(ids, how())] == ["requeued", "conflict"]


def test_a_stale_holder_changes_nothing_after_a_requeue(lab: Lab) -> None:
    claim = failed(lab)
    lab.store.requeue([claim.id], how())
    before = lab.stored(claim.id)
    # It did settle this task: that is what it is told, also when it asks again.
    assert lab.settle(claim, "succeed", result=1) == "settled"
    assert lab.store.extend([claim]) == [claim.id]
    assert lab.stored(claim.id) == before


# --- delete, purge -------------------------------------------------------------------------------------------------


def test_a_running_task_is_deleted_by_force_only(lab: Lab) -> None:
    claim = lab.claimed()
    assert lab.store.delete(claim.id) == "running"
    assert lab.stored(claim.id)["status"] == "running"
    assert lab.store.delete(claim.id, force=True) == "deleted"
    assert lab.store.delete(claim.id) == lab.store.delete(claim.id, force=True) == "gone"


def test_nothing_that_its_holder_writes_makes_a_deleted_task_anew(lab: Lab) -> None:
    claims = [lab.claimed() for _ in range(3)]
    for claim in claims:
        lab.store.delete(claim.id, force=True)
    assert lab.store.extend(claims) == [claim.id for claim in claims]
    assert lab.settle(claims[0], "succeed", result=1) == "lost"
    assert lab.settle(claims[1], "fail", error=Raised("Boom", "m"), keep_s=60.0) == "lost"
    assert lab.settle(claims[2], "release") == "lost"
    assert lab.store.abandon(ClaimUnknown("q", claims[0].claim_id, (claims[0].id,), 0.0, "test")) == 0
    assert lab.store.wait_for(claims[0].id, "m1") is None
    assert lab.store.counts() == {}


def test_a_purge_deletes_what_ended_and_was_found_and_nothing_else(lab: Lab) -> None:
    gone = [failed(lab), failed(lab)]
    kept = [failed(lab, queue="other").id, lab.put(), lab.claimed("w").id, lab.put(options={"delay_s": 60})]
    purged = lab.store.purge(Search(queue="q", statuses=("failed",)), 0.0)
    assert (purged.count, purged.next) == (len(gone), None)
    assert found(lab) == kept[::-1]


def test_a_task_requeued_since_a_purge_found_it_is_not_deleted(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two statements of a purge: the second asks again."""
    again, gone = failed(mongo), failed(mongo)
    delete_many = Collection.delete_many

    def requeued_before(self: Any, *args: Any, **more: Any) -> Any:
        mongo.store.requeue([again.id], how())
        return delete_many(self, *args, **more)

    monkeypatch.setattr(Collection, "delete_many", requeued_before)
    assert mongo.store.purge(ENDED, 0.0).count == 1
    assert mongo.stored(again.id)["status"] == "ready"
    assert mongo.store.get(gone.id) is None


def test_a_purge_by_age_counts_from_the_end_of_a_task(lab: Lab) -> None:
    failed(lab)
    assert lab.store.purge(ENDED, 60.0).count == 0
    assert len(found(lab)) == 1


def test_a_purge_goes_on_in_steps(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tending", "memory_records"):
        monkeypatch.setattr(f"streamq.store.{module}.MOST_A_PURGE", 2)
    for _ in range(5):
        failed(lab)
    lab.put()
    steps = [lab.store.purge(ENDED, 0.0)]
    while steps[-1].next is not None:
        steps.append(lab.store.purge(ENDED, 0.0, steps[-1].next))
    assert [step.count for step in steps] == [2, 2, 1]
    assert len(found(lab)) == 1
