"""Tasks whose handler is not known here."""

from __future__ import annotations

from typing import Any, cast

import trio

from streamq.core.unclaimed import Unclaimed
from streamq.handler import Handler
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app


async def test_task_of_an_unknown_handler_is_left_for_others_and_visible_as_such() -> None:
    app, newer = memory_app(), memory_app()

    @app.task
    async def known() -> None: ...

    @newer.task
    async def unknown() -> None: ...

    stranger: Handler[[], None, Any] = unknown
    async with app, trio.open_nursery() as nursery:
        new = stranger.new()
        await app.put_many([new, known.new()])
        assert await app.unclaimed() == [Unclaimed("default", "known", 1), Unclaimed("default", "unknown", 1)]
        await nursery.start(app.work)
        await trio.sleep(100)
        assert await app.unclaimed() == [Unclaimed("default", "unknown", 1)]
        nursery.cancel_scope.cancel()
    document = cast(MemoryStore, app.store).documents[new.id]
    assert (document["status"], document["attempt"]) == ("ready", 0)
