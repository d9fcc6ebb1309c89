"""Tasks flow over a road that is slow, drips, breaks or lets nothing pass for a while: each that was put ends once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import pytest
import trio
from bson import ObjectId
from pymongo import MongoClient

from streamq import Retry, StoreError, StreamQ
from streamq.core.new_task import NewTask
from tests.access import Access
from tests.patience import eventually
from tests.proxy import WELL, Proxy, Road

TASKS: Final = 60
AT_ONCE: Final = 4
PAUSE_S: Final = 0.05
ILL_S: Final = 1.0
LEASE_S: Final = 2.0
RETRY: Final = Retry(max_attempts=50, first_s=0.05, cap_s=0.2)
SOON_S: Final = 40.0
"""More than the limit of a call and a lease, on a machine that has other things to do."""

Illness = Callable[[Proxy], Awaitable[None]]


async def be_slow(proxy: Proxy) -> None:
    proxy.road = Road(delay_s=0.01, jitter_s=0.05, drip_bytes=200, drip_pause_s=0.003)
    await trio.sleep(ILL_S)
    proxy.road = WELL


async def break_often(proxy: Proxy) -> None:
    proxy.road = Road(loss=0.03)
    for _ in range(4):
        proxy.cut()
        await trio.sleep(ILL_S / 4)
    proxy.road = WELL


async def be_away(proxy: Proxy) -> None:
    proxy.refuse()
    proxy.cut()
    await trio.sleep(ILL_S)
    proxy.refuse(False)


async def hear_nothing(proxy: Proxy) -> None:
    proxy.block("to client")
    await trio.sleep(ILL_S)
    proxy.cut()  # what was on its way is lost
    proxy.unblock()


async def stand_still(proxy: Proxy) -> None:
    proxy.block()
    await trio.sleep(LEASE_S + ILL_S)
    proxy.unblock()


async def lose_replies(proxy: Proxy) -> None:
    for command in ("insert", "update", "findAndModify"):
        for nth in range(2, 12, 3):
            proxy.trap(command, nth)
    await trio.sleep(ILL_S)


ILLNESSES: Final[dict[str, Illness]] = {
    "slow": be_slow,
    "broken often": break_often,
    "away": be_away,
    "nothing heard": hear_nothing,
    "still past the lease": stand_still,
    "replies lost": lose_replies,
}


@pytest.fixture
def proxy(access: Access) -> Iterator[Proxy]:
    with Proxy(access.server.nodes[0].port, login=access.login, seed=7) as proxy:
        yield proxy


@pytest.mark.parametrize("name", ILLNESSES)
async def test_each_task_ends_once_over_a_road_that_is_ill(
    proxy: Proxy, mongo: MongoClient[dict[str, Any]], database: str, name: str
) -> None:
    begun: Counter[int] = Counter()
    app = StreamQ(proxy.uri, database=database, lease_s=LEASE_S, retry=RETRY, safety_scan_s=None)

    @app.task(queue="q", retry=RETRY)
    async def work(number: int) -> None:
        begun[number] += 1

    async def put_all() -> None:
        for first in range(0, TASKS, AT_ONCE):
            batch = [work.options(id=ObjectId()).new(number) for number in range(first, first + AT_ONCE)]
            await put_until_known(app, batch)
            await trio.sleep(PAUSE_S)

    with trio.fail_after(SOON_S):
        async with app, trio.open_nursery() as nursery:
            await nursery.start(app.work, {"q": 4})
            async with trio.open_nursery() as both:
                both.start_soon(put_all)
                both.start_soon(ILLNESSES[name], proxy)
            assert await trio.to_thread.run_sync(eventually, lambda: set(statuses(mongo, database)) == {"succeeded"})
            nursery.cancel_scope.cancel()
    assert statuses(mongo, database) == {"succeeded": TASKS}
    assert set(begun) == set(range(TASKS))


async def put_until_known(app: StreamQ, tasks: Sequence[NewTask]) -> None:
    """Put them with the same ids until that is acknowledged."""
    while True:
        try:
            await app.put_many(tasks)
        except StoreError:
            await trio.sleep(PAUSE_S)
        else:
            return


def statuses(mongo: MongoClient[dict[str, Any]], database: str) -> Counter[str]:
    """How many tasks there are of each, beside the proxy."""
    found = mongo[database]["tasks"].find({"kind": {"$exists": False}}, {"status": 1})
    return Counter(str(one["status"]) for one in found)
