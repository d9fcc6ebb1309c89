"""What the store in memory keeps, and what its rooms have in common."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from bson import ObjectId

from streamq.core.document import FAILED, TaskDocument
from streamq.core.member import Member
from streamq.core.moves import free
from streamq.core.moves.put import whole_ms
from streamq.core.moves.token import Bucket
from streamq.core.transitions import is_terminal
from streamq.core.wakes import wake_of_document
from streamq.store.memory_feed import MemoryFeed


class MemoryBooks:
    """The documents, the rows beside them, and who hears of what is written."""

    def __init__(self, now: Callable[[], datetime], *, dead_letters: bool = False) -> None:
        """`now` is its clock; with `dead_letters` failed tasks move to a dict of their own."""
        self._clock = now
        self.feeds: list[MemoryFeed] = []
        self.documents: dict[ObjectId, TaskDocument] = {}
        self.dead: dict[ObjectId, TaskDocument] | None = {} if dead_letters else None
        self.members: dict[str, Member] = {}
        self.beats: dict[str, tuple[datetime, datetime]] = {}  # of each row, the first and the last
        self.meta: dict[str, dict[str, Any]] = {}
        self.buckets: dict[str, Bucket] = {}

    def now(self) -> datetime:
        """See `Store.now`."""
        return self._clock()

    def instant(self) -> datetime:
        """Return the time as a document has it, in whole milliseconds."""
        return whole_ms(self.now())

    def anywhere(self, id: ObjectId) -> TaskDocument | None:
        """Find a task, also among the dead letters."""
        return self.documents.get(id) or (self.dead or {}).get(id)

    def bury(self, document: TaskDocument) -> None:
        """Move a task that has just ended to the dead letters, if it failed and they have a place of their own."""
        if self.dead is not None and document["status"] == FAILED:
            document.pop("remove_at", None)
            self.dead[document["_id"]] = self.documents.pop(document["_id"])

    def free(self, document: TaskDocument) -> None:
        """Give back the slot of a task that is about to go, if it has one."""
        if free.has_slot(document):
            free.apply(document)
            self.tell(document)

    def tell(self, document: TaskDocument, *, is_new: bool = False) -> None:
        """Let those who listen hear what was written."""
        for feed in list(self.feeds):
            for wake in wake_of_document(document, self.now(), feed.interest, is_new=is_new):
                feed.tell(wake)


def has_mark_of_end(document: TaskDocument) -> bool:
    """Say whether followers have yet to learn how a task ended; `queries.SEEN_TO` leaves such out."""
    return is_terminal(document["status"]) and "follow_up" in document
