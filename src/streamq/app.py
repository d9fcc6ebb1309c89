"""The app: one object that knows the server, the handlers and, while entered, the running services."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, Unpack, overload

import trio
from bson import ObjectId

from streamq.address import Address
from streamq.blocking import Blocking
from streamq.bridge import Bridge, ThreadBridge
from streamq.core.codec import from_stored
from streamq.core.coding import Codec, require_codec
from streamq.core.document import TaskDocument
from streamq.core.handling import LARGEST_LIMIT_BYTES, PAYLOAD_LIMIT_BYTES, BareSettings, Handling, leases_of
from streamq.core.limits import Limits, Rate
from streamq.core.moves.cancel import CancelReply
from streamq.core.new_task import NewTask
from streamq.core.notice import WakeBy
from streamq.core.options import (
    require_count,
    require_keep_s,
    require_lease_s,
    require_limit_s,
    require_queue,
    require_task_id,
    require_text,
    require_timeout_s,
    require_wake,
)
from streamq.core.recurrence import Missed, recurrence_of
from streamq.core.retry import Retry, require_retry
from streamq.core.roles import Role, RoleKind
from streamq.core.schedule import ScheduleInfo
from streamq.core.search import Sought, search_of
from streamq.core.sharing import Shared
from streamq.core.unclaimed import Unclaimed
from streamq.crews import Declared, stop_of
from streamq.declaring import Declaration, Declare, require_untaken
from streamq.desk import Desk, dead_of, served
from streamq.drafting import put_of_tasks, require_schedule_name, require_switched, schedules_of
from streamq.errors import UsageError
from streamq.handle import Handle, Handles, TaskId, chosen
from streamq.handler import Handler
from streamq.queue import Queue
from streamq.runtime.journal import Journal
from streamq.runtime.services import Services
from streamq.runtime.sole import sole_error
from streamq.runtime.worker import Worker, finished
from streamq.secret import secret
from streamq.store.coded import behind
from streamq.store.contract import Store
from streamq.store.mongo import TIMEOUT_S
from streamq.store.transactions import Client
from streamq.trio_side import in_trio, require_trio

P = ParamSpec("P")
R = TypeVar("R")

LEASE_S: Final = 30.0
SAFETY_SCAN_S: Final = 30.0
CONCURRENCY: Final = 16


class StreamQ:
    """A queue in a MongoDB database.

        app = StreamQ("mongodb://localhost/?replicaSet=rs0", database="shop")

    Args:
        uri: where the server is; default `$STREAMQ_URI`. Or `client`: an existing `MongoClient`, which stays yours to
            close and whose sessions can be used for putting in a transaction.
        database, collection: where tasks are kept.
        lease_s: how long a claim lasts without being extended (it is, while the process lives), 1 to 86,400.
        retry: for handlers that have none of their own, and for bare tasks.
        keep_s: how long succeeded tasks and results are kept, in seconds; 0 deletes them at once. Default: one day.
        keep_failed_s: how long failed, cancelled and expired tasks are kept, in seconds; 0: the server removes them
            within about a minute. Default: seven days. Both are for handlers and puts that say nothing else.
        payload_limit_bytes: the largest payload or result, encoded.
        timeout_s: how long one call to the server may take, its retries included, in seconds.
        safety_scan_s: how often queues are looked at whatever the stream says; None: never. A backstop.
        expires_in_s: a task that is not started within so many seconds of its put ends in `expired`. Default: never.
            For handlers and puts that say nothing else.
        worker_id: what this process is called on the tasks it claims and in their errors, 1 to 200 characters; default:
            a random name. Processes may share one; nothing but what people read depends on it.
        dead_letter_collection: where failed tasks are moved to, in the same database; default: they stay among the
            others. Give all apps of one tasks collection the same.
        wake: by what puts of this app wake workers, and by what its workers are woken: "stream", the change stream, or
            "tailable", a small capped collection (`<collection>.wakes`) besides, which tells before a majority has the
            task, for a second write a put: measure whether it pays. Apps that say either work together.
        codec: what encrypts or compresses payloads, results, error texts and progress notes before they are sent; see
            docs/security.md. Give all apps that put, run or read these tasks the same.

    Putting, waiting and working need trio and `async with app`; `app.blocking` needs neither.
    """

    def __init__(
        self,
        uri: str | None = None,
        *,
        client: Client | None = None,
        database: str = "streamq",
        collection: str = "tasks",
        lease_s: float = LEASE_S,
        retry: Retry = Retry(),  # noqa: B008 - frozen
        keep_s: float | None = None,
        keep_failed_s: float | None = None,
        payload_limit_bytes: int = PAYLOAD_LIMIT_BYTES,
        timeout_s: float = TIMEOUT_S,
        safety_scan_s: float | None = SAFETY_SCAN_S,
        expires_in_s: float | None = None,
        worker_id: str | None = None,
        dead_letter_collection: str | None = None,
        wake: WakeBy = "stream",
        codec: Codec | None = None,
    ) -> None:
        uri = secret(uri)  # for tracebacks that show the values of names
        if uri is not None and client is not None:
            raise UsageError("give uri or client, not both")
        self._address = Address(
            uri,
            client,
            database,
            collection,
            dead_letter_collection,
            require_timeout_s(timeout_s) or TIMEOUT_S,
            require_wake(wake),
        )
        self._lease_s = require_lease_s(lease_s)
        self._safety_scan_s = require_timeout_s(safety_scan_s, "safety_scan_s")
        self._limit_bytes = require_count(payload_limit_bytes, "payload_limit_bytes", most=LARGEST_LIMIT_BYTES)
        self._retry = require_retry(retry)
        self._codec = require_codec(codec)
        self._keep_s = None if keep_s is None else require_keep_s(keep_s)
        self._keep_failed_s = None if keep_failed_s is None else require_keep_s(keep_failed_s, "keep_failed_s")
        self._expires_in_s = None if expires_in_s is None else require_limit_s("expires_in_s", expires_in_s)
        self._worker_id = None if worker_id is None else require_text("worker_id", worker_id)
        self._handlers: dict[str, Handling] = {}
        self._limits: dict[str, Limits] = {}
        self._store: Store | None = None
        self._connecting = threading.Lock()
        self._bridge: Bridge | None = None
        self._services: Services | None = None
        self._stack: AsyncExitStack | None = None
        self._blocking = Blocking(lambda: self.store, self.queue, self._load_result, self._worker_id, self._address)
        self.journal = Journal()

    @classmethod
    def embedded(cls, path: str | Path | None = None, **options: Any) -> Self:
        """Make an app on a real mongod of its own, for trying, tests and CI; it ends with the program.

        `path` is a data directory to keep; without it a temporary one is used and removed. `options` are those of
        `StreamQ`. Takes a second or two. Raises `EmbeddedError` saying what is missing.
        """
        from streamq import embedded  # a tenth of what importing streamq takes, and most programs have a server

        server = embedded.start(path)
        app = cls(server.uri, **options)
        app._address.server = server
        return app

    @classmethod
    def on(cls, store: Store, bridge: Bridge, **options: Any) -> Self:
        """Make an app on a store and bridge of your own: see `streamq.testing`."""
        app = cls("mongodb://unused", **options)
        app._store, app._bridge = behind(store, app._codec), bridge
        return app

    def __repr__(self) -> str:
        return f"<StreamQ {self._address}>"

    # --- declaring --------------------------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Handler[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def task(self, function: Callable[P, R], /) -> Handler[P, R, R]: ...

    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        queue: str = ...,
        name: str | None = ...,
        retry: Retry | None = ...,
        timeout_s: float | None = ...,
        priority: int = ...,
        keep_s: float | None = ...,
        keep_failed_s: float | None = ...,
        lease_s: float | None = ...,
        cron: str | None = ...,
        tz: str | None = ...,
        every_s: float | None = ...,
        missed: Missed | None = ...,
        overlap: bool | None = ...,
        expires_in_s: float | None = ...,
        total_timeout_s: float | None = ...,
    ) -> Declare: ...

    def task(
        self,
        function: Any = None,
        /,
        *,
        queue: str = "default",
        name: str | None = None,
        retry: Retry | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        keep_s: float | None = None,
        keep_failed_s: float | None = None,
        lease_s: float | None = None,
        cron: str | None = None,
        tz: str | None = None,
        every_s: float | None = None,
        missed: Missed | None = None,
        overlap: bool | None = None,
        expires_in_s: float | None = None,
        total_timeout_s: float | None = None,
    ) -> Any:
        """Declare a handler, as `@app.task` or `@app.task(queue="images", timeout_s=30)`.

        Its signature is the schema of its payload. An `async def` runs in the worker's trio loop, any other function
        in a thread. `name` is what is stored (default: the function's own name) and must stay the same while tasks
        wait. `timeout_s` limits one attempt, `total_timeout_s` all of them with their waits. `lease_s` is how long a
        worker that died, froze or lost the network keeps a task from others (default: the queue's). `expires_in_s` is
        how soon after its put a task must be started (math.inf: no limit, whatever the app says). Raises `UsageError`
        naming the parameter that cannot be stored.

        `cron` (five fields, in the time zone `tz`, default UTC) or `every_s` (seconds from 1 to ten years) make it
        recur while a worker that declares it runs: one task without arguments for each slot. `missed` says what
        becomes of slots at whose time there was none: "latest" (the default: the newest runs), "all" (the newest
        1,000 run), "none". With `overlap=False` a slot is skipped while the task of the slot before has not ended.
        """
        declaration = Declaration(
            queue=queue,
            name=name,
            retry=retry,
            timeout_s=timeout_s,
            priority=priority,
            keep_s=keep_s,
            keep_failed_s=keep_failed_s,
            lease_s=lease_s,
            recurrence=recurrence_of(cron, tz, every_s, missed, overlap),
            expires_in_s=expires_in_s,
            total_timeout_s=total_timeout_s,
        )

        def declare(function: Callable[..., Any]) -> Handler[..., Any, Any]:
            handling = declaration.handling_of(function, self._settings(), self._address)
            require_untaken(handling, self._handlers)
            self._handlers[handling.name] = handling
            return Handler(function, handling, self)

        return declare if function is None else declare(function)

    def limit(
        self,
        queue: str,
        *,
        rate: Rate | None = None,
        running: int | None = None,
        key_rate: Rate | None = None,
        key_running: int | None = None,
    ) -> None:
        """Limit a queue across all workers: `app.limit("mail", rate=Rate(100, per_s=60), running=8)`.

        `rate` limits how often its tasks start, `running` how many run at once; `key_rate` and `key_running` do so for
        the tasks of each `rate_key` (an option of their put) by themselves, without holding up those of other keys.
        They hold among all who declare them, in any process: declare them where the handlers are declared, before work
        begins. Limits that are declared again replace those before. Raises `OptionInvalid`, `UsageError` once tasks are
        taken from the queue here: whoever takes them does so by the limits that were declared when it began.
        """
        if self._services is not None and self._services.watcher.takes_from(queue):
            raise UsageError(
                f"the limits of queue {queue!r} come too late: tasks are taken from it already. Declare them where the "
                f"handlers are declared, before work begins"
            )
        self._limits[require_queue(queue)] = Limits(rate, running, key_rate, key_running)

    def limits_of(self, queue: str) -> Limits | None:
        """The declared limits of a queue; None when it has none."""
        return self._limits.get(queue)

    def leases_of(self, queue: str) -> Mapping[str, float]:
        """The leases of a queue's handlers that have one other than the app's, by name."""
        return leases_of((one for one in self._handlers.values() if one.queue == queue), self._lease_s)

    def queue(self, name: str) -> Queue:
        """Return the queue of that name. Costs nothing; a queue exists by being used."""
        return Queue(require_queue(name), self._settings(), self)

    def _settings(self) -> BareSettings:
        return BareSettings(
            handlers=self._handlers,
            retry=self._retry,
            lease_s=self._lease_s,
            keep_s=self._keep_s,
            keep_failed_s=self._keep_failed_s,
            expires_in_s=self._expires_in_s,
            limit_bytes=self._limit_bytes,
        )

    @property
    def handlers(self) -> Mapping[str, Handling]:
        """The declared handlers by name, as they are now."""
        return MappingProxyType(self._handlers)

    @property
    def is_embedded(self) -> bool:
        """Say whether this app runs on a server of its own, which ends with the program."""
        return self._address.server is not None

    def point_at(
        self,
        uri: str | None = None,
        *,
        database: str | None = None,
        collection: str | None = None,
        dead_letter_collection: str | None = None,
        wake: WakeBy | None = None,
    ) -> None:
        """Use another place than the one given at the making: for command lines and tests. None leaves it as it is.

        Raises `UsageError` when the app has connected already, `OptionInvalid`.
        """
        uri = secret(uri)
        if self._store is not None and (uri, database, collection, dead_letter_collection, wake) != (None,) * 5:
            raise UsageError("point_at comes too late: the app has connected already")
        wake = None if wake is None else require_wake(wake)
        self._address.point_at(uri, database, collection, dead_letter_collection, wake)

    def role(self, kind: RoleKind) -> Role:
        """Return the least-privilege role of a program that uses this app's place as "producer", "client", "worker",
        "operator" or "reader": `app.client[role.database].command(role.command())`, by a user who may make roles. See
        docs/security.md for what each may do. Raises `OptionInvalid`."""
        return self._address.role(kind)

    # --- while entered ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect, check the server, make missing indexes, start the services.

        Raises `NotAReplicaSet`, `AccessRefused`, `StoreUnavailable`, `ServerTooOld`. Trips: 3.
        """
        require_trio()
        if self._stack is not None:
            raise UsageError("this app is entered already")
        bridge = self._bridge or ThreadBridge()
        store = self.store
        try:
            await bridge.call(store.prepare)
            await bridge.call(store.now)
            services = Services(
                store,
                bridge,
                self.journal,
                lease_s=self._lease_s,
                safety_scan_s=self._safety_scan_s,
                worker_id=self._worker_id,
            )
            with sole_error():
                await self._start(services)
        except BaseException:
            await self._disconnect(bridge)
            raise
        return self

    async def _start(self, services: Services) -> None:
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(services.stop)
            # Shielded: services end by `stop` alone, so a start that was cancelled half way would wait for ever.
            with trio.CancelScope(shield=True):
                await nursery.start(services.run)
            self._services = services
            self._stack = stack.pop_all()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Stop the services, tell the server good-bye, close the client if it is the app's own (and `blocking` does not
        use it). The app may be entered again."""
        stack, self._stack = self._stack, None
        if stack is None:
            return None
        bridge = self.services().bridge
        try:
            with sole_error(error):
                return await stack.__aexit__(kind, error, trace)
        finally:
            self._services = None
            await self._disconnect(bridge)

    async def _disconnect(self, bridge: Bridge) -> None:
        if self._store is None or self._bridge is not None or self._blocking.uses(self._store):
            return
        store, self._store = self._store, None
        with trio.CancelScope(shield=True):
            await bridge.call(store.close)

    def close(self) -> None:
        """Close the app's own client (a given one stays open) and stop an embedded server. Blocking. A later use of
        `app.blocking` connects anew: close it again."""
        if self._store is not None and self._bridge is None:
            self._store.close()
            self._store = None
        self._address.stop()

    def services(self) -> Services:
        """Return the running services. Raises `UsageError` while the app is not entered."""
        if self._services is None:
            require_trio()
            raise UsageError("enter the app first: `async with app:` (or use app.blocking, which needs no trio)")
        return self._services

    @property
    def reply_to(self) -> str | None:
        """Where ends of tasks put by this process are to be told; None while the app is not entered."""
        return None if self._services is None else self._services.member.id

    async def work(
        self,
        queues: Mapping[str, int] | Iterable[str] | str | Shared | None = None,
        *,
        concurrency: int = CONCURRENCY,
        lease_s: float | Mapping[str, float] | None = None,
        stop: trio.Event | None = None,
        grace_s: float | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run handlers until cancelled or stopped: `await nursery.start(app.work, {"images": 32})`.

        `queues` says how many tasks of each queue run at once; names alone take `concurrency`; None means every queue
        that has a handler here; `Shared` lets several queues share slots by weight or in order. Tasks whose handler is
        not declared here are left for others. `lease_s` is for handlers without one of their own, for all queues or
        `{queue: seconds}`; default: the app's. `nursery.start` returns once no later put can be missed.

        Once the event `stop` is set nothing more is claimed or started; handlers may end within `grace_s` seconds
        (None: as long as they take), the rest is cancelled and given back; then `work` returns. Signals are left alone.

        Raises `UsageError` for a queue without a handler, `AccessRefused` when the server does not let it.
        Cancellation: async handlers are cancelled, handlers in threads are waited for; what had not ended is given
        back without using up an attempt (a task with a single attempt that had begun fails).
        """
        crews = Declared(self._handlers, self._limits, self._lease_s).crews(queues, concurrency, lease_s)
        stopping = stop_of(stop, grace_s)
        services = self.services()
        schedules = schedules_of(self._handlers.values())
        if not await finished(lambda: services.recurrer.declare(schedules), stopping):
            task_status.started()
            return
        worker = Worker(services, crews, stopping)
        with services.recurrer.serving(schedules):
            await worker.run(task_status=task_status)

    @in_trio
    async def put_many(self, tasks: Iterable[NewTask], *, session: Any = None) -> Sequence[Handle[Any]]:
        """Put many tasks, each with its own options: `await app.put_many(resize.new(p) for p in paths)`.

        They are stored in order, in chunks of 1,000 (fewer if large), each by one insert. No more than a chunk is drawn
        and held at a time. A generator is drawn in trio's own thread: what it waits for, everything waits for.

        - A collection (a list, tuple, set, …) is checked to its end before the first task is stored: bad input raises
          `UsageError`, and nothing is stored. Do not change it meanwhile.
        - Any other iterable is checked as it is drawn. Bad input, and whatever the iterable raises, is raised as it is
          while nothing is stored, and as `PutStopped` afterwards; no task of its chunk is stored.
        - When a chunk cannot be stored: `StoreUnavailable` if nothing was sent at all, else `PutUnknown`. Its `stored`
          tells what became of the tasks before, its `ids` name all that are not known to be stored (of a collection) or
          those of the chunk (else; what follows has not been drawn). Calling again with the same tasks stores none
          twice. A `StoreError` that names a task: the server refuses that one; others of the first chunk may be stored.
        - A task whose unique key is taken harms no other and raises nothing: each handle's `outcome` tells what became
          of its task, `"refused"` with `on_conflict="raise"`.
        - A task may run after one that stands earlier (`after=`). Of a generator that one is in the same chunk or still
          stored; a list is known as a whole.

        With `session` (of the app's own client, in a transaction) they are stored with the caller's own writes or not
        at all, wakes come at the commit, and the driver's own errors come through.

        Returns a sequence of handles, each made when it is looked at: 14 bytes a task. Trips: 1 a chunk. Cancellation:
        safe between chunks; the handles of chunks stored before are lost, the tasks are not.
        """
        many = put_of_tasks(tasks, session, self._address)
        await self.services().putter.put_many(many, session)
        return Handles(many, self.services, self._load_result)

    def handle(self, id: TaskId) -> Handle[Any]:
        """Return the handle of a task by its id (or its 24 hex digits), put by whomever. Nothing is asked yet.

        Its result comes typed if the task's handler is declared in this app, else as plain values.
        """
        return Handle(require_task_id(id), self.services, self._load_result)

    @overload
    async def cancel(self, tasks: TaskId, /) -> CancelReply: ...  # type: ignore[overload-overlap] # str is iterable

    @overload
    async def cancel(self, tasks: Iterable[TaskId], /) -> dict[ObjectId, CancelReply]: ...

    @in_trio
    async def cancel(self, tasks: TaskId | Iterable[TaskId], /) -> CancelReply | dict[ObjectId, CancelReply]:
        """Cancel one task, or many, by handle or id; say what became of it, or of each by its id.

        - `cancelled`: it had not begun and never will, or it was cancelled before;
        - `asked`: it is running. Its worker hears of it through the stream and cancels the handler; once that has
          ended, the task is `cancelled`. A handler that is through before it hears has succeeded;
        - `ended`: it had ended otherwise before;
        - `gone`: it is not stored (any more).

        After `OutcomeUnknown` call again: it is idempotent. Trips: 2 per 1,000 tasks. Cancellation: waited for, and the
        reply is returned.
        """
        services = self.services()
        ids, one = chosen(tasks)
        replies = await services.bridge.call(services.store.cancel, ids)
        return replies[0] if one else dict(zip(ids, replies, strict=True))

    def _load_result(self, document: TaskDocument) -> Any:
        handling = self._handlers.get(document.get("task") or "")
        stored = document.get("result")
        return from_stored(stored) if handling is None else handling.schema.load_result(stored)

    async def unclaimed(self) -> list[Unclaimed]:
        """Count ready tasks whose handler no live worker knows, by queue and handler; without trio:
        `app.blocking.unclaimed()`. A worker that came less than 15 s ago may not be counted on yet. Trips: 2."""
        services = self.services()
        return await services.bridge.call(services.store.unclaimed)

    async def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Count the stored tasks as `{queue: {status: n}}`. Reads every task. Trips: 1."""
        services = self.services()
        return await services.bridge.call(services.store.counts)

    async def find(self, *, limit: int = 20, **sought: Unpack[Sought]) -> list[TaskDocument]:
        """List tasks as they are stored, newest first; the keywords are those of `Desk`. Trips: 1."""
        services = self.services()
        search = search_of(sought)
        require_count(limit, "limit")
        return await services.bridge.call(lambda: services.store.find(search, limit=limit))

    @property
    def desk(self) -> Desk:
        """Where to look at stored tasks and put them right: find, export, requeue, delete, purge."""
        return Desk(self.services)

    @property
    def dead_letters(self) -> Desk:
        """The same for failed tasks in their `dead_letter_collection`: a requeue moves them back among the tasks. Its
        calls raise `UsageError` when the app has none."""
        return Desk(self.services, dead_of)

    async def schedules(self) -> list[ScheduleInfo]:
        """List the stored schedules by name: those declared here, elsewhere, or long ago. Trips: 1."""
        services = self.services()
        return await services.bridge.call(services.store.schedules)

    @in_trio
    async def disable_schedule(self, name: str) -> None:
        """Fire no more slots of the recurring handler `name`, in any process, until it is enabled again.

        Kept through restarts and new versions. Tasks that were put stay. Raises `UsageError` when no worker has
        declared a schedule of that name yet. Trips: 3, or 1 when it is so already.
        """
        await self._switch(name, False)

    @in_trio
    async def enable_schedule(self, name: str) -> None:
        """Fire the slots of the recurring handler `name` again, from now on; as `disable_schedule`."""
        await self._switch(name, True)

    async def _switch(self, name: str, enabled: bool) -> None:
        services = self.services()
        require_schedule_name(name)
        require_switched(name, await services.bridge.call(services.store.switch, name, enabled, services.member.id))

    # --- without trio -----------------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The store, connected lazily. Raises `UsageError` when it is not said where the server is."""
        with self._connecting:  # any thread may be the first to use it
            if self._store is None:
                self._store = behind(self._address.connect(), self._codec)
            return self._store

    @property
    def client(self) -> Client:
        """The `MongoClient`, for transactions: `app.client.start_session()`."""
        return served(self.store).client

    @property
    def blocking(self) -> Blocking:
        """The queue for programs without trio: plain calls that block. Prepares the server at first use."""
        return self._blocking
