"""The server: the store in memory by the world's time, which writes down what it has committed and in what order."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from bson import ObjectId

from streamq.core.claim import Ask, Claim
from streamq.core.document import RUNNING, SUCCEEDED, TERMINAL, TaskDocument
from streamq.core.new_task import NewTask, PutReply
from streamq.core.parents import Family
from streamq.core.report import Reported
from streamq.core.settlement import Settlement, Verdict
from streamq.errors import UsageError
from streamq.store.contract import Claimed, Taking
from streamq.store.memory import MemoryStore
from tests.chaos import event
from tests.chaos.event import AnyEvent
from tests.chaos.stored import Stored, stored_of
from tests.simulation.plan import Plan
from tests.simulation.slots import Slots
from tests.simulation.starts import Starts
from tests.simulation.world import World

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


class GivenTo(event.Given, frozen=True, tag="given_to"):
    """A claim that was given, and to whom."""

    by: str


class Server(MemoryStore):
    """`log` is what an auditor would have seen, and all that processes have said."""

    def __init__(self, world: World, plan: Plan) -> None:
        super().__init__(lambda: EPOCH + timedelta(seconds=world.now))
        self.world = world
        self.log: list[AnyEvent] = []
        self.wrong: list[tuple[str, str, str]] = []  # what must never be, seen as it happened: kind, id, why
        self.starts = Starts(plan, self.documents, self.wrong)
        self.slots = Slots(plan, self.wrong)
        self.deleted: dict[str, Stored] = {}
        self.said: Counter[str] = Counter()  # how often a queue was paused or resumed
        self._over: set[ObjectId] = set()  # tasks of which it is written how they ended
        self._settles = False
        self.under_way = 0  # messages that have not come here, and writes that their senders have given up
        self.client_now: datetime | None = None  # the wall clock of who calls just now; the server does not ask for it

    def later(self, seconds: float, write: Callable[[], object]) -> None:
        """Let a write come in so much later. One that is refused then comes to nothing: nobody hears of it."""
        self.under_way += 1

        def come() -> None:
            self.under_way -= 1
            with contextlib.suppress(UsageError):
                write()

        self.world.after(seconds, come)

    def seconds(self, instant: datetime) -> float:
        """Return an instant by the world's time."""
        return (instant - EPOCH).total_seconds()

    # --- claims --------------------------------------------------------------------------------------------------

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        """Claim, and see whether the queue's limits hold."""
        claimed = super().claim(ask, taking)
        if ask.limits is not None:
            for claim in claimed.claims:
                self._given(claim, ask)
                self.starts.see(claim, self.world.now)
        return claimed

    def _begin(self, document: TaskDocument, ask: Ask, now: datetime) -> Claim:
        claim = super()._begin(document, ask, now)
        self._given(claim, ask)
        return claim

    def _given(self, claim: Claim, ask: Ask) -> None:
        self.log.append(GivenTo(at=self.world.now, id=str(claim.id), claim=claim.claim_id.hex(), by=ask.worker))
        if claim.group is not None:
            others = [one for one in self.documents.values() if one["_id"] != claim.id and one["queue"] == claim.queue]
            beside = [one for one in others if one["status"] == RUNNING]
            if any(one.get("group") == claim.group for one in beside):
                self.wrong.append(("overlap", str(claim.id), f"begun beside another of group {claim.group}"))

    def tell(self, document: TaskDocument, *, is_new: bool = False) -> None:
        """Let it be heard, and see what ends although no holder says so."""
        id, status = document["_id"], document["status"]
        if status in TERMINAL and id not in self._over:
            self._over.add(id)
            if not self._settles:
                self.log.append(event.Lapsed(at=self.world.now, id=str(id), status=status))
        super().tell(document, is_new=is_new)

    def pause(self, queue: str, paused: bool) -> None:
        """Pause or resume, and count it."""
        self.said[queue] += 1
        super().pause(queue, paused)

    # --- writes of holders ---------------------------------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        """Settle, and see whether what is answered is so."""
        verdicts = super().settle(settlements)
        for one, verdict in zip(settlements, verdicts, strict=True):
            document = self.anywhere(one.id)
            if verdict == "lost" and document is not None and document.get("settled_by") == one.claim_id:
                self.wrong.append(
                    ("denied", str(one.id), f"the {one.move} of its claim is written, and it is told lost")
                )
        return verdicts

    def _settle(self, settlement: Settlement) -> Verdict:
        before = self.anywhere(settlement.id)
        was = None if before is None else (before["status"], before.get("claim_id"))
        self._settles = True
        verdict = super()._settle(settlement)
        self._settles = False
        document = self.anywhere(settlement.id)
        id, by = str(settlement.id), settlement.claim_id.hex()
        if before is not None and document is None:
            self.deleted[id] = Stored(SUCCEEDED, by, id)
            self.log.append(event.Closed(at=self.world.now, id=id, by=by, status=SUCCEEDED))
        elif document is not None and was is not None and was[0] == RUNNING and document["status"] != RUNNING:
            self.log.append(event.Closed(at=self.world.now, id=id, by=by, status=document["status"]))
        else:
            return verdict  # nothing was written
        if was is not None and was[1] != settlement.claim_id:
            self._stale(settlement.id, settlement.move)
        return verdict

    def extend(self, claims: Sequence[Claim]) -> list[ObjectId]:
        """Extend, and see whose."""
        self._see_whose(claims, lost := super().extend(claims), "extend")
        return lost

    def report(self, reports: Sequence[Reported]) -> list[ObjectId]:
        """Report, and see on whose."""
        self._see_whose([one.claim for one in reports], lost := super().report(reports), "progress")
        return lost

    def _see_whose(self, claims: Sequence[Claim], lost: Sequence[ObjectId], how: str) -> None:
        for one in claims:
            if one.id not in lost and self.documents[one.id].get("claim_id") != one.claim_id:
                self._stale(one.id, how)

    def _stale(self, id: ObjectId, how: str) -> None:
        self.wrong.append(("stale", str(id), f"{how} took effect by a claim that is not the task's"))

    @property
    def all_ended(self) -> bool:
        """Say whether every stored task has."""
        return all(document["status"] in TERMINAL for document in self.documents.values())

    def stored(self) -> dict[str, Stored]:
        """Return what is stored, and what was deleted at its success."""
        there: dict[str, Stored] = {str(id): stored_of(document) for id, document in self.documents.items()}
        for id, document in self.documents.items():
            if "slot_at" in document:  # it has no payload that could be another's
                there[str(id)] = msgspec.structs.replace(there[str(id)], mark=str(id))
        return self.deleted | there

    def _put(self, new: NewTask, family: Family) -> PutReply:
        if new.slot_at is not None:
            ids = [str(new.id)]
            self.log += [event.Tried(at=self.world.now, ids=ids), event.Acked(at=self.world.now, ids=ids)]
            self.slots.see(new, self._clock())
        return super()._put(new, family)
