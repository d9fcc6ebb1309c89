"""Declaring handlers: from what `@app.task(...)` was given, and the function under it, to its `Handling`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, overload

import msgspec

from streamq.core.handling import BareSettings, Handling
from streamq.core.options import (
    require_keep_s,
    require_lease_s,
    require_limit_s,
    require_priority,
    require_queue,
    require_text,
    require_timeout_s,
)
from streamq.core.recurrence import Recurrence
from streamq.core.retry import Retry, require_retry
from streamq.core.schema import Schema
from streamq.drafting import require_callable_bare
from streamq.errors import OptionInvalid, UsageError
from streamq.handler import Handler

P = ParamSpec("P")
R = TypeVar("R")


class Declare(Protocol):
    """What `app.task(...)` returns: a decorator that keeps the function's types."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Handler[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Handler[P, R, R]: ...


class Declaration(msgspec.Struct, frozen=True):
    """What `@app.task` was given, not checked yet; see `StreamQ.task`. What is None is left to the app."""

    queue: str
    name: str | None
    retry: Retry | None
    timeout_s: float | None
    priority: int
    keep_s: float | None
    keep_failed_s: float | None
    lease_s: float | None
    recurrence: Recurrence | None
    expires_in_s: float | None
    total_timeout_s: float | None

    def handling_of(self, function: Callable[..., Any], app: BareSettings, place: object) -> Handling:
        """Check it, and fill up what it leaves to the app. Raises `UsageError` naming the parameter."""
        is_async = _is_async(function)
        handling = Handling(
            name=_own_name(function) if self.name is None else require_text("name", self.name),
            queue=require_queue(self.queue),
            function=function,
            schema=Schema.of(function),
            is_async=is_async,
            retry=app.retry if self.retry is None else require_retry(self.retry),
            timeout_s=require_timeout_s(self.timeout_s),
            priority=require_priority(self.priority),
            keep_s=app.keep_s if self.keep_s is None else require_keep_s(self.keep_s),
            keep_failed_s=(
                app.keep_failed_s if self.keep_failed_s is None else require_keep_s(self.keep_failed_s, "keep_failed_s")
            ),
            lease_s=None if self.lease_s is None else require_lease_s(self.lease_s),
            expires_in_s=(
                app.expires_in_s if self.expires_in_s is None else require_limit_s("expires_in_s", self.expires_in_s)
            ),
            total_timeout_s=(
                None if self.total_timeout_s is None else require_limit_s("total_timeout_s", self.total_timeout_s)
            ),
            limit_bytes=app.limit_bytes,
            recurrence=self.recurrence,
            place=place,
        )
        if self.recurrence is not None:
            require_callable_bare(handling)
        return handling


def require_untaken(handling: Handling, declared: Mapping[str, Handling]) -> None:
    """Refuse a second handler of one name."""
    if handling.name in declared:
        taken = declared[handling.name].function
        where = f"{taken.__module__}.{getattr(taken, '__qualname__', type(taken).__name__)}"
        raise OptionInvalid("name", handling.name, f"a name that is not taken by {where}: rename one or give name=")


def _own_name(function: Callable[..., Any]) -> str:
    name = str(getattr(function, "__name__", type(function).__name__))
    if name == "<lambda>":
        raise UsageError("a lambda has no name to store: give name=, and keep it while tasks wait")
    return name


def _is_async(function: Callable[..., Any]) -> bool:
    called = function if inspect.isroutine(function) else type(function).__call__
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise UsageError(f"{getattr(function, '__name__', function)}: a handler returns one value, this is a generator")
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
