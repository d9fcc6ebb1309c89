"""Going through many cases of one kind: all of them, or some that a seed draws; several at a time."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

import trio

T = TypeVar("T")

LOG: Final = "STREAMQ_FAULTS_LOG"
"""The environment variable that names a file for what each case came to, as soon as it has: for people who look."""


class Sweep:
    """How the sweeps of a run of the tests go: `cases` says how many ("all"; "200:400": these of all; None: as each
    sweep says itself), `seed` in which order they are drawn, `only` what their names hold."""

    def __init__(self, cases: str | None, seed: int, only: str = "") -> None:
        self._cases = cases
        self._seed = seed
        self._only = only

    @property
    def again(self) -> str:
        """What makes the same cases again."""
        return f"the same again: --faults-cases={self._cases or ''} --faults-seed={self._seed}"

    def choose(self, cases: Sequence[T], most: int) -> list[T]:
        """Draw `most` cases, or those that are wanted, in an order of chance. Each has its place in it by its name: a
        run that takes one command more than the last does not change all of the order."""
        drawn = sorted(cases, key=lambda one: random.Random(f"{self._seed} {one}").random())
        if self._only:
            return [one for one in drawn if self._only in str(one)]
        return drawn[wanted(self._cases, most)]

    async def run(self, case: Callable[[int, T], Awaitable[None]], cases: Sequence[T], at_a_time: int) -> None:
        """Run `case(number, one)` for each of them."""
        places = trio.Semaphore(at_a_time)

        async def one(number: int, given: T) -> None:
            async with places:
                await case(number, given)

        async with trio.open_nursery() as nursery:
            for number, given in enumerate(cases):
                nursery.start_soon(one, number, given)

    def note(self, case: object, flaws: Sequence[str], took: Mapping[str, float]) -> None:
        """Write down what a case came to and how long its parts took, if somebody asks for it."""
        if path := os.environ.get(LOG):
            line = {"case": str(case), "flaws": flaws} | {name: round(s, 2) for name, s in took.items()}
            with open(path, "a") as file:
                file.write(json.dumps(line) + "\n")


def wanted(cases: str | None, most: int) -> slice:
    """Read `--faults-cases`."""
    first, colon, last = (str(most) if cases is None else "" if cases == "all" else cases).partition(":")
    if colon:
        return slice(int(first or 0), int(last) if last else None)
    return slice(int(first) if first else None)
