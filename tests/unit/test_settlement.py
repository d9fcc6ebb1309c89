"""From an outcome to a settlement; how long a retry waits; what is kept of an error."""

from __future__ import annotations

import math
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamq.core.claim import Claim
from streamq.core.options import KEEP_DEFAULT_S
from streamq.core.outcome import (
    MESSAGE_KEPT,
    TOTAL_OVER,
    TRACEBACK_KEPT,
    TYPE_KEPT,
    Done,
    Outcome,
    Raised,
    Snoozed,
    Stopped,
    raised,
)
from streamq.core.retry import MAX_DELAY_S, Retry, backoff_s
from streamq.core.settlement import Settlement, outgrown, settlement_of
from streamq.errors import OptionInvalid

few = settings(max_examples=25, deadline=None)
STEADY = Retry(max_attempts=5, first_s=2.0, jitter=False)
AT_ONCE = Retry(first_s=0.0)
BOOM = Raised(type="Boom", message="it broke")


def claim_at(attempt: int, max_attempts: int, keep_s: float | None = None) -> Claim:
    return Claim(
        id=ObjectId(),
        queue="q",
        task="t",
        payload=None,
        attempt=attempt,
        max_attempts=max_attempts,
        priority=0,
        claim_id=b"c",
        lease_s=30.0,
        keep_s=keep_s,
    )


FIRST, LAST, ONLY, BEYOND = claim_at(1, 3), claim_at(3, 3), claim_at(1, 1), claim_at(4, 3)


@pytest.mark.parametrize(
    ("outcome", "retry", "moves"),
    [
        # The move at the first of several attempts, the last of several, the only one, one too many.
        (Done(1), STEADY, ["succeed"] * 4),
        (Done(None), STEADY, ["succeed"] * 4),
        (BOOM, STEADY, ["retry_later", "fail", "fail", "fail"]),
        (BOOM, AT_ONCE, ["retry", "fail", "fail", "fail"]),
        (Raised("Bad", "no", final=True), STEADY, ["fail"] * 4),
        (Snoozed(5.0), STEADY, ["snooze"] * 4),
        (Snoozed(0.0), STEADY, ["release"] * 4),
        (Stopped(started=False), STEADY, ["release"] * 4),
        (Stopped(started=True), STEADY, ["release", "release", "fail", "release"]),
    ],
)
def test_each_outcome_has_its_move(outcome: Outcome, retry: Retry, moves: list[str]) -> None:
    claims = [FIRST, LAST, ONLY, BEYOND]
    settlements = [settlement_of(outcome, claim, retry, 0.5) for claim in claims]
    assert [settlement.move for settlement in settlements] == moves
    for claim, settlement in zip(claims, settlements, strict=True):
        assert (settlement.id, settlement.queue, settlement.claim_id) == (claim.id, "q", b"c")


@pytest.mark.parametrize(
    ("outcome", "left_s", "move"),
    [
        (BOOM, None, "retry_later"),
        (BOOM, 1_000.0, "retry_later"),
        (BOOM, 0.0, "fail"),
        (Snoozed(5.0), 5.1, "snooze"),
        (Snoozed(5.0), 5.0, "fail"),
        (Snoozed(0.0), 0.1, "release"),
        (Snoozed(0.0), -0.1, "fail"),
        (Done(), -1.0, "succeed"),
        (Stopped(started=True), -1.0, "release"),
    ],
)
def test_nothing_is_put_off_past_the_total_time(outcome: Outcome, left_s: float | None, move: str) -> None:
    settlement = settlement_of(outcome, FIRST, STEADY, 0.5, left_s)
    assert settlement.move == move
    if move == "fail":
        assert settlement.error == (BOOM if outcome is BOOM else TOTAL_OVER)


@pytest.mark.parametrize(("keep_s", "kept_s"), [(None, KEEP_DEFAULT_S), (0.0, 0.0), (5.0, 5.0)])
def test_a_success_is_kept_as_the_task_says(keep_s: float | None, kept_s: float) -> None:
    settlement = settlement_of(Done(7), claim_at(1, 3, keep_s), STEADY, 0.0)
    assert (settlement.keep_s, settlement.result, settlement.deletes) == (kept_s, 7, keep_s == 0.0)


def test_only_a_success_that_is_not_kept_deletes() -> None:
    zero_kept = claim_at(3, 3, 0.0)
    for outcome in (BOOM, Snoozed(5.0), Snoozed(0.0), Stopped(started=True), Stopped(started=False)):
        assert not settlement_of(outcome, zero_kept, STEADY, 0.0).deletes


def test_a_failure_is_kept_for_a_person_with_its_error() -> None:
    settlement = settlement_of(BOOM, LAST, STEADY, 0.0)
    assert (settlement.move, settlement.error) == ("fail", BOOM)


def test_a_retry_waits_as_its_attempt_and_the_dice_say() -> None:
    retry = Retry(first_s=2.0, factor=3.0)
    assert settlement_of(BOOM, claim_at(2, 5), retry, 0.5).delay_s == pytest.approx(3.0)
    assert settlement_of(BOOM, claim_at(2, 5), retry, 0.0).move == "retry"


def test_a_stop_during_the_only_attempt_says_why_it_failed() -> None:
    settlement = settlement_of(Stopped(started=True), ONLY, STEADY, 0.0)
    assert settlement.error is not None
    assert settlement.error.type == "Stopped"


@pytest.mark.parametrize("more", [{"move": "succeed", "result": "r"}, {"move": "retry", "error": BOOM}])
def test_what_outgrows_its_document_fails_for_good_without_what_was_too_large(more: dict[str, Any]) -> None:
    settlement = outgrown(Settlement(ObjectId(), "q", b"c", delay_s=5.0, keep_s=0.0, **more))
    assert (settlement.move, settlement.result) == ("fail", None)
    assert settlement.error is not None
    assert settlement.error.type == "PayloadTooLarge"


# --- retry --------------------------------------------------------------------------------------------------------

retries = st.builds(
    Retry,
    first_s=st.floats(0, MAX_DELAY_S),
    factor=st.floats(1, 1e6),
    cap_s=st.floats(0, MAX_DELAY_S),
    jitter=st.booleans(),
)


@few
@given(retries, st.integers(1, 1_000_000), st.floats(0, 1, exclude_max=True))
@example(Retry(first_s=1e-300, cap_s=0.0, jitter=False), 1, 0.0)
@example(Retry(first_s=300.0, factor=MAX_DELAY_S), 1_000_000, 0.999)
@example(Retry(first_s=0.1, factor=1.0, cap_s=0.1, jitter=False), 1_000_000, 0.0)
def test_a_wait_is_never_negative_nor_over_the_cap(retry: Retry, attempt: int, u: float) -> None:
    assert 0 <= backoff_s(retry, attempt, u) <= retry.cap_s


@few
@given(retries, st.integers(1, 1_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_never_shrinks_with_the_attempt(retry: Retry, attempt: int, u: float) -> None:
    assert backoff_s(retry, attempt, u) <= backoff_s(retry, attempt + 1, u)


def test_the_ceiling_doubles_until_the_cap() -> None:
    retry = Retry(first_s=0.5, factor=2.0, cap_s=10.0, jitter=False)
    assert [backoff_s(retry, attempt, 0.3) for attempt in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_jitter_draws_from_zero_to_the_ceiling() -> None:
    retry = Retry(first_s=8.0, cap_s=100.0)
    assert [backoff_s(retry, 1, u) for u in (0.0, 0.25, 0.5)] == [0.0, 2.0, 4.0]


def test_no_first_wait_is_no_wait_at_all() -> None:
    assert backoff_s(Retry(first_s=0.0, factor=10.0), 50, 0.9) == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("first_s", "cap_s") for value in (-0.1, math.nan, math.inf, True, "1", None)),
        *(("factor", value) for value in (0.99, math.nan, math.inf, False, "2", None)),
        *(("max_attempts", value) for value in (0, -1, 1_000_001, 1.0, True, "3", None)),
        ("cap_s", MAX_DELAY_S + 1),
    ],
)
def test_a_bad_retry_is_refused_naming_the_parameter(name: str, value: Any) -> None:
    with pytest.raises(OptionInvalid, match=name):
        Retry(**{name: value})


# --- what is kept of an error -------------------------------------------------------------------------------------


def test_an_errors_texts_are_bounded_and_a_traceback_keeps_its_end() -> None:
    kept = raised("T" * 1_000, "m" * 10_000, "start" + "x" * 10_000 + "end", final=True)
    assert (len(kept.type), len(kept.message), len(kept.traceback)) == (TYPE_KEPT, MESSAGE_KEPT, TRACEBACK_KEPT)
    assert kept.traceback.endswith("end")
    assert kept.final


def test_an_errors_text_that_cannot_be_stored_is_replaced_not_refused() -> None:
    kept = raised("E\0", "lone \ud800 surrogate, \0 NUL", "é\udfff")
    assert (kept.type, kept.message, kept.traceback) == ("E\u2400", "lone ? surrogate, \u2400 NUL", "é?")


@few
@given(st.text(st.characters()), st.text(st.characters(exclude_categories=())))
def test_any_errors_text_can_be_encoded(type_name: str, message: str) -> None:
    kept = raised(type_name, message, message)
    for text in (kept.type, kept.message, kept.traceback):
        assert "\0" not in text
        text.encode()
