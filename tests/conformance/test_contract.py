"""The contract of `streamq.store.contract.Store`: one suite that every store must pass."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from bson import ObjectId
from bson.timestamp import Timestamp

from streamq.core.document import ERRORS_KEPT
from streamq.core.options import KEEP_FAILED_S
from streamq.core.outcome import Raised
from streamq.core.search import Search
from streamq.core.settlement import SettleMove
from streamq.core.unclaimed import Unclaimed
from streamq.errors import ClaimUnknown

if TYPE_CHECKING:
    from streamq.core.claim import Claim
    from tests.conformance.conftest import Lab

BOOM = Raised(type="Boom", message="it broke", traceback="line 1")
CLAIM_FIELDS = ("claim_id", "lease_until")


def taken_over(lab: Lab, claim: Claim) -> Claim:
    """Let the lease end and have another holder claim the task."""
    lab.pass_time(claim.lease_s + 1)
    lab.store.tick()
    (newer,) = lab.claim(ids=(claim.id,))
    return newer


# --- put -----------------------------------------------------------------------------------------------------------


def test_a_put_task_is_ready_and_holds_what_was_given(lab: Lab) -> None:
    id = lab.put("q", task="resize", payload={"a": [1, 2.5, "x"]}, max_attempts=3, priority=-4)
    stored = lab.stored(id)
    assert isinstance(stored.pop("seq"), Timestamp)
    assert isinstance(stored.pop("created_at"), datetime)
    assert stored == {
        "_id": id,
        "v": 1,
        "queue": "q",
        "task": "resize",
        "status": "ready",
        "priority": -4,
        "payload": {"a": [1, 2.5, "x"]},
        "attempt": 0,
        "max_attempts": 3,
    }


def test_a_put_keeps_headers_retention_and_address(lab: Lab) -> None:
    id = lab.put(keep_s=5, reply_to="m1", options={"headers": {"trace": "$abc"}})
    stored = lab.stored(id)
    assert (stored["headers"], stored["keep_s"], stored["reply_to"]) == ({"trace": "$abc"}, 5.0, ["m1"])


def test_a_put_of_nothing_stores_nothing(lab: Lab) -> None:
    assert lab.store.put([]) == []
    assert lab.store.counts() == {}


def test_a_put_again_with_the_same_id_stores_nothing_and_says_so(lab: Lab) -> None:
    id = lab.put(payload=1)
    replies = lab.store.put([lab.new(payload=2, id=id), lab.new(payload=3)])
    assert [reply.created for reply in replies] == [False, True]
    assert lab.stored(id)["payload"] == 1
    assert lab.store.counts() == {"q": {"ready": 2}}


def test_an_id_twice_in_one_put_is_stored_once_and_created_once(lab: Lab) -> None:
    id = ObjectId()
    replies = lab.store.put([lab.new(payload=1, id=id), lab.new(payload=2, id=id)])
    assert [(reply.id, reply.created) for reply in replies] == [(id, True), (id, False)]
    assert lab.stored(id)["payload"] == 1


def test_a_put_again_while_the_task_runs_changes_nothing(lab: Lab) -> None:
    claim = lab.claimed(payload=1)
    before = lab.stored(claim.id)
    (reply,) = lab.store.put([lab.new(payload=2, id=claim.id)])
    assert not reply.created
    assert lab.stored(claim.id) == before


def test_seq_increases_in_the_order_of_puts(lab: Lab) -> None:
    first = [reply.id for reply in lab.store.put([lab.new() for _ in range(20)])]
    second = [reply.id for reply in lab.store.put([lab.new() for _ in range(20)])]
    seqs = [lab.stored(id)["seq"] for id in first + second]
    assert seqs == sorted(set(seqs))


def test_a_delayed_put_waits(lab: Lab) -> None:
    before = lab.store.now()
    id = lab.put(options={"delay_s": 60})
    stored = lab.stored(id)
    assert stored["status"] == "delayed"
    # A round trip to the server's clock lies between.
    assert timedelta(seconds=59.5) < stored["due_at"] - before < timedelta(seconds=65)
    assert lab.claim() == []


def test_a_put_for_an_instant_that_has_passed_is_ready(lab: Lab) -> None:
    id = lab.put(options={"at": lab.store.now() - timedelta(seconds=5)})
    stored = lab.stored(id)
    assert stored["status"] == "ready"
    assert "due_at" not in stored


def test_a_put_for_an_instant_ahead_keeps_it_to_the_millisecond(lab: Lab) -> None:
    at = datetime(2100, 1, 1, 0, 0, 0, 1_001, tzinfo=UTC)
    assert lab.stored(lab.put(options={"at": at}))["due_at"] == at.replace(microsecond=2_000)


# --- claim ---------------------------------------------------------------------------------------------------------


def test_a_claim_writes_its_holder_on_the_task(lab: Lab) -> None:
    id = lab.put()
    ask = lab.ask(lease_s=30.0, worker="$worker")
    before = lab.store.now()
    lab.store.claim(ask)
    stored = lab.stored(id)
    assert (stored["status"], stored["claim_id"], stored["attempt"], stored["worker"]) == (
        "running",
        ask.claim_id,
        1,
        "$worker",
    )
    assert timedelta(seconds=29.5) < stored["lease_until"] - before < timedelta(seconds=35)
    assert stored["started_at"] + timedelta(seconds=30) == stored["lease_until"]


def test_a_claim_tells_all_that_the_holder_needs(lab: Lab) -> None:
    id = lab.put(task="t", payload={"x": 1}, max_attempts=3, priority=2, keep_s=9, options={"headers": {"a": "b"}})
    ask = lab.ask(lease_s=12.5)
    claimed = lab.store.claim(ask)
    (claim,) = claimed.claims
    assert (claim.id, claim.queue, claim.task, claim.payload) == (id, "q", "t", {"x": 1})
    assert (claim.attempt, claim.max_attempts, claim.priority, claim.keep_s) == (1, 3, 2, 9.0)
    assert (claim.claim_id, claim.lease_s, claim.headers) == (ask.claim_id, 12.5, {"a": "b"})
    assert claim.created_at == lab.stored(id)["created_at"]


@pytest.mark.parametrize("single", [True, False])
def test_a_claim_by_id_tells_the_same_as_one_from_the_head(lab: Lab, single: bool) -> None:
    id = lab.put(payload={"x": 1}, options={"headers": {"a": "b"}})
    (head,) = lab.claim()
    lab.settle(head, "release")
    (by_id,) = lab.claim(ids=(id,) if single else (id, ObjectId()), lease_s=head.lease_s)
    assert (by_id.payload, by_id.headers, by_id.attempt, by_id.created_at) == (
        head.payload,
        head.headers,
        head.attempt,
        head.created_at,
    )


def test_higher_priority_is_claimed_first_then_the_order_of_storing(lab: Lab) -> None:
    priorities = [0, 5, -3, 5, 0, 2**31 - 1, -(2**31)]
    replies = lab.store.put([lab.new(priority=priority) for priority in priorities])
    ids = [reply.id for reply in replies]
    assert [claim.id for claim in lab.claim()] == [ids[place] for place in (5, 1, 3, 0, 4, 2, 6)]


def test_a_limit_takes_the_head_and_says_that_more_may_be_there(lab: Lab) -> None:
    ids = [reply.id for reply in lab.store.put([lab.new() for _ in range(5)])]
    first = lab.store.claim(lab.ask(3))
    assert [claim.id for claim in first.claims] == ids[:3]
    assert first.more
    second = lab.store.claim(lab.ask(3))
    assert [claim.id for claim in second.claims] == ids[3:]
    assert not second.more


def test_an_empty_queue_gives_nothing_and_no_more(lab: Lab) -> None:
    lab.put("other")
    claimed = lab.store.claim(lab.ask())
    assert (claimed.claims, claimed.more) == ((), False)


def test_a_running_task_is_not_claimed_again(lab: Lab) -> None:
    claim = lab.claimed()
    assert lab.claim() == []
    assert lab.claim(ids=(claim.id,)) == []
    assert lab.claim(ids=(claim.id, ObjectId())) == []
    assert lab.stored(claim.id)["claim_id"] == claim.claim_id


@pytest.mark.parametrize("durable", [True, False])
def test_ids_that_are_ready_are_claimed_and_no_others(lab: Lab, durable: bool) -> None:
    wanted, other = lab.put(), lab.put()
    elsewhere, later = lab.put("other"), lab.put(options={"delay_s": 60})
    running = lab.claimed().id
    claimed = lab.store.claim(lab.ask(ids=(wanted, elsewhere, later, running, ObjectId()), durable=durable))
    assert [claim.id for claim in claimed.claims] == [wanted]
    assert not claimed.more
    assert lab.stored(other)["status"] == "ready"


@pytest.mark.parametrize("durable", [True, False])
def test_of_several_ids_the_first_in_order_is_claimed_that_is_still_there(lab: Lab, durable: bool) -> None:
    plain, urgent, last, other = lab.put(), lab.put(priority=9), lab.put(), lab.put(priority=10)
    ids = (last, ObjectId(), plain, urgent)
    claims = [claim.id for _ in range(4) for claim in lab.claim(1, ids=ids, durable=durable)]
    assert claims == [urgent, plain, last]
    assert lab.stored(other)["status"] == "ready"


def test_of_several_ids_a_single_attempt_one_is_left_out_unless_the_claim_is_durable(lab: Lab) -> None:
    once, often = lab.put(max_attempts=1), lab.put()
    assert [claim.id for claim in lab.claim(1, ids=(once, often))] == [often]
    assert lab.claim(1, ids=(once, often)) == []
    assert [claim.id for claim in lab.claim(1, ids=(once, often), durable=True)] == [once]


def test_of_several_ids_one_with_an_end_by_time_is_left_out_if_plain_ones_are_asked_for(lab: Lab) -> None:
    ended, endless = lab.put(expires_in_s=60), lab.put()
    assert [claim.id for claim in lab.claim(1, ids=(ended, endless), plain=True)] == [endless]
    assert [claim.id for claim in lab.claim(1, ids=(ended, endless))] == [ended]


@pytest.mark.parametrize("durable", [True, False])
def test_one_id_of_another_queue_is_not_claimed(lab: Lab, durable: bool) -> None:
    id = lab.put("other")
    assert lab.claim(ids=(id,), durable=durable) == []
    assert lab.stored(id)["attempt"] == 0


def test_only_the_named_handlers_are_claimed(lab: Lab) -> None:
    a, _, bare, c = (lab.put(task=name) for name in ("a", "b", None, "c"))
    assert [claim.id for claim in lab.claim(only=("c", "a", "unknown"))] == [a, c]
    assert lab.claim(only=()) == []
    assert [claim.id for claim in lab.claim(only=(None,))] == [bare]


def test_one_id_with_another_handler_is_not_claimed(lab: Lab) -> None:
    id = lab.put(task="b")
    assert lab.claim(ids=(id,), only=("a",)) == []
    assert len(lab.claim(ids=(id,), only=("b",))) == 1


def test_a_single_attempt_task_is_claimed_to_start_but_never_to_wait(lab: Lab) -> None:
    once = [lab.put(max_attempts=1) for _ in range(3)]
    often = [lab.put(max_attempts=2) for _ in range(2)]
    claimed = lab.store.claim(lab.ask(5, spare=4))
    assert [claim.id for claim in claimed.claims] == [once[0], *often]
    assert claimed.more
    assert [lab.stored(id)["attempt"] for id in once] == [1, 0, 0]


def test_a_claim_of_spare_only_leaves_single_attempt_tasks_out(lab: Lab) -> None:
    once, often = lab.put(max_attempts=1), lab.put()
    claimed = lab.store.claim(lab.ask(5, spare=5))
    assert [claim.id for claim in claimed.claims] == [often]
    assert not claimed.more
    assert lab.stored(once)["status"] == "ready"


def test_one_single_attempt_id_needs_a_durable_claim(lab: Lab) -> None:
    id = lab.put(max_attempts=1)
    assert lab.claim(ids=(id,)) == []
    (claim,) = lab.claim(ids=(id,), durable=True)
    assert claim.id == id
    assert claim.is_last_attempt


def test_attempts_are_counted_at_each_claim(lab: Lab) -> None:
    id = lab.put()
    for attempt in (1, 2, 3):
        (claim,) = lab.claim()
        assert (claim.id, claim.attempt) == (id, attempt)
        assert lab.settle(claim, "retry", error=BOOM) == "settled"


def test_a_retried_and_a_released_task_keep_their_place(lab: Lab) -> None:
    ids = [lab.put() for _ in range(3)]
    first, second, _ = lab.claim()
    lab.settle(second, "retry", error=BOOM)
    lab.settle(first, "release")
    assert [claim.id for claim in lab.claim()] == ids[:2]


def test_a_claim_leaves_out_what_another_of_the_process_is_about_to_take(lab: Lab) -> None:
    first, second, third = [lab.put() for _ in range(3)]
    claims = lab.claim(2, beside=(first, second))
    assert [claim.id for claim in claims] == [third]
    assert [claim.id for claim in lab.claim(2)] == [first, second]


# --- extend --------------------------------------------------------------------------------------------------------


def test_an_extension_counts_from_now(lab: Lab) -> None:
    claim = lab.claimed()
    lab.pass_time(20)
    before = lab.store.now()
    assert lab.store.extend([claim]) == []
    assert timedelta(seconds=29.5) < lab.stored(claim.id)["lease_until"] - before < timedelta(seconds=35)


def test_each_claim_is_extended_by_its_own_lease(lab: Lab) -> None:
    lab.put()
    lab.put()
    (long,) = lab.claim(1, lease_s=300.0)
    (short,) = lab.claim(1, lease_s=30.0)
    before = lab.store.now()
    assert lab.store.extend([long, short]) == []
    assert lab.stored(long.id)["lease_until"] - before > timedelta(seconds=299)
    assert lab.stored(short.id)["lease_until"] - before < timedelta(seconds=35)


@pytest.mark.parametrize("single", [True, False])
def test_a_claim_gives_each_handler_its_own_lease(lab: Lab, single: bool) -> None:
    ids = [lab.put(task=task, max_attempts=5) for task in ("slow", "$task", "t", None)]
    leases = {"slow": 600.0, "$task": 60.0, "absent": 1.0}
    if single:
        claims = [claim for id in ids for claim in lab.claim(ids=(id,), leases=leases)]
    else:
        claims = lab.claim(leases=leases)
    assert [claim.lease_s for claim in claims] == [600.0, 60.0, 30.0, 30.0]
    for claim in claims:
        stored = lab.stored(claim.id)
        assert stored["lease_until"] - stored["started_at"] == timedelta(seconds=claim.lease_s)
    lab.pass_time(61)
    lab.store.tick()
    assert [lab.stored(id)["status"] for id in ids] == ["running", "ready", "ready", "ready"]


def test_an_extension_of_nothing_is_nothing(lab: Lab) -> None:
    assert lab.store.extend([]) == []


def test_lost_claims_are_named_and_the_others_extended(lab: Lab) -> None:
    held, released, again, gone, ended = (lab.claimed() for _ in range(5))
    lab.settle(released, "release")
    lab.settle(again, "release")
    (newer,) = lab.claim(ids=(again.id,))
    lab.settle(gone, "succeed", keep_s=0.0)
    lab.settle(ended, "fail", error=BOOM)
    until = lab.stored(newer.id)["lease_until"]
    assert lab.store.extend([released, held, again, gone, ended]) == [released.id, again.id, gone.id, ended.id]
    assert lab.stored(newer.id)["lease_until"] == until
    assert lab.store.extend([held, newer]) == []


# --- settle --------------------------------------------------------------------------------------------------------

SETTLED: list[tuple[SettleMove, dict[str, Any], str, int]] = [
    ("succeed", {"keep_s": 60.0}, "succeeded", 1),
    ("succeed", {"keep_s": 60.0, "result": {"n": 1}}, "succeeded", 1),
    ("retry", {"error": BOOM}, "ready", 1),
    ("retry_later", {"error": BOOM, "delay_s": 60.0}, "delayed", 1),
    ("fail", {"error": BOOM}, "failed", 1),
    ("release", {}, "ready", 0),
    ("snooze", {"delay_s": 60.0}, "delayed", 0),
]


@pytest.mark.parametrize(("move", "more", "status", "attempt"), SETTLED)
def test_a_settlement_writes_its_move(
    lab: Lab, move: SettleMove, more: dict[str, Any], status: str, attempt: int
) -> None:
    claim = lab.claimed(reply_to="m1")
    before = lab.store.now()
    assert lab.settle(claim, move, **more) == "settled"
    stored = lab.stored(claim.id)
    assert (stored["status"], stored["attempt"], stored["settled_by"]) == (status, attempt, claim.claim_id)
    assert not stored.keys() & set(CLAIM_FIELDS)
    assert stored.get("result") == more.get("result")
    assert ("ready_in" in stored) == (status == "ready")
    ended = status in ("succeeded", "failed")
    assert (stored.keys() >= {"finished_at", "remove_at", "settled_for"}) == ended
    if ended:
        assert stored["settled_for"] == ["m1"]
        kept_s = 60.0 if status == "succeeded" else KEEP_FAILED_S
        assert stored["remove_at"] - stored["finished_at"] == timedelta(seconds=kept_s)
    if status == "delayed":
        assert timedelta(seconds=59.5) < stored["due_at"] - before < timedelta(seconds=65)
    if "error" in more:
        (error,) = stored["errors"]
        assert isinstance(error.pop("at"), datetime)
        assert error == {"attempt": 1, "type": "Boom", "message": "it broke", "traceback": "line 1", "worker": "w"}
    else:
        assert "errors" not in stored


@pytest.mark.parametrize(("move", "more", "status", "attempt"), SETTLED)
def test_a_settlement_again_is_settled_and_changes_nothing(
    lab: Lab, move: SettleMove, more: dict[str, Any], status: str, attempt: int
) -> None:
    claim = lab.claimed()
    lab.settle(claim, move, **more)
    before = lab.stored(claim.id)
    assert lab.settle(claim, move, **more) == "settled"
    assert lab.stored(claim.id) == before


@pytest.mark.parametrize(("move", "more", "status", "attempt"), SETTLED)
def test_a_settlement_is_lost_when_the_task_was_taken_over(
    lab: Lab, move: SettleMove, more: dict[str, Any], status: str, attempt: int
) -> None:
    claim = lab.claimed()
    lab.pass_time(31)
    lab.store.tick()
    between = lab.stored(claim.id)
    assert lab.settle(claim, move, **more) == "lost"
    assert lab.stored(claim.id) == between
    (newer,) = lab.claim()
    before = lab.stored(claim.id)
    assert lab.settle(claim, move, **more) == "lost"
    assert lab.stored(claim.id) == before
    assert lab.settle(newer, "succeed") == "settled"


def test_a_settlement_with_another_queue_is_lost(lab: Lab) -> None:
    claim = lab.claimed("q")
    before = lab.stored(claim.id)
    (verdict,) = lab.store.settle([msgspec.structs.replace(lab.settlement(claim, "release"), queue="other")])
    assert verdict == "lost"
    assert lab.stored(claim.id) == before


def test_success_that_is_not_kept_deletes_the_task(lab: Lab) -> None:
    claim = lab.claimed()
    assert lab.settle(claim, "succeed", keep_s=0.0, result={"n": 1}) == "settled"
    assert lab.store.get(claim.id) is None
    assert lab.settle(claim, "succeed", keep_s=0.0) == "unknown"


def test_a_stale_delete_removes_nothing(lab: Lab) -> None:
    claim = lab.claimed()
    newer = taken_over(lab, claim)
    before = lab.stored(claim.id)
    assert lab.store.settle(
        [
            lab.settlement(claim, "succeed", keep_s=0.0),
            lab.settlement(lab.claimed("other"), "succeed", keep_s=0.0),
        ]
    ) == ["lost", "settled"]
    assert lab.stored(newer.id) == before


def test_other_settlements_of_a_task_that_is_gone_are_lost(lab: Lab) -> None:
    claim = lab.claimed()
    lab.settle(claim, "succeed", keep_s=0.0)
    assert lab.settle(claim, "retry", error=BOOM) == "lost"


def test_a_settlement_of_nothing_is_nothing(lab: Lab) -> None:
    assert lab.store.settle([]) == []


def test_a_batch_of_all_kinds_settles_each_as_it_says(lab: Lab) -> None:
    lost = lab.claimed()
    taken_over(lab, lost)
    lab.store.put([lab.new() for _ in range(8)])
    claims = lab.claim(4) + lab.claim(4)
    settlements = [
        lab.settlement(claims[0], "succeed"),
        lab.settlement(claims[1], "succeed", keep_s=0.0),
        lab.settlement(lost, "succeed"),
        lab.settlement(claims[2], "succeed", result=7),
        lab.settlement(claims[3], "release"),
        lab.settlement(claims[4], "retry", error=BOOM),
        lab.settlement(claims[5], "snooze", delay_s=5.0),
        lab.settlement(claims[6], "fail", error=BOOM),
        lab.settlement(claims[7], "succeed"),
    ]
    assert lab.store.settle(settlements) == ["settled"] * 2 + ["lost"] + ["settled"] * 6
    statuses = [(lab.store.get(claim.id) or {}).get("status") for claim in claims]
    assert statuses == ["succeeded", None, "succeeded", "ready", "ready", "delayed", "failed", "succeeded"]
    assert lab.stored(lost.id)["status"] == "running"


def test_of_the_errors_the_newest_are_kept(lab: Lab) -> None:
    id = lab.put(max_attempts=50)
    for attempt in range(1, ERRORS_KEPT + 4):
        (claim,) = lab.claim()
        assert lab.settle(claim, "retry", error=Raised(type="E", message=str(attempt))) == "settled"
    errors = lab.stored(id)["errors"]
    assert [error["attempt"] for error in errors] == list(range(4, ERRORS_KEPT + 4))
    assert [error["message"] for error in errors] == [str(attempt) for attempt in range(4, ERRORS_KEPT + 4)]


# --- abandon -------------------------------------------------------------------------------------------------------


def test_abandoning_releases_what_the_claim_holds_uncounted(lab: Lab) -> None:
    mine, settled, others = lab.put(), lab.put(), lab.put()
    claims = lab.claim(2)
    lab.settle(claims[1], "succeed")
    (other,) = lab.claim(1)
    ids = (mine, settled, others, ObjectId())
    assert lab.store.abandon(ClaimUnknown("q", claims[0].claim_id, ids, 0.0, "test")) == 1
    assert (lab.stored(mine)["status"], lab.stored(mine)["attempt"]) == ("ready", 0)
    assert lab.stored(settled)["status"] == "succeeded"
    assert lab.stored(others)["claim_id"] == other.claim_id


def test_abandoning_what_was_never_claimed_does_nothing(lab: Lab) -> None:
    id = lab.put()
    before = lab.stored(id)
    assert lab.store.abandon(ClaimUnknown("q", os.urandom(16), (id,), 0.0, "test")) == 0
    assert lab.stored(id) == before


# --- tick ----------------------------------------------------------------------------------------------------------


def test_with_nothing_ahead_a_tick_says_so(lab: Lab) -> None:
    lab.put()
    tick = lab.store.tick()
    assert (tick.released, tick.failed, tick.next_s) == ((), 0, None)


def test_a_tick_says_when_the_next_task_is_due(lab: Lab) -> None:
    later = lab.put(options={"delay_s": 500})
    lab.put(options={"delay_s": 100})
    tick = lab.store.tick()
    assert tick.released == ()
    assert tick.next_s is not None
    assert 95 < tick.next_s <= 100.1
    assert lab.stored(later)["status"] == "delayed"


def test_a_tick_says_when_the_next_lease_ends(lab: Lab) -> None:
    lab.put(options={"delay_s": 500})
    lab.claimed()
    next_s = lab.store.tick().next_s
    assert next_s is not None
    assert 25 < next_s <= 30


def test_a_tick_releases_what_is_due_and_nothing_else(lab: Lab) -> None:
    due, later = lab.put("a", options={"delay_s": 50}), lab.put("b", options={"delay_s": 500})
    lab.pass_time(60)
    tick = lab.store.tick()
    assert (tick.released, tick.failed) == (((due, "a"),), 0)
    stored = lab.stored(due)
    assert (stored["status"], stored["ready_in"], stored["attempt"]) == ("ready", "a", 0)
    assert lab.stored(later)["status"] == "delayed"
    next_s = lab.store.tick().next_s
    assert next_s is not None
    assert 430 < next_s <= 440.1
    assert [claim.id for claim in lab.claim(queue="a")] == [due]


def test_a_tick_takes_ended_leases_back(lab: Lab) -> None:
    claim = lab.claimed()
    settled_by = lab.stored(claim.id).get("settled_by")
    lab.pass_time(31)
    tick = lab.store.tick()
    assert (tick.released, tick.failed) == (((claim.id, "q"),), 0)
    stored = lab.stored(claim.id)
    assert (stored["status"], stored["attempt"], stored["ready_in"]) == ("ready", 1, "q")
    assert not stored.keys() & set(CLAIM_FIELDS)
    assert stored.get("settled_by") == settled_by
    (error,) = stored["errors"]
    assert (error["type"], error["attempt"], error["worker"]) == ("LeaseExpired", 1, "w")


def test_a_lease_that_ends_on_the_last_attempt_fails_the_task(lab: Lab) -> None:
    claim = lab.claimed(max_attempts=1, reply_to="m1")
    lab.pass_time(31)
    tick = lab.store.tick()
    assert (tick.released, tick.failed) == ((), 1)
    stored = lab.stored(claim.id)
    assert (stored["status"], stored["attempt"], stored["settled_for"]) == ("failed", 1, ["m1"])
    assert stored["errors"][-1]["type"] == "LeaseExpired"
    assert stored["remove_at"] > stored["finished_at"]
    assert not stored.keys() & {*CLAIM_FIELDS, "ready_in"}


def test_a_lease_that_was_extended_is_not_taken_back(lab: Lab) -> None:
    claim = lab.claimed()
    lab.pass_time(20)
    lab.store.extend([claim])
    lab.pass_time(20)
    assert lab.store.tick().released == ()
    assert lab.stored(claim.id)["status"] == "running"


def test_a_tick_does_all_of_its_work_at_once(lab: Lab) -> None:
    again, due = lab.claimed("a"), lab.put("c", options={"delay_s": 5})
    lab.claimed("b", max_attempts=1)
    lab.pass_time(31)
    tick = lab.store.tick()
    assert sorted(tick.released) == sorted([(again.id, "a"), (due, "c")])
    assert (tick.failed, tick.next_s) == (1, 0.0)
    assert lab.store.tick().next_s is None


# --- members -------------------------------------------------------------------------------------------------------


def test_members_are_ranked_alike_by_all_and_know_the_shortest_lease(lab: Lab) -> None:
    b, a = lab.member("b", lease_s=20.0), lab.member("a", lease_s=30.0)
    assert (lab.store.beat(b).rank, lab.store.beat(b).lease_s) == (0, 20.0)
    assert (lab.store.beat(a).rank, lab.store.beat(a).lease_s) == (0, 20.0)
    assert lab.store.beat(b).rank == 1
    lab.store.leave(a)
    assert lab.store.beat(b).rank == 0


def test_who_only_waits_for_results_stands_behind_every_worker(lab: Lab) -> None:
    worker, waiter = lab.member("z"), lab.member("a", queues=())
    lab.store.beat(waiter)
    assert lab.store.beat(worker).rank == 0
    assert lab.store.beat(waiter).rank == 1


def test_the_lease_of_who_has_no_queues_counts_because_it_may_claim_too(lab: Lab) -> None:
    worker, other = lab.member("z"), lab.member("a", queues=(), lease_s=5.0)
    lab.store.beat(other)
    assert lab.store.beat(worker).lease_s == 5.0


def test_members_are_in_no_listing_and_no_count(lab: Lab) -> None:
    lab.store.beat(lab.member())
    assert lab.store.find(Search(), limit=10) == []
    assert lab.store.counts() == {}


def test_leaving_twice_or_never_having_come_is_fine(lab: Lab) -> None:
    member = lab.member()
    lab.store.leave(member)
    lab.store.beat(member)
    lab.store.leave(member)
    lab.store.leave(member)
    assert lab.store.beat(lab.member("other")).rank == 0


# --- feed ----------------------------------------------------------------------------------------------------------


def test_a_put_wakes_its_queue_and_names_the_task(lab: Lab) -> None:
    ear = lab.hear("q")
    often, once = lab.put(task="t"), lab.put(task=None, max_attempts=1)
    first, second = ear.next(), ear.next()
    assert (first.kind, first.id, first.queue, first.task, first.is_new, first.durable) == (
        "ready",
        often,
        "q",
        "t",
        True,
        False,
    )
    assert (second.id, second.task, second.durable) == (once, None, True)
    assert ear.rest() == []


def test_other_queues_delays_members_and_ends_are_not_heard_unasked(lab: Lab) -> None:
    ear = lab.hear("q")
    lab.put("other", reply_to="m1")
    lab.put("q", options={"delay_s": 60})
    lab.store.beat(lab.member())
    (claim,) = lab.claim(queue="other")
    lab.settle(claim, "succeed")
    assert ear.rest() == []


def test_a_claim_and_an_extension_are_not_heard(lab: Lab) -> None:
    ear = lab.hear("q", timers=True, reply_to="m1")
    claim = lab.claimed(reply_to="m1")
    lab.store.extend([claim])
    assert [wake.kind for wake in ear.rest() if wake.kind != "member"] == ["ready"]


@pytest.mark.parametrize("move", ["retry", "release"])
def test_a_task_that_comes_back_wakes_its_queue(lab: Lab, move: SettleMove) -> None:
    claim = lab.claimed()
    ear = lab.hear("q")
    lab.settle(claim, move)
    wake = ear.next()
    assert (wake.kind, wake.id, wake.queue, wake.is_new) == ("ready", claim.id, "q", False)


def test_a_task_that_comes_back_twice_wakes_twice(lab: Lab) -> None:
    claim = lab.claimed()
    ear = lab.hear("q")
    for _ in range(2):
        lab.settle(claim, "release")
        (claim,) = lab.claim()
    assert [wake.id for wake in ear.rest() if wake.kind == "ready"] == [claim.id] * 2


def test_an_abandoned_claim_wakes_its_queue(lab: Lab) -> None:
    claim = lab.claimed()
    ear = lab.hear("q")
    lab.store.abandon(ClaimUnknown("q", claim.claim_id, (claim.id,), 0.0, "test"))
    assert ear.next().id == claim.id


def test_a_tick_wakes_the_queues_of_what_it_released(lab: Lab) -> None:
    due, claim = lab.put("q", options={"delay_s": 5}), lab.claimed("q")
    lab.claimed("q", max_attempts=1)
    lab.put("other", options={"delay_s": 5})
    ear = lab.hear("q")
    lab.pass_time(31)
    lab.store.tick()
    assert {(wake.kind, wake.id, wake.queue, wake.is_new) for wake in ear.rest()} == {
        ("ready", due, "q", False),
        ("ready", claim.id, "q", False),
    }


def test_a_scheduler_hears_of_delays_in_every_queue_and_how_long_they_are(lab: Lab) -> None:
    ear = lab.hear(timers=True)
    put = lab.put("a", options={"delay_s": 60})
    retried, snoozed = lab.claimed("b"), lab.claimed("c")
    lab.settle(retried, "retry_later", error=BOOM, delay_s=70.0)
    lab.settle(snoozed, "snooze", delay_s=80.0)
    wakes = [ear.next() for _ in range(3)]
    assert [(wake.kind, wake.id) for wake in wakes] == [
        ("delayed", put),
        ("delayed", retried.id),
        ("delayed", snoozed.id),
    ]
    for wake, delay_s in zip(wakes, (60, 70, 80), strict=True):
        assert delay_s - 1 < wake.due_in_s <= delay_s + 1


def test_a_scheduler_hears_that_a_member_begins_to_use_another_lease(lab: Lab) -> None:
    lab.store.beat(lab.member("m", lease_s=30.0))
    ear = lab.hear("q", timers=True)
    lab.store.beat(lab.member("m", lease_s=30.0))
    lab.store.beat(lab.member("m", lease_s=5.0))
    lab.store.beat(lab.member("m", lease_s=5.0))
    assert [wake.lease_s for wake in ear.rest() if wake.kind == "member" and wake.lease_s == 5.0] == [5.0]


def test_a_scheduler_hears_of_new_members_and_their_lease(lab: Lab) -> None:
    ear = lab.hear(timers=True)
    lab.store.beat(lab.member("new", lease_s=7.0))
    lab.store.beat(lab.member("new", lease_s=7.0))
    heard = [wake for wake in ear.rest() if wake.kind == "member" and wake.lease_s == 7.0]
    assert len(heard) == 1


@pytest.mark.parametrize(("move", "more"), [("succeed", {}), ("fail", {"error": BOOM, "keep_s": 60.0})])
def test_the_end_of_a_task_is_told_to_who_waits_and_nobody_else(
    lab: Lab, move: SettleMove, more: dict[str, Any]
) -> None:
    mine, theirs = lab.claimed(reply_to="m1"), lab.claimed(reply_to="m2")
    ear = lab.hear(reply_to="m1")
    lab.settle(theirs, move, **more)
    lab.settle(mine, move, **more)
    assert [(wake.kind, wake.id) for wake in ear.rest()] == [("settled", mine.id)]


def test_the_end_of_a_last_lease_is_told_to_who_waits(lab: Lab) -> None:
    claim = lab.claimed(max_attempts=1, reply_to="m1")
    ear = lab.hear(reply_to="m1")
    lab.pass_time(31)
    lab.store.tick()
    wake = ear.next()
    assert (wake.kind, wake.id) == ("settled", claim.id)


def test_a_retry_is_no_end(lab: Lab) -> None:
    claim = lab.claimed(reply_to="m1")
    ear = lab.hear(reply_to="m1")
    lab.settle(claim, "retry", error=BOOM)
    assert ear.rest() == []


def test_a_bell_is_heard_by_its_own_stream_only(lab: Lab) -> None:
    one, other = lab.hear("q"), lab.hear("q")
    lab.store.ring(one.member, one.interest.bell)
    assert one.next().kind == "bell"
    assert other.rest() == []


def test_a_bell_is_heard_after_its_member_has_left(lab: Lab) -> None:
    ear = lab.hear("q")
    lab.store.leave(ear.member)
    lab.store.ring(ear.member, ear.interest.bell)
    assert ear.next().kind == "bell"


def test_a_closed_feed_leaves_the_others_open(lab: Lab) -> None:
    closed, ear = lab.hear("q"), lab.hear("q")
    closed.feed.close()
    id = lab.put()
    assert ear.next().id == id


# --- reading -------------------------------------------------------------------------------------------------------


def test_still_ready_are_those_that_nobody_has_claimed(lab: Lab) -> None:
    taken = lab.claimed().id
    left, later = lab.put(), lab.put(options={"delay_s": 60})
    assert lab.store.still_ready([taken, left, ObjectId(), later]) == [left]
    assert lab.store.still_ready([]) == []


def test_queues_behind_are_those_with_ready_tasks(lab: Lab) -> None:
    lab.put("a")
    lab.put("a")
    lab.put("b", options={"delay_s": 60})
    lab.claimed("c")
    lab.put("d")
    assert sorted(lab.store.queues_behind(["a", "b", "c", "never"])) == ["a"]
    assert lab.store.queues_behind([]) == []


def test_a_task_that_is_not_stored_is_none(lab: Lab) -> None:
    assert lab.store.get(ObjectId()) is None
    assert lab.store.wait_for(ObjectId(), "m1") is None


def test_waiting_for_a_task_leaves_the_address_once(lab: Lab) -> None:
    claim = lab.claimed(reply_to="m1")
    for member_id in ("m2", "m1", "m2"):
        document = lab.store.wait_for(claim.id, member_id)
        assert document is not None
        assert member_id in document["reply_to"]
    assert lab.stored(claim.id)["reply_to"] == ["m1", "m2"]
    ear = lab.hear(reply_to="m2")
    lab.settle(claim, "succeed")
    assert ear.next().id == claim.id


def test_waiting_for_a_task_that_has_ended_reads_it_and_changes_nothing(lab: Lab) -> None:
    claim = lab.claimed()
    lab.settle(claim, "succeed", result=5)
    before = lab.stored(claim.id)
    document = lab.store.wait_for(claim.id, "m1")
    assert document is not None
    assert (document["status"], document["result"]) == ("succeeded", 5)
    assert lab.stored(claim.id) == before


def test_tasks_are_counted_by_queue_and_status(lab: Lab) -> None:
    lab.put("a")
    lab.put("a")
    lab.put("b", options={"delay_s": 60})
    lab.claimed("c")
    assert lab.store.counts() == {"a": {"ready": 2}, "b": {"delayed": 1}, "c": {"running": 1}}


def test_the_servers_time_is_aware_and_never_goes_back(lab: Lab) -> None:
    first, second = lab.store.now(), lab.store.now()
    assert first.utcoffset() == timedelta(0)
    assert first <= second


def test_preparing_again_changes_nothing(lab: Lab) -> None:
    id = lab.put()
    lab.store.prepare()
    assert lab.stored(id)["status"] == "ready"


def test_what_is_read_can_be_changed_without_changing_what_is_stored(lab: Lab) -> None:
    payload = {"list": [1]}
    id = lab.put(payload=payload)
    payload["list"].append(2)
    lab.stored(id)["payload"]["list"].append(3)
    lab.store.find(Search(), limit=1)[0]["payload"]["list"].append(4)
    (claim,) = lab.claim()
    claim.payload["list"].append(5)
    assert lab.stored(id)["payload"] == {"list": [1]}


def test_ready_tasks_that_no_member_knows_the_handler_of_are_counted(lab: Lab) -> None:
    for queue, task in (("q", "known"), ("q", "new"), ("q", "new"), ("p", "known"), ("any", "x"), ("any", None)):
        lab.put(queue, task=task)
    lab.claim(1, queue="p")
    served = ({"queue": "q", "only": ["known"]}, {"queue": "any"})
    lab.store.beat(msgspec.structs.replace(lab.member(queues=("q", "any")), serves=served))
    assert lab.store.unclaimed() == [Unclaimed("q", "new", 2)]
