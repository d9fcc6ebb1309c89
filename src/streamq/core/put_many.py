"""A put of many tasks: how it is cut into chunks, and what is told when it stops half way.

Pure: who stores the chunks, and waits, is the door's own matter. Each chunk is drawn, checked, stored and forgotten, so
that what is held at a time does not grow with the number of tasks. But for the replies, which are small.

    drawn ──→ checked ──→ stored ──→ reply
      │          │           └── StoreError: PutUnknown
      └──────────┴── an error: as it is while nothing is stored, else PutStopped

The rule for a chunk that fails: what stands before it is stored, and is told so (`stored`); itself may be, and so
nobody says "nothing has changed" once something has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from streamq.core.new_task import NewTask, PutReply
from streamq.core.replies import Replies
from streamq.errors import PayloadTooLarge, PutStopped, PutUnknown, StoreError, UsageError

MOST_A_CHUNK: Final = 1_000
"""Tasks in one insert: 120,000 per second were stored so (DESIGN section 3); more only delays the first ack."""

MOST_BYTES_A_CHUNK: Final = 16 * 1024 * 1024
"""Payloads in one chunk, in bytes as stored: of large ones fewer than a thousand are held at a time. Chosen freely."""


class PutMany:
    """One put: iterate over its chunks, store each inside `storing` and `add` what became of it.

    `tasks` that are a collection are all there, and are to have been checked: then an error names all that are not
    known to be stored. Of another iterable no more is drawn than is stored next.
    """

    def __init__(
        self,
        tasks: Iterable[NewTask],
        *,
        all_there: bool | None = None,
        in_transaction: bool = False,
        whole: bool = False,
    ) -> None:
        self.replies = Replies()
        self.keeps = bytearray()  # for each task, whether it is kept when it has succeeded
        self._coming = iter(tasks)
        self._all_there = isinstance(tasks, Collection) if all_there is None else all_there
        self._in_transaction = in_transaction
        self._most = None if whole else MOST_A_CHUNK
        self._chunk: list[NewTask] = []
        self._ahead: list[NewTask] | None = None

    def draw_ahead(self) -> int:
        """Draw the first chunk before it is asked for; return how many tasks it has. Raises what drawing raises."""
        self._ahead = self._draw()
        return len(self._ahead)

    def __iter__(self) -> Iterator[list[NewTask]]:
        return self

    def __next__(self) -> list[NewTask]:
        self._chunk, ahead, self._ahead = [], self._ahead, None
        try:
            self._chunk = self._draw() if ahead is None else ahead
        except Exception as error:  # of whoever makes the tasks: the caller's own code
            if not self.replies or (self._in_transaction and hasattr(error, "has_error_label")):
                raise  # what is drawn may be read in the transaction: the driver's label tells to run it again
            raise PutStopped(self.replies, error) from error
        if not self._chunk:
            raise StopIteration
        return self._chunk

    def _draw(self) -> list[NewTask]:
        chunk: list[NewTask] = []
        size_bytes = 0
        for one in self._coming:
            chunk.append(one)
            size_bytes += one.size_bytes
            if self._most is not None and (len(chunk) >= self._most or size_bytes >= MOST_BYTES_A_CHUNK):
                break
        return chunk

    def add(self, replies: Sequence[PutReply]) -> None:
        """Take down what became of the chunk drawn last."""
        self.replies.extend(replies)
        self.keeps += bytes(one.keep_s != 0 for one in self._chunk)

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Tell the truth about all of the put when the chunk drawn last cannot be stored.

        In a transaction nothing is stored before its commit, and errors come through as they are.
        """
        try:
            yield
        except PutUnknown as error:
            if self._in_transaction:
                raise
            raise self._unknown(error.reason, error.stored) from error
        except (StoreError, PayloadTooLarge) as error:  # the server's word on a size comes in the middle of a chunk
            if self._in_transaction or not self.replies:
                raise
            raise self._unknown(str(error), ()) from error
        except UsageError as error:
            if self._in_transaction or not self.replies:
                raise
            raise PutStopped(self.replies, error) from error

    def _unknown(self, reason: str, stored: Sequence[PutReply]) -> PutUnknown:
        """`stored` are the replies of what stands at the beginning of the chunk."""
        ids = [one.id for one in self._chunk[len(stored) :]]
        if self._all_there:
            ids += [one.id for one in self._coming]
        self.replies.extend(stored)
        return PutUnknown(ids, reason, self.replies)
