"""Hints: which wakes of new tasks are followed up, which are echoes, and which ask for a look at the queue itself."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing
from bson import ObjectId

from streamq.core.wake import Wake
from streamq.runtime.hints import MOST_HINTS, MOST_SEEN, Hints
from streamq.testing import memory_app


def new_wake(id: ObjectId | None = None, *, durable: bool = False) -> Wake:
    return Wake("ready", ObjectId() if id is None else id, "q", "job", is_new=True, durable=durable)


def hints_without_holdings() -> Hints:
    return Hints(lambda id: False)


def test_new_task_is_kept_to_be_claimed_when_it_is_heard_of_first() -> None:
    """What a wake names for the first time is claimed by its id."""
    hints, wake = hints_without_holdings(), new_wake()
    assert hints.hear(wake)
    assert hints.ids == (wake.id,)


def test_echo_is_ignored_while_its_task_waits_to_be_claimed() -> None:
    """A put of this process is told twice: the second telling adds nothing."""
    hints, wake = hints_without_holdings(), new_wake()
    hints.hear(wake)
    assert hints.hear(wake)
    assert hints.ids == (wake.id,)


def test_echo_is_ignored_while_its_task_is_being_asked_for() -> None:
    """The claim in flight names the task: its echo needs neither a claim nor a look."""
    hints, wake = hints_without_holdings(), new_wake()
    hints.hear(wake)
    hints.take()
    assert hints.hear(wake)
    assert hints.ids == ()


def test_echo_is_ignored_while_its_task_is_held() -> None:
    """A task of this process's own is not claimed again."""
    held: set[ObjectId] = set()
    hints, wake = Hints(held.__contains__), new_wake()
    hints.hear(wake)
    hints.take()
    assert wake.id is not None
    held.add(wake.id)
    hints.asked()
    assert hints.hear(wake)
    assert hints.ids == ()


def test_task_heard_of_again_asks_for_a_look_when_it_is_not_here_any_more() -> None:
    """It may have been deleted at its success and put again under its id: only the queue tells."""
    hints, wake = hints_without_holdings(), new_wake()
    hints.hear(wake)
    hints.take()
    hints.asked()
    assert not hints.hear(wake)
    assert hints.ids == ()


def test_task_claimed_from_the_head_is_waited_for_no_more() -> None:
    """What a claim from the head has obtained must not cost a claim by its id."""
    hints, wake, other = hints_without_holdings(), new_wake(), new_wake()
    hints.hear(wake)
    hints.hear(other)
    assert wake.id is not None
    hints.remember([wake.id])
    assert hints.ids == (other.id,)


def test_task_claimed_from_the_head_is_known_when_it_is_told_later() -> None:
    """The feed's thread asks this before it claims ahead of trio."""
    hints, id = hints_without_holdings(), ObjectId()
    assert not hints.was_heard(id)
    hints.remember([id])
    assert hints.was_heard(id)


@pytest.mark.parametrize(
    "wake",
    [Wake("ready", ObjectId(), "q"), Wake("ready", None, "q", is_new=True)],
    ids=["not new", "without an id"],
)
def test_wake_asks_for_a_look_when_it_does_not_say_how_to_claim(wake: Wake) -> None:
    """How a task that was there before must be claimed is known to the claim from the head alone."""
    hints = hints_without_holdings()
    assert not hints.hear(wake)
    assert hints.ids == ()


def test_claim_by_id_is_durable_when_one_of_its_tasks_must_be() -> None:
    """One task with a single attempt among the hints makes their claim wait for the majority."""
    hints = hints_without_holdings()
    hints.hear(new_wake())
    assert not hints.durable
    hints.hear(new_wake(durable=True))
    assert hints.durable
    hints.take()
    assert not hints.durable


def test_wake_asks_for_a_look_when_too_many_wait() -> None:
    """Ids are kept up to a bound; past it the queue itself is looked at."""
    hints = hints_without_holdings()
    assert all(hints.hear(new_wake()) for _ in range(MOST_HINTS))
    assert not hints.hear(new_wake())
    assert len(hints.ids) == MOST_HINTS


def test_ids_are_forgotten_in_the_end_but_not_while_they_are_among_the_latest() -> None:
    """Memory is bounded: two generations of ids, of which the younger is always known."""
    hints = hints_without_holdings()
    ids = [ObjectId() for _ in range(4 * MOST_SEEN)]
    for id in ids:
        hints.remember([id])
    known = [hints.was_heard(id) for id in ids]
    assert sum(known) <= 2 * MOST_SEEN + 1
    assert all(known[-MOST_SEEN:])
    assert not any(known[:MOST_SEEN])


# --- in a running worker ---------------------------------------------------------------------------------------


async def test_task_put_again_under_its_id_is_run_at_once_when_the_first_was_deleted() -> None:
    """With `keep_s=0` an id becomes free at success: its next put is woken for, without the safety scan."""
    app = memory_app(safety_scan_s=None, lease_s=86_400)
    ran: list[float] = []

    @app.task(keep_s=0)
    async def job() -> None:
        ran.append(trio.current_time())

    id, put_at = ObjectId(), []
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        for _ in range(3):
            put_at.append(trio.current_time())
            assert (await job.options(id=id).put()).created
            await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert ran == put_at
    assert all(later - sooner >= 100 for sooner, later in itertools.pairwise(ran))


async def test_own_put_costs_a_single_claim_though_it_is_told_twice() -> None:
    """The put tells of it and so does the stream: one claim serves both."""
    app = memory_app(safety_scan_s=None, lease_s=86_400)

    @app.task
    async def job() -> None:
        await trio.sleep(1)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=2, task_status=task_status))
        await trio.testing.wait_all_tasks_blocked()
        before = app.journal.counts["claim calls"]
        await job.put()
        await trio.sleep(0.5)
        assert app.journal.counts["claim calls"] - before == 1
        nursery.cancel_scope.cancel()
