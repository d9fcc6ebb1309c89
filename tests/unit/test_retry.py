"""Rules of retrying: how long a retry waits, after which exceptions there is one, and what a handler may ask for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from bson import ObjectId

from streamq import OptionInvalid, Retry, RetryAfter, Snooze, StreamQ, TaskTimeout
from streamq.core.claim import Claim
from streamq.core.outcome import Raised, Snoozed
from streamq.core.retry import Computed, backoff_s, is_retried
from streamq.core.settlement import settlement_of
from streamq.core.telling import failed_by, outcome_of

LINEAR = Retry.linear(2, 3, cap_s=7, jitter=False)
TABLE = Retry.table([1, 5, 30], jitter=False)
PICKY = Retry.computed(lambda attempt, error: attempt * (100.0 if error == "ConnectionError" else 1.0), jitter=False)


def claim_at(attempt: int, max_attempts: int = 5) -> Claim:
    return Claim(ObjectId(), "q", "t", None, attempt, max_attempts, 0, b"c", 30.0, None)


@pytest.mark.parametrize(
    ("retry", "waits"),
    [
        (Retry(first_s=1, factor=3, cap_s=20, jitter=False), [1, 3, 9, 20, 20]),
        (Retry.constant(4, jitter=False), [4, 4, 4, 4, 4]),
        (Retry.constant(4_000, jitter=False), [4_000] * 5),  # the cap is for waits that grow
        (LINEAR, [2, 5, 7, 7, 7]),
        (TABLE, [1, 5, 30, 30, 30]),
        (PICKY, [1, 2, 3, 4, 5]),
    ],
)
def test_each_kind_of_backoff_has_its_waits(retry: Retry, waits: list[float]) -> None:
    assert [backoff_s(retry, attempt, 0.5, "ValueError") for attempt in range(1, 6)] == waits


@pytest.mark.parametrize(
    "retry", [Retry(first_s=4), Retry.constant(4), Retry.linear(4, 0), Retry.table([4]), Retry.computed(lambda *_: 4)]
)
def test_full_jitter_is_on_by_default(retry: Retry) -> None:
    assert (backoff_s(retry, 1, 0.0), backoff_s(retry, 1, 0.25)) == (0.0, 1.0)


def test_a_table_gives_as_many_attempts_as_it_has_waits_and_one_more() -> None:
    assert (TABLE.max_attempts, Retry.table([1], max_attempts=9).max_attempts) == (4, 9)


def test_a_computed_wait_knows_the_attempt_and_the_stored_name_of_the_error() -> None:
    settlement = settlement_of(outcome_of(ConnectionError("gone"), PICKY), claim_at(2), PICKY, 0.5)
    assert (settlement.move, settlement.delay_s) == ("retry_later", 200.0)


@pytest.mark.parametrize("answer", [-1, math.nan, math.inf, True, "4", None, 1e300])
def test_a_computed_wait_that_is_none_falls_back_and_says_so(answer: Any) -> None:
    retry = Retry.computed(lambda attempt, error: answer)
    settlement = settlement_of(outcome_of(ValueError("no"), retry), claim_at(2), retry, 0.5)
    assert (settlement.move, settlement.delay_s) == ("retry_later", 1.0)
    assert settlement.error is not None
    assert settlement.error.message.startswith("no [the function of Retry.computed returned")


def test_a_computed_wait_that_raises_falls_back_and_says_so() -> None:
    retry = Retry.computed(lambda attempt, error: 1 / 0)
    error = settlement_of(outcome_of(ValueError("no"), retry), claim_at(1), retry, 0.5).error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "no [the function of Retry.computed raised ZeroDivisionError]")


class Gone(ConnectionError):
    pass


NETWORK = Retry(only=(ConnectionError, TimeoutError), never=Gone)


@pytest.mark.parametrize(
    ("retry", "error", "again"),
    [
        (Retry(), ValueError(), True),
        (NETWORK, ConnectionResetError(), True),  # a subclass, as in an except
        (NETWORK, ValueError(), False),
        (NETWORK, Gone(), False),  # never wins
        (Retry(never=LookupError), KeyError(), False),
        (Retry(never=LookupError), ValueError(), True),
        (NETWORK, ExceptionGroup("", [TimeoutError(), ExceptionGroup("", [ConnectionError()])]), True),
        (NETWORK, ExceptionGroup("", [TimeoutError(), ValueError()]), False),
        (NETWORK, ExceptionGroup("", [TimeoutError(), ExceptionGroup("", [Gone()])]), False),
        (Retry(only=ExceptionGroup), ExceptionGroup("", [ValueError()]), True),
        (Retry(never=ExceptionGroup), ExceptionGroup("", [ValueError()]), False),
        (Retry(never=TaskTimeout), TaskTimeout(), False),
    ],
)
def test_which_exceptions_are_tried_again(retry: Retry, error: Exception, again: bool) -> None:
    assert is_retried(retry, error) is again
    move = settlement_of(outcome_of(error, retry), claim_at(1), retry, 0.5).move
    assert move == ("retry_later" if again else "fail")


@pytest.mark.parametrize("tell", [lambda error, rule: failed_by(error, rule, retry=True), outcome_of])
def test_a_failure_by_hand_obeys_the_rule_as_a_raised_one_does(tell: Callable[[Exception, Retry], Raised]) -> None:
    assert (tell(ValueError(), NETWORK).final, tell(TimeoutError(), NETWORK).final) == (True, False)


def test_a_failure_by_hand_without_retry_is_final_whatever_the_rule_or_the_error_says() -> None:
    told = [failed_by(error, Retry(), retry=False) for error in ("no", ValueError(), RetryAfter(5))]
    assert all(one.final for one in told)


def test_retry_after_waits_exactly_so_long_and_counts_the_attempt() -> None:
    retry = Retry(never=Exception)
    settlements = [settlement_of(outcome_of(RetryAfter(30), retry), claim_at(n, 2), retry, 0.1) for n in (1, 2)]
    assert [(one.move, one.delay_s) for one in settlements] == [("retry_later", 30.0), ("fail", 0.0)]


def test_retry_after_of_nothing_is_at_once() -> None:
    assert settlement_of(outcome_of(RetryAfter(0), Retry()), claim_at(1), Retry(), 0.9).move == "retry"


def test_retry_after_keeps_the_error_it_came_from() -> None:
    error = RetryAfter(30)
    error.__cause__ = ValueError("busy")
    told = outcome_of(error, Retry())
    assert isinstance(told, Raised)
    assert (told.type, told.message, told.after_s) == ("ValueError", "busy", 30.0)


def test_a_group_that_only_asks_for_later_is_heard_and_the_longest_wait_counts() -> None:
    rule = Retry()
    assert outcome_of(ExceptionGroup("", [Snooze(1), ExceptionGroup("", [Snooze(3)])]), rule) == Snoozed(3.0)
    mixed = outcome_of(ExceptionGroup("", [RetryAfter(1), Snooze(3)]), rule)
    assert isinstance(mixed, Raised)
    assert mixed.after_s == 3.0
    failed = outcome_of(ExceptionGroup("", [RetryAfter(1), ValueError()]), rule)
    assert isinstance(failed, Raised)
    assert failed.after_s is None


async def waits(attempt: int, error: str) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Retry(only=()), "Retry.only"),
        (lambda: Retry(only=["ValueError"]), "Retry.only"),  # type: ignore[arg-type]
        (lambda: Retry(only=(ValueError, "KeyError")), "Retry.only"),  # type: ignore[arg-type]
        (lambda: Retry(never=(int,)), "Retry.never"),  # type: ignore[arg-type]
        (lambda: Retry(never=ValueError()), "Retry.never"),  # type: ignore[arg-type]
        (lambda: Retry(jitter=1), "Retry.jitter"),  # type: ignore[arg-type]
        (lambda: Retry(shape=3), "Retry.shape"),  # type: ignore[arg-type]
        (lambda: Retry.constant(-1), "wait_s"),
        (lambda: Retry.constant(1, attempts=3), "attempts"),  # type: ignore[call-arg]
        (lambda: Retry.constant(1, max_attempts=0), "max_attempts"),
        (lambda: Retry.linear(1, math.inf), "step_s"),
        (lambda: Retry.linear(1, 1, cap_s=-1), "Retry.cap_s"),
        (lambda: Retry.table([]), "waits_s"),
        (lambda: Retry.table("123"), "waits_s"),  # type: ignore[arg-type]
        (lambda: Retry.table([1, True, "x"]), "waits_s[1]"),  # type: ignore[list-item]
        (lambda: Retry.computed(3), "wait_s"),  # type: ignore[arg-type]
        (lambda: Retry.computed(lambda: 3), "wait_s"),  # type: ignore[arg-type,misc]
        (lambda: Retry.computed(waits), "wait_s"),  # type: ignore[arg-type]
        (lambda: StreamQ("mongodb://x", retry=3), "retry"),  # type: ignore[arg-type]
        (lambda: StreamQ("mongodb://x").task(retry=3)(len), "retry"),  # type: ignore[call-overload]
        (lambda: StreamQ("mongodb://x").task(retry=0)(abs), "retry"),  # type: ignore[call-overload]
        (lambda: RetryAfter(-1), "delay_s"),
    ],
)
def test_what_is_no_rule_is_refused_by_name(make: Callable[[], object], named: str) -> None:
    with pytest.raises(OptionInvalid) as caught:
        make()
    assert caught.value.option == named


def test_a_builtin_without_a_signature_may_compute_waits() -> None:
    assert isinstance(Retry.computed(max).shape, Computed)  # type: ignore[arg-type]
