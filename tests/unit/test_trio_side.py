"""What is async and called outside of trio says so at once: a coroutine that nobody awaits would do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bson import ObjectId

from streamq import StreamQ, UsageError
from streamq.testing import memory_app


def app_and_handler() -> tuple[StreamQ, Any]:
    app = memory_app()

    @app.task(every_s=60)
    async def send(to: str = "") -> None: ...

    return app, send


CALLS: dict[str, Callable[[StreamQ, Any], object]] = {
    "handler.put": lambda app, send: send.put("ann@x"),
    "handler.options.put": lambda app, send: send.options(delay_s=5).put("ann@x"),
    "handler.run_now": lambda app, send: send.run_now(),
    "app.put_many": lambda app, send: app.put_many([send.new("ann@x")]),
    "app.cancel": lambda app, send: app.cancel(ObjectId()),
    "app.disable_schedule": lambda app, send: app.disable_schedule("send"),
    "app.enable_schedule": lambda app, send: app.enable_schedule("send"),
    "queue.put": lambda app, send: app.queue("q").put(1),
    "queue.put_many": lambda app, send: app.queue("q").put_many([1]),
    "queue.pause": lambda app, send: app.queue("q").pause(),
    "queue.resume": lambda app, send: app.queue("q").resume(),
}


@pytest.mark.parametrize("name", CALLS)
def test_call_that_changes_something_is_refused_outside_of_trio_before_it_is_awaited(name: str) -> None:
    app, send = app_and_handler()
    with pytest.raises(UsageError, match=r"app\.blocking\.put"):
        CALLS[name](app, send)
