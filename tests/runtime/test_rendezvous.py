"""Several idle processes, one task: one of them claims, and one that is dead or busy costs milliseconds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from bson import ObjectId

from streamq import StreamQ
from streamq.bridge import NOTHING, InlineBridge
from streamq.core.member import BEAT_S, Member, Roster
from streamq.core.rendezvous import MOST_PATIENCE, stand_by_s
from streamq.core.wake import Wake
from streamq.errors import StoreUnavailable
from streamq.runtime import clock
from streamq.store.memory import MemoryStore
from streamq.testing import trio_time
from tests.runtime.looking import WINDOW, LookingStore

TASKS = 80
"""With twenty, one of some hundred runs left a process without any."""

PROCESSES = 4


class Herd:
    """Idle workers of one slot each, as if each were a process of its own, and a producer that hears nothing."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.apps: list[StreamQ] = []
        self.notes: list[Any] = []
        self.producer = StreamQ.on(store, InlineBridge(), safety_scan_s=None)
        self.note = declared(self.producer, self)
        self.ran: dict[object, float] = {}

    @property
    def claims(self) -> int:
        return sum(app.journal.counts["claim calls"] for app in self.apps)

    @property
    def is_claiming(self) -> bool:
        """Whether a claim that has obtained something is yet to be answered."""
        taken = sum(one["attempt"] for one in self.store.documents.values())
        return taken > len(self.ran)

    async def put(self, what: object) -> None:
        await self.note.put(what)
        await trio.sleep(1)


def declared(app: StreamQ, herd: Herd):  # type: ignore[no-untyped-def]
    @app.task(queue="q", name="note")
    async def note(what: object, lasts_s: float = 0.0) -> None:
        herd.ran[what] = trio.current_time()
        await trio.sleep(lasts_s)

    return note


@asynccontextmanager
async def herd_of(count: int, store: MemoryStore | None = None) -> AsyncIterator[Herd]:
    herd = Herd(store or MemoryStore(trio_time))
    async with herd.producer, trio.open_nursery() as nursery:
        for _ in range(count):
            app = StreamQ.on(herd.store, InlineBridge(), safety_scan_s=None)
            herd.notes.append(declared(app, herd))
            herd.apps.append(app)
            await nursery.start(serve, app)
        await trio.sleep(1)  # less than a heartbeat: the stream has told all of all
        yield herd
        nursery.cancel_scope.cancel()


async def serve(app: StreamQ, *, task_status: trio.TaskStatus[None]) -> None:
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work, {"q": 1})
        task_status.started()


async def test_one_task_costs_one_claim_however_many_are_idle() -> None:
    async with herd_of(PROCESSES) as herd:
        before = herd.claims
        for number in range(TASKS):
            await herd.put(number)
        assert len(herd.ran) == TASKS
        assert herd.claims - before == TASKS
        assert all(app.journal.counts["claimed"] for app in herd.apps)  # each had its share


async def test_member_that_is_dead_costs_milliseconds() -> None:
    async with herd_of(1) as herd:
        for number in range(20):
            herd.store.beat(Member(f"dead{number}", "host", 1, ("q",), 1, 30.0, serves=({"queue": "q"},)))
        await trio.sleep(BEAT_S + 1)
        for number in range(20):
            put_at = trio.current_time()
            await herd.put(number)
            assert herd.ran[number] - put_at <= stand_by_s(20) + 1e-9


async def test_many_members_beat_more_seldom_and_say_so() -> None:
    """All of them are looked at by the stream of each."""
    store = BeatenStore(trio_time)
    for number in range(99):
        store.beat(Member(f"other{number:02}", "host", 1, (), 1, 30.0))
    async with herd_of(1, store):
        await trio.sleep(BEAT_S)
        store.beaten_at.clear()
        await trio.sleep(200)
        assert [round(after - before) for before, after in pairwise(store.beaten_at)] == [50] * 3
        (worker,) = [one for one in store.workers() if one.queues]
        assert worker.alive_s == 125


class BeatenStore(MemoryStore):
    """Writes down when a worker beats."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(now)
        self.beaten_at: list[float] = []

    def beat(self, member: Member) -> Roster:
        if member.queues:
            self.beaten_at.append(trio.current_time())
        return super().beat(member)


async def test_task_of_a_busy_first_is_run_by_the_next_that_is_free() -> None:
    async with herd_of(PROCESSES) as herd:
        for number in range(PROCESSES - 1):
            await herd.note.put(("long", number), lasts_s=1000.0)
            await trio.sleep(1)
        assert len(herd.ran) == PROCESSES - 1
        waits = []
        for number in range(20):
            put_at = trio.current_time()
            await herd.put(number)
            waits.append(herd.ran[number] - put_at)
        assert max(waits) <= stand_by_s(PROCESSES - 1, MOST_PATIENCE) + 1e-9
        assert sum(wait > stand_by_s(PROCESSES - 1) + 1e-9 for wait in waits) <= 2


async def test_process_that_put_a_task_itself_claims_it_at_once_whoever_is_first() -> None:
    async with herd_of(1) as herd:
        for number in range(20):
            herd.store.beat(Member(f"dead{number}", "host", 1, ("q",), 1, 30.0, serves=({"queue": "q"},)))
        await trio.sleep(BEAT_S + 1)
        for number in range(20):
            put_at = trio.current_time()
            await herd.notes[0].put(number)
            await trio.sleep(1)
            assert herd.ran[number] == put_at


async def test_store_that_fails_at_a_look_loses_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    async with herd_of(1) as herd:
        for number in range(20):
            herd.store.beat(Member(f"dead{number}", "host", 1, ("q",), 1, 30.0, serves=({"queue": "q"},)))
        await trio.sleep(BEAT_S + 1)

        def fails(ids: object) -> list[ObjectId]:
            raise StoreUnavailable("away")

        monkeypatch.setattr(herd.store, "still_ready", fails)
        for number in range(5):
            await herd.put(number)
        assert len(herd.ran) == 5


async def test_burst_is_shared_and_none_is_left() -> None:
    async with herd_of(PROCESSES) as herd:
        await herd.producer.put_many([herd.note.new(number, lasts_s=0.01) for number in range(300)])
        await trio.sleep(300 * 0.01 / PROCESSES + stand_by_s(PROCESSES))
        assert len(herd.ran) == 300
        assert all(app.journal.counts["claimed"] > 30 for app in herd.apps)


async def test_released_and_retried_tasks_cost_one_look_each_too() -> None:
    async with herd_of(PROCESSES) as herd:
        before = herd.claims
        for number in range(10):
            await herd.note.options(delay_s=0.5).put(number)
            await trio.sleep(1)
        assert len(herd.ran) == 10
        assert herd.claims - before <= 20  # such a wake makes a claim from the head, which may find it by itself


def fill_with_dead(herd: Herd) -> None:
    """Make it that others come first for nearly every task, and none of them lives."""
    for number in range(20):
        herd.store.beat(Member(f"dead{number}", "host", 1, ("q",), 1, 30.0, serves=({"queue": "q"},)))


def die(app: StreamQ) -> None:
    """Let it claim no more, as one that was killed: the others do not know."""
    (intake,) = app.services().watcher._intakes
    intake.pause(True)


def slow_down(app: StreamQ, *, claim_s: float = 0.0, settle_s: float = 0.0) -> None:
    """Let answers come later than what the stream tells of the same write."""
    bridge = app.services().bridge
    call = bridge.call
    late_s = {app.store.claim: claim_s, app.store.settle: settle_s}

    async def slow(function: Any, *args: Any) -> Any:
        answer = await call(function, *args)
        await trio.sleep(late_s.get(function, 0.0))
        return answer

    bridge.call = slow  # type: ignore[method-assign, assignment]


async def test_task_given_back_is_heard_of_before_its_giving_back_is_answered() -> None:
    async with herd_of(1) as herd:
        fill_with_dead(herd)
        app = herd.apps[0]
        runs = 0
        async with app.queue("bare").consume() as tasks:
            for number in range(20):
                herd.store.beat(Member(f"bare{number}", "host", 1, ("bare",), 1, 30.0, serves=({"queue": "bare"},)))
            await trio.sleep(BEAT_S + 1)
            slow_down(app, settle_s=0.001)
            for number in range(5):
                await herd.producer.queue("bare").put(number)
                for _ in range(3):
                    with trio.fail_after(1):
                        task = await anext(tasks)
                    runs += 1
                    await task.release()
                with trio.fail_after(1):
                    await (await anext(tasks)).succeed()
        assert runs == 15


@pytest.mark.parametrize("dead", [True, False])
async def test_task_put_again_under_its_id_before_its_deletion_is_answered_is_heard_of(dead: bool) -> None:
    async with herd_of(1) as herd:
        if dead:
            fill_with_dead(herd)
        await trio.sleep(BEAT_S + 1)
        slow_down(herd.apps[0], settle_s=0.01)
        id = ObjectId()
        await herd.note.options(id=id, keep_s=0).put("first")
        while herd.store.documents:  # noqa: ASYNC110 - nothing tells of it
            await trio.sleep(0.001)
        await herd.note.options(id=id, keep_s=0).put("again")
        await trio.sleep(1)
        assert list(herd.ran) == ["first", "again"]


async def test_urgent_task_of_another_comes_first_where_slots_are_short() -> None:
    async with herd_of(1) as herd:
        fill_with_dead(herd)
        await trio.sleep(BEAT_S + 1)
        for _ in range(40):
            herd.ran.clear()
            await herd.note.options(priority=9).put("urgent", lasts_s=1.0)
            await trio.sleep(0.001)
            await herd.note.put("plain", lasts_s=1.0)
            await trio.sleep(10)
            assert list(herd.ran) == ["urgent", "plain"]


async def test_urgent_task_heard_of_during_a_look_past_others_does_not_wait_for_its_end() -> None:
    async with herd_of(1, LookingStore(trio_time)) as herd:
        fill_with_dead(herd)
        await trio.sleep(BEAT_S + 1)

        @herd.producer.task(queue="q")
        async def theirs() -> None: ...

        await herd.producer.put_many([theirs.new() for _ in range(3 * WINDOW)])
        slow_down(herd.apps[0], claim_s=0.01)
        for number in range(5):
            backlog = [herd.note.new((number, "backlog", place), lasts_s=0.2) for place in range(20)]
            await herd.producer.put_many(backlog)
            await trio.sleep(1)
            while not herd.is_claiming:  # noqa: ASYNC110 - nothing tells of it
                await trio.sleep(0.001)
            await herd.note.options(priority=9).put((number, "urgent"), lasts_s=0.2)
            put_at = trio.current_time()
            await trio.sleep(20)
            assert herd.ran[number, "urgent"] - put_at < 1.0


async def test_first_that_dies_after_long_quiet_costs_milliseconds_and_later_ones_less() -> None:
    async with herd_of(2) as herd:
        for number in range(60):  # all are there: looks find nothing
            await herd.put(number)
        fill_with_dead(herd)
        await trio.sleep(BEAT_S + 1)
        die(herd.apps[0])
        waits = []
        for number in range(60, 80):
            put_at = trio.current_time()
            await herd.put(number)
            waits.append(herd.ran[number] - put_at)
        assert max(waits) <= stand_by_s(21, MOST_PATIENCE) + 1e-9
        assert max(waits[6:]) <= stand_by_s(21) + 1e-9  # it has got two that were another's


async def test_second_looks_after_thirty_milliseconds_at_most_however_long_all_was_well() -> None:
    async with herd_of(2) as herd:
        for number in range(60):
            await herd.put(number)
        die(herd.apps[0])
        for number in range(60, 80):
            put_at = trio.current_time()
            await herd.put(number)
            assert herd.ran[number] - put_at <= stand_by_s(1, MOST_PATIENCE) + 1e-9


async def test_idle_processes_look_seldom_after_what_the_first_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    async with herd_of(8) as herd:
        still_ready = herd.store.still_ready

        def look(ids: Sequence[ObjectId]) -> list[ObjectId]:
            nonlocal looks
            looks += 1
            return still_ready(ids)

        monkeypatch.setattr(herd.store, "still_ready", look)
        for number in range(200):
            looks = 0 if number == 100 else looks
            await herd.note.put(number)
            await trio.sleep(0.05)
    assert len(herd.ran) == 200
    assert looks < 400  # with a look in each of the seven others: 700


async def both(herd: Herd) -> tuple[Wake, Wake]:
    """Store a task that is another's to try, then one of this one's, unheard; return what a stream says of them."""
    (intake,) = herd.apps[0].services().watcher._intakes
    wakes = [Wake("ready", ObjectId(), "q", "note", is_new=True) for _ in range(400)]
    first = next(one for one in wakes if intake.rendezvous.place(one) == 0)
    later = next(one for one in wakes if intake.rendezvous.place(one) == 1)
    intake.hint = lambda wake, **_: None  # type: ignore[method-assign]
    for one in (later, first):
        await herd.note.options(id=one.id).put(str(one.id))
    del intake.hint
    return later, first


async def test_thread_of_the_feed_claims_nothing_ahead_of_what_stands_by_where_slots_are_short() -> None:
    async with herd_of(1) as herd:
        fill_with_dead(herd)
        await trio.sleep(BEAT_S + 1)
        (intake,) = herd.apps[0].services().watcher._intakes
        later, first = await both(herd)
        intake.hint(later)
        early = intake.claim_early(first)
        assert early is not None
        assert early.claimed is not None
        assert [claim.id for claim in early.claimed.claims] == [later.id]
        intake.take_early(early)
        await trio.sleep(1)
        assert list(herd.ran) == [str(later.id), str(first.id)]


async def test_thread_of_the_feed_leaves_to_trio_what_one_claim_cannot_put_in_order() -> None:
    async with herd_of(1) as herd:
        fill_with_dead(herd)
        await trio.sleep(BEAT_S + 1)
        (intake,) = herd.apps[0].services().watcher._intakes
        later, first = await both(herd)
        intake.hint(msgspec.structs.replace(later, durable=True))
        assert intake.claim_early(first) is None
        intake.hint(first)
        await trio.sleep(1)
        assert list(herd.ran) == [str(later.id), str(first.id)]


async def test_what_is_another_s_to_try_wakes_trio_only_to_look_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "thread_now", trio.current_time)
    async with herd_of(1) as herd:
        fill_with_dead(herd)
        await trio.sleep(BEAT_S + 1)
        watcher = herd.apps[0].services().watcher
        (intake,) = watcher._intakes
        wakes = [Wake("ready", ObjectId(), "q", "note", is_new=True) for _ in range(400)]
        (late, *_), (later, *_), (soon, *_) = (
            [one for one in wakes if intake.rendezvous.place(one) in range(*places)]
            for places in ((8, 16), (16, 32), (1, 2))
        )
        assert watcher.swift(late) is intake
        watcher.told([intake])
        await trio.testing.wait_all_tasks_blocked()
        assert watcher.swift(later) is NOTHING
        assert watcher.swift(soon) is intake
        assert watcher.swift(msgspec.structs.replace(late, look_in_s=1.0)) is None  # the scheduler has to know
        assert watcher.swift(msgspec.structs.replace(late, queue="q", freed_in="q")) is None
