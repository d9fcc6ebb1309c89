"""Many seeds, one after the other; the first that fails is made small and told."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from tests.simulation.drawing import drawn
from tests.simulation.plan import Plan, encoded
from tests.simulation.run import Seen, play
from tests.simulation.shrinking import shrunk

COLLECT_EVERY: Final = 50
"""Runs leave cycles; collecting them while a run is on would cost a tenth of its time."""


class Found(msgspec.Struct, frozen=True):
    """A seed that fails; `small` is what is left of its plan, `seen` what comes of that."""

    seed: int
    plan: Plan
    small: Plan
    seen: Seen

    def __str__(self) -> str:
        lines = [
            f"SEED={self.seed} fails. The smallest that still does:",
            str(self.small),
            "what happened:",
            *(f"  {shown(one)}" for one in self.seen.history),
            "what is wrong:",
            *(f"  {one}" for one in self.seen.verdict),
            f"again: make simulate SEED={self.seed} SEEDS=1",
            f"or only this: python -m tests.simulation --plan '{encoded(self.small)}'",
        ]
        return "\n".join(lines)


def shown(one: object) -> str:
    """Write an event in a line, its instant first and ids short."""
    fields = msgspec.structs.asdict(one)  # type: ignore[arg-type]
    at = fields.pop("at")
    said = " ".join(f"{name}={_short(value)}" for name, value in fields.items() if value not in ("", None))
    return f"{at:8.3f} {type(one).__name__.lower():9} {said}"


def _short(value: object) -> str:
    if isinstance(value, str):
        return value[:6] if len(value) in (24, 32) else value
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return "[" + " ".join(_short(one) for one in value) + "]"
    return str(value)


@contextmanager
def _unhurried() -> Iterator[Callable[[], None]]:
    """Collect garbage between runs only."""
    was, count = gc.isenabled(), 0
    gc.disable()

    def one_more() -> None:
        nonlocal count
        count += 1
        if count % COLLECT_EVERY == 0:
            gc.collect()

    try:
        yield one_more
    finally:
        if was:
            gc.enable()


def failing(seeds: Iterable[int]) -> Iterator[tuple[int, bool]]:
    """Play each seed; yield it, and whether it fails. What cannot be played says which it was."""
    with _unhurried() as one_more:
        for seed in seeds:
            try:
                fails = bool(play(drawn(seed)).verdict)
            except Exception as error:
                error.add_note(f"seed {seed}")
                raise
            yield seed, fails
            one_more()


def search(seeds: Iterable[int]) -> int | None:
    """Return the first seed that fails; None: none does."""
    return next((seed for seed, fails in failing(seeds) if fails), None)


def made_small(seed: int) -> Found:
    """Shrink the plan of a seed that fails, to one that fails in one of the same ways."""
    plan = drawn(seed)
    kinds = {one.kind for one in play(plan).verdict}

    def fails(candidate: Plan) -> bool:
        return any(one.kind in kinds for one in play(candidate).verdict)

    with _unhurried():
        small = shrunk(plan, fails)
    return Found(seed, plan, small, play(small))
