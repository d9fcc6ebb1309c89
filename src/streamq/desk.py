"""The desk: where people, and programs on their behalf, look at stored tasks and put them right."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Generic, Self, TypeVar, TypeVarTuple, Unpack

from bson import ObjectId

from streamq.core.cancelled import CancelReport, not_ended
from streamq.core.checkup import Checkup
from streamq.core.document import TaskDocument
from streamq.core.jsonable import record
from streamq.core.options import require_count, require_delay_s, require_queue, require_task_id
from streamq.core.requeued import MOST_AT_ONCE, Requeued, RequeueReport, chunks, how_of, ids_of
from streamq.core.search import Search, Sought, ended, search_of
from streamq.core.unique_key import UniqueKey, require_unique
from streamq.core.view import TaskView, view_of
from streamq.core.workers import WorkerView
from streamq.errors import OptionInvalid, TaskGone, TaskRunning, UsageError
from streamq.handle import TaskId
from streamq.runtime.services import Services
from streamq.store.coded import uncovered
from streamq.store.contract import Deleted, Store
from streamq.store.mongo import MongoStore

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MOST_FOUND = 1_000
"""Tasks in one answer of `find`: for more there are `each` and `export`, which hold a page at a time."""


class Desk:
    """Looks at the stored tasks of an app and puts them right: `app.desk`. Without trio: `app.blocking.desk`.

    Tasks are looked for by keywords, all of which must hold:

    - `queue`, `handler`, `tag`: equal to this text; `status`: one, or several.
    - `created_from`, `created_until`, `finished_from`, `finished_until`: aware datetimes; until is exclusive.
    - `unique`: the task's unique key.
    - `error_type`: the name of an exception that one of its kept attempts failed with.
    - `payload`: a mapping of field paths and values, e.g. `{"user.id": 7}`. A number in a path steps into a list; a
      list matches if one of its items does. Paths with `$` are refused.

    Indexes serve `tag`, `unique`, and the statuses failed, cancelled and expired. Any other search walks along the
    tasks from the newest: for what is rare it reads many, and one that takes longer than the app's `timeout_s` raises
    `StoreUnavailable`.
    """

    def __init__(self, services: Callable[[], Services], among: Callable[[Store], Store] | None = None) -> None:
        self._services = services
        self._among = among

    def _records(self) -> Store:
        store = self._services().store
        return store if self._among is None else self._among(store)

    # --- looking ----------------------------------------------------------------------------------------------

    async def find(self, *, limit: int = 20, after: TaskId | None = None, **sought: Unpack[Sought]) -> list[TaskView]:
        """List tasks, newest first; the next page begins `after=` the id of the last one. Empty: there are no more.

        Raises `OptionInvalid` naming the keyword. Trips: 1. Cancellation: safe.
        """
        search, begin = search_of(sought), None if after is None else require_task_id(after, "after")
        require_count(limit, "limit", most=MOST_FOUND)
        store = self._records()
        return [view_of(one) for one in await self._call(lambda: store.find(search, limit=limit, after=begin))]

    async def show(self, id: TaskId) -> TaskView:
        """Return one task. Raises `TaskGone`. Trips: 1."""
        known = require_task_id(id)
        return shown(known, await self._call(self._records().get, known))

    async def peek(self, queue: str, *, limit: int = 10, tail: bool = False) -> list[TaskView]:
        """Return the ready tasks that will be claimed first, or with `tail` last, in the order of claims. Claims
        nothing. Trips: 1."""
        require_queue(queue)
        require_count(limit, "limit", most=MOST_FOUND)
        store = self._records()
        return [view_of(one) for one in await self._call(lambda: store.peek(queue, limit=limit, tail=tail))]

    async def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Count the stored tasks as `{queue: {status: n}}`. Reads every task. Trips: 1."""
        return await self._call(self._records().counts)

    async def counts_by_handler(self) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
        """Count the stored tasks as `{queue: {handler: {status: n}}}`; tasks without a handler are counted under "".
        Reads every task. Trips: 1."""
        return await self._call(self._records().counts_by_handler)

    def each(self, **sought: Unpack[Sought]) -> AsyncIterator[TaskView]:
        """Iterate over all tasks found, newest first, a page at a time: in bounded memory, however many they are.

        Each task as it was when its page was read; what is put meanwhile is not among them. Trips: 1 a page.
        """
        return self._pages(search_of(sought), view_of)

    def export(self, **sought: Unpack[Sought]) -> AsyncIterator[str]:
        """Iterate as `each` over lines of NDJSON, one object a task, without the line's end.

        Ids, dates, decimals and durations become text or numbers, bytes base64: for reading, not for putting again.
        """
        return self._pages(search_of(sought), line_of)

    def _pages(self, search: Search, load: Callable[[TaskDocument], T]) -> AsyncIterator[T]:
        store = self._records()
        return Pages(lambda after: self._call(store.page, search, after), load)

    # --- putting right ----------------------------------------------------------------------------------------

    async def requeue(
        self, ids: TaskId | Iterable[TaskId], *, delay_s: float = 0.0, reset_attempts: bool = True
    ) -> list[Requeued]:
        """Let tasks that have ended begin again, at once or in `delay_s` seconds; return what became of each.

        They keep their place in the queue, their errors and who waits for them. With `reset_attempts` attempts are
        counted from the beginning; without, what attempts were left are left, and one is allowed if none was. Of two
        who requeue one task only one does. Trips: 1 or 2 per 500. Cancellation: safe between those.

        Raises `OutcomeUnknown`: look before repeating it, the tasks may have been requeued.
        """
        how = how_of(ObjectId(), delay_s, reset_attempts)
        store = self._records()
        return [one for chunk in chunks(ids_of(ids)) for one in await self._call(store.requeue, chunk, how)]

    async def requeue_found(
        self, *, delay_s: float = 0.0, reset_attempts: bool = True, **sought: Unpack[Sought]
    ) -> RequeueReport:
        """Requeue, as `requeue`, every task that has ended and that the keywords find; return how many, and those that
        were found and not requeued. Trips: 2 or 3 per 500. Cancellation: safe between those."""
        how = how_of(ObjectId(), delay_s, reset_attempts)
        search = ended(sought)
        store = self._records()
        report, after = RequeueReport(), None
        while ids := await self._call(_ids_of(store.ids, search, after)):
            report, after = report.with_items(await self._call(store.requeue, ids, how)), ids[-1]
        return report

    async def cancel_found(self, **sought: Unpack[Sought]) -> CancelReport:
        """Cancel, as `StreamQ.cancel`, every task that has not ended and that the keywords find; return how many were.

        What is put meanwhile may be among them. After `OutcomeUnknown` call again: it is idempotent. Trips: 3 per 500.
        Cancellation: safe between those.
        """
        search = not_ended(sought)
        store = self._records()
        report, after = CancelReport(), None
        while ids := await self._call(_ids_of(store.ids, search, after)):
            report, after = report.with_replies(await self._call(store.cancel, ids)), ids[-1]
        return report

    async def free_key(self, queue: str, unique: UniqueKey) -> bool:
        """Free a unique key that was put with `unique_for_s` before its time; return False when it is not held.

        The task that holds it is not touched: it may run besides the next one with the key. A key that was put without
        `unique_for_s` is free when its task has ended: cancel that one, or delete it. After `OutcomeUnknown` call
        again. Raises `OptionInvalid`. Trips: 1.
        """
        require_key(queue, unique)
        return await self._call(self._records().free_key, queue, unique)

    async def delete(self, id: TaskId, *, force: bool = False) -> bool:
        """Delete one task; return False when it was not stored. Nobody can settle it any more, nor make it anew.

        Raises `TaskRunning` for a running one; with `force` that is deleted too, and its holder gets `LeaseLost`. Who
        waits for it gets `TaskGone` within half a minute; tasks that are to run after it, and its group, learn of it at
        once. Trips: 1 or 2, and 1 or 2 more when there are such.
        """
        known, store = require_task_id(id), self._records()
        return was_deleted(known, await self._call(lambda: store.delete(known, force=force)))

    async def purge(self, *, older_than_s: float, **sought: Unpack[Sought]) -> int:
        """Delete every task that ended more than `older_than_s` seconds ago and that the keywords find.

        Returns how many. Tasks that have not ended are never deleted so. Trips: 2 per 1,000.
        Cancellation: safe between those.
        """
        search = ended(sought)
        require_delay_s(older_than_s, "older_than_s")
        store = self._records()
        count, after = 0, None
        while True:
            purged = await self._call(store.purge, search, older_than_s, after)
            count, after = count + purged.count, purged.next
            if after is None:
                return count

    async def check(self, *, repair: bool = False) -> Checkup:
        """Check the server, the collection and every task; with `repair` mend what is safe.

        Reads every task several times. Of a server that no app can be entered on `app.blocking.desk.check` tells.
        Trips: about 30. Cancellation: waits for its end.
        """
        store = served(self._records())
        require_bool("repair", repair)
        return await self._call(lambda: store.check(repair=repair))

    async def workers(self) -> list[WorkerView]:
        """List the processes that beat, and who else holds tasks. One that was killed is listed for a day.
        Trips: 2."""
        return await self._call(self._records().workers)

    async def _call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._services().bridge.call(function, *args)


class Pages(Generic[T]):
    """Goes over pages one document at a time. It holds nothing open, so it may be left at any time."""

    def __init__(self, page: Callable[[ObjectId | None], Any], load: Callable[[TaskDocument], T]) -> None:
        self._page = page
        self._load = load
        self._read: deque[TaskDocument] = deque()
        self._after: ObjectId | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if not self._read:
            self._read.extend(await self._page(self._after))
        if not self._read:
            raise StopAsyncIteration
        document = self._read.popleft()
        self._after = document["_id"]
        return self._load(document)


def served(store: Store) -> MongoStore:
    """Return the store if there is a server behind it. Raises `UsageError`."""
    there = uncovered(store)
    if not isinstance(there, MongoStore):
        raise UsageError("this app is not on a MongoDB")
    return there


def dead_of(store: Store) -> Store:
    """Return the dead letters of a store. Raises `UsageError` when it has none."""
    return store.dead_letters()


def require_key(queue: object, unique: object) -> None:
    """Refuse what cannot be a queue or a unique key of it."""
    require_queue(queue)
    require_unique(unique)


def require_bool(name: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise OptionInvalid(name, value, "True or False")


def line_of(document: TaskDocument) -> str:
    """Return a task as one line of JSON."""
    return json.dumps(record(document), allow_nan=False)


def was_deleted(id: ObjectId, became: Deleted) -> bool:
    """Say whether a task was deleted. Raises `TaskRunning`."""
    if became == "running":
        raise TaskRunning(id)
    return became == "deleted"


def shown(id: ObjectId, document: TaskDocument | None) -> TaskView:
    """Return the view of a task that was asked for. Raises `TaskGone`."""
    if document is None:
        raise TaskGone(f"task {id} is not stored (any more)")
    return view_of(document)


def _ids_of(ids: Callable[..., list[ObjectId]], search: Search, after: ObjectId | None) -> Callable[[], list[ObjectId]]:
    return lambda: ids(search, limit=MOST_AT_ONCE, after=after)
