"""The checker finds each kind of violation in a history written by hand, and nothing in good ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.chaos.checker import check
from tests.chaos.event import (
    Acked,
    AnyEvent,
    Began,
    Claimed,
    Closed,
    Died,
    Gap,
    Given,
    Healed,
    Kept,
    Lapsed,
    Probed,
    Refused,
    Settled,
    Struck,
    Tried,
    Unknown,
)
from tests.chaos.findings import Findings
from tests.chaos.stored import Stored

T = "t" * 24
X, Y = "x" * 32, "y" * 32

PUT: list[AnyEvent] = [Tried(at=0.0, ids=[T]), Acked(at=0.1, ids=[T])]


def run(claim: str, at: float, move: str = "succeed", status: str = "succeeded") -> list[AnyEvent]:
    """One attempt that goes well, from its claim to its end."""
    return [
        *begun(claim, at),
        settled(claim, at + 0.3, move),
        Closed(at=at + 0.31, id=T, by=claim, status=status),
    ]


def begun(claim: str, at: float, attempt: int = 1) -> list[AnyEvent]:
    """One attempt that is not settled."""
    return [
        Claimed(at=at + 0.1, sent_at=at, claim=claim, ids=[T]),
        Given(at=at + 0.05, id=T, claim=claim),
        Began(at=at + 0.2, id=T, claim=claim, attempt=attempt),
    ]


def settled(claim: str, sent_at: float, move: str = "succeed", verdict: str = "settled") -> Settled:
    return Settled(at=sent_at + 0.05, sent_at=sent_at, id=T, claim=claim, move=move, verdict=verdict)


def fault(from_s: float, to_s: float, name: str = "f") -> list[AnyEvent]:
    return [Struck(at=from_s, fault=name, saying=""), Healed(at=to_s, fault=name)]


def probed(*instants: float) -> list[AnyEvent]:
    return [Probed(at=at, sent_at=at) for at in instants]


def succeeded(claim: str = X) -> dict[str, Stored]:
    return {T: Stored("succeeded", settled_by=claim, mark=T)}


def kinds(found: Findings) -> list[str]:
    return [one.kind for one in found.violations]


# --- good histories ----------------------------------------------------------------------------------------------


def test_task_that_was_put_run_and_settled_is_good() -> None:
    found = check([*PUT, *run(X, 1.0)], succeeded())
    assert found == Findings(tried=1, acked=1, ended=1)


def test_task_that_was_put_back_and_run_again_is_no_duplicate() -> None:
    found = check([*PUT, *run(X, 1.0, "retry_later", "delayed"), *run(Y, 2.0)], succeeded(Y))
    assert found == Findings(tried=1, acked=1, ended=1)


def test_put_that_is_unknown_may_be_stored_or_not() -> None:
    put: list[AnyEvent] = [Tried(at=0.0, ids=[T]), Unknown(at=0.1, ids=[T], why="")]
    assert check(put, {}) == Findings(tried=1, unknown=1)
    assert check([*put, *run(X, 1.0)], succeeded()) == Findings(tried=1, unknown=1, ended=1, recovered=(T,))


def test_put_of_a_producer_that_was_killed_may_be_stored() -> None:
    found = check([Tried(at=0.0, ids=[T]), *run(X, 1.0)], succeeded())
    assert found == Findings(tried=1, ended=1, recovered=(T,))


def test_put_that_was_refused_once_and_then_acknowledged_is_good() -> None:
    refused: list[AnyEvent] = [Tried(at=0.0, ids=[T]), Refused(at=0.1, ids=[T], why="")]
    assert check([*refused, *PUT, *run(X, 1.0)], succeeded()).violations == ()


def test_settlement_that_is_refused_to_who_lost_its_lease_is_good() -> None:
    history = [*PUT, *begun(X, 1.0), *run(Y, 5.0), settled(X, 9.0, verdict="lost")]
    assert check([*history, *fault(2.0, 4.0)], succeeded(Y)).violations == ()


def test_write_of_a_holder_is_good_when_the_later_claim_was_rolled_back() -> None:
    never_committed = [Claimed(at=1.6, sent_at=1.5, claim=Y, ids=[T])]
    assert check([*PUT, *run(X, 1.5), *never_committed], succeeded()).violations == ()


# --- what was put ------------------------------------------------------------------------------------------------


def test_acknowledged_task_that_is_not_stored_is_lost() -> None:
    assert kinds(check(PUT, {})) == ["lost"]


@pytest.mark.parametrize("status", ["ready", "running", "delayed", "blocked"])
def test_task_that_has_not_ended_after_the_drain_is_lost(status: str) -> None:
    assert kinds(check(PUT, {T: Stored(status, mark=T)})) == ["lost"]
    assert kinds(check([Tried(at=0.0, ids=[T])], {T: Stored(status, mark=T)})) == ["lost"]


@pytest.mark.parametrize(
    "put", [[], [Tried(at=0.0, ids=[T]), Refused(at=0.1, ids=[T], why="")]], ids=["never put", "only refused"]
)
def test_task_that_runs_or_is_stored_and_was_not_put_is_a_phantom(put: list[AnyEvent]) -> None:
    assert kinds(check([*put, *run(X, 1.0)], succeeded())) == ["phantom"]
    assert kinds(check([*put, *begun(X, 1.0)], {})) == ["phantom"]


def test_task_that_lacks_a_field_or_has_the_payload_of_another_is_torn() -> None:
    half = Stored("succeeded", settled_by=X, mark=T, missing=("seq",))
    assert kinds(check([*PUT, *run(X, 1.0)], {T: half})) == ["torn"]
    assert kinds(check([*PUT, *run(X, 1.0)], {T: Stored("succeeded", settled_by=X, mark="u" * 24)})) == ["torn"]


# --- who ran and settled it --------------------------------------------------------------------------------------


def test_success_under_a_claim_that_nobody_began_is_found() -> None:
    history = [one for one in run(X, 1.0) if not isinstance(one, Began)]
    assert kinds(check([*PUT, *history], succeeded())) == ["unrun"]


def test_settlement_over_another_claim_is_stale_by_the_servers_account() -> None:
    """With a fence of the status alone the server notes the settlement under the claim that is there: the other's."""
    history = [*begun(X, 1.0), *begun(Y, 5.0), settled(X, 5.05), Closed(at=5.2, id=T, by=Y, status="succeeded")]
    assert kinds(check([*PUT, *history], succeeded(Y))) == ["stale"]


def test_settlement_over_another_claim_is_stale_by_what_is_stored_where_the_auditor_has_a_gap() -> None:
    history = [*begun(X, 1.0), *begun(Y, 5.0), settled(X, 5.05), Gap(at=0.0, why="")]
    found = check([*PUT, *history], succeeded(Y))
    assert kinds(found) == ["stale"]
    assert not found.audited


def test_two_ends_of_one_task_are_stale() -> None:
    both = [*run(X, 1.0), *run(Y, 5.0)]
    assert set(kinds(check([*PUT, *both], succeeded(Y)))) == {"stale"}
    told = [one for one in both if not isinstance(one, Closed)]
    assert "stale" in kinds(check([*PUT, *told], succeeded(Y)))
    written = [one for one in both if not isinstance(one, Settled)]
    assert kinds(check([*PUT, *written], succeeded(Y))) == ["stale"]


@pytest.mark.parametrize("by", ["extend", "renew", "progress"])
def test_extension_that_took_effect_after_a_later_claim_was_heard_of_is_stale(by: str) -> None:
    kept = Kept(at=5.6, sent_at=5.5, by=by, held=[(T, X)])
    assert kinds(check([*PUT, *begun(X, 1.0), *run(Y, 5.0), kept], succeeded(Y))) == ["stale"]


def test_extension_that_was_sent_before_the_later_claim_is_good() -> None:
    kept = Kept(at=5.6, sent_at=4.9, by="extend", held=[(T, X)])
    assert check([*PUT, *begun(X, 1.0), *run(Y, 5.0), kept], succeeded(Y)).violations == ()


def test_retry_that_took_effect_after_a_later_claim_was_heard_of_is_stale() -> None:
    late: Sequence[AnyEvent] = [settled(X, 5.15, "retry"), Closed(at=5.2, id=T, by=X, status="ready")]
    assert kinds(check([*PUT, *begun(X, 1.0), *begun(Y, 5.0), *late, *run("z", 6.0)], succeeded("z"))) == ["stale"]


def test_program_that_died_by_itself_is_found() -> None:
    assert kinds(check([Died(at=1.0, actor="worker-1", said="exit code 1")], {})) == ["died"]


# --- how often it ran --------------------------------------------------------------------------------------------


def test_task_that_a_fault_hit_may_run_twice() -> None:
    found = check([*PUT, *begun(X, 1.0), *run(Y, 5.0), *fault(1.5, 4.0)], succeeded(Y))
    assert (found.violations, found.duplicated, found.unexcused) == ((), {T: 1}, {})


def test_repetition_without_a_fault_is_not_excused() -> None:
    found = check([*PUT, *begun(X, 1.0), *run(Y, 5.0), *fault(6.0, 7.0)], succeeded(Y))
    assert (found.violations, found.duplicated, found.unexcused) == ((), {T: 1}, {T: 1})


def test_repetition_of_what_was_claimed_after_a_fault_is_not_excused() -> None:
    history = [*begun(X, 20.0), *run(Y, 25.0)]  # claimed at 20.0 to 20.1, begun at 20.2
    assert check([*PUT, *history, *fault(15.0, 20.05)], succeeded(Y)).unexcused == {}
    assert check([*PUT, *history, *fault(15.0, 19.9)], succeeded(Y)).unexcused == {T: 1}


def test_fault_is_there_as_long_as_the_server_is_out_by_it() -> None:
    history = [*begun(X, 20.0), *run(Y, 25.0), *fault(15.0, 19.0)]
    assert check([*PUT, *history, *probed(14.9, 15.2, 20.3, 20.6)], succeeded(Y)).unexcused == {}
    assert check([*PUT, *history, *probed(14.9, 15.2, 18.5, 19.3, 20.0)], succeeded(Y)).unexcused == {T: 1}


def test_one_fault_excuses_one_repetition_of_a_task() -> None:
    history = [*begun(X, 1.0), *begun(Y, 5.0), *run("z", 9.0), *fault(1.5, 8.0)]
    found = check([*PUT, *history], succeeded("z"))
    assert (found.duplicated, found.unexcused) == ({T: 2}, {T: 1})


def test_fault_that_lasts_is_kept_for_the_repetition_that_no_other_explains() -> None:
    history = [*begun(X, 1.0), *begun(Y, 5.0), *run("z", 9.0), *fault(0.5, 8.0), *fault(1.5, 4.0, "g")]
    found = check([*PUT, *history], succeeded("z"))
    assert (found.duplicated, found.unexcused) == ({T: 2}, {})


def test_attempts_that_were_rolled_back_together_are_repeated_once() -> None:
    """A primary takes a retry and gives the task again, and then loses all of it: both attempts come once more."""
    undone = [*begun(X, 1.0), settled(X, 1.3, "retry_later", "lost"), *begun(Y, 2.0, attempt=2)]
    again = [*begun("z", 9.0), settled("z", 9.3, "retry_later"), *begun("last", 11.0, 2), settled("last", 11.3)]
    stored = Closed(at=9.4, id=T, by="z", status="ready"), Closed(at=11.4, id=T, by="last", status="succeeded")
    found = check([*PUT, *undone, *again, *stored, *fault(1.5, 8.0)], succeeded("last"))
    assert (found.violations, found.duplicated, found.unexcused) == ((), {T: 1}, {})


def test_second_run_of_a_task_whose_retry_was_not_taken_is_a_repetition() -> None:
    """Here the second attempt was not undone: nobody lost anything, and the first was repeated."""
    history = [*begun(X, 1.0), settled(X, 1.3, "retry_later", "lost"), *begun(Y, 5.0, 2), *begun("z", 9.0, 3)]
    found = check([*PUT, *history, *fault(1.5, 8.0)], succeeded("z"))
    assert (found.duplicated, found.unexcused) == ({T: 2}, {T: 1})


# --- what has one attempt ----------------------------------------------------------------------------------------

LAPSED = Lapsed(at=4.0, id=T, status="failed")
ONCE_FAILED = {T: Stored("failed", mark=T, once=True)}


def test_task_with_one_attempt_that_was_begun_again_is_found_whatever_fault_there_was() -> None:
    history = [*PUT, *begun(X, 1.0), *run(Y, 5.0), *fault(1.5, 4.0)]
    assert kinds(check(history, {T: Stored("succeeded", settled_by=Y, mark=T, once=True)})) == ["twice"]
    assert kinds(check(history, succeeded(Y))) == []


def test_task_with_one_attempt_that_was_begun_again_is_found_by_what_its_holders_knew() -> None:
    """Also where nothing is stored of it, which is lost besides."""
    runs = [Began(at=at, id=T, claim=claim, attempt=1, once=True) for claim, at in ((X, 1.0), (Y, 5.0))]
    assert kinds(check([*PUT, *runs], {})) == ["lost", "twice"]


def test_task_with_one_attempt_may_end_with_its_lease_by_a_fault_and_be_begun_or_not() -> None:
    for claimed in (begun(X, 1.0), [Given(at=1.0, id=T, claim=X)]):
        found = check([*PUT, *claimed, LAPSED, *fault(0.5, 2.0)], ONCE_FAILED)
        assert (found.violations, found.given_up, found.failed, found.unexcused) == ((), 1, 0, {})


def test_task_with_one_attempt_that_ends_with_its_lease_without_a_fault_is_not_excused() -> None:
    assert check([*PUT, *begun(X, 1.0), LAPSED, *fault(5.0, 6.0)], ONCE_FAILED).unexcused == {T: 1}
    assert check([*PUT, *begun(X, 1.0), LAPSED, *fault(0.1, 0.9)], ONCE_FAILED).unexcused == {T: 1}


def test_task_with_one_attempt_fails_once_when_its_payload_asks_for_that() -> None:
    for fails, failed in ((True, 0), (False, 1)):
        stored = {T: Stored("failed", settled_by=X, mark=T, once=True, fails=fails)}
        found = check([*PUT, *run(X, 1.0, "fail", "failed")], stored)
        assert (found.violations, found.failed, found.given_up) == ((), failed, 0)


def test_task_that_a_holder_and_the_end_of_a_lease_have_ended_has_two_ends() -> None:
    assert kinds(check([*PUT, *run(X, 1.0), LAPSED], succeeded())) == ["stale"]


def test_task_that_nobody_ended_by_the_servers_account_is_found() -> None:
    assert kinds(check([*PUT, *begun(X, 1.0)], ONCE_FAILED)) == ["stale"]
    assert kinds(check([*PUT, *begun(X, 1.0), Gap(at=0.0, why="")], ONCE_FAILED)) == []
