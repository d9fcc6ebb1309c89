"""Cancelling, on both stores: what nobody holds ends at once, a holder is asked, and no road leads back past that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from streamq.core.moves import cancel as cancel_move
from streamq.core.outcome import Raised
from streamq.core.settlement import SettleMove
from streamq.core.wake import Wake
from streamq.core.wakes import Interest
from streamq.errors import ClaimUnknown, StoreError
from streamq.store import cancelling

if TYPE_CHECKING:
    from tests.conformance.conftest import Lab, MongoLab

BOOM = Raised(type="Boom", message="it broke")
BACK: list[tuple[SettleMove, dict[str, Any]]] = [
    ("retry", {"error": BOOM}),
    ("retry_later", {"error": BOOM, "delay_s": 5.0}),
    ("release", {}),
    ("snooze", {"delay_s": 5.0}),
]


def cancel(lab: Lab, id: ObjectId) -> str:
    (reply,) = lab.store.cancel([id])
    return reply


@pytest.mark.parametrize("options", [{}, {"delay_s": 60.0}])
def test_a_task_that_has_not_begun_is_cancelled_at_once_and_never_claimed(lab: Lab, options: Any) -> None:
    id = lab.put(options=options)
    assert cancel(lab, id) == "cancelled"
    stored = lab.stored(id)
    assert stored["status"] == "cancelled"
    assert (stored["remove_at"] - stored["finished_at"]).days == 7
    lab.pass_time(100)
    assert lab.store.tick().released == ()
    assert lab.claim() == []


def test_a_task_that_came_back_is_cancelled_and_not_told_as_ready(lab: Lab) -> None:
    claim = lab.claimed()
    lab.settle(claim, "release")
    assert cancel(lab, claim.id) == "cancelled"
    assert "ready_in" not in lab.stored(claim.id)


def test_each_task_of_many_gets_its_own_answer_and_asking_again_gives_the_same(lab: Lab) -> None:
    ended, running = lab.claimed(), lab.claimed()
    lab.settle(ended, "succeed")
    ids = [lab.put(), ended.id, running.id, ObjectId(), lab.put(options={"delay_s": 9.0})]
    for _ in range(2):
        assert lab.store.cancel([*ids, ids[0]]) == ["cancelled", "ended", "asked", "gone", "cancelled", "cancelled"]
    assert lab.stored(ended.id)["status"] == "succeeded"
    assert lab.stored(running.id)["status"] == "running"


def test_cancelling_nothing_is_nothing(lab: Lab) -> None:
    assert lab.store.cancel([]) == []
    assert lab.store.asked([]) == []


def test_what_is_no_task_is_gone_and_untouched(lab: Lab) -> None:
    member = lab.member()
    lab.store.beat(member)
    id: Any = member.row_id
    assert cancel(lab, id) == "gone"


def test_the_end_of_a_cancelled_task_is_told_to_who_waits(lab: Lab) -> None:
    id = lab.put(reply_to="m1")
    ear = lab.hear(reply_to="m1")
    cancel(lab, id)
    assert ear.next() == Wake("settled", id)


def test_a_holder_is_told_and_finds_which_of_its_claims_is_meant(lab: Lab) -> None:
    claim, other = lab.claimed(), lab.claimed()
    feed = lab.store.feed(Interest((), timers=False, reply_to=None, bell="b", holder="w"), 0.1)
    lab.store.beat(lab.member(queues=()))
    stranger = lab.store.feed(Interest((), timers=False, reply_to=None, bell="b", holder="x"), 0.1)
    assert lab.store.asked([claim, other]) == []
    assert cancel(lab, claim.id) == "asked"
    wake = None
    while wake is None:
        wake = feed.read()
    assert wake == Wake("cancel", claim.id)
    assert stranger.read() is None
    assert lab.store.asked([claim, other]) == [claim.id]
    feed.close()
    stranger.close()


def test_a_claim_of_before_is_not_the_one_that_is_meant(lab: Lab) -> None:
    stale = lab.claimed()
    lab.settle(stale, "release")
    (newer,) = lab.claim()
    cancel(lab, newer.id)
    assert lab.store.asked([stale]) == []
    assert lab.store.asked([newer]) == [newer.id]


def test_a_holder_that_renews_its_claim_is_told_how_it_stands(lab: Lab) -> None:
    stale = lab.claimed()
    lab.settle(stale, "release")
    (newer,) = lab.claim(lease_s=60)
    before = lab.stored(newer.id)
    assert lab.store.renew(stale) == "lost"
    assert lab.stored(newer.id) == before
    lab.pass_time(1)
    assert lab.store.renew(newer) == "held"
    assert lab.stored(newer.id)["lease_until"] > before["lease_until"]
    cancel(lab, newer.id)
    assert lab.store.renew(stale) == "lost"
    assert lab.store.renew(newer) == "asked"
    lab.settle(newer, "succeed")
    assert lab.store.renew(newer) == "lost"


@pytest.mark.parametrize(("move", "more"), BACK, ids=[move for move, _ in BACK])
def test_a_running_task_that_was_to_be_cancelled_does_not_go_back(
    lab: Lab, move: SettleMove, more: dict[str, Any]
) -> None:
    claim = lab.claimed(reply_to="m1")
    cancel(lab, claim.id)
    ear = lab.hear("q", timers=True, reply_to="m1")
    assert lab.settle(claim, move, **more) == "settled"
    stored = lab.stored(claim.id)
    assert stored["status"] == "cancelled"
    assert {"finished_at", "remove_at", "settled_for"} <= stored.keys()
    assert not {"cancel_to", "claim_id", "ready_in"} & stored.keys()
    assert lab.settle(claim, move, **more) == "settled"  # as when the reply was lost
    assert [wake for wake in ear.rest() if wake.kind != "member"] == [Wake("settled", claim.id)]


def test_a_running_task_that_was_not_to_be_cancelled_goes_back_beside_one_that_was(lab: Lab) -> None:
    lab.put()
    lab.put()
    asked, other = lab.claim(claim_id=b"one claim of two", durable=True)
    cancel(lab, asked.id)
    assert lab.store.settle([lab.settlement(one, "release") for one in (asked, other)]) == ["settled"] * 2
    assert (lab.stored(asked.id)["status"], lab.stored(other.id)["status"]) == ("cancelled", "ready")
    assert "finished_at" not in lab.stored(other.id)


def test_a_success_before_the_holder_heard_is_a_success(lab: Lab) -> None:
    claim = lab.claimed()
    cancel(lab, claim.id)
    assert lab.settle(claim, "succeed", result=1) == "settled"
    stored = lab.stored(claim.id)
    assert (stored["status"], stored["result"]) == ("succeeded", 1)
    assert "cancel_to" not in stored
    assert cancel(lab, claim.id) == "ended"


def test_a_holder_cancels_with_a_reason(lab: Lab) -> None:
    claim = lab.claimed()
    why = Raised(type="Cancelled", message="$attempt")
    assert lab.settle(claim, "cancel", error=why, keep_s=60.0) == "settled"
    stored = lab.stored(claim.id)
    assert stored["status"] == "cancelled"
    assert stored["errors"][-1]["message"] == "$attempt"
    assert cancel(lab, claim.id) == "cancelled"


@pytest.mark.parametrize("max_attempts", [1, 5])
def test_a_task_that_was_to_be_cancelled_is_cancelled_when_its_holder_died(lab: Lab, max_attempts: int) -> None:
    claim = lab.claimed(max_attempts=max_attempts, reply_to="m1")
    cancel(lab, claim.id)
    ear = lab.hear("q", reply_to="m1")
    lab.pass_time(31)
    tick = lab.store.tick()
    assert (tick.released, tick.failed) == ((), 0)
    stored = lab.stored(claim.id)
    assert (stored["status"], stored["errors"][-1]["type"]) == ("cancelled", "LeaseExpired")
    assert "cancel_to" not in stored
    assert ear.next() == Wake("settled", claim.id)
    assert lab.settle(claim, "succeed") == "lost"


def test_an_abandoned_claim_of_a_task_that_was_to_be_cancelled_ends_it(lab: Lab) -> None:
    claim = lab.claimed()
    cancel(lab, claim.id)
    assert lab.store.abandon(ClaimUnknown("q", claim.claim_id, (claim.id,), 0.0, "lost")) == 1
    assert lab.stored(claim.id)["status"] == "cancelled"


def test_more_than_one_statement_takes_is_cancelled(lab: Lab) -> None:
    ids = [reply.id for reply in lab.store.put([lab.new() for _ in range(2_100)])]
    assert lab.store.cancel(ids) == ["cancelled"] * 2_100
    assert lab.store.counts() == {"q": {"cancelled": 2_100}}


def test_one_task_that_the_server_lets_nobody_cancel_hides_no_other(mongo: MongoLab) -> None:
    stuck = mongo.put(payload={"stuck": True})
    ids = [mongo.put(), stuck, mongo.put()]
    forbids = {"$or": [{"status": {"$ne": "cancelled"}}, {"payload.stuck": {"$exists": False}}]}
    mongo.database.command("collMod", "tasks", validator=forbids)
    with pytest.raises(StoreError, match="cancel tasks"):
        mongo.store.cancel(ids)
    assert [mongo.stored(id)["status"] for id in ids] == ["cancelled", "ready", "cancelled"]


def test_a_task_that_passes_between_the_two_statements_is_tried_again(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between them its holder puts it back: the first has not met it yet, the second does not meet it any more."""
    claim = mongo.claimed()
    waits, real_read = cancel_move.WAITS, cancel_move.reply_of
    monkeypatch.setattr(cancel_move, "WAITS", {"status": "blocked"})
    tried: list[str] = []

    def reply_of(document: Any) -> Any:
        tried.append(document["status"])
        monkeypatch.setattr(cancel_move, "WAITS", waits)
        return real_read(document)

    monkeypatch.setattr(cancelling, "reply_of", reply_of)
    mongo.settle(claim, "release")
    assert cancel(mongo, claim.id) == "cancelled"
    assert tried == ["ready", "cancelled"]
