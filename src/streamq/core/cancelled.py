"""What became of tasks that were found and were to be cancelled."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from streamq.core.document import RUNNING, WAITING
from streamq.core.moves.cancel import CancelReply
from streamq.core.search import Search, Sought, search_of


class CancelReport(msgspec.Struct, frozen=True):
    """How many of those that a search found are `cancelled`, how many run and were `asked` to stop, and how many had
    ended or were gone when their turn came (`too_late`)."""

    cancelled: int = 0
    asked: int = 0
    too_late: int = 0

    def with_replies(self, replies: Iterable[CancelReply]) -> CancelReport:
        """Return the report with `replies` added."""
        given = list(replies)
        cancelled, asked = given.count("cancelled"), given.count("asked")
        return CancelReport(
            self.cancelled + cancelled, self.asked + asked, self.too_late + len(given) - cancelled - asked
        )


def not_ended(given: Sought) -> Search:
    """Check the keywords of a search for tasks that have not ended."""
    return search_of(given, only=(*WAITING, RUNNING))
