"""What a holder says of its task, by returning, raising or calling a method, as an outcome."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any

import msgspec

from streamq.core.codec import require_size, to_stored
from streamq.core.outcome import CalledOff, Done, Raised, Snoozed, raised, reason_of
from streamq.core.retry import Retry, is_retried
from streamq.core.signals import CancelTask, RetryAfter, Snooze


def done_with(result: Any, limit_bytes: int) -> Done:
    """Read a result without a schema. Raises `PayloadInvalid`, `PayloadTooLarge`."""
    if result is None:
        return Done()
    stored = to_stored(result, where="result")
    require_size(stored, limit_bytes, "the result")
    return Done(stored)


def failed_by(error: str | BaseException, rule: Retry, *, retry: bool) -> Raised:
    """Read what a holder gives as the reason of a failure; without `retry` it is final. A text has no class that `rule`
    could name."""
    if isinstance(error, str):
        return raised("Failed", error, final=not retry)
    after = _asked_after(error)
    told = failure_of(error, rule) if after is None else after
    return told if retry else msgspec.structs.replace(told, final=True)


def outcome_of(error: BaseException, rule: Retry) -> Snoozed | CalledOff | Raised:
    """Read what was raised: a word to the queue, also out of a nursery of the handler's own, or a failure."""
    return _signal(error) or failure_of(error, rule)


def _signal(error: BaseException) -> Snoozed | CalledOff | Raised | None:
    return _called_off(error) or _snoozed(error) or _asked_after(error)


def _called_off(error: BaseException) -> CalledOff | None:
    """Read a `CancelTask`, also beside words that ask for later: who wants no more of the task wants more than they."""
    if isinstance(error, CancelTask):
        return CalledOff(reason_of(error.reason))
    if isinstance(error, BaseExceptionGroup):
        said, rest = error.split(CancelTask)
        first = None if said is None else _first(said)
        if first is not None and (rest is None or _asked_s(rest, (RetryAfter, Snooze)) is not None):
            return CalledOff(reason_of(first.reason))
    return None


def _first(group: BaseExceptionGroup[CancelTask]) -> CancelTask:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _snoozed(error: BaseException) -> Snoozed | None:
    asked = _asked_s(error, (Snooze,))
    return None if asked is None else Snoozed(asked)


def _asked_after(error: BaseException) -> Raised | None:
    """Read a `RetryAfter`, or a group that asks for later in both ways: of the two, failing says more."""
    after_s = _asked_s(error, (RetryAfter, Snooze))
    if after_s is None or isinstance(error, Snooze):
        return None
    return failure_of(error.__cause__ or error, after_s=after_s)


def _asked_s(error: BaseException, words: tuple[type[Snooze] | type[RetryAfter], ...]) -> float | None:
    """Return how long to wait when nothing but `words` was raised; the longest of a group."""
    if isinstance(error, words):
        return error.delay_s
    if isinstance(error, BaseExceptionGroup):
        said = [_asked_s(one, words) for one in error.exceptions]
        asked = [one for one in said if one is not None]
        return max(asked) if len(asked) == len(said) else None
    return None


def failure_of(error: BaseException, rule: Retry | None = None, after_s: float | None = None) -> Raised:
    """Read what is kept of an exception: its type, text and traceback, bounded; and whether `rule` tries again after
    one of its class."""
    kind = type(error)
    plain = kind.__module__ in ("builtins", "__main__")
    name = kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}"
    told = traceback.format_exception(kind, error, _users_part(error.__traceback__))
    final = rule is not None and not is_retried(rule, error)
    return raised(name, _text(error), "".join(told), final=final, after_s=after_s)


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
