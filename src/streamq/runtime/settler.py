"""The settler: writes the ends of attempts, many in one write, and finds out what became of each.

While a settlement is on its way its claim stays held and extended. A write without an answer is repeated (the store
reads back what the lost reply had done) until the claim cannot be trusted any more; then the task is somebody
else's to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import trio
from bson import ObjectId

from streamq.bridge import Bridge
from streamq.core.outcome import Stopped, called_off
from streamq.core.retry import Retry
from streamq.core.settlement import Settlement, Verdict, settlement_of
from streamq.errors import LeaseLost, OutcomeUnknown, StoreError, StoreUnavailable, UsageError
from streamq.runtime import clock
from streamq.runtime.batcher import Batcher, Entry
from streamq.runtime.held import Held, Holdings
from streamq.runtime.journal import Journal
from streamq.store.contract import Store

MOST_A_BATCH: Final = 1_000
"""Settlements in one write: 49,000 to 79,000 per second were settled so (DESIGN section 3)."""

MOST_UNSETTLED: Final = 2_000
"""Ended tasks without an answer: two full batches, one in flight and one gathering. More would only grow the set of
tasks that run again if the process dies."""

GIVE_BACK_S: Final = 5.0
"""How long a stop waits for the server to take claims back."""

NO_RETRY: Final = Retry()

PAUSE_S: Final = 0.1

PASSING: Final = (StoreUnavailable, OutcomeUnknown)
"""Errors after which settling again may help."""


def require_settled(task_id: ObjectId, verdict: Verdict) -> None:
    """Raise what a holder must hear of its settlement."""
    if verdict == "lost":
        raise LeaseLost(task_id)
    if verdict == "refused":
        raise StoreError(
            f"task {task_id}: the server refuses to store how it ended, and that it does (a validator of the "
            "collection?); the task runs again once its lease has ended"
        )


def with_last_word(held: Held, settlement: Settlement) -> Settlement:
    """Let the settlement write what its holder last said of how far the task is, if nothing has written it before."""
    if held.report is held.reported:
        return settlement
    return msgspec.structs.replace(settlement, progress=held.report)


def require_known(task_id: ObjectId, verdict: Verdict) -> None:
    """Raise when a success was not told, before its task is handed out as done."""
    if verdict == "unknown":
        raise OutcomeUnknown(f"task {task_id} has succeeded or will run again: nobody can know")


class Ending(msgspec.Struct, frozen=True):
    """A settlement with the claim it ends."""

    held: Held
    settlement: Settlement


class Settler:
    """Settles through one batcher."""

    def __init__(self, store: Store, bridge: Bridge, holdings: Holdings, journal: Journal) -> None:
        self._store = store
        self._bridge = bridge
        self._holdings = holdings
        self._journal = journal
        self._came_late = False  # the last claim's answer
        self.batcher: Batcher[Ending, Verdict] = Batcher(self._write, self._write_first, MOST_A_BATCH)

    def push(self, held: Held, settlement: Settlement) -> Entry[Ending, Verdict] | None:
        """Settle without waiting; what became of it is noted on `held`. Nothing is sent for a lost claim."""
        if held.lost or held.ending:
            return None
        held.ending = True
        return self.batcher.push(Ending(held, with_last_word(held, settlement)))

    async def settle(self, held: Held, settlement: Settlement) -> Verdict:
        """Settle and wait; return "settled", or "unknown" when nobody can know.

        Raises `LeaseLost`; `StoreError` when the server refuses it for good: the task runs again once its lease has
        ended. Cancellation: withdrawn before it is sent, else waited for.
        """
        if held.lost:
            raise LeaseLost(held.claim.id)
        if held.ending:
            raise UsageError(f"task {held.claim.id} was settled here already: a task is settled once")
        if held.apart:
            raise UsageError(f"task {held.claim.id} is in a transaction: leaving its block settles it")
        held.ending = True
        try:
            verdict = await self.batcher.submit(Ending(held, with_last_word(held, settlement)))
        except trio.Cancelled:
            held.ending = False
            raise
        require_settled(held.claim.id, verdict)
        return verdict

    def release(self, held: Held) -> None:
        """Give a claim back that its owner has no use for; one that was not started is not counted."""
        stopped = Stopped(held.started)
        self.push(held, settlement_of(called_off(stopped) if held.cancelled else stopped, held.claim, NO_RETRY, 0.0))

    def admit(self, claimed: Sequence[Held]) -> list[Held]:
        """Take in what one call has claimed, and was answered just now; return what may begin.

        What came late is given back, or it would wait for the end of its lease; the fence sees to it that this changes
        nothing if another holder has the task by now. What came late twice in a row begins while its lease lasts: all
        claims are slow then.
        """
        now = clock.now()
        late = [held for held in claimed if held.came_late(now)]
        if claimed:
            before, self._came_late = self._came_late, bool(late)
            if before:
                late = [held for held in late if held.is_over]
        for held in late:
            held.trust_for(now, held.claim.lease_s)  # it runs nowhere: so long giving it back is tried
            self.release(held)
        self._holdings.add(claimed)
        return [held for held in claimed if not held.ending] if late else list(claimed)

    async def give_back(self, owner: object) -> None:
        """Release what `owner` still holds, and wait until all of its settlements are known.

        Call it shielded, when nothing of the owner's runs any more. Bounded: with the server away, leases end by
        themselves.
        """
        for held in self._holdings.of(owner):
            self.release(held)
        with trio.move_on_after(GIVE_BACK_S):
            await self._holdings.wait_empty(owner)

    @property
    def is_full(self) -> bool:
        """Say whether so much is unsettled that no more should be begun."""
        return self.batcher.backlog >= MOST_UNSETTLED

    async def has_room(self) -> None:
        """Wait until little enough is unsettled to go on. Cancellation: safe."""
        await self.batcher.has_room(MOST_UNSETTLED)

    async def _write(self, endings: Sequence[Ending]) -> Sequence[Verdict | StoreError]:
        verdicts: dict[Held, Verdict | StoreError] = {}
        pending = [ending for ending in endings if not ending.held.lost]
        while pending:
            try:
                answers = await self._bridge.call(self._store.settle, [ending.settlement for ending in pending])
            except StoreError as error:
                self._journal.write("store error", doing="settle", error=error)
                if not isinstance(error, PASSING):
                    if len(pending) == 1:
                        self._let_go(pending[0], error, verdicts)
                        break
                    # One of them is at fault: ask for each, so that it alone is given up.
                    for ending in pending:
                        (verdicts[ending.held],) = await self._write([ending])
                    break
                await trio.sleep(clock.jittered(PAUSE_S))
                pending = self._still_trusted(pending, verdicts)
                continue
            self._journal.debug("settled", tasks=len(pending), first=pending[0].settlement.id)
            self._note_all(pending, answers)
            if len(pending) == len(endings):  # the rule, and once for each task that runs: nothing to put together
                return answers
            verdicts.update(zip((ending.held for ending in pending), answers, strict=True))
            break
        return [verdicts.get(ending.held, "lost") for ending in endings]

    async def _write_first(self, endings: Sequence[Ending]) -> Sequence[Verdict | StoreError]:
        """Write for a holder in its own task: it hears what became of its claim, also when it is cancelled."""
        verdicts: list[Verdict | StoreError] = []
        with trio.CancelScope(shield=True):
            verdicts += await self._write(endings)
        return verdicts

    def _let_go(self, ending: Ending, error: StoreError, verdicts: dict[Held, Verdict | StoreError]) -> None:
        """Trying again cannot help: the task is left to its lease's end, and whoever waits is told why."""
        verdicts[ending.held] = error
        self._holdings.drop((ending.held,))

    def _still_trusted(self, pending: Sequence[Ending], verdicts: dict[Held, Verdict | StoreError]) -> list[Ending]:
        """Give up on what the keeper has given up meanwhile: written or not, nobody here can know."""
        now = clock.now()
        given_up = {ending.held for ending in pending if ending.held.lost or ending.held.trusted_until <= now}
        if given_up:
            self._journal.write("settlements unknown", tasks=len(given_up), first=next(iter(given_up)).claim.id)
        verdicts.update(dict.fromkeys(given_up, "unknown"))
        return [ending for ending in pending if ending.held not in given_up]

    def _note_all(self, endings: Sequence[Ending], verdicts: Sequence[Verdict]) -> None:
        succeeded: list[Held] = []  # what there is nothing more to say of
        for ending, verdict in zip(endings, verdicts, strict=True):
            if verdict == "settled" and ending.settlement.move == "succeed":
                succeeded.append(ending.held)
            else:
                self._note(ending, verdict)
        if succeeded:
            self._holdings.drop(succeeded)
            self._journal.add("succeed", len(succeeded))

    def _note(self, ending: Ending, verdict: Verdict) -> None:
        if verdict == "lost":
            self._holdings.lose(ending.held, "taken over before it was settled")
            return
        self._holdings.drop((ending.held,))
        settlement = ending.settlement
        if verdict == "refused":
            self._journal.write("settlement refused", task=settlement.id, move=settlement.move)
            return
        self._journal.add(settlement.move, 1)
        if verdict == "unknown":
            self._journal.write("settlements unknown", tasks=1, first=settlement.id)
        if settlement.move == "cancel":
            self._journal.write("task cancelled", task=settlement.id, name=ending.held.claim.task)
        elif settlement.error is not None:
            final = settlement.move == "fail"
            self._journal.write(
                "task failed" if final else "task will be retried",
                task=settlement.id,
                name=ending.held.claim.task,
                attempt=ending.held.claim.attempt,
                error=f"{settlement.error.type}: {settlement.error.message}",
                traceback=settlement.error.traceback if final else "",
            )
