"""The asyncio door, in loops without trio."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from streamq import LeaseLost, OptionInvalid, StreamQ
from streamq.asyncio import Door
from tests.integration.conftest import MakeApp


def statuses(app: StreamQ) -> dict[str, int]:
    return dict(app.store.counts().get("q", {}))


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what another client sees
            await asyncio.sleep(0.01)


def test_put_claim_settle_and_result(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        door = Door(app)
        queue = door.queue("q")
        reply = await queue.put("x")
        task = await queue.claim()
        assert task is not None
        assert task.payload == "x"
        assert await door.status(reply.id) in ("ready", "running")  # a claim is seen by the majority a moment later
        waiting = asyncio.create_task(door.result(reply.id, timeout_s=10))
        await task.succeed({"rows": 1})
        assert await waiting == {"rows": 1}
        assert await queue.claim() is None
        await queue.put_many(range(3))
        assert len(await queue.claim_many(5, wait_s=5)) == 3
        with pytest.raises(OptionInvalid, match="wait_s"):
            await queue.claim(wait_s=-1)

    asyncio.run(main())


def test_cancelled_claim_leaves_nothing_claimed(make_app: MakeApp, database: str) -> None:
    app = make_app()

    async def main() -> None:
        claiming = asyncio.create_task(Door(app).queue("q").claim(wait_s=math.inf))
        await until(lambda: app.client[database].tasks.count_documents({"kind": "member"}))
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
        await Door(app).queue("q").put("x")

    asyncio.run(main())
    assert statuses(app) == {"ready": 1}


def test_claim_cancelled_as_it_obtains_its_task_gives_it_back(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    claim = type(app.store).claim
    obtained: list[asyncio.Task[Any]] = []

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x")
        loop = asyncio.get_running_loop()

        def claim_and_cancel(store: Any, ask: Any) -> Any:
            claimed = claim(store, ask)
            loop.call_soon_threadsafe(obtained[0].cancel)
            return claimed

        monkeypatch.setattr(type(app.store), "claim", claim_and_cancel)
        obtained.append(asyncio.create_task(queue.claim()))
        with pytest.raises(asyncio.CancelledError):
            await obtained[0]

    asyncio.run(main())
    assert statuses(app) == {"ready": 1}


def test_block_extends_the_lease_and_settles_by_how_it_is_left(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x", max_attempts=1)
        task = await queue.claim(lease_s=1)
        assert task is not None
        async with task:
            await asyncio.sleep(1.3)
            app.store.tick()
        assert statuses(app) == {"succeeded": 1}
        await queue.put("y", max_attempts=1)
        async for task in queue.consume(wait_s=5):
            async with task:
                raise ValueError("no")
            break
        assert statuses(app) == {"succeeded": 1, "failed": 1}

    asyncio.run(main())


def test_task_whose_block_is_done_succeeds_though_it_is_cancelled_while_it_settles(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x", max_attempts=1)

        async def run() -> None:
            task = await queue.claim()
            assert task is not None
            async with task:
                body = asyncio.current_task()
                assert body is not None
                asyncio.get_running_loop().call_soon(body.cancel)  # at the first point where leaving the block waits

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(run())
        await until(lambda: statuses(app) == {"succeeded": 1})

    asyncio.run(main())


def test_lost_lease_cancels_the_block_which_says_so(make_app: MakeApp, database: str) -> None:
    app = make_app()

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x")
        task = await queue.claim(lease_s=1)
        assert task is not None
        with pytest.raises(LeaseLost):  # noqa: PT012
            async with task:
                app.client[database].tasks.update_one({"status": "running"}, {"$set": {"claim_id": b"another"}})
                await asyncio.sleep(20)
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0

    asyncio.run(main())


def test_cancelled_block_releases_its_task(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x")
        task = await queue.claim()
        assert task is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), task:
                await asyncio.sleep(20)

    asyncio.run(main())
    assert statuses(app) == {"ready": 1}
