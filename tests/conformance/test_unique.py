"""Unique keys: one task of a queue a key, in both stores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from streamq.core.new_task import NewTask, PutReply

if TYPE_CHECKING:
    from tests.conformance.conftest import Lab


def keyed(lab: Lab, key: Any = "k", queue: str = "q", *, on_conflict: Any = None, **more: Any) -> NewTask:
    options = {"unique": key} | more.pop("options", {})
    if on_conflict is not None:
        options["on_conflict"] = on_conflict
    return lab.new(queue, options=options, **more)


def put(lab: Lab, new: NewTask) -> PutReply:
    (reply,) = lab.store.put([new])
    return reply


def end_of(lab: Lab, id: ObjectId, end: str) -> None:
    (claim,) = lab.claim(ids=(id,), durable=True)
    if end == "take_back_last":
        lab.pass_time(claim.lease_s + 1)
        assert lab.store.tick().failed == 1
    else:
        assert (
            lab.settle(claim, *(("succeed",) if end != "fail" else ("fail",)), keep_s=float(end == "succeed"))
            == "settled"
        )


# --- one task a key ------------------------------------------------------------------------------------------------


def test_a_second_put_with_a_key_stores_nothing_and_names_the_first(lab: Lab) -> None:
    first = put(lab, keyed(lab, payload=1))
    second = put(lab, keyed(lab, payload=2))
    assert (first.outcome, second) == ("created", PutReply(first.id, "existing"))
    assert lab.store.counts() == {"q": {"ready": 1}}
    assert lab.stored(first.id)["payload"] == 1


def test_a_put_keeps_its_key_readable_and_locked(lab: Lab) -> None:
    stored = lab.stored(put(lab, keyed(lab, ("a", 1, b"x"))).id)
    assert stored["unique_key"] == ["a", 1, b"x"]
    assert stored["unique_lock"] == b"u1:(s1:ai1;b1:x)"
    assert stored["revision"] == 0


def test_a_task_without_a_key_gets_no_field_for_it(lab: Lab) -> None:
    assert not {"unique_key", "unique_lock", "revision"} & lab.stored(lab.put()).keys()


@pytest.mark.parametrize("other", [("k2", "q"), ("k", "q2"), (("k",), "q"), (b"k", "q")])
def test_another_key_or_queue_is_no_conflict(lab: Lab, other: tuple[Any, str]) -> None:
    put(lab, keyed(lab))
    assert put(lab, keyed(lab, *other)).created


def test_a_put_that_raises_is_told_who_has_the_key(lab: Lab) -> None:
    first = put(lab, keyed(lab))
    assert put(lab, keyed(lab, on_conflict="raise")) == PutReply(first.id, "refused")


@pytest.mark.parametrize("end", ["succeed", "delete", "fail", "take_back_last"])
def test_a_key_is_free_again_once_its_task_has_ended(lab: Lab, end: str) -> None:
    first = put(lab, keyed(lab, max_attempts=1))
    end_of(lab, first.id, end)
    assert put(lab, keyed(lab)).created


@pytest.mark.parametrize("move", ["retry", "retry_later", "release", "snooze"])
def test_a_key_is_held_while_its_task_has_not_ended(lab: Lab, move: Any) -> None:
    first = put(lab, keyed(lab))
    (claim,) = lab.claim(ids=(first.id,), durable=True)
    assert put(lab, keyed(lab)).id == first.id
    lab.settle(claim, move, delay_s=5.0)
    assert put(lab, keyed(lab)) == PutReply(first.id, "existing")


def test_an_ended_task_keeps_its_readable_key(lab: Lab) -> None:
    first = put(lab, keyed(lab))
    end_of(lab, first.id, "succeed")
    stored = lab.stored(first.id)
    assert stored["unique_key"] == "k"
    assert "unique_lock" not in stored


def test_a_repeated_put_is_recognised_as_its_own_and_never_raises(lab: Lab) -> None:
    """Its reply was lost: what has the key is its own first copy."""
    for on_conflict in (None, "raise", "replace"):
        new = keyed(lab, ObjectId().binary, on_conflict=on_conflict)
        assert put(lab, new).created
        assert put(lab, new) == PutReply(new.id, "existing")
        assert lab.stored(new.id)["revision"] == 0


# --- many ----------------------------------------------------------------------------------------------------------


def test_duplicates_in_one_put_harm_no_other(lab: Lab) -> None:
    there = put(lab, keyed(lab, "a")).id
    new = [
        lab.new(payload=0),
        keyed(lab, "a"),
        keyed(lab, "b", payload=2),
        keyed(lab, "b", payload=3),
        keyed(lab, "b", payload=4, on_conflict="raise"),
        lab.new(payload=5),
        keyed(lab, "b", "other"),
        keyed(lab, "b", payload=7, on_conflict="replace"),
    ]
    replies = lab.store.put(new)
    b = new[2].id
    assert [reply.outcome for reply in replies] == [
        *("created", "existing", "created", "existing", "refused", "created", "created", "replaced")
    ]
    assert [reply.id for reply in replies] == [new[0].id, there, b, b, b, new[5].id, new[6].id, b]
    assert lab.stored(b)["payload"] == 7
    assert lab.store.counts() == {"other": {"ready": 1}, "q": {"ready": 4}}


# --- replace -------------------------------------------------------------------------------------------------------


def test_a_replaced_task_gets_the_new_puts_say_and_keeps_its_place(lab: Lab) -> None:
    first = put(lab, keyed(lab, payload={"a": 1}, reply_to="m1", keep_s=9.0, options={"headers": {"x": "1"}}))
    before = lab.stored(first.id)
    new = keyed(lab, on_conflict="replace", task="$t", payload={"$b": "$a"}, priority=7, max_attempts=2, reply_to="m2")
    assert put(lab, new) == PutReply(first.id, "replaced")
    after = lab.stored(first.id)
    changed = {"task": "$t", "payload": {"$b": "$a"}, "priority": 7, "max_attempts": 2}
    expected = before | changed | {"revision": 1, "reply_to": ["m1", "m2"]}
    del expected["keep_s"], expected["headers"]
    assert after == expected


@pytest.mark.parametrize(
    ("before", "now", "status"),
    [(None, None, "ready"), (None, 60, "delayed"), (60, None, "ready"), (60, 30, "delayed"), (60, 90, "delayed")],
)
def test_a_replaced_task_is_due_when_the_new_put_says(
    lab: Lab, before: float | None, now: float | None, status: str
) -> None:
    first = put(lab, keyed(lab, options={"delay_s": before})).id
    new = keyed(lab, on_conflict="replace", options={"delay_s": now})
    assert put(lab, new) == PutReply(first, "replaced")
    stored = lab.stored(first)
    assert stored["status"] == status
    assert ("due_at" in stored) == (now is not None)
    if now is not None:
        assert "ready_in" not in stored
        lab.pass_time(now - 5)
        assert lab.store.tick().released == ()
        lab.pass_time(10)
        assert lab.store.tick().released == ((first, "q"),)
    assert [claim.id for claim in lab.claim()] == [first]


def test_a_task_that_is_made_to_wait_again_wakes_again(lab: Lab) -> None:
    """The wake is a change of `ready_in`: what is left there of an earlier one would hide the next."""
    first = put(lab, keyed(lab, options={"delay_s": 60})).id
    for delay_s in (None, 60):
        put(lab, keyed(lab, on_conflict="replace", options={"delay_s": delay_s}))
    ear = lab.hear("q")
    put(lab, keyed(lab, on_conflict="replace"))
    wake = ear.next()
    assert (wake.kind, wake.id, wake.queue) == ("ready", first, "q")


@pytest.mark.parametrize(("before", "now"), [(60, 30), (None, 30)])
def test_the_scheduler_hears_of_a_replaced_tasks_time(lab: Lab, before: float | None, now: float) -> None:
    first = put(lab, keyed(lab, options={"delay_s": before})).id
    ear = lab.hear(timers=True)
    put(lab, keyed(lab, on_conflict="replace", options={"delay_s": now}))
    wake = ear.next()
    assert (wake.kind, wake.id) == ("delayed", first)
    assert now - 5 < wake.due_in_s < now + 5


def test_a_scheduler_hears_nothing_of_a_replaced_task_that_waits_for_no_time(lab: Lab) -> None:
    put(lab, keyed(lab))
    put(lab, keyed(lab, "later", options={"delay_s": 60}))
    ear = lab.hear(timers=True)
    put(lab, keyed(lab, on_conflict="replace"))
    put(lab, keyed(lab, "later", on_conflict="replace"))
    assert [wake for wake in ear.rest() if wake.kind != "member"] == []


@pytest.mark.parametrize("delay_s", [None, 60])
def test_a_replaced_task_goes_on_waiting_for_others(lab: Lab, delay_s: float | None) -> None:
    parent = put(lab, lab.new("parents"))
    first = put(lab, keyed(lab, payload=1, options={"after": [parent.id]})).id
    assert put(lab, keyed(lab, payload=2, on_conflict="replace", options={"delay_s": delay_s})).replaced
    stored = lab.stored(first)
    assert (stored["status"], stored["blocked_by"], stored["payload"]) == ("blocked", [parent.id], 2)
    assert ("due_at" in stored) == (delay_s is not None)


def test_a_running_task_is_not_replaced(lab: Lab) -> None:
    first = put(lab, keyed(lab, payload=1)).id
    lab.claim()
    before = lab.stored(first)
    assert put(lab, keyed(lab, payload=2, on_conflict="replace")) == PutReply(first, "existing")
    assert lab.stored(first) == before


def test_a_task_that_has_been_tried_is_not_replaced(lab: Lab) -> None:
    first = put(lab, keyed(lab, payload=1)).id
    lab.settle(lab.claim()[0], "retry_later", delay_s=60.0)
    assert put(lab, keyed(lab, payload=2, on_conflict="replace")) == PutReply(first, "existing")
    assert lab.stored(first)["payload"] == 1


def test_a_task_that_was_given_back_is_replaced(lab: Lab) -> None:
    first = put(lab, keyed(lab, payload=1)).id
    lab.settle(lab.claim()[0], "release")
    assert put(lab, keyed(lab, payload=2, on_conflict="replace")) == PutReply(first, "replaced")
    (claim,) = lab.claim()
    assert claim.payload == 2


def test_replacing_where_nothing_is_puts(lab: Lab) -> None:
    assert put(lab, keyed(lab, on_conflict="replace")).created


# --- keys that outlive their tasks ---------------------------------------------------------------------------------

FOREVER = math.inf


def held(lab: Lab, key: Any = "k", queue: str = "q", *, for_s: float = 60, **more: Any) -> NewTask:
    return keyed(lab, key, queue, options={"unique_for_s": for_s} | more.pop("options", {}), **more)


def test_a_task_whose_key_outlives_it_has_no_lock_of_its_own(lab: Lab) -> None:
    stored = lab.stored(put(lab, held(lab, ("a", 1))).id)
    assert (stored["unique_key"], stored["unique_for_s"]) == (["a", 1], 60.0)
    assert "unique_lock" not in stored


@pytest.mark.parametrize("for_s", [60, FOREVER])
@pytest.mark.parametrize("end", [None, "succeed", "delete", "fail"])
def test_a_key_that_outlives_its_task_is_held_whatever_becomes_of_it(lab: Lab, end: str | None, for_s: float) -> None:
    first = put(lab, held(lab, max_attempts=1, for_s=for_s))
    if end is not None:
        end_of(lab, first.id, end)
    assert put(lab, held(lab)) == PutReply(first.id, "existing")
    assert put(lab, held(lab, on_conflict="raise")) == PutReply(first.id, "refused")


def test_a_key_held_for_a_time_is_free_when_that_has_passed_and_its_task_still_waits(lab: Lab) -> None:
    first = put(lab, held(lab, for_s=60))
    lab.pass_time(55)
    assert put(lab, held(lab, for_s=5)).id == first.id
    lab.pass_time(6)
    second = put(lab, held(lab, for_s=60))
    assert second.created
    assert put(lab, held(lab)).id == second.id


def test_a_key_held_for_ever_is_never_free(lab: Lab) -> None:
    first = put(lab, held(lab, for_s=FOREVER))
    lab.pass_time(1e9)
    assert put(lab, held(lab)) == PutReply(first.id, "existing")


def test_a_key_taken_once_more_is_held_as_long_as_the_second_says(lab: Lab) -> None:
    put(lab, held(lab, for_s=5))
    lab.pass_time(6)
    second = put(lab, held(lab, for_s=FOREVER))
    lab.pass_time(1e6)
    assert put(lab, held(lab)).id == second.id


@pytest.mark.parametrize("other", [("k2", "q"), ("k", "q2"), (("k",), "q")])
def test_another_key_or_queue_is_no_conflict_with_one_that_outlives_its_task(lab: Lab, other: tuple[Any, str]) -> None:
    put(lab, held(lab))
    assert put(lab, held(lab, *other)).created


def test_a_task_whose_key_outlives_it_is_replaced_while_it_has_not_started(lab: Lab) -> None:
    first = put(lab, held(lab, payload=1)).id
    assert put(lab, held(lab, payload=2, on_conflict="replace")) == PutReply(first, "replaced")
    (claim,) = lab.claim()
    assert claim.payload == 2
    assert put(lab, held(lab, payload=3, on_conflict="replace")) == PutReply(first, "existing")


def test_a_repeated_put_of_a_key_that_outlives_its_task_is_recognised_as_its_own(lab: Lab) -> None:
    for on_conflict in (None, "raise", "replace"):
        new = held(lab, ObjectId().binary, on_conflict=on_conflict)
        assert put(lab, new).created
        assert put(lab, new) == PutReply(new.id, "existing")


def test_tasks_of_all_kinds_in_one_put_each_get_their_answer(lab: Lab) -> None:
    new = [
        *(lab.new(), held(lab, "a", payload=1), keyed(lab, "b"), held(lab, "a"), held(lab, "a", on_conflict="raise")),
        *(keyed(lab, "b"), held(lab, "a", payload=6, on_conflict="replace"), lab.new()),
    ]
    replies = lab.store.put(new)
    assert [reply.outcome for reply in replies] == [
        *("created", "created", "created", "existing", "refused", "existing", "replaced", "created")
    ]
    assert {reply.id for reply in replies} == {new[place].id for place in (0, 1, 2, 7)}
    assert lab.stored(new[1].id)["payload"] == 6


# --- freed early ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unique_for_s", [60.0, math.inf])
def test_a_key_that_outlives_its_task_can_be_freed(lab: Lab, unique_for_s: float) -> None:
    """Its task is left as it is, and other keys and queues too."""
    key = ("$a", 1, b"x")
    first = put(lab, keyed(lab, key, options={"unique_for_s": unique_for_s}))
    put(lab, keyed(lab, "other", options={"unique_for_s": unique_for_s}))
    before = lab.stored(first.id)
    assert not lab.store.free_key("q2", key)
    assert not lab.store.free_key("q", ("$a", 1))
    assert lab.store.free_key("q", key)
    assert not lab.store.free_key("q", key)
    assert lab.stored(first.id) == before
    assert put(lab, keyed(lab, key, options={"unique_for_s": unique_for_s})).created
    assert not put(lab, keyed(lab, "other", options={"unique_for_s": unique_for_s})).created


def test_a_key_whose_period_has_ended_is_not_there_to_be_freed(lab: Lab) -> None:
    put(lab, keyed(lab, options={"unique_for_s": 60.0}))
    lab.pass_time(61)
    assert not lab.store.free_key("q", "k")


def test_a_key_that_ends_with_its_task_is_not_freed(lab: Lab) -> None:
    put(lab, keyed(lab))
    assert not lab.store.free_key("q", "k")
    assert not put(lab, keyed(lab)).created
