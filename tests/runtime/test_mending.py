"""The mender looks at the indexes behind each opening of the stream, and again at what it could not make."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from streamq import StreamQ
from streamq.bridge import InlineBridge
from streamq.errors import AccessRefused, StoreError, StoreUnavailable
from streamq.store.memory import MemoryStore
from streamq.testing import trio_time


class Mended(MemoryStore):
    """A store whose looks at the indexes come to what the test says; the last for all that follow."""

    def __init__(self, outcomes: Sequence[list[str] | StoreError]) -> None:
        super().__init__(trio_time)
        self.outcomes = list(outcomes)
        self.looks: list[float] = []

    def mend(self) -> list[str]:
        self.looks.append(trio.current_time())
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, StoreError):
            raise outcome
        return outcome


async def looks_of(*outcomes: list[str] | StoreError) -> tuple[list[float], StreamQ]:
    """Let a worker of such a store work for a virtual minute; return when it looked, from its start on."""
    store = Mended(outcomes)
    app = StreamQ.on(store, InlineBridge())

    @app.task
    async def job() -> None: ...

    async with app, trio.open_nursery() as nursery:
        began_at = trio.current_time()
        await nursery.start(app.work)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    return [at - began_at for at in store.looks], app


async def test_indexes_that_are_there_are_looked_at_once_an_opening() -> None:
    looks, app = await looks_of([])
    assert looks == [0.0]
    assert app.journal.counts["indexes missing"] == 0


async def test_store_that_is_away_is_asked_again_soon() -> None:
    looks, app = await looks_of(StoreUnavailable("no primary"), [])
    assert len(looks) == 2
    assert looks[1] < 1
    assert app.journal.counts["store error"] == 1


async def test_index_that_tasks_do_not_allow_is_told_of_and_tried_again() -> None:
    looks, app = await looks_of(["streamq_unique"], ["streamq_unique"], [])
    assert len(looks) == 3
    assert app.journal.counts["indexes missing"] == 2


async def test_worker_that_may_make_no_index_goes_on_and_says_so_again_and_again() -> None:
    looks, app = await looks_of(AccessRefused("streamq_claim is missing, and this user may not make it"))
    assert len(looks) > 2
    assert app.journal.counts["indexes missing"] == len(looks)
