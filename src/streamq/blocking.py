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
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar, Unpack, overload

import msgspec
from bson import ObjectId

from streamq.blocking_desk import BlockingDesk
from streamq.core.claim import Ask, Claim
from streamq.core.codec import from_stored
from streamq.core.document import SUCCEEDED, Status, TaskDocument
from streamq.core.handling import BareSettings, Handling
from streamq.core.limits import Limits
from streamq.core.moves.cancel import CancelReply
from streamq.core.new_task import NewTask, PutReply, require_accepted
from streamq.core.options import (
    PutOptions,
    require_count,
    require_delay_s,
    require_id,
    require_lease_s,
    require_reason,
    require_timeout_s,
    require_wait_s,
)
from streamq.core.outcome import CalledOff, Done, Outcome, Snoozed, Stopped, raised, reason_of
from streamq.core.report import Progress, Reported, progress_of, report_of
from streamq.core.schedule import ScheduleInfo
from streamq.core.search import Sought, search_of
from streamq.core.settlement import Settlement, Verdict, settlement_of
from streamq.core.signals import TransactionAborted
from streamq.core.telling import done_with, failed_by, outcome_of
from streamq.core.transitions import is_terminal
from streamq.desk import dead_of
from streamq.drafting import require_new, require_schedule_name, require_switched, task_now
from streamq.ear import Ear
from streamq.errors import LeaseLost, PayloadUndecodable, StoreError, UsageError
from streamq.handle import TaskId, chosen, failure_of_task, late, require_stored
from streamq.queue import MOST_CLAIMED, Queue
from streamq.runtime import clock
from streamq.runtime.current import TaskInfo, info_of
from streamq.runtime.settler import require_known, require_settled
from streamq.runtime.transaction import LIVES, MOST_LEASE_S, RERUN_S, given_up
from streamq.runtime.upkeep import Upkeep
from streamq.store.contract import Store

T = TypeVar("T")

SLICE_S: Final = 0.25
"""A waiting claim looks up this often: by so much it may wait longer than asked, or start a delayed task late."""

END_SLICE_S: Final = 1.0
"""The same for one that waits for a task's end."""

LONGEST_S: Final = 86_400.0
"""The lease of who claims nothing: it must not shorten anybody's look at ended leases."""

MOST_ECHOES: Final = 100
"""Tasks that a loop claims one after the other before it drops the stream that told of them."""


class Recurring(Protocol):
    """A declared handler, of whatever parameters."""

    @property
    def handling(self) -> Handling:
        """How it is put and run."""


class Blocking:
    """The door of an app without trio: `app.blocking`. Any thread may use it."""

    def __init__(
        self,
        store: Callable[[], Store],
        queue: Callable[[str], Queue],
        load: Callable[[TaskDocument], Any],
        worker_id: str | None,
    ) -> None:
        self._worker_id = worker_id
        self._load = load
        self._open = store
        self._queue = queue
        self._prepared: Store | None = None
        self.upkeep = Upkeep()

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

    def result(self, id: ObjectId | str, timeout_s: float | None = None) -> Any:
        """Wait for the end of a task (by its id or the id's 24 hex digits) and return its result: as the handler's
        return annotation says if it is declared in this app, else plain values.

        Woken by the change stream; it does not poll. Raises `TaskFailed` with the stored error when the task did not
        succeed, `ResultTimeout` after `timeout_s` seconds (the task goes on; ask again), `TaskGone` when it is not
        stored any more, `UsageError` when the task is deleted at its success.
        """
        return self.result_of(self.wait(id, timeout_s))

    def result_of(self, document: TaskDocument) -> Any:
        """Read the result of a task that has ended. Raises `TaskFailed`."""
        if document["status"] != SUCCEEDED:
            raise failure_of_task(document)
        return self._load(document)

    def wait(self, id: ObjectId | str, timeout_s: float | None = None) -> TaskDocument:
        """Wait for the end of a task and return it as it is stored. Raises as `result`, but not `TaskFailed`. Trips: 1
        when it has ended, else a stream while it waits."""
        return self.wait_until(lambda: False, id, timeout_s)

    def wait_until(
        self, stopped: Callable[[], bool], id: ObjectId | str, timeout_s: float | None = None
    ) -> TaskDocument:
        """Wait as `wait`, and no longer once `stopped()`, which is asked once a second."""
        id = require_id(id)
        timeout_s = require_timeout_s(timeout_s)
        store = self.store()
        document = require_stored(store.get(id), id)
        if is_terminal(document["status"]):
            return document
        if document.get("keep_s") == 0:
            raise UsageError(f"task {id} is deleted at its success (keep_s=0): there is no end to wait for")

        def look() -> tuple[TaskDocument | None, float]:
            document = require_stored(store.wait_for(id, ear.member.id), id)
            return (document if is_terminal(document["status"]) else None), math.inf

        with Ear(store, hears_ends=True, lease_s=LONGEST_S, slice_s=END_SLICE_S, stopped=stopped) as ear:
            ended = ear.wait(look, math.inf if timeout_s is None else timeout_s)
        return ended or self._late(id, timeout_s)

    def _late(self, id: ObjectId, timeout_s: float | None) -> TaskDocument:
        document = require_stored(self.store().get(id), id)
        if not is_terminal(document["status"]):
            raise late(id, document["status"], timeout_s)
        return document

    def status(self, id: ObjectId | str) -> Status:
        """Return a task's status now. Raises `TaskGone`. Trips: 1."""
        id = require_id(id)
        return require_stored(self.store().get(id), id)["status"]

    def progress(self, id: ObjectId | str) -> Progress | None:
        """Return how far a task is; as `Handle.progress`. Trips: 1."""
        id = require_id(id)
        return progress_of(require_stored(self.store().get(id), id))

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

    @property
    def dead_letters(self) -> BlockingDesk:
        """The same for failed tasks in their `dead_letter_collection`; as `StreamQ.dead_letters`."""
        return BlockingDesk(lambda: dead_of(self._open()))

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
        """Claim the next task; None when there is none after `wait_s` seconds (`math.inf`: wait for ever). A waiting
        claim is woken by the stream, it does not poll.

        The lease is `lease_s` seconds and is not extended by itself: call `extend` in time. Trips: 3 (one asks whether
        the queue is paused); 5 when there is nothing, and a stream while it waits. A payload that does not decode fails
        its task, and the next is claimed.

        Workers learn of leases shorter than their own only from each other: should this program die, the end of a
        shorter lease given here is noticed after their own lease at the latest.
        """
        tasks = self.claim_many(1, wait_s=wait_s, lease_s=lease_s)
        return tasks[0] if tasks else None

    def claim_many(self, n: int, *, wait_s: float = 0.0, lease_s: float | None = None) -> list[BlockingTask]:
        """Claim up to `n` tasks (1 to 1,000) by one call, in order; as `claim`.

        When there is none it waits at most `wait_s` seconds and returns what is there then; it does not wait until
        there are `n`. All of them have the lease from now on: the last one must be settled or extended in time too.
        """
        require_count(n, "n", most=MOST_CLAIMED)
        return self.claimer(lease_s).claim(n, require_wait_s(wait_s))

    def pause(self) -> None:
        """Let no task of this queue begin, in any worker, until it is resumed; as `Queue.pause`."""
        self._door.store().pause(self.name, True)

    def resume(self) -> None:
        """Let tasks of this queue begin again. Idempotent. Trips: 1."""
        self._door.store().pause(self.name, False)

    def is_paused(self) -> bool:
        """Say whether this queue is paused. Trips: 1."""
        return bool(self._door.store().paused([self.name]))

    def claimer(self, lease_s: float | None = None) -> Claimer:
        """Make what claims tasks of this queue, as `claim` does: for a door of another kind."""
        lease_s = self._settings.lease_s if lease_s is None else require_lease_s(lease_s)
        return Claimer(self.name, self._door, self._settings, lease_s, self._queue.limits)

    def pop(self, *, wait_s: float = 0.0) -> BlockingTask | None:
        """Claim the next task and settle it as succeeded at once: at most once, for what may be lost rather than done
        twice. The task is returned, with its `payload` and `info`, when its success is stored; None as by `claim`.

        Raises `OutcomeUnknown` when it is not known whether that is stored. Trips: 4.
        """
        until = time.monotonic() + require_wait_s(wait_s)
        while (task := self.claim(wait_s=max(0.0, until - time.monotonic()))) is not None:
            try:
                verdict = task._settle(Done())
            except LeaseLost:
                continue  # somebody else has it by now
            require_known(task.info.id, verdict)
            return task
        return None

    def consume(self, *, wait_s: float = math.inf, lease_s: float | None = None) -> Generator[BlockingTask]:
        """Claim tasks one after the other, until there is none for `wait_s` seconds (by default never):

            for task in app.blocking.queue("ticks").consume():
                with task:
                    handle_tick(task.payload)

        Nothing is claimed ahead. When the loop is left, by `break` or an error, a task that was not settled is given
        back, uncounted. Leases and errors as of `claim`.
        """
        return _consume(self.claimer(lease_s), require_wait_s(wait_s))


def _consume(claimer: Claimer, wait_s: float) -> Generator[BlockingTask]:
    with claimer.ear() as ear:
        at_once = 0
        while True:
            tasks, _ = claimer.look(1)
            at_once = at_once + 1 if tasks else 0
            if at_once > MOST_ECHOES:
                ear.close()  # what it was told meanwhile is long claimed, and would be looked for in vain
            tasks = tasks or ear.wait(lambda: claimer.look(1), wait_s)
            if not tasks:
                return
            try:
                yield tasks[0]
            except GeneratorExit:
                tasks[0].give_back()
                raise


class Claimer:
    """Claims for one caller."""

    def __init__(
        self, queue: str, door: Blocking, settings: BareSettings, lease_s: float, limits: Limits | None
    ) -> None:
        self._queue = queue
        self._limits = limits
        self._door = door
        self._store = door.store()
        self._settings = settings
        self._lease_s = lease_s

    def claim(self, n: int, wait_s: float, stopped: Callable[[], bool] = lambda: False) -> list[BlockingTask]:
        """Claim up to `n`, and wait for the first at most `wait_s`, or until `stopped()`, which is asked four times a
        second."""
        tasks, _ = self.look(n)
        if tasks or wait_s == 0:
            return tasks or []
        with self.ear(stopped) as ear:
            return ear.wait(lambda: self.look(n), wait_s) or []

    def ear(self, stopped: Callable[[], bool] = lambda: False) -> Ear:
        """Make what tells that there may be something to claim."""
        return Ear(self._store, queues=(self._queue,), lease_s=self._lease_s, slice_s=SLICE_S, stopped=stopped)

    def look(self, n: int) -> tuple[list[BlockingTask] | None, float]:
        """Claim up to `n`; None, and when to look again, when there is nothing."""
        if self._store.paused([self._queue]):
            return None, math.inf  # resuming it is on the stream
        while True:
            claims = self._claim(n)
            again_s = math.inf
            if not claims:
                # What is due, or lost its holder, is seen to here as well: there may be no worker anywhere.
                tick = self._door.upkeep.do(self._store)
                again_s = math.inf if tick.next_s is None else tick.next_s
                if self._limits is not None:
                    again_s = 0.0  # a freed slot or a new token is not on the stream: look as often as it can be
                claims = self._claim(n) if tick.released else ()
            tasks = [task for claim in claims if (task := self._task_of(claim)) is not None]
            if tasks or not claims:
                return tasks or None, again_s

    def _claim(self, n: int) -> Sequence[Claim]:
        ask = Ask(self._queue, n, clock.new_claim_id(), self._lease_s, self._door.worker, limits=self._limits)
        return self._store.claim(ask).claims

    def _task_of(self, claim: Claim) -> BlockingTask | None:
        try:
            return BlockingTask(claim, self._store, self._settings)
        except PayloadUndecodable as error:
            outcome = raised("PayloadUndecodable", str(error), final=True)
            with contextlib.suppress(StoreError):  # its lease ends by itself, and others were claimed with it
                self._store.settle([settlement_of(outcome, claim, self._settings.retry, 0.0)])
            return None


class BlockingTask:
    """A claimed task. Settle it once: by a method, or by leaving `with task:`."""

    def __init__(self, claim: Claim, store: Store, settings: BareSettings) -> None:
        self._claim = claim
        self._store = store
        self._settings = settings
        self._verdict: Verdict | None = None
        self._since = time.monotonic()
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

    def release(self, delay_s: float = 0.0) -> None:
        """Give the task back, to start no sooner than `delay_s` seconds from now; the attempt is not counted."""
        self._settle(Snoozed(require_delay_s(delay_s)))

    def snooze(self, delay_s: float) -> None:
        """Give the task back for `delay_s` seconds; the attempt is not counted."""
        self._settle(Snoozed(require_delay_s(delay_s)))

    def cancel(self, reason: str = "") -> None:
        """End the task in `cancelled`, with `reason` kept among its errors. Raises `LeaseLost`."""
        self._settle(CalledOff(reason_of(require_reason(reason))))

    def progress(self, value: float, note: str = "") -> None:
        """Store how far the task is (any number, as you count; `note` is for people) and renew the lease.

        Raises `OptionInvalid`, `LeaseLost`. Trips: 1; each call is a write.
        """
        if self._store.report([Reported(self._claim, report_of(value, note))]):
            raise LeaseLost(self._claim.id, "progress")

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

    def transaction(self) -> BlockingTransaction:
        """Make a transaction in which the task succeeds:

            with task.transaction() as session:
                orders.update_one(..., session=session)

        What is written with `session` (of `app.client`) and the task's success are committed together, or neither.
        Leaving the block commits; an exception aborts both, and the task is still held. Set `result` of what this
        returns to store a result. Errors as of `Task.transaction`. Trips: 1 to begin, 2 to commit.
        """
        return BlockingTransaction(self, self._store)

    def run_in_transaction(self, function: Callable[[Any], T]) -> T:
        """Run `function(session)` in a transaction in which the task succeeds, and commit; again as long as it is given
        up for what passes, up to two minutes. What it returns is stored as the task's result, and returned."""
        until = time.monotonic() + RERUN_S
        while True:
            transaction = self.transaction()
            try:
                with transaction as session:
                    result = transaction.result = function(session)
            except TransactionAborted:
                if time.monotonic() > until:
                    raise
                time.sleep(clock.jittered(0.05))
            else:
                return result

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

    def _settle(self, outcome: Outcome) -> Verdict:
        claim = self.require_held()
        left_s = None if claim.total_s is None else self._since + claim.total_s - time.monotonic()
        settlement = settlement_of(outcome, claim, self._settings.retry, clock.chance(), left_s)
        (verdict,) = self._store.settle([settlement])
        self.ended(verdict)
        return verdict

    @property
    def lease_s(self) -> float:
        """How long its lease lasts, by its claim or the last extension."""
        return self._claim.lease_s

    @property
    def is_settled(self) -> bool:
        """Say whether it was settled here."""
        return self._verdict is not None

    def require_held(self) -> Claim:
        """Return the claim, if the task was not settled here. Raises `LeaseLost`, `UsageError`."""
        if self._verdict == "lost":
            raise LeaseLost(self._claim.id)
        if self._verdict is not None:
            raise UsageError(f"task {self._claim.id} was settled here already: a task is settled once")
        return self._claim

    def success(self, result: Any) -> Settlement:
        """Build the settlement of a success with `result`. Raises `PayloadInvalid`, `PayloadTooLarge`."""
        done = done_with(result, self._settings.limit_bytes)
        return settlement_of(done, self.require_held(), self._settings.retry, 0.0)

    def ended(self, verdict: Verdict) -> None:
        """Note what became of the task's settlement. Raises `LeaseLost`."""
        self._verdict = verdict
        require_settled(self._claim.id, verdict)

    def give_back(self) -> None:
        """Release the task if it was not settled: for whoever leaves it. Uncounted; without it its lease would end."""
        if self._verdict is None:
            with contextlib.suppress(LeaseLost, StoreError):
                self._settle(Stopped(started=False))


class BlockingTransaction:
    """`with task.transaction() as session:`; see `BlockingTask.transaction`. `result` is stored as its result."""

    def __init__(self, task: BlockingTask, store: Store) -> None:
        self.result: Any = None
        self._task = task
        self._store = store
        self._session: Any = None
        self._life_s = 0.0
        self._began_at = 0.0

    def __enter__(self) -> Any:
        """Extend the lease past the transaction's longest life, and begin. Raises `LeaseLost`, `StoreError`."""
        self._life_s = self._store.transaction_s()
        claim = self._task.require_held()
        longest_s = min(MOST_LEASE_S, max(claim.lease_s, LIVES * self._life_s))
        if self._store.extend([msgspec.structs.replace(claim, lease_s=longest_s)]):
            raise LeaseLost(claim.id, "begin a transaction")
        self._began_at = time.monotonic()
        self._session = self._store.begin()
        return self._session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settle and commit, or abort when the block raised."""
        session, self._session = self._session, None
        if error is not None:
            reason = self._store.abort(session, error)
            if reason is not None:
                raise given_up(reason, time.monotonic() - self._began_at, self._life_s) from error
            return
        try:
            settlement = self._task.success(self.result)
        except BaseException:
            self._store.abort(session, None)
            raise
        try:
            verdict = self._store.commit(session, settlement)
        except TransactionAborted as aborted:
            open_s = time.monotonic() - self._began_at
            raise given_up(aborted.reason, open_s, self._life_s) from aborted.__cause__
        self._task.ended(verdict)
