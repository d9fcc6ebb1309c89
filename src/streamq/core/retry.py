"""Whether a failed attempt is followed by another, and how long that waits. Pure: chance is an argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypedDict, Unpack

import msgspec

from streamq.errors import OptionInvalid

MAX_DELAY_S = 10 * 365 * 86_400.0
"""Ten years. Longer is taken for a mistake in units; BSON dates reach much further."""

Kinds = type[BaseException] | tuple[type[BaseException], ...]
"""Exception classes, as `isinstance` takes them."""


class Linear(msgspec.Struct, frozen=True):
    """Waits grow by the same step."""

    first_s: float
    step_s: float


class Table(msgspec.Struct, frozen=True):
    """Waits are written down; the last one is for every attempt beyond."""

    waits_s: tuple[float, ...]


class Computed(msgspec.Struct, frozen=True):
    """Waits are what a function of the user's says."""

    function: Callable[[int, str], float]


class Rules(TypedDict, total=False):
    """What every kind of `Retry` takes."""

    max_attempts: int
    jitter: bool
    only: Kinds | None
    never: Kinds


class Retry(msgspec.Struct, frozen=True):
    """Exponential backoff with full jitter: attempt n waits a random time up to `first_s * factor ** (n - 1)`.

    Other waits are made by `Retry.constant`, `Retry.linear`, `Retry.table` and `Retry.computed`.

    Args:
        max_attempts: how often a task may be claimed before a failure is final, 1 or more.
        first_s: the ceiling of the first wait, in seconds.
        factor: what each further failure multiplies the ceiling by, 1 or more.
        cap_s: the highest ceiling of waits that grow, in seconds.
        jitter: draw uniformly from zero to the ceiling; False waits the ceiling itself.
        only: try again after these exceptions only; any other is final at once. None: after any.
        never: these exceptions are final at once, also where `only` names a class of theirs.

    Subclasses count, as in an `except`. Of an exception group every member must be named by `only`, and one named by
    `never` is enough. `TaskTimeout` can be named too. A lease that ended is no exception: it is always tried again.

    Full jitter spreads a crowd of failures best: M. Brooker, "Exponential Backoff And Jitter", AWS, 2015.
    """

    max_attempts: int = 5
    first_s: float = 1.0
    factor: float = 2.0
    cap_s: float = 300.0
    jitter: bool = True
    only: Kinds | None = None
    never: Kinds = ()
    shape: Linear | Table | Computed | None = None

    def __post_init__(self) -> None:
        require_max_attempts(self.max_attempts)
        _require_wait("Retry.first_s", self.first_s)
        _require_wait("Retry.factor", self.factor, least=1.0)
        _require_wait("Retry.cap_s", self.cap_s)
        if not isinstance(self.jitter, bool):
            raise OptionInvalid("Retry.jitter", self.jitter, "True or False")
        if self.only is not None:
            _require_kinds("Retry.only", self.only, least=1)
        _require_kinds("Retry.never", self.never)
        if not isinstance(self.shape, Linear | Table | Computed | None):
            raise OptionInvalid("Retry.shape", self.shape, "what Retry.constant, linear, table or computed makes")

    @staticmethod
    def constant(wait_s: float, **rules: Unpack[Rules]) -> Retry:
        """Wait up to `wait_s` seconds before each further attempt (exactly so long with `jitter=False`)."""
        return _shaped(Table((_require_wait("wait_s", wait_s),)), rules)

    @staticmethod
    def linear(first_s: float, step_s: float, *, cap_s: float = 300.0, **rules: Unpack[Rules]) -> Retry:
        """Wait up to `first_s`, then `step_s` more at each further failure, at most `cap_s` seconds."""
        shape = Linear(_require_wait("first_s", first_s), _require_wait("step_s", step_s))
        return msgspec.structs.replace(_shaped(shape, rules), cap_s=_require_wait("Retry.cap_s", cap_s))

    @staticmethod
    def table(waits_s: Sequence[float], **rules: Unpack[Rules]) -> Retry:
        """Wait up to `waits_s[n - 1]` seconds after failed attempt n, the last one for every attempt beyond.

        `max_attempts` is one more than there are waits unless it is given.
        """
        if isinstance(waits_s, str | bytes) or not isinstance(waits_s, Sequence) or not waits_s:
            raise OptionInvalid("waits_s", waits_s, "a list or tuple of seconds, at least one")
        shape = Table(tuple(_require_wait(f"waits_s[{place}]", one) for place, one in enumerate(waits_s)))
        rules.setdefault("max_attempts", len(shape.waits_s) + 1)
        return _shaped(shape, rules)

    @staticmethod
    def computed(wait_s: Callable[[int, str], float], **rules: Unpack[Rules]) -> Retry:
        """Wait up to `wait_s(attempt, error_type)` seconds: the failed attempt, from 1, and the error's name as stored.

        The function must be quick and must not block: it runs where tasks are settled. Where it raises, or returns what
        is no wait, the exponential default is used and the stored error says so.
        """
        return _shaped(Computed(_require_computing(wait_s)), rules)


def _shaped(shape: Linear | Table | Computed, rules: Rules) -> Retry:
    for name, value in rules.items():
        if name not in Rules.__annotations__:
            raise OptionInvalid(name, value, f"one of {', '.join(Rules.__annotations__)}")
    return Retry(shape=shape, **rules)


def require_max_attempts(value: object) -> int:
    """Return `value` if it can be a number of attempts, else raise `OptionInvalid`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise OptionInvalid("max_attempts", value, "an int from 1 to 1,000,000")
    return value


def require_retry(value: object) -> Retry:
    """Return `value` if it is a rule of retrying, else raise `OptionInvalid`."""
    if not isinstance(value, Retry):
        raise OptionInvalid("retry", value, "a Retry, e.g. Retry(max_attempts=8) or Retry.constant(30)")
    return value


def _require_wait(name: str, value: object, *, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= MAX_DELAY_S:
        raise OptionInvalid(name, value, f"a number of at least {least:g}")
    return float(value)


def _require_kinds(name: str, value: object, *, least: int = 0) -> None:
    kinds = value if isinstance(value, tuple) else (value,)
    if len(kinds) < least or not all(isinstance(one, type) and issubclass(one, BaseException) for one in kinds):
        raise OptionInvalid(name, value, "an exception class or a tuple of some, e.g. (ConnectionError, TimeoutError)")


def _require_computing(function: object) -> Callable[[int, str], float]:
    expected = "a function of (attempt, error_type) that returns seconds"
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise OptionInvalid("wait_s", function, expected)
    try:
        inspect.signature(function).bind(1, "ValueError")
    except TypeError:
        raise OptionInvalid("wait_s", function, expected) from None
    except ValueError:
        pass  # some builtins have no signature to look at
    return function


# --- deciding --------------------------------------------------------------------------------------------------------


def is_retried(retry: Retry, error: BaseException) -> bool:
    """Say whether the rule tries again after `error`, as long as attempts are left."""
    if any(isinstance(one, retry.never) for one in _members(error)):
        return False
    return (
        retry.only is None
        or isinstance(error, retry.only)
        or all(isinstance(one, retry.only) for one in _leaves(error))
    )


def _members(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and, of a group, whatever is in it."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _members(one)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    return (one for one in _members(error) if not isinstance(one, BaseExceptionGroup))


def backoff_s(retry: Retry, attempt: int, u: float, error_type: str = "") -> float:
    """Return how many seconds to wait after failed `attempt` (from 1); `u` is drawn from [0, 1).

    Raises `Miscomputed` when the user's function has no usable answer.
    """
    ceiling = _ceiling_s(retry, attempt, error_type)
    return ceiling * u if retry.jitter else ceiling


class Miscomputed(Exception):
    """A user's function gave no wait; the message says why."""


def _ceiling_s(retry: Retry, attempt: int, error_type: str) -> float:
    match retry.shape:
        case None:
            return min(retry.cap_s, _power(retry, attempt))
        case Linear(first_s, step_s):
            return min(retry.cap_s, first_s + step_s * (attempt - 1))
        case Table(waits_s):
            return waits_s[min(attempt, len(waits_s)) - 1]
        case Computed(function):
            return _computed_s(function, attempt, error_type)


def _power(retry: Retry, attempt: int) -> float:
    try:
        return retry.first_s * float(retry.factor) ** (attempt - 1)
    except OverflowError:  # long before a million attempts
        return retry.cap_s if retry.first_s else 0.0


def _computed_s(function: Callable[[int, str], Any], attempt: int, error_type: str) -> float:
    try:
        answer = function(attempt, error_type)
    except Exception as error:
        raise Miscomputed(f"the function of Retry.computed raised {type(error).__name__}") from error
    try:
        return _require_wait("wait_s", answer)
    except OptionInvalid:
        shown = f"{answer:g}" if isinstance(answer, int | float) else f"a {type(answer).__name__}"
        raise Miscomputed(f"the function of Retry.computed returned {shown}, which is no wait") from None
