"""When a process stands back from the head of a queue, and for how long."""

from __future__ import annotations

from streamq.core.rivals import FEW, MOST_S, MOST_TIMES, Rivals


def after(*claims: tuple[int, int]) -> Rivals:
    rivals = Rivals()
    for obtained, lost in claims:
        rivals.note(obtained, lost)
    return rivals


def test_who_is_alone_never_waits() -> None:
    rivals = after((500, 0), (0, 0), (1, 0))
    assert not rivals.are_there
    assert rivals.wait_s(0.99, 1.0) == 0


def test_few_lost_are_no_reason_to_wait() -> None:
    assert after((400, 100)).wait_s(0.99, 0.05) == 0


def test_race_for_a_few_is_no_reason_to_wait() -> None:
    assert after((0, 1), (0, FEW - 1)).wait_s(0.99, 0.05) == 0


def test_each_lost_race_in_a_row_doubles_the_wait_up_to_a_bound() -> None:
    lost = (100, 400)
    waits = [after(*[lost] * times).wait_s(0.5, 0.01) for times in range(1, MOST_TIMES + 2)]
    assert waits == [0.005, 0.01, 0.02, 0.04, 0.04]
    assert after(*[lost] * MOST_TIMES).wait_s(0.99, 1.0) == MOST_S


def test_one_who_obtains_what_it_found_claims_on_at_once_and_forgets_by_and_by() -> None:
    rivals = after((0, 500), (0, 500), (500, 0))
    assert rivals.wait_s(0.99, 0.05) == 0
    assert rivals.are_there
    rivals.note(500, 0)
    assert not rivals.are_there
