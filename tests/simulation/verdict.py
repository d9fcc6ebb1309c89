"""What is wrong with a run: the findings of the checker that real runs have, and what only a simulation can see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

import msgspec

from streamq.core.document import RUNNING, TERMINAL
from streamq.core.moves.fence import HELD, LOCKS
from tests.chaos.checker import TERMINAL_MOVES, check
from tests.chaos.event import AnyEvent, Began, Claimed, Closed, Settled
from tests.chaos.excuses import windows
from tests.simulation.server import GivenTo, Server
from tests.simulation.waits import Waits


class Wrong(msgspec.Struct, frozen=True, order=True):
    """One thing that must never be.

    Besides those of `tests.chaos.findings`: `repeated`, run more often than the faults that hit its holder explain;
    `late`, it waited though somebody who was well could have taken it; `denied`, its end is written and its holder is
    told that it is not; `overlap`, two of a group ran at once; `left`, something is held after all have stopped;
    `stuck`, a process does not stop, or has not done what it was to do; `over`, more of a queue runs, or starts in a
    time, than its limits allow; `refired`, `early`, `unfired`: a slot of a schedule was fired again, too soon, or not.
    """

    kind: str
    id: str
    why: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}: {self.why}"


Verdict = tuple[Wrong, ...]


def judge(server: Server, waits: Waits, died: Iterable[tuple[str, str]]) -> Verdict:
    """Judge a run by what the server has, and all that was written down."""
    found = [Wrong(one.kind, one.id, one.why) for one in check(server.log, server.stored()).violations]
    found += [Wrong("died", name, why) for name, why in died]
    found += [Wrong(kind, id, why) for kind, id, why in server.wrong]
    found += [
        Wrong("late", str(id), f"{status} for {waited:.1f} s in vain") for id, (status, waited) in waits.late.items()
    ]
    found += _repeated(server.log)
    found += _left(server)
    unfired = server.slots.unfired(server.meta)
    found += [Wrong("unfired", name, f"its slot of {slot:%T} was passed over") for name, slot in unfired]
    return tuple(sorted(set(found)))


def _repeated(log: list[AnyEvent]) -> Iterable[Wrong]:
    """Ask of each run of a task that was begun again though it had not been settled, which fault hit its holder."""
    began: dict[str, list[Began]] = defaultdict(list)
    put_back = set()
    for one in log:
        if isinstance(one, Began):
            began[one.id].append(one)
        elif isinstance(one, Settled) and one.verdict == "settled" and one.move not in TERMINAL_MOVES:
            put_back.add((one.id, one.claim))
        elif isinstance(one, Closed) and one.status not in TERMINAL:
            put_back.add((one.id, one.by))
    again = {id: runs for id, runs in began.items() if len(runs) > 1}
    if not again:
        return
    asked = {(id, one.claim): one.sent_at for one in log if isinstance(one, Claimed) for id in one.ids}
    holder = {(one.id, one.claim): one.by for one in log if isinstance(one, GivenTo)}
    for id, runs in again.items():
        spent: set[str] = set()
        for first, second in pairwise(runs):
            if (id, first.claim) in put_back:
                continue
            name = holder.get((id, first.claim), "?")
            claimed_at = min(first.at, asked.get((id, first.claim), first.at))
            there = [one for one in windows(log) if one.fault.split()[-1] == name and one.fault not in spent]
            excuses = [one for one in there if one.from_s <= second.at and claimed_at <= one.to_s]
            if not excuses:
                said = (
                    f"begun at {first.at:.3f} and {second.at:.3f}; {name} met no fault between that is not counted yet"
                )
                yield Wrong("repeated", id, said)
            else:  # the one that is over first: the others may explain a later one
                spent.add(min(excuses, key=lambda one: one.to_s).fault)


def _left(server: Server) -> Iterable[Wrong]:
    for id, document in server.documents.items():
        if document["status"] == RUNNING:
            yield Wrong("left", str(id), "still running after all have stopped")
        elif document["status"] in TERMINAL:
            kept = [name for name in (*HELD, *LOCKS) if name in document]
            if kept:
                yield Wrong("left", str(id), f"it has ended and keeps {', '.join(kept)}")
        if document["attempt"] > document["max_attempts"]:
            yield Wrong("left", str(id), f"attempt {document['attempt']} of {document['max_attempts']}")
