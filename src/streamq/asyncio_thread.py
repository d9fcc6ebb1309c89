"""Calls in threads, for asyncio.

What waits has a thread of its own: `asyncio.to_thread` has few of them (the number of cores and 4 more, 32 at most),
and waiting claims that held them all would keep each settlement and extension from its turn until the lease had ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def to_the_end(function: Callable[[], T]) -> asyncio.Task[T]:
    """Run `function` in a thread, as a task that is not cancelled with who awaits it (who has to `shield` it)."""
    running = asyncio.ensure_future(asyncio.to_thread(function))
    running.add_done_callback(_heard)
    return running


def waiting(function: Callable[[], T]) -> asyncio.Future[T]:
    """The same for what may wait for long: in a thread of its own."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    answer.add_done_callback(_heard)
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(function)
        except BaseException as error:  # noqa: BLE001 - whoever awaits it raises it
            tell(answer.set_exception, error)
        else:
            tell(answer.set_result, result)

    def tell(how: Callable[[Any], None], what: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if answer.done() else how(what))

    threading.Thread(target=run, name="streamq waits").start()
    return answer


def _heard(running: asyncio.Future[Any]) -> None:
    """Nobody may be left to hear of an error: asyncio is not to complain of that."""
    if not running.cancelled():
        running.exception()
