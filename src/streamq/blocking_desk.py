"""The desk for programs without trio: `app.blocking.desk`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar, Unpack

from bson import ObjectId

from streamq.core.cancelled import CancelReport, not_ended
from streamq.core.checkup import Checkup
from streamq.core.document import TaskDocument
from streamq.core.options import require_count, require_delay_s, require_queue, require_task_id
from streamq.core.requeued import MOST_AT_ONCE, Requeued, RequeueReport, chunks, how_of, ids_of
from streamq.core.search import Search, Sought, ended, search_of
from streamq.core.unique_key import UniqueKey
from streamq.core.view import TaskView, view_of
from streamq.core.workers import WorkerView
from streamq.desk import MOST_FOUND, line_of, require_bool, require_key, served, shown, was_deleted
from streamq.handle import TaskId
from streamq.store.contract import Store

T = TypeVar("T")


class BlockingDesk:
    """Looks at stored tasks and puts them right; the keywords of a search and each method are as of `Desk`.

    Needs no index and makes none. Any thread may use it.
    """

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store

    def find(self, *, limit: int = 20, after: TaskId | None = None, **sought: Unpack[Sought]) -> list[TaskView]:
        """List tasks, newest first; the next page begins `after=` the id of the last one. Empty: there are no more.

        Raises `OptionInvalid` naming the keyword. Trips: 1.
        """
        search, begin = search_of(sought), None if after is None else require_task_id(after, "after")
        require_count(limit, "limit", most=MOST_FOUND)
        return [view_of(one) for one in self._store().find(search, limit=limit, after=begin)]

    def show(self, id: TaskId) -> TaskView:
        """Return one task. Raises `TaskGone`. Trips: 1."""
        known = require_task_id(id)
        return shown(known, self._store().get(known))

    def peek(self, queue: str, *, limit: int = 10, tail: bool = False) -> list[TaskView]:
        """Return the ready tasks that will be claimed first, or with `tail` last, in the order of claims. Claims
        nothing. Trips: 1."""
        require_queue(queue)
        require_count(limit, "limit", most=MOST_FOUND)
        return [view_of(one) for one in self._store().peek(queue, limit=limit, tail=tail)]

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Count the stored tasks as `{queue: {status: n}}`. Reads every task. Trips: 1."""
        return self._store().counts()

    def counts_by_handler(self) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
        """Count the stored tasks as `{queue: {handler: {status: n}}}`. Reads every task. Trips: 1."""
        return self._store().counts_by_handler()

    def each(self, **sought: Unpack[Sought]) -> Iterator[TaskView]:
        """Iterate over all tasks found, newest first, a page at a time: in bounded memory. Trips: 1 a page."""
        return self._pages(search_of(sought), view_of)

    def export(self, **sought: Unpack[Sought]) -> Iterator[str]:
        """Iterate as `each` over lines of NDJSON, one object a task, without the line's end."""
        return self._pages(search_of(sought), line_of)

    def _pages(self, search: Search, load: Callable[[TaskDocument], T]) -> Iterator[T]:
        after: ObjectId | None = None
        while page := self._store().page(search, after):
            after = page[-1]["_id"]
            yield from map(load, page)

    def requeue(
        self, ids: TaskId | Iterable[TaskId], *, delay_s: float = 0.0, reset_attempts: bool = True
    ) -> list[Requeued]:
        """Let tasks that have ended begin again, at once or in `delay_s` seconds; return what became of each.

        Trips: 1 or 2 per 500. Raises `OutcomeUnknown`: look before repeating it, the tasks may have been requeued.
        """
        how = how_of(ObjectId(), delay_s, reset_attempts)
        store = self._store()
        return [one for chunk in chunks(ids_of(ids)) for one in store.requeue(chunk, how)]

    def requeue_found(
        self, *, delay_s: float = 0.0, reset_attempts: bool = True, **sought: Unpack[Sought]
    ) -> RequeueReport:
        """Requeue every task that has ended and that the keywords find; return how many, and those that were found and
        not requeued. Trips: 2 or 3 per 500."""
        how = how_of(ObjectId(), delay_s, reset_attempts)
        search = ended(sought)
        store = self._store()
        report, after = RequeueReport(), None
        while ids := store.ids(search, limit=MOST_AT_ONCE, after=after):
            report, after = report.with_items(store.requeue(ids, how)), ids[-1]
        return report

    def cancel_found(self, **sought: Unpack[Sought]) -> CancelReport:
        """Cancel every task that has not ended and that the keywords find; return how many were. After `OutcomeUnknown`
        call again: it is idempotent. Trips: 3 per 500."""
        search = not_ended(sought)
        store = self._store()
        report, after = CancelReport(), None
        while ids := store.ids(search, limit=MOST_AT_ONCE, after=after):
            report, after = report.with_replies(store.cancel(ids)), ids[-1]
        return report

    def free_key(self, queue: str, unique: UniqueKey) -> bool:
        """Free a unique key that was put with `unique_for_s` before its time; as `Desk.free_key`."""
        require_key(queue, unique)
        return self._store().free_key(queue, unique)

    def delete(self, id: TaskId, *, force: bool = False) -> bool:
        """Delete one task; return False when it was not stored. Raises `TaskRunning` for a running one; with `force`
        that is deleted too, and its holder gets `LeaseLost`. Trips: 1 or 2."""
        known = require_task_id(id)
        return was_deleted(known, self._store().delete(known, force=force))

    def purge(self, *, older_than_s: float, **sought: Unpack[Sought]) -> int:
        """Delete every task that ended more than `older_than_s` seconds ago and that the keywords find; return how
        many. Trips: 2 per 1,000."""
        search = ended(sought)
        require_delay_s(older_than_s, "older_than_s")
        store = self._store()
        count, after = 0, None
        while True:
            purged = store.purge(search, older_than_s, after)
            count, after = count + purged.count, purged.next
            if after is None:
                return count

    def check(self, *, repair: bool = False) -> Checkup:
        """Check the server, the collection and every task; with `repair` mend what is safe. Tells also of a server on
        which no worker would start. Reads every task several times. Trips: about 30."""
        require_bool("repair", repair)
        return served(self._store()).check(repair=repair)

    def workers(self) -> list[WorkerView]:
        """List the processes that beat, and who else holds tasks. Trips: 2."""
        return self._store().workers()
