"""The clock of the next primary is 5 s wrong: delays are off by as much, and who lost a lease by it is fenced.

One run for all tests of a skew. Delayed tasks are put before the failover and after it; some tasks are held through it,
by holders that do not extend, and one by a handler whose lease is extended. Instants are of the monotonic clock, which
is right.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import msgspec
import pytest
import trio
from bson import ObjectId

from streamq import BlockingTask, LeaseLost, StreamQ, current_task
from streamq.embedded import Node
from tests.chaos.clocked import ahead_of_ours_s, restart
from tests.chaos.conftest import SEED, SHORT_OPTIONS
from tests.chaos.scene import Place, Scene
from tests.clocks import needs_faketime
from tests.long_form import sized

pytestmark = [pytest.mark.chaos, needs_faketime]

SKEW_S: Final = 5
SKEWS_S: Final = sized([SKEW_S], [SKEW_S, -SKEW_S])
TASKS: Final = sized(100, 2_000)
"""Delayed ones, put before the failover, and as many after it."""

SOONEST_S, LATEST_S = 3.0, 7.0
"""Their delays, evenly between: longer than most elections take, and some shorter than the skew, some longer."""

HELD: Final = 12
HELD_S: Final = 6.0
"""Their leases: longer than the skew."""

LEASE_S: Final = 20.0
"""Of all others. So much longer that it outlives the failover, though a third is over before it is extended."""

MILLISECOND_S: Final = 0.002
"""The server's dates have milliseconds, and so has what is compared with them."""

LATE_S: Final = 20.0
RUN_S: Final = 90.0
CLOSE_S: Final = 1.0
"""How exactly a node's clock is measured: within an answer's time."""


class Delayed(msgspec.Struct, frozen=True):
    """A delayed task, as it was put."""

    id: ObjectId
    sent_at: float
    delay_s: float


class Run(msgspec.Struct):
    """What was seen."""

    skew_s: int
    measured_s: float = 0.0
    elected_at: float = 0.0
    delayed: list[Delayed] = []
    held: list[BlockingTask] = []
    held_since: float = 0.0
    extended: ObjectId | None = None
    begun: defaultdict[ObjectId, list[float]] = msgspec.field(default_factory=lambda: defaultdict(list))
    accepted: list[str] = []
    """What holders were allowed to write after others had begun their tasks."""
    settled_by: dict[ObjectId, bytes] = {}
    claims: dict[ObjectId, bytes] = {}
    """Under which claim each task was begun last."""

    def early_s(self) -> list[float]:
        """By how much each delayed task began too early; less than nothing: too late."""
        return [one.sent_at + one.delay_s - min(self.begun[one.id]) for one in self.delayed]


class Play:
    """The doing of a run."""

    def __init__(self, scene: Scene, uri: str, skew_s: int) -> None:
        self._scene = scene
        self._skew_s = skew_s
        self._run = Run(skew_s)
        self._tried = trio.Event()
        self._app, self._holder = (
            StreamQ(uri + SHORT_OPTIONS, database=scene.database, lease_s=LEASE_S, safety_scan_s=None) for _ in range(2)
        )
        self._soon = self._app.task(queue="q", name="soon")(self._note)
        self._held = self._app.task(queue="held", name="held")(self._until_tried)
        self._long = self._app.task(queue="q", name="long")(self._until_tried)

    async def _note(self) -> None:
        task = current_task()
        self._run.begun[task.id].append(time.monotonic())
        self._run.claims[task.id] = task.claim_id

    async def _until_tried(self) -> None:
        await self._note()
        await self._tried.wait()

    async def run(self, next_one: Node) -> Run:
        """Do it all."""
        run, begun = self._run, self._run.begun
        async with self._app, trio.open_nursery() as nursery:
            run.extended = (await self._long.put()).id
            await self._app.put_many([self._held.new() for _ in range(HELD)])
            await nursery.start(self._app.work, {"q": 50})
            await _wait(lambda: run.extended in begun)
            run.held_since = time.monotonic()
            run.held = await trio.to_thread.run_sync(self._hold)
            await nursery.start(self._app.work, {"held": HELD})
            await self._put_delayed()  # with a majority: so are the claims before them
            await trio.to_thread.run_sync(self._scene.elect, next_one)
            run.elected_at = time.monotonic()
            run.measured_s = await trio.to_thread.run_sync(_measured, next_one)
            await self._put_delayed()
            ids = {one.id for one in run.delayed} | {task.info.id for task in run.held}
            await _wait(lambda: ids <= begun.keys())
            await trio.to_thread.run_sync(self._try_to_write)
            self._tried.set()
            for id in [*ids, run.extended]:
                ended = await trio.to_thread.run_sync(self._holder.blocking.wait, id)
                run.settled_by[id] = ended["settled_by"]
            nursery.cancel_scope.cancel()
        return run

    def _hold(self) -> list[BlockingTask]:
        return self._holder.blocking.queue("held").claim_many(HELD, lease_s=HELD_S)

    def close(self) -> None:
        """Give up the connections."""
        self._holder.close()
        self._app.close()

    async def _put_delayed(self) -> None:
        delays_s = [SOONEST_S + (LATEST_S - SOONEST_S) * number / TASKS for number in range(TASKS)]
        sent_at = time.monotonic()
        handles = await self._app.put_many([self._soon.options(delay_s=delay_s).new() for delay_s in delays_s])
        self._run.delayed += [
            Delayed(handle.id, sent_at, delay_s) for handle, delay_s in zip(handles, delays_s, strict=True)
        ]

    def _try_to_write(self) -> None:
        """Let the old holders settle and extend, while the new ones are at work."""
        for number, task in enumerate(self._run.held):
            writes: dict[str, Callable[[], object]] = {
                "succeed": task.succeed,
                "fail": partial(task.fail, "late"),
                "release": task.release,
                "extend": task.extend,
            }
            how = [*writes][number % len(writes)]
            with contextlib.suppress(LeaseLost):
                writes[how]()
                self._run.accepted.append(how)


async def _wait(condition: Callable[[], bool]) -> None:
    with trio.fail_after(RUN_S):
        while not condition():  # noqa: ASYNC110 - of several things, some in threads
            await trio.sleep(0.02)


def _measured(node: Node) -> float:
    """Ask a node by how much its clock is wrong; an answer that takes long tells too little."""
    return max(ahead_of_ours_s(node) for _ in range(5))


@pytest.fixture(scope="module", params=SKEWS_S)
def run(place: Place, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Play it."""
    server, network = place
    with Scene(server, tmp_path_factory.mktemp("skewed") / "history", SEED, network=network) as scene:
        scene.mend()
        play = Play(scene, server.uri, request.param)
        try:
            (next_one, *_) = scene.secondaries()
            restart(next_one, request.param)
            scene.wait_following(next_one)
            yield trio.run(play.run, next_one)
        finally:
            play.close()
            scene.mend()


def test_clock_of_the_primary_was_as_wrong_as_it_should(run: Run) -> None:
    """The control: else the others would prove nothing."""
    assert abs(run.measured_s - run.skew_s) < CLOSE_S
    assert max(map(abs, run.early_s())) > SKEW_S / 2


def test_delay_is_cut_and_prolonged_by_no_more_than_the_skew(run: Run) -> None:
    early_s = run.early_s()
    assert len(early_s) == 2 * TASKS
    assert max(early_s) < max(run.skew_s, 0) + MILLISECOND_S
    assert min(early_s) > min(run.skew_s, 0) - LATE_S


def test_no_delayed_task_is_begun_twice_after_the_failover(run: Run) -> None:
    """Before, a claim may be lost with the old primary: its task is begun again."""
    for one in run.delayed:
        assert sum(at > run.elected_at for at in run.begun[one.id]) <= 1
        assert len(run.begun[one.id]) <= 2


def test_held_task_is_begun_again_once_and_earlier_than_its_lease_by_no_more_than_the_skew(run: Run) -> None:
    for task in run.held:
        (again_at,) = run.begun[task.info.id]
        assert again_at - run.held_since > HELD_S - max(run.skew_s, 0) - MILLISECOND_S


def test_lease_that_is_extended_outlives_the_failover(run: Run) -> None:
    assert run.extended is not None
    assert len(run.begun[run.extended]) == 1


def test_holders_that_lost_their_lease_by_the_skew_are_fenced(run: Run) -> None:
    """Whatever they write; each task is settled by who began it last."""
    assert run.accepted == []
    assert run.settled_by == {id: run.claims[id] for id in run.settled_by}
    assert run.settled_by.keys() == run.begun.keys()
