"""What the runtime needs of a store, as blocking calls. `MongoStore` and `MemoryStore` both keep this contract;
`tests/conformance` holds them to it.

Every call is bounded by the store's own deadline and raises only errors of `streamq.errors`: `StoreUnavailable`
when nothing was sent, `OutcomeUnknown` when a write may have been applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, Protocol

import msgspec
from bson import ObjectId

from streamq.core.claim import Ask, Claim, Past
from streamq.core.document import TaskDocument
from streamq.core.member import Member, Roster
from streamq.core.moves.cancel import CancelReply
from streamq.core.moves.requeue import Requeue
from streamq.core.new_task import NewTask, PutReply
from streamq.core.report import Reported
from streamq.core.requeued import Requeued
from streamq.core.schedule import Schedule, ScheduleInfo
from streamq.core.search import Search
from streamq.core.settlement import Settlement, Verdict
from streamq.core.unclaimed import Unclaimed
from streamq.core.unique_key import UniqueKey
from streamq.core.wake import Wake
from streamq.core.wakes import Interest
from streamq.core.workers import WorkerView
from streamq.errors import ClaimUnknown


class Refused(msgspec.Struct, frozen=True):
    """A task that a move passed over: the server does not take what would be written on it (no room left in 16 MB, a
    validator of the user's own)."""

    id: Any  # an ObjectId, if nobody else stores tasks
    said: str


class Claimed(msgspec.Struct, frozen=True):
    """What a claim obtained, in claim order. `more` says whether the queue may hold more than was asked for. `refused`
    names the tasks that were passed over because the server does not take their claim, with its words: they stay
    ready, for people to see to. `again_s`: a rate holds the queue up, so long until its next token. `paused`: the queue
    is, and nothing was claimed of it because the ask heeds that. `past`: the call has passed over tasks for others as
    far as one call goes; the next is to look behind that place. `lost`: so many were found, and others were quicker."""

    claims: tuple[Claim, ...]
    more: bool
    refused: tuple[Refused, ...] = ()
    again_s: float | None = None
    paused: bool = False
    past: Past | None = None
    lost: int = 0


Taking = Callable[[Sequence[ObjectId]], None]


class Tick(msgspec.Struct, frozen=True):
    """What one look of the scheduler did and when the next is due.

    `released` names the tasks made ready (id and queue), by time, by an ended lease or by the ends of their parents;
    `failed` counts tasks whose lease ended on their last attempt, `followed` tasks whose followers were seen to,
    `expired` those that nobody started in time, `removed` those whose lifetime was over.
    `next_s` is the time until the earliest known instant, 0.0 when more is due already, None when nothing is ahead.
    `refused` names the tasks that the server let nobody move, with its words: they stay as they are and are tried again
    at each look. `due_s` is the time until the next delayed task is due, 0.0 when one is already, where a look leaves
    those to `release_due`.
    """

    released: tuple[tuple[ObjectId, str], ...]
    failed: int
    next_s: float | None
    refused: tuple[Refused, ...] = ()
    followed: int = 0
    expired: int = 0
    removed: int = 0
    due_s: float | None = None


class Due(msgspec.Struct, frozen=True):
    """Delayed tasks that are due, the more urgent first, told of as a stream does of new ones: all is known that a
    claim by id needs. `next_s` is the time until the next is due, 0.0 when more are than were read, None when none is
    ahead. `others` are due too and may be released, but nobody could be woken for them. `found` are the tasks as they
    were read, one for each of `wakes` (None: it is no task that can be claimed), if they were read whole."""

    wakes: tuple[Wake, ...]
    next_s: float | None
    others: tuple[Any, ...] = ()
    found: tuple[TaskDocument | None, ...] = ()


class Overdue(msgspec.Struct, frozen=True):
    """Many tasks that are due, those that have been for longest, and the queues they are in. `more` says whether there
    are more, `lasts` are one of each queue: as long as these are due, a look finds that the queue is to be told of."""

    ids: tuple[Any, ...]
    queues: tuple[str, ...]
    more: bool
    lasts: tuple[Any, ...] = ()


class Released(msgspec.Struct, frozen=True):
    """What one release of due tasks did: how many it moved. `refused` are as of a `Tick`; `again_s` says when what was
    not moved may be tried again, None when all was."""

    moved: int
    refused: tuple[Refused, ...] = ()
    again_s: float | None = None


class Firing(msgspec.Struct, frozen=True):
    """What one look at the schedules did and when the next slot comes.

    `fired` are the tasks that were put for slots; `skipped` names schedules and the slots left out because the task of
    the slot before had not ended. `next_s` is the time until the next slot that is known, None when none is ahead.
    `refused` names the rows that cannot be fired, with the reason: they are tried again at each look.
    """

    fired: tuple[NewTask, ...]
    skipped: tuple[tuple[str, datetime], ...]
    next_s: float | None
    refused: tuple[Refused, ...] = ()


Deleted = Literal["deleted", "running", "gone"]
"""What became of a task that was to be deleted: `running` ones are left alone."""


Renewed = Literal["held", "asked", "lost"]
"""What became of one claim that was to be extended: `asked`, held, but somebody wants its task cancelled; `lost`, it is
not held any more and nothing was changed."""


class Purged(msgspec.Struct, frozen=True):
    """What one step of a purge did: how many it deleted, and beyond which id the next begins (None: none is left)."""

    count: int
    next: ObjectId | None


NO_DEAD_LETTERS: Final = "this app keeps its failed tasks among the others: give it dead_letter_collection="


class Feed(Protocol):
    """One open change stream, or its stand-in. Used by one thread at a time."""

    def read(self) -> Wake | None:
        """Wait for the next event, bounded; None when none came.

        Raises `FeedEnded` when the stream is dead and must be opened anew, `StoreError` for an error after which
        the same feed may be read again.
        """

    def close(self) -> None:
        """Close it, from the thread that reads it."""


class Records(Protocol):
    """What people and programs ask of the stored tasks, beside the road of a task."""

    def find(self, search: Search, *, limit: int, after: ObjectId | None = None) -> list[TaskDocument]:
        """List what `search` matches, newest first, from beyond the id `after`; payloads are not decoded."""

    def page(self, search: Search, after: ObjectId | None = None) -> list[TaskDocument]:
        """List as `find`, as many as bounded memory holds; none: there are no more."""

    def ids(self, search: Search, *, limit: int, after: ObjectId | None = None) -> list[ObjectId]:
        """List ids of what `search` matches, oldest first, from beyond the id `after`."""

    def peek(self, queue: str, *, limit: int, tail: bool = False) -> list[TaskDocument]:
        """Return the ready tasks that are to be claimed first, or with `tail` last, in the order of claims."""

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Count tasks as {queue: {status: n}}."""

    def counts_by_handler(self) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
        """Count tasks as {queue: {handler: {status: n}}}; bare tasks have the handler ""."""

    def delete(self, id: ObjectId, *, force: bool = False) -> Deleted:
        """Delete one task, with `force` a running one too."""

    def purge(self, search: Search, older_than_s: float, after: ObjectId | None = None) -> Purged:
        """Delete some of what `search` matches and ended so long ago, from beyond the id `after` on. `search` names
        terminal statuses only."""

    def requeue(self, ids: Sequence[ObjectId], how: Requeue) -> list[Requeued]:
        """Requeue those that have ended; say of each what became of it. Repeating it with the same `how` is safe."""


class Store(Records, Protocol):
    """The contract."""

    def prepare(self) -> None:
        """Check that the server can carry a queue and make the indexes that are missing. Idempotent."""

    def mend(self) -> Sequence[str]:
        """Make the indexes anew that are gone, with a collection that was dropped or renamed; name those that cannot be
        made as long as tasks collide that were stored meanwhile. Idempotent."""

    def put(self, tasks: Sequence[NewTask], session: Any = None) -> Sequence[PutReply]:
        """Store `tasks` with majority, or as part of the caller's transaction when `session` is given."""

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        """Claim as `ask` says; fewer than asked when fewer are ready. `taking` may be told what it is about to take,
        before that is taken. Raises `ClaimUnknown`."""

    def abandon(self, unknown: ClaimUnknown) -> int:
        """Release whatever is held under an unknown claim, uncounted; return how many were."""

    def extend(self, claims: Sequence[Claim]) -> list[ObjectId]:
        """Extend each claim by its own `lease_s`; return the ids that are no longer held."""

    def renew(self, claim: Claim) -> Renewed:
        """Extend one claim by its `lease_s` and say how it stands: for a holder that no stream tells."""

    def pause(self, queue: str, paused: bool) -> None:
        """Say for all workers whether tasks of `queue` may begin, with majority. Idempotent."""

    def paused(self, queues: Sequence[str] | None) -> list[str]:
        """Return those of `queues` (None: of all) that are paused, sorted."""

    def report(self, reports: Sequence[Reported]) -> list[ObjectId]:
        """Store how far each task is and extend its claim; return the ids that are no longer held."""

    def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        """Write the settlements, fenced, with majority; return what became of each."""

    def cancel(self, ids: Sequence[ObjectId]) -> list[CancelReply]:
        """End those that nobody holds, ask the holders of those that run; say of each what came of it. Idempotent."""

    def asked(self, claims: Sequence[Claim]) -> list[ObjectId]:
        """Return the ids of those `claims` whose tasks somebody wants cancelled."""

    def transaction_s(self) -> float:
        """How long a transaction may be open: past it the server ends it."""

    def begin(self) -> Any:
        """Begin a transaction; return its session. Raises `UsageError` where there are none."""

    def commit(self, session: Any, settlement: Settlement) -> Verdict:
        """Write the settlement as the last thing of a transaction and commit it: "settled", or "lost" and aborted.

        Raises `TransactionAborted` for a reason that passes, `OutcomeUnknown`, or what else went wrong: it is aborted
        then too. The session is ended in any case.
        """

    def abort(self, session: Any, error: BaseException | None) -> str | None:
        """Abort a transaction that `error` came out of, end its session; return the reason if it is one that passes."""

    def tick(self, releases: bool = True) -> Tick:
        """Release what is due, take back what has ended, end what has expired, remove what has outlived its time, and
        say when to look again. Without `releases` what is due stays: somebody calls `release_due`."""

    def due(self, most: int, *, whole: bool = False) -> Due:
        """Read up to `most` of what is due, `whole` or only what a wake tells of them, and when the next is."""

    def claim_due(self, ask: Ask, found: Sequence[TaskDocument]) -> Claimed:
        """Claim those of `found`, which `due` has read whole, that are still as they were read, as if they had been
        released. They are all of the queue of `ask`, and it knows their handlers. Raises `ClaimUnknown`."""

    def overdue(self) -> Overdue:
        """Read the ids of many tasks that are due."""

    def release_due(self, ids: Sequence[Any], queues: Sequence[str] = ()) -> Released:
        """Release those of `ids` that are due; nobody waits for a majority here. With `queues`, those that they are
        in, it is a flood: the streams tell of none of the tasks, but that these queues are to be looked at.

        Until one has it the streams tell nothing of it, and a failover may undo it: the task is delayed again then,
        and due. `flush` hastens that.
        """

    def flush(self) -> None:
        """Wait until a majority has all that was written before: then the streams tell it."""

    def declare(self, schedules: Sequence[Schedule], by: str) -> None:
        """Make the stored schedules say what `schedules` say, which member `by` declares. Idempotent.

        A new one counts from now, so does one with other slots; one with the same keeps its next slot.
        """

    def fire(self, schedules: Sequence[Schedule], by: str) -> Firing:
        """Put a task for each slot of `schedules` that has come, each slot once whoever calls, and say when to look
        again. A row that is missing is declared anew."""

    def schedules(self) -> list[ScheduleInfo]:
        """List the stored schedules by name."""

    def switch(self, name: str, enabled: bool, by: str) -> bool:
        """Enable or disable a schedule; False when there is none of that name."""

    def sweep(self) -> Tick:
        """Look at a part of the blocked tasks for what nothing else will tell: parents that were removed, or ended
        without a word. Call it now and then; `next_s` says when the next part is to be looked at, None: they are all
        done."""

    def beat(self, member: Member) -> Roster:
        """Write the member's row with majority (this is the barrier too) and say who else is there."""

    def ring(self, member: Member, bell: str) -> None:
        """Write a change that the stream named `bell` hears."""

    def leave(self, member: Member) -> None:
        """Remove the member's row."""

    def feed(self, interest: Interest, await_s: float | None = None) -> Feed:
        """Open a stream, one read of which waits at most `await_s`. What is stored after this and a following `beat` is
        heard; what was stored before can be seen."""

    @property
    def has_tail(self) -> bool:
        """Whether there is a wake channel beside the stream."""

    def tail(self, queues: Sequence[str], bell: str, await_s: float | None = None) -> Feed:
        """Open the wake channel beside the stream, which tells of new tasks of `queues` sooner, or not at all."""

    def ring_tail(self, bell: str) -> None:
        """Write what the wake channel named `bell` hears."""

    def queues_behind(self, queues: Sequence[str]) -> list[str]:
        """Return those of `queues` that have ready tasks: the safety scan."""

    def still_ready(self, ids: Sequence[ObjectId]) -> list[ObjectId]:
        """Return those of `ids` that nobody has claimed: what others were to try first."""

    def get(self, id: ObjectId) -> TaskDocument | None:
        """Read one task, majority-committed."""

    def wait_for(self, id: ObjectId, member_id: str) -> TaskDocument | None:
        """Make sure the end of task `id` is told to `member_id`, then read it, majority-committed."""

    def free_key(self, queue: str, key: UniqueKey) -> bool:
        """Free a key that outlives its task before its time; False when it is not held."""

    def dead_letters(self) -> Store:
        """Return the dead letters, to look at as at tasks; a requeue moves them back. Raises `UsageError` when failed
        tasks stay among the others."""

    def workers(self) -> list[WorkerView]:
        """List the members and who else holds tasks."""

    def unclaimed(self) -> list[Unclaimed]:
        """Count ready tasks whose handler no live member knows, by queue and handler."""

    def now(self) -> datetime:
        """The server's time: as last heard plus monotonic time since."""

    def close(self) -> None:
        """Give back what the store itself opened."""
