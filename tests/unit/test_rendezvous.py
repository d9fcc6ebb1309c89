"""Who tries first for a task: the same answer in every process, fair shares, and the others later and later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import cast

import pytest
from bson import ObjectId

from streamq.core.rendezvous import (
    MOST_PATIENCE,
    MOST_PATIENCE_OF_SECOND,
    TIER_S,
    Rendezvous,
    calmer,
    keener,
    stand_by_s,
)
from streamq.core.wake import Wake

MEMBERS = {f"member:{number}": [{"queue": "q"}] for number in range(8)}


def seen_by(me: str, members: Mapping[str, object] = MEMBERS) -> Rendezvous:
    rendezvous = Rendezvous()
    rendezvous.join(me, [(id, serves) for id, serves in members.items() if id != me])
    return rendezvous


def wake(task: str | None = None, *, is_new: bool = True) -> Wake:
    return Wake("ready", ObjectId(), "q", task, is_new=is_new)


def test_each_process_finds_another_place_and_all_together_every_one() -> None:
    orders = [seen_by(me) for me in MEMBERS]
    for _ in range(50):
        task = wake()
        assert sorted(order.place(task) for order in orders) == list(range(8))


def test_each_process_is_the_first_for_its_share() -> None:
    orders = [seen_by(me) for me in MEMBERS]
    firsts = Counter(next(place for place, one in enumerate(orders) if one.place(task) == 0) for task in tasks(1600))
    assert all(140 < firsts[place] < 260 for place in range(8))  # 200 each; five standard deviations are 66


def tasks(count: int) -> list[Wake]:
    return [wake() for _ in range(count)]


def test_one_that_leaves_gives_its_tasks_to_all_and_moves_no_other() -> None:
    without = {id: serves for id, serves in MEMBERS.items() if id != "member:3"}
    for task in tasks(100):
        before = {me: seen_by(me).place(task) for me in MEMBERS}
        after = {me: seen_by(me, without).place(task) for me in without}
        gone = before["member:3"]
        assert after == {me: place - (place > gone) for me, place in before.items() if me != "member:3"}


def test_one_that_has_come_since_has_its_place_at_once() -> None:
    late = seen_by("member:0", {})
    late.add("member:1", [{"queue": "q"}])
    both = {"member:1": [{"queue": "q"}]}
    assert all(late.place(task) == seen_by("member:0", both).place(task) for task in tasks(50))


def test_alone_it_is_first() -> None:
    assert Rendezvous().place(wake()) == 0
    assert seen_by("member:0", {"member:1": [{"queue": "other"}]}).place(wake()) == 0


def test_who_does_not_know_the_handler_of_a_new_task_has_no_place() -> None:
    others = {f"member:{number}": [{"queue": "q", "only": ["mail"]}] for number in range(8)}
    order = seen_by("me", others)
    assert all(order.place(wake("print")) == 0 and order.place(wake(None)) == 0 for _ in range(20))
    assert any(order.place(wake("mail")) for _ in range(20))
    assert any(order.place(wake(None, is_new=False)) for _ in range(20))  # its handler is not told


def test_what_one_process_serves_by_several_intakes_counts_once() -> None:
    twice = {"member:1": [{"queue": "q", "only": ["mail"]}, {"queue": "q"}]}
    assert {seen_by("me", twice).place(wake("print")) for _ in range(100)} == {0, 1}


def test_rows_that_say_nonsense_are_passed_over() -> None:
    nonsense: dict[str, object] = {"a": None, "b": 7, "c": [3], "d": [{"queue": 3}], "e": {"queue": "q"}}
    rendezvous = Rendezvous()
    rendezvous.join("me", nonsense.items())
    assert all(rendezvous.place(wake()) == 0 for _ in range(20))


def test_tiers_double_and_wait_longer_and_longer() -> None:
    waits = [stand_by_s(place) / TIER_S for place in range(32)]
    assert waits == pytest.approx([0, 1] + 2 * [2] + 4 * [3] + 8 * [4] + 16 * [5])


def test_patience_lengthens_the_second_one_s_wait_less_and_the_first_one_s_not_at_all() -> None:
    waits = [stand_by_s(place, MOST_PATIENCE) / stand_by_s(place) for place in range(1, 32)]
    assert waits == pytest.approx([MOST_PATIENCE_OF_SECOND] + 30 * [MOST_PATIENCE])
    assert stand_by_s(0, MOST_PATIENCE) == 0


def test_patience_grows_to_its_bound_in_a_dozen_looks_and_is_gone_after_two_tasks() -> None:
    patience = 1.0
    for _ in range(12):
        patience = calmer(patience)
    assert patience == MOST_PATIENCE
    assert keener(keener(patience)) == 1.0


def test_ids_that_another_producer_made_have_their_order_too() -> None:
    orders = [seen_by(me) for me in MEMBERS]
    for id in ("by hand", 7, 7.5, b"bytes", -1, "a" * 1000):
        task = Wake("ready", cast(ObjectId, id), "q")
        assert sorted(order.place(task) for order in orders) == list(range(8))
