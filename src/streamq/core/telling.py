"""What a holder says of its task, by returning, raising or calling a method, as an outcome."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any

from streamq.core.codec import require_size, to_stored
from streamq.core.outcome import Done, Raised, Snoozed, raised
from streamq.core.signals import Snooze


def done_with(result: Any, limit_bytes: int) -> Done:
    """Read a result without a schema. Raises `PayloadInvalid`, `PayloadTooLarge`."""
    if result is None:
        return Done()
    stored = to_stored(result, where="result")
    require_size(stored, limit_bytes, "the result")
    return Done(stored)


def failed_by(error: str | BaseException, *, retry: bool) -> Raised:
    """Read what a holder gives as the reason of a failure; without `retry` it is final."""
    if isinstance(error, str):
        return raised("Failed", error, final=not retry)
    told = failure_of(error)
    return Raised(told.type, told.message, told.traceback, final=not retry)


def outcome_of(error: BaseException) -> Snoozed | Raised:
    """Read what was raised: a word to the queue, also out of a nursery of the handler's own, or a failure."""
    return _signal(error) or failure_of(error)


def _signal(error: BaseException) -> Snoozed | None:
    if isinstance(error, Snooze):
        return Snoozed(error.delay_s)
    if isinstance(error, BaseExceptionGroup):
        said = [_signal(one) for one in error.exceptions]
        asked = [one.delay_s for one in said if one is not None]
        return Snoozed(max(asked)) if len(asked) == len(said) else None
    return None


def failure_of(error: BaseException) -> Raised:
    """Read what is kept of an exception: its type, text and traceback, bounded."""
    kind = type(error)
    plain = kind.__module__ in ("builtins", "__main__")
    name = kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}"
    told = traceback.format_exception(kind, error, _users_part(error.__traceback__))
    return raised(name, _text(error), "".join(told))


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the frames by which streamq and trio came to the user's code; keep all when there is nothing else."""
    own = trace
    while own is not None and str(own.tb_frame.f_globals.get("__name__")).split(".")[0] in (
        "streamq",
        "trio",
        "outcome",
    ):
        own = own.tb_next
    return own or trace


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an error whose own __str__ raises must not take the worker with it
        return f"<{type(error).__name__} whose text cannot be shown>"
