"""The side of streamq that runs in trio, and what is said to those who call it elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import trio

from streamq.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")


def require_trio() -> None:
    """Refuse asyncio, and no event loop at all, saying what to do instead."""
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        raise UsageError(
            "the async side of streamq runs in trio (trio.run(main)), and this is not it. From a program without trio "
            "put with app.blocking.put(handler.new(...)), in asyncio by await streamq.asyncio.Door(app).put("
            "handler.new(...)); run handlers with `streamq worker MODULE:APP`"
        ) from None


def in_trio(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Have a coroutine function refuse to be called outside of trio. There nobody awaits what it returns: the call
    would do nothing, and say nothing."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        require_trio()
        return function(*args, **kwargs)

    return call
