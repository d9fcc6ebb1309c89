"""What a put can say of its task beside the payload: tag, retention."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from streamq.core.moves.requeue import Requeue
from streamq.core.options import PutOptions
from streamq.core.outcome import Raised
from streamq.core.settlement import SettleMove
from streamq.store import claiming, ticking

if TYPE_CHECKING:
    from streamq.core.claim import Ask
    from tests.conformance.conftest import Lab, MongoLab

BOOM = Raised(type="Boom", message="it broke")
DAY_S = 86_400.0


def kept_s(stored: dict[str, Any]) -> float:
    kept: timedelta = stored["remove_at"] - stored["finished_at"]
    return kept.total_seconds()


# --- tag -----------------------------------------------------------------------------------------------------------


def test_a_tag_is_stored_as_it_is_and_told_to_the_holder(lab: Lab) -> None:
    claim = lab.claimed(options={"tag": "$tag ä"})
    assert lab.stored(claim.id)["tag"] == claim.tag == "$tag ä"


# --- expiry --------------------------------------------------------------------------------------------------------


def test_a_task_that_nobody_starts_in_time_expires_at_the_instant(lab: Lab) -> None:
    id = lab.put(expires_in_s=60, reply_to="m1", keep_failed_s=90)
    tick = lab.store.tick()
    assert tick.expired == 0
    assert tick.next_s == pytest.approx(60, abs=5)
    lab.pass_time(61)
    assert lab.store.tick().expired == 1
    stored = lab.stored(id)
    assert (stored["status"], stored["settled_for"], stored["attempt"]) == ("expired", ["m1"], 0)
    assert kept_s(stored) == 90
    assert lab.store.tick().next_s is None


@pytest.mark.parametrize("before", [timedelta(days=9), timedelta(seconds=1)])
def test_an_expiry_that_has_passed_already_is_stored_and_ends_the_task_at_once(lab: Lab, before: timedelta) -> None:
    id = lab.put(options={"expires_at": lab.store.now() - before})
    assert lab.claim() == []
    assert lab.store.tick().expired == 1
    assert lab.stored(id)["status"] == "expired"


def test_a_delayed_task_expires_too_and_is_not_released_by_the_same_look(lab: Lab) -> None:
    id = lab.put(expires_in_s=60, options={"delay_s": 50})
    lab.pass_time(61)
    tick = lab.store.tick()
    assert (tick.expired, tick.released) == (1, ())
    assert lab.stored(id)["status"] == "expired"


@pytest.mark.parametrize("how", ["head", "one id", "ids"])
def test_a_claim_does_not_take_what_the_timer_has_yet_to_expire(lab: Lab, how: str) -> None:
    id, other = lab.put(expires_in_s=60), lab.put(expires_in_s=600)
    lab.pass_time(61)
    ids = {"head": None, "one id": (id,), "ids": (id, other)}[how]
    assert [claim.id for claim in lab.claim(ids=ids)] == ([] if how == "one id" else [other])
    assert (lab.stored(id)["status"], lab.stored(id)["attempt"]) == ("ready", 0)


def test_a_head_of_the_queue_that_has_expired_hides_nothing(lab: Lab) -> None:
    """Else the claims would find the same again and again, as long as the timer is behind."""
    for _ in range(4):
        lab.put(expires_in_s=60, priority=1)
    lab.pass_time(61)
    assert not lab.store.claim(lab.ask(3)).more
    ids = [lab.put() for _ in range(2)]
    assert [claim.id for claim in lab.claim(1)] == ids[:1]
    assert [claim.id for claim in lab.claim(9)] == ids[1:]


def test_what_expires_between_being_found_and_being_taken_is_not_taken(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, other = mongo.put(expires_in_s=60), mongo.put()
    real = claiming._startable

    def time_passes(found: list[dict[str, Any]], ask: Ask) -> list[dict[str, Any]]:
        mongo.pass_time(61)
        return real(found, ask)

    monkeypatch.setattr(claiming, "_startable", time_passes)
    assert [claim.id for claim in mongo.claim()] == [other]
    assert mongo.stored(late)["attempt"] == 0


@pytest.mark.parametrize("ends", [{"expires_in_s": 60}, {"total_timeout_s": 60}])
def test_a_claim_of_what_was_told_to_have_no_end_leaves_what_has_one(lab: Lab, ends: dict[str, Any]) -> None:
    """Told by a wake; a put with its unique key may have replaced it since."""
    ended, endless = lab.put(**ends), lab.put()
    assert lab.claim(ids=(ended,), plain=True) == []
    assert [claim.id for claim in lab.claim(ids=(endless,), plain=True)] == [endless]
    assert [claim.id for claim in lab.claim(ids=(ended,))] == [ended]


def test_a_claim_of_what_was_told_to_be_new_leaves_what_was_attempted_or_may_have_been_replaced(lab: Lab) -> None:
    """Who tells of it has not seen how it stands now."""
    keyed, tried, new = lab.put(options=PutOptions(unique="k")), lab.put(), lab.put()
    (claim,) = lab.claim(ids=(tried,))
    lab.settle(claim, "retry", error=BOOM)
    assert lab.claim(ids=(keyed,), plain=True) == lab.claim(ids=(tried,), plain=True) == []
    assert [claim.id for claim in lab.claim(1, ids=(keyed, tried, new), plain=True)] == [new]
    assert {claim.id for claim in lab.claim()} == {keyed, tried}


def test_a_claim_of_what_was_told_to_be_new_is_of_its_own_queue(lab: Lab) -> None:
    id = lab.put("other")
    assert lab.claim(ids=(id,), plain=True) == []


@pytest.mark.parametrize("move", ["retry", "retry_later", "take_back"])
def test_a_task_that_was_started_in_time_does_not_expire(lab: Lab, move: Any) -> None:
    claim = lab.claimed(expires_in_s=60)
    if move != "take_back":
        lab.settle(claim, move, error=BOOM, **({"delay_s": 5.0} if move == "retry_later" else {}))
    lab.put(expires_in_s=60)  # for its sake the scheduler looks
    lab.pass_time(61)
    assert lab.store.tick().expired == 1
    (again,) = lab.claim()
    assert again.attempt == 2


@pytest.mark.parametrize("move", ["release", "snooze"])
def test_a_task_whose_attempt_was_given_back_has_not_been_started(lab: Lab, move: SettleMove) -> None:
    claim = lab.claimed(expires_in_s=60)
    lab.settle(claim, move, **({"delay_s": 5.0} if move == "snooze" else {}))
    lab.pass_time(61)
    assert lab.store.tick().expired == 1
    assert lab.stored(claim.id)["status"] == "expired"


def test_a_running_task_does_not_expire(lab: Lab) -> None:
    claim = lab.claimed(expires_in_s=10)
    lab.pass_time(11)
    assert lab.store.tick().expired == 0
    assert lab.settle(claim, "succeed") == "settled"


def test_an_expired_task_lets_go_of_what_told_that_it_was_ready(lab: Lab) -> None:
    claim = lab.claimed(expires_in_s=60)
    lab.settle(claim, "release")
    assert "ready_in" in lab.stored(claim.id)
    lab.pass_time(61)
    lab.store.tick()
    assert "ready_in" not in lab.stored(claim.id)


def test_a_task_that_expired_runs_when_a_person_requeues_it(lab: Lab) -> None:
    id = lab.put(expires_in_s=60)
    lab.pass_time(61)
    lab.store.tick()
    lab.store.requeue([id], Requeue(ObjectId()))
    assert lab.store.tick().expired == 0
    assert [claim.id for claim in lab.claim()] == [id]


@pytest.mark.parametrize("value", ["soon", 5, None, [datetime(2020, 1, 1, tzinfo=UTC)]])
def test_an_expiry_that_is_no_date_is_none(mongo: MongoLab, value: Any) -> None:
    id = mongo.put()
    mongo.edit(id, {"$set": {"expires_at": value, "lifetime_until": value}})
    tick = mongo.store.tick()
    assert (tick.expired, tick.removed, tick.next_s) == (0, 0, None)
    assert [claim.id for claim in mongo.claim()] == [id]


@pytest.mark.parametrize("more", [{}, {"options": {"delay_s": 5}}], ids=["ready", "delayed"])
@pytest.mark.parametrize("end", [{"expires_in_s": 60}, {"options": {"lifetime_s": 60}}], ids=["expiry", "lifetime"])
def test_a_scheduler_hears_of_a_new_tasks_end_whatever_its_queue(
    lab: Lab, end: dict[str, Any], more: dict[str, Any]
) -> None:
    ear = lab.hear(timers=True)
    options = end.get("options", {}) | more.get("options", {})
    id = lab.put("elsewhere", **(end | {"options": options}))
    wake = ear.next()
    assert wake.id == id
    assert wake.look_in_s == pytest.approx(60, abs=5)


def test_a_put_that_replaces_a_task_sets_its_ends_anew_and_the_scheduler_hears_of_them(lab: Lab) -> None:
    id = lab.put(expires_in_s=6_000, options={"unique": "k"})
    ear = lab.hear(timers=True)
    options: PutOptions = {"unique": "k", "on_conflict": "replace", "lifetime_s": 90}
    lab.store.put([lab.new(options=options, expires_in_s=60)])
    wake = ear.next()
    assert wake.id == id
    assert wake.look_in_s == pytest.approx(60, abs=5)
    lab.pass_time(61)
    assert lab.store.tick().expired == 1


def test_who_schedules_nothing_hears_nothing_of_ends_in_other_queues(lab: Lab) -> None:
    ear = lab.hear("q")
    lab.put("elsewhere", expires_in_s=60)
    lab.put("q")
    assert ear.next().queue == "q"


# --- total time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["head", "one id"])
def test_the_total_time_begins_with_the_first_claim_and_stays(lab: Lab, how: str) -> None:
    id = lab.put(total_timeout_s=600)
    assert "total_until" not in lab.stored(id)
    lab.pass_time(5_000)
    ids = (id,) if how == "one id" else None
    (first,) = lab.claim(ids=ids)
    assert first.total_s == 600
    until = lab.stored(id)["total_until"]
    assert until - lab.stored(id)["started_at"] == timedelta(seconds=600)
    lab.settle(first, "retry", error=BOOM)
    assert lab.stored(id)["total_until"] == until
    lab.pass_time(200)
    (second,) = lab.claim(ids=ids)
    assert second.total_s == pytest.approx(400, abs=10)


def test_a_batch_tells_of_each_task_what_is_left(lab: Lab) -> None:
    for total_s in (None, 600, 90):
        lab.put(total_timeout_s=total_s)
    assert [claim.total_s for claim in lab.claim()] == [None, 600, 90]


@pytest.mark.parametrize("how", ["head", "one id"])
def test_no_lease_reaches_past_the_total_time(lab: Lab, how: str) -> None:
    id = lab.put(total_timeout_s=60)
    (claim,) = lab.claim(ids=(id,) if how == "one id" else None, lease_s=600)
    stored = lab.stored(id)
    assert stored["lease_until"] == stored["total_until"]
    assert lab.store.extend([claim]) == []
    stored = lab.stored(id)
    assert stored["lease_until"] == stored["total_until"]
    assert lab.store.tick().next_s == pytest.approx(60, abs=5)


def test_a_shorter_lease_is_not_drawn_out(lab: Lab) -> None:
    id = lab.put(total_timeout_s=600)
    (claim,) = lab.claim(lease_s=30)
    assert lab.stored(id)["lease_until"] - lab.stored(id)["started_at"] == timedelta(seconds=30)
    lab.store.extend([claim])
    assert lab.stored(id)["lease_until"] < lab.stored(id)["total_until"]


def test_a_dead_holders_task_fails_when_its_total_time_is_over(lab: Lab) -> None:
    claim = lab.claimed(total_timeout_s=60, keep_failed_s=90)
    lab.store.extend([claim])
    lab.pass_time(61)
    assert lab.store.tick().failed == 1
    stored = lab.stored(claim.id)
    assert (stored["status"], stored["errors"][-1]["type"], kept_s(stored)) == ("failed", "TaskTimeout", 90)
    assert "total_until" not in stored  # who requeues it gives it the time anew
    assert lab.settle(claim, "succeed") == "lost"


def test_a_dead_holders_task_goes_back_while_time_is_left(lab: Lab) -> None:
    id = lab.put(total_timeout_s=600)
    lab.claim(lease_s=30)
    lab.pass_time(31)
    assert [released for released, _ in lab.store.tick().released] == [id]
    assert lab.stored(id)["errors"][-1]["type"] == "LeaseExpired"


def test_the_last_attempt_fails_for_its_own_reason_while_time_is_left(lab: Lab) -> None:
    id = lab.put(total_timeout_s=600, max_attempts=1)
    lab.claim(ids=(id,), lease_s=30, durable=True)
    lab.pass_time(31)
    lab.store.tick()
    assert lab.stored(id)["errors"][-1]["type"] == "LeaseExpired"


def test_a_task_that_waited_past_its_total_time_is_claimed_without_any_left(lab: Lab) -> None:
    claim = lab.claimed(total_timeout_s=60)
    lab.settle(claim, "release")
    lab.pass_time(61)
    (again,) = lab.claim()
    assert again.total_s is not None
    assert again.total_s < 0
    assert lab.store.tick().failed == 1


@pytest.mark.parametrize("value", ["60", -1, 0 - 5.5, float("nan"), float("inf"), None, [60]])
def test_a_total_time_that_is_no_span_is_none(mongo: MongoLab, value: Any) -> None:
    id = mongo.put()
    mongo.edit(id, {"$set": {"total_timeout_s": value}})
    (claim,) = mongo.claim()
    assert claim.total_s is None
    assert mongo.store.extend([claim]) == []
    stored = mongo.stored(id)
    assert "total_until" not in stored
    assert isinstance(stored["lease_until"], datetime)


def test_the_end_of_a_total_time_that_is_no_date_is_none(mongo: MongoLab) -> None:
    """A lease that ends at 5 would never be taken back."""
    id = mongo.put()
    (claim,) = mongo.claim()
    mongo.edit(id, {"$set": {"total_until": 5}})
    assert mongo.store.extend([claim]) == []
    assert isinstance(mongo.stored(id)["lease_until"], datetime)


# --- lifetime ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["ready", "delayed", "running", "succeeded", "failed"])
def test_a_task_is_removed_at_the_end_of_its_lifetime_whatever_its_status(lab: Lab, status: str) -> None:
    id = lab.put(options={"lifetime_s": 60} | ({"delay_s": 30} if status == "delayed" else {}))
    if status in ("running", "succeeded", "failed"):
        (claim,) = lab.claim(lease_s=600)
        if status != "running":
            lab.settle(claim, "succeed" if status == "succeeded" else "fail", error=BOOM)
    assert lab.stored(id)["status"] == status
    assert lab.store.tick().next_s == pytest.approx(30 if status == "delayed" else 60, abs=5)
    lab.pass_time(61)
    assert lab.store.tick().removed == 1
    assert lab.store.get(id) is None
    assert lab.store.tick().next_s is None


def test_the_holder_of_a_removed_task_has_lost_it(lab: Lab) -> None:
    claim = lab.claimed(options={"lifetime_s": 10})
    lab.pass_time(11)
    lab.store.tick()
    assert lab.store.extend([claim]) == [claim.id]
    assert lab.settle(claim, "succeed") == "lost"


def test_many_ends_are_seen_to_one_look_after_the_other(mongo: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticking, "MOST_A_TICK", 2)
    for _ in range(3):
        mongo.put(expires_in_s=60)
        mongo.put(options={"lifetime_s": 60})
    mongo.pass_time(61)
    ticks = [mongo.store.tick() for _ in range(3)]
    assert [(tick.expired, tick.removed, tick.next_s) for tick in ticks[:2]] == [(2, 2, 0.0), (1, 1, 0.0)]
    assert (ticks[2].expired, ticks[2].removed) == (0, 0)


# --- retention -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "expected"), [(None, 7 * DAY_S), (0.0, 0.0), (90.5, 90.5)])
def test_a_failed_task_is_kept_as_its_put_said(lab: Lab, given: float | None, expected: float) -> None:
    claim = lab.claimed(keep_failed_s=given)
    lab.settle(claim, "fail", error=BOOM)
    assert kept_s(lab.stored(claim.id)) == expected


@pytest.mark.parametrize(("given", "expected"), [(None, 7 * DAY_S), (90.5, 90.5)])
def test_a_task_that_no_holder_ended_is_kept_as_its_put_said(lab: Lab, given: float | None, expected: float) -> None:
    claim = lab.claimed(keep_failed_s=given, max_attempts=1)
    lab.pass_time(31)
    assert lab.store.tick().failed == 1
    assert kept_s(lab.stored(claim.id)) == expected


@pytest.mark.parametrize("move", ["succeed"])
def test_the_retention_of_failures_does_not_touch_successes(lab: Lab, move: SettleMove) -> None:
    claim = lab.claimed(keep_failed_s=90)
    lab.settle(claim, move, keep_s=5.0)
    assert kept_s(lab.stored(claim.id)) == 5.0


@pytest.mark.parametrize("value", ["7", -1, float("nan"), float("inf"), None, {"$gt": 0}, [5.0]])
def test_a_retention_that_is_no_number_is_the_default(mongo: MongoLab, value: Any) -> None:
    claim = mongo.claimed()
    mongo.edit(claim.id, {"$set": {"keep_failed_s": value}})
    assert mongo.settle(claim, "fail", error=BOOM) == "settled"
    assert kept_s(mongo.stored(claim.id)) == 7 * DAY_S
