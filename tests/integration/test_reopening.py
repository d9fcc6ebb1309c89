"""Reopening on a real server: an opening that it refuses once is told, and costs those served before nothing."""

from __future__ import annotations

import pytest
import trio

from streamq import StoreError
from tests.integration.conftest import MakeApp, Mongo

SOON_S = 15.0
"""How soon a put must have been run: the first pause before a reopening is 0.1 s."""

READ_CONCERN_NOT_AVAILABLE_YET = 134


async def test_refused_opening_is_told_to_the_waiter_and_the_workers_stream_is_opened_again(
    make_app: MakeApp, mongo: Mongo, uri: str
) -> None:
    """A waiter asks for a wider stream; the server refuses it; the puts of others go on waking the worker."""
    here = make_app(f"{uri}&appName=refused&retryReads=false", safety_scan_s=None)
    elsewhere = make_app()
    ran: list[int] = []
    woken = trio.Event()

    @here.task
    async def job(number: int) -> None:
        ran.append(number)
        if number == 2:
            woken.set()

    refusal = {"failCommands": ["aggregate"], "errorCode": READ_CONCERN_NOT_AVAILABLE_YET, "appName": "refused"}
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        handle = await job.put(1)
        mongo.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=refusal)
        try:
            with trio.fail_after(SOON_S), pytest.raises(StoreError):
                await handle.result()
        finally:
            mongo.admin.command("configureFailPoint", "failCommand", mode="off")
        await elsewhere.put_many([job.new(2)])
        with trio.fail_after(SOON_S):
            await woken.wait()
        nursery.cancel_scope.cancel()
    assert ran == [1, 2]
