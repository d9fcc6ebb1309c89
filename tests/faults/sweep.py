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
    """How the sweeps of a run of the tests go: `count` says how many cases ("all"; None: as each sweep says itself),
    `seed` which."""

    def __init__(self, count: str | None, seed: int) -> None:
        self._count = count
        self._seed = seed

    @property
    def again(self) -> str:
        """What makes the same cases again."""
        return f"the same again: --faults-cases={self._count or ''} --faults-seed={self._seed}"

    def choose(self, cases: Sequence[T], most: int) -> list[T]:
        """Draw `most` cases, or as many as are wanted, in an order of chance."""
        count = most if self._count is None else len(cases) if self._count == "all" else int(self._count)
        return random.Random(self._seed).sample(cases, min(count, len(cases)))

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
