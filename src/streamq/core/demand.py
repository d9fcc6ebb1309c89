"""The decision whether to claim now, and what. Pure: a lane's state comes in, an action goes out."""

from __future__ import annotations

import math
from typing import Final

import msgspec
from bson import ObjectId

MOST_A_CLAIM: Final = 500
"""Tasks in one claim. 500 claimed 38,000/s against 28,000/s at 100; more gains little and makes each statement
hold the server's attention longer (DESIGN section 3, measured on 6.0.5)."""

MOST_SPARE: Final = 2 * MOST_A_CLAIM
"""Tasks that may wait in the process: what one claim takes is run while the next claim is on its way."""

CLAIMS_AHEAD: Final = 3


class ClaimIds(msgspec.Struct, frozen=True):
    """Claim exactly these: a wake named them while the lane was idle."""

    ids: tuple[ObjectId, ...]
    durable: bool


class ClaimHead(msgspec.Struct, frozen=True):
    """Claim up to `limit` from the head of the queue; `spare` of them will wait in the process."""

    limit: int
    spare: int


class Sleep(msgspec.Struct, frozen=True):
    """Nothing to do until a wake or a free slot; or until no more than `left` wait in the process: then enough room has
    come together for a claim to be worth its trips."""

    left: int | None = None


Action = ClaimIds | ClaimHead | Sleep
SLEEP: Final = Sleep()


class Demand(msgspec.Struct, frozen=True):
    """What a lane knows when it decides.

    `free`: slots with nothing to run, less what waits in the process already (negative when more waits).
    `wanted_spare`: how many tasks should wait in the process beyond the free slots.
    `behind`: the last claim came back full, or wakes were not followed up: only a claim from the head
    tells whether more is ready. `hints`: ids named by wakes since.
    """

    free: int
    wanted_spare: int
    behind: bool
    hints: tuple[ObjectId, ...] = ()
    durable: bool = False


def next_action(demand: Demand) -> Action:
    """Decide. Ids are claimed only when all of them can start at once: else order would be by chance.

    With no slot idle, what waits in the process is filled up when it is half empty: a claim of one costs the server and
    this process many times what one of a hundred costs a task.
    """
    room = demand.free + demand.wanted_spare
    if room <= 0:
        return SLEEP
    if demand.behind or len(demand.hints) > min(demand.free, MOST_A_CLAIM):
        worth = min((demand.wanted_spare + 1) // 2, MOST_A_CLAIM)
        if demand.free <= 0 and room < worth:
            return Sleep(left=demand.wanted_spare - worth)
        limit = min(room, MOST_A_CLAIM)
        return ClaimHead(limit=limit, spare=max(0, limit - max(0, demand.free)))
    if demand.hints:
        return ClaimIds(ids=demand.hints, durable=demand.durable)
    return SLEEP


def next_behind(demand: Demand, asked: int, slots: int) -> ClaimHead | None:
    """Decide whether to send a further claim behind one that is under way for `asked` tasks, `slots` of which can start
    at once, and that follows a full one; None: not now.

    Only where all that was claimed has been run: whoever has tasks left loses nothing by waiting for the answer.
    """
    if demand.free <= 0:
        return None
    limit = min(demand.free + demand.wanted_spare - asked, MOST_A_CLAIM)
    if limit < max(1, demand.wanted_spare // 3):  # else more will have come together when the answer is there
        return None
    return ClaimHead(limit=limit, spare=max(0, limit - max(0, demand.free - slots)))


def wanted_spare(finished_per_s: float, claim_s: float, *, cap: int) -> int:
    """Return how many tasks should wait in the process, so that slots do not starve during a claim.

    Slow handlers get none: what waits here could run elsewhere. Fast ones get what they finish during the claim that is
    running and the next two.
    """
    return min(cap, math.floor(finished_per_s * claim_s * CLAIMS_AHEAD))
