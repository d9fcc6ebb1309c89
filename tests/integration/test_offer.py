"""Slots offered to the feed's thread are promised once."""

from __future__ import annotations

import threading

from streamq.runtime.offer import Offer


def test_offer_gives_as_many_permits_as_slots_are_free() -> None:
    offer = Offer()
    offer.give(2)
    offer.give(2)
    assert [offer.take(), offer.take(), offer.take()] == [True, True, False]


def test_offer_counts_what_is_out_against_the_free_slots() -> None:
    offer = Offer()
    offer.give(2)
    offer.take()
    offer.give(2)
    assert offer.out == 1
    assert [offer.take(), offer.take()] == [True, False]


def test_offer_withdraws_what_was_not_taken_and_remembers_what_was() -> None:
    offer = Offer()
    offer.give(3)
    offer.take()
    offer.withdraw()
    assert offer.out == 1
    assert not offer.take()
    offer.back()
    assert offer.out == 0


def test_offer_promises_each_permit_once_when_threads_race_with_the_withdrawal() -> None:
    for _ in range(50):
        offer = Offer()
        offer.give(100)
        taken: list[int] = []
        begin = threading.Barrier(3)

        def take(offer: Offer = offer, taken: list[int] = taken, begin: threading.Barrier = begin) -> None:
            begin.wait()
            taken.append(sum(offer.take() for _ in range(100)))

        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        begin.wait()
        offer.withdraw()
        for thread in threads:
            thread.join()
        assert offer.out == sum(taken)
