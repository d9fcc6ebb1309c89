"""Every command that the road of a task takes fails once, is lost once, has its reply lost once: all ends as if not.

A walk is counted first. Then it is repeated for each command that was counted and each thing that can happen to it, and
for two of these in a row; several walks at a time, each in a database and with a client of its own. Some of them are
drawn by a seed (`--faults-seed`); `--faults-cases=all` makes all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import pymongo
import pytest
import trio

from streamq import StreamQ
from streamq.embedded import EmbeddedServer
from tests.databases import Databases, Mongo
from tests.faults.fault import Fault, Turn, counting, faults_at, meeting
from tests.faults.road import LEASE_S, LONGEST_S, TIMEOUT_S, Road
from tests.faults.sweep import Sweep

AT_A_TIME: Final = 6
"""A walk mostly waits."""

DRAWN: Final = 12

WALK_S: Final = 6 * LONGEST_S

HELD: Final = {
    "insert",
    "update",
    "delete",
    "findAndModify",
    "getMore",
    "aggregate",
    "find",
    "commitTransaction",
}
"""What a road must hold: a command that no step sends is never struck."""

MISSED: Final = 0.2
"""Which part of the faults may find that its command was not sent so often this time: what the timers do besides is
never quite the same."""


def app_on(client: Mongo, database: str) -> StreamQ:
    return StreamQ(client=client, database=database, lease_s=LEASE_S, timeout_s=TIMEOUT_S, safety_scan_s=None)


async def counted(server: EmbeddedServer, mongo: Mongo, databases: Databases) -> Counter[str]:
    """Walk once, undisturbed; return how many commands of each name that takes."""
    with counting(server) as (client, counts), databases.lend() as database:
        road = Road(app_on(client, database), mongo, database)
        await road.walk()
        assert road.flaws() == []
        assert counts.keys() >= HELD
        return Counter(counts)


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice in a row"])
async def test_road_on_which_a_command_fails_or_is_lost_ends_as_if_nothing_had_happened(
    server: EmbeddedServer, databases: tuple[Mongo, Databases], sweep: Sweep, times: int
) -> None:
    mongo, lent = databases
    faults = sweep.choose(faults_at(await counted(server, mongo, lent), times), DRAWN)
    turn = Turn(mongo)
    bad: list[str] = []
    missed = 0

    async def walk(number: int, fault: Fault) -> None:
        nonlocal missed
        with (
            lent.lend() as database,
            meeting(fault, server, f"road-{number}", turn) as (client, struck),
        ):
            road = Road(app_on(client, database), mongo, database)
            try:
                with trio.fail_after(WALK_S):
                    await road.walk()
                flaws = road.flaws()
            except Exception as error:  # noqa: BLE001 - all faults are walked, whatever one comes to
                flaws = [told(error)]
            bad.extend(f"{fault}: {flaw}" for flaw in flaws)
            missed += struck() < fault.times
            sweep.note(fault, flaws, road.steps)

    await sweep.run(walk, faults, AT_A_TIME)
    assert not bad, "\n".join([*bad, sweep.again])
    assert missed <= math.ceil(MISSED * len(faults)), "most of what was to happen did not"


def told(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(told(one) for one in error.exceptions)
    notes = " ".join(getattr(error, "__notes__", []))
    return f"{type(error).__name__}: {error} {notes}"


def test_seed_draws_the_same_faults_of_a_road_that_takes_one_command_more() -> None:
    first, second = (Sweep("5", 7).choose(faults_at(Counter(insert=200, find=n), 1), 1) for n in (200, 201))
    assert first == second


def test_parts_of_a_sweep_are_the_whole() -> None:
    faults = faults_at(Counter(insert=9, find=9), 1)
    parts = [Sweep(part, 7).choose(faults, 1) for part in (":40", "40:90", "90:")]
    assert [fault for part in parts for fault in part] == Sweep("all", 7).choose(faults, 1)


def test_turn_is_given_on_by_who_took_it_with_no_time_left(databases: tuple[Mongo, Databases]) -> None:
    """It may have waited for its turn longer than its command may take: then the others would wait for ever."""
    turn = Turn(databases[0])
    how = {"errorCode": 286}
    for _ in range(2):
        with pymongo.timeout(1e-9):
            turn.take("find", "nobody", how)
            turn.give()
