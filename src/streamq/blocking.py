"""The queue for programs without trio (Django, Flask, scripts): the same store, plain calls that block.

Nothing runs in the background: a claimed task's lease is extended by calling `extend`. Delayed tasks and ended leases
are seen to by every worker, and by `claim` itself whenever it finds nothing, so that a deployment without a worker
gets stuck nowhere.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self, Unpack, overload

import msgspec
from bson import ObjectId

from streamq.blocking_desk import BlockingDesk
from streamq.core.claim import Ask, Claim
from streamq.core.codec import from_stored
from streamq.core.document import TaskDocument
from streamq.core.handling import BareSettings, Handling
from streamq.core.member import Member
from streamq.core.moves.cancel import CancelReply
from streamq.core.new_task import NewTask, PutReply, require_accepted
from streamq.core.options import PutOptions, require_count, require_delay_s, require_lease_s, require_reason
from streamq.core.outcome import CalledOff, Outcome, Snoozed, Stopped, raised, reason_of
from streamq.core.schedule import ScheduleInfo
from streamq.core.search import Sought, search_of
from streamq.core.settlement import Verdict, settlement_of
from streamq.core.telling import done_with, failed_by, outcome_of
from streamq.core.wakes import Interest
from streamq.drafting import require_new, require_schedule_name, require_switched, task_now
from streamq.errors import FeedEnded, LeaseLost, OptionInvalid, PayloadUndecodable, StoreError, UsageError
from streamq.handle import TaskId, chosen
from streamq.queue import Queue
from streamq.runtime import clock
from streamq.runtime.current import TaskInfo, info_of
from streamq.runtime.settler import require_settled
from streamq.store.contract import Feed, Store

SLICE_S: Final = 0.25
"""A waiting claim looks up this often: by so much it may wait longer than asked, or start a delayed task late."""


class Recurring(Protocol):
    """A declared handler, of whatever parameters."""

    @property
    def handling(self) -> Handling:
        """How it is put and run."""


class Blocking:
    """The door of an app without trio: `app.blocking`. Any thread may use it."""

    def __init__(self, store: Callable[[], Store], queue: Callable[[str], Queue], worker_id: str | None) -> None:
        self._worker_id = worker_id
        self._open = store
        self._queue = queue
        self._prepared: Store | None = None

    def queue(self, name: str) -> BlockingQueue:
        """Return the queue of that name. Prepares the server at the first call: doing so later, inside a transaction,
        would make indexes that the transaction's snapshot does not know."""
        self.store()
        return BlockingQueue(self._queue(name), self)

    def put(self, new: NewTask, *, session: Any = None) -> PutReply:
        """Put a task made by `handler.new(...)` or `queue.new(...)`; return once it is stored with majority.

        With `session` (of `app.client`, in a transaction) it is stored with the caller's own writes or not at all, and
        the driver's own errors come through, so that `session.with_transaction` can do its work. Raises `PutUnknown`:
        putting the same `new` again is safe. Raises `UniqueConflict`, if `on_conflict="raise"` was asked for. Trips: 1;
        2 or more when another task has its unique key.
        """
        tasks = require_new([new], "put")
        return require_accepted(new, self.store().put(tasks, session)[0])

    def put_many(self, tasks: Iterable[NewTask], *, session: Any = None) -> list[PutReply]:
        """Put many tasks, in chunks of 1,000; as `StreamQ.put_many`."""
        new = require_new(tasks, "put_many")
        return self.store().put(new, session)

    @property
    def worker(self) -> str:
        """What is written on the tasks that are claimed here. Asked at each claim: the program may have forked."""
        return self._worker_id or f"{socket.gethostname()}:{os.getpid()}"

    def run_now(self, handler: Recurring) -> PutReply:
        """Put a task of a recurring handler at once, outside of its slots; as `Handler.run_now`. Trips: 1."""
        return self.put(task_now(handler.handling, None))

    def schedules(self) -> list[ScheduleInfo]:
        """List the stored schedules by name. Trips: 1."""
        return self._open().schedules()

    def disable_schedule(self, name: str) -> None:
        """Fire no more slots of the recurring handler `name`; as `StreamQ.disable_schedule`."""
        require_switched(name, self.store().switch(require_schedule_name(name), False, self.worker))

    def enable_schedule(self, name: str) -> None:
        """Fire the slots of the recurring handler `name` again, from now on; as `StreamQ.enable_schedule`."""
        require_switched(name, self.store().switch(require_schedule_name(name), True, self.worker))

    @property
    def desk(self) -> BlockingDesk:
        """Where to look at stored tasks and put them right: find, export, requeue, delete, purge."""
        return BlockingDesk(self._open)

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Count the stored tasks as `{queue: {status: n}}`. Reads every task. Trips: 1."""
        return self._open().counts()

    def find(self, *, limit: int = 20, **sought: Unpack[Sought]) -> list[TaskDocument]:
        """List tasks as they are stored, newest first; as `StreamQ.find`."""
        search = search_of(sought)
        return self._open().find(search, limit=require_count(limit, "limit"))

    @overload
    def cancel(self, tasks: TaskId, /) -> CancelReply: ...  # type: ignore[overload-overlap] # str is iterable

    @overload
    def cancel(self, tasks: Iterable[TaskId], /) -> dict[ObjectId, CancelReply]: ...

    def cancel(self, tasks: TaskId | Iterable[TaskId], /) -> CancelReply | dict[ObjectId, CancelReply]:
        """Cancel one task, or many, by handle or id; as `StreamQ.cancel`."""
        ids, one = chosen(tasks)
        replies = self.store().cancel(ids)
        return replies[0] if one else dict(zip(ids, replies, strict=True))

    def uses(self, store: Store) -> bool:
        """Say whether calls have been made on `store`."""
        return self._prepared is store

    def store(self) -> Store:
        """Return the store, prepared at the first call."""
        store = self._open()
        if self._prepared is not store:
            store.prepare()
            self._prepared = store
        return store


class BlockingQueue:
    """One queue without trio."""

    def __init__(self, queue: Queue, door: Blocking) -> None:
        self.name = queue.name
        self._queue = queue
        self._door = door
        self._settings = queue.settings

    def __repr__(self) -> str:
        return f"<BlockingQueue {self.name!r}>"

    def put(self, payload: Any, *, session: Any = None, **options: Unpack[PutOptions]) -> PutReply:
        """Put one task with a payload of plain values; as `Blocking.put`. Raises what `Queue.new` raises."""
        return self._door.put(self._queue.new(payload, **options), session=session)

    def put_many(
        self, payloads: Iterable[Any], *, session: Any = None, **options: Unpack[PutOptions]
    ) -> list[PutReply]:
        """Put one task a payload, all with the same options."""
        return self._door.put_many([self._queue.new(payload, **options) for payload in payloads], session=session)

    def claim(self, *, wait_s: float = 0.0, lease_s: float | None = None) -> BlockingTask | None:
        """Claim the next task; None when there is none after `wait_s` seconds (woken by the stream, not polling).

        The lease is `lease_s` seconds and is not extended by itself: call `extend` in time. Trips: 2; while waiting,
        four a second besides. A payload that does not decode fails its task, and the next one is claimed.

        Workers learn of leases shorter than their own only from each other: should this program die, the end of a
        shorter lease given here is noticed after their own lease at the latest.
        """
        if isinstance(wait_s, bool) or not isinstance(wait_s, int | float) or not 0 <= wait_s < math.inf:
            raise OptionInvalid("wait_s", wait_s, "seconds, 0 or more")
        lease_s = self._settings.lease_s if lease_s is None else require_lease_s(lease_s)
        store = self._door.store()
        task = self._claim(store, lease_s)
        if task is None and wait_s > 0:
            task = self._wait(store, wait_s, lease_s)
        return task

    def _claim(self, store: Store, lease_s: float) -> BlockingTask | None:
        while True:
            claim = self._claim_one(store, lease_s)
            if claim is None and store.tick().released:
                claim = self._claim_one(store, lease_s)
            if claim is None:
                return None
            try:
                return BlockingTask(claim, store, self._settings)
            except PayloadUndecodable as error:
                outcome = raised("PayloadUndecodable", str(error), final=True)
                store.settle([settlement_of(outcome, claim, self._settings.retry, 0.0)])

    def _claim_one(self, store: Store, lease_s: float) -> Claim | None:
        ask = Ask(self.name, 1, clock.new_claim_id(), lease_s, self._door.worker, limits=self._queue.limits)
        claims = store.claim(ask).claims
        return claims[0] if claims else None

    def _wait(self, store: Store, wait_s: float, lease_s: float) -> BlockingTask | None:
        """Open, barrier, scan, follow: the order that misses no wake (see `runtime.watcher`)."""
        until = time.monotonic() + wait_s
        me = Member(clock.new_name(), socket.gethostname(), os.getpid(), (), 1, lease_s)
        interest = Interest(queues=(self.name,), timers=True, reply_to=None, bell=me.id)
        slice_s = wait_s / math.ceil(wait_s / SLICE_S)
        task: BlockingTask | None = None
        feed: Feed | None = None
        try:
            while task is None and time.monotonic() < until:
                if feed is None:
                    feed = store.feed(interest, slice_s)
                    store.beat(me)
                task = self._claim(store, lease_s)
                if task is None:
                    feed = _read(feed)
        finally:
            if feed is not None:
                feed.close()
            with contextlib.suppress(StoreError):  # it has beaten once; without a good-bye it is forgotten by itself
                store.leave(me)
        return task


def _read(feed: Feed) -> Feed | None:
    """Wait for a wake; None when the feed is dead and must be opened anew."""
    try:
        feed.read()
    except FeedEnded:
        feed.close()
        return None
    return feed


class BlockingTask:
    """A claimed task. Settle it once: by a method, or by leaving `with task:`."""

    def __init__(self, claim: Claim, store: Store, settings: BareSettings) -> None:
        self._claim = claim
        self._store = store
        self._settings = settings
        self._verdict: Verdict | None = None
        self.info: TaskInfo = info_of(claim)
        self.payload: Any = from_stored(claim.payload)

    def __repr__(self) -> str:
        return f"<BlockingTask {self._claim.id} of {self._claim.queue!r}, attempt {self._claim.attempt}>"

    def succeed(self, result: Any = None) -> None:
        """Settle as succeeded. Raises `LeaseLost`: the task is not yours any more, nothing was changed."""
        self._settle(done_with(result, self._settings.limit_bytes))

    def fail(self, error: str | BaseException, *, retry: bool = True) -> None:
        """Settle as failed: tried again after a backoff while attempts are left, unless `retry` is False."""
        self._settle(failed_by(error, self._settings.retry, retry=retry))

    def release(self) -> None:
        """Give the task back at once; the attempt is not counted."""
        self._settle(Snoozed(0.0))

    def snooze(self, delay_s: float) -> None:
        """Give the task back for `delay_s` seconds; the attempt is not counted."""
        self._settle(Snoozed(require_delay_s(delay_s)))

    def cancel(self, reason: str = "") -> None:
        """End the task in `cancelled`, with `reason` kept among its errors. Raises `LeaseLost`."""
        self._settle(CalledOff(reason_of(require_reason(reason))))

    def cancel_asked(self) -> bool:
        """Ask whether somebody wants it cancelled: then `cancel` it. False also when it is not held any more: what
        you do next tells. Trips: 1."""
        return bool(self._store.asked([self._claim]))

    def extend(self, lease_s: float | None = None) -> None:
        """Extend the lease to `lease_s` seconds from now. Raises `LeaseLost`."""
        if lease_s is not None:
            self._claim = msgspec.structs.replace(self._claim, lease_s=require_lease_s(lease_s))
        if self._store.extend([self._claim]):
            raise LeaseLost(self._claim.id, "extend")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Settle: success at the end of the block; failure by an `Exception`, which is kept on the task and raised no
        further; release when the program is being stopped. Raises `LeaseLost`."""
        if self._verdict is not None:
            return False
        if error is None:
            self.succeed()
        elif isinstance(error, Exception):
            self._settle(outcome_of(error, self._settings.retry))
        else:
            self._settle(Stopped(started=True))
        return isinstance(error, Exception)

    def _settle(self, outcome: Outcome) -> None:
        if self._verdict == "lost":
            raise LeaseLost(self._claim.id)
        if self._verdict is not None:
            raise UsageError(f"task {self._claim.id} was settled here already: a task is settled once")
        settlement = settlement_of(outcome, self._claim, self._settings.retry, clock.chance())
        (self._verdict,) = self._store.settle([settlement])
        require_settled(self._claim.id, self._verdict)
