"""From a plan that fails to the smallest that still does: parts are left out, what is left is made plain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from tests.simulation.plan import Fault, Part, Plan

SCHEDULES: Final = 4
"""What is left out moves all dice behind it. So each smaller plan is tried with a few schedules more."""

MOST_TRIES: Final = 600

PARTS: Final = ("faults", "acts", "recurs", "limits", "puts", "hosts")
KEPT: Final = frozenset({"key", "name", "host", "method", "nth", "how", "queue", "at", "for_s"})
"""Fields that say which part it is; the others are set to what they are by default, one after the other."""


def shrunk(plan: Plan, fails: Callable[[Plan], bool], most: int = MOST_TRIES) -> Plan:
    """Return the smallest plan found that `fails`, as `plan` does."""
    tries = 0

    def smaller() -> Plan | None:
        nonlocal tries
        for candidate in _smaller(plan):
            for schedule in range(SCHEDULES):
                if tries >= most:
                    return None
                tries += 1
                tried = msgspec.structs.replace(candidate, schedule=candidate.schedule + schedule)
                if fails(tried):
                    return tried
        return None

    while (found := smaller()) is not None:
        plan = found
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Yield plans that are a little smaller, the boldest first."""
    for field in PARTS:
        parts: tuple[Part, ...] = getattr(plan, field)
        size = len(parts)
        while size:
            for first in range(0, len(parts), size):
                yield from _sound(plan, field, parts[:first] + parts[first + size :])
            size //= 2
    for field in PARTS:
        parts = getattr(plan, field)
        for place, part in enumerate(parts):
            for plainer in _plainer(part):
                yield from _sound(plan, field, (*parts[:place], plainer, *parts[place + 1 :]))


def _sound(plan: Plan, field: str, parts: tuple[Part, ...]) -> Iterator[Plan]:
    """Yield the plan with these parts, if nothing else needs what is not there any more."""
    candidate = msgspec.structs.replace(plan, **{field: parts})
    names = {host.name for host in candidate.hosts}
    puts = tuple(put if put.by in names else msgspec.structs.replace(put, by="producer") for put in candidate.puts)
    faults = tuple(one for one in candidate.faults if _strikes(one, names))
    candidate = msgspec.structs.replace(candidate, puts=puts, faults=faults)
    if candidate.is_sound:
        yield candidate


def _strikes(fault: Fault, names: set[str]) -> bool:
    return fault.host in names or fault.host in ("all", "producer")


def _plainer(part: Part) -> Iterator[Part]:
    for field in msgspec.structs.fields(part):
        now: Any = getattr(part, field.name)
        if field.name not in KEPT and field.default is not msgspec.NODEFAULT and now != field.default:
            yield msgspec.structs.replace(part, **{field.name: field.default})
