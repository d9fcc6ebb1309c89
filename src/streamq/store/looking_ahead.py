"""Reading the head of a queue past tasks whose handlers the asker does not know, on the real server.

Tasks of all handlers lie in one index, in the order of claims. Asked for some handlers only, the server would go
through every key of the others, however many stand before the first that is wanted (2.6 µs each: 260 ms for 100,000,
and that at each claim). So the head is first read whoever its tasks are for: when all are for the asker, and that is
the rule, that was it. Otherwise it goes on in windows of so many keys, as many as one call may take, and says where the
next call is to go on:

    head: some are for others → (a, b] nothing → (b, c] nothing → … → `past`: where this call has stopped
                                                                → found enough, `past`: before the first that was found
                                                                → the end of the queue: that was all

Whoever asks again from `past` sees to what has come before it meanwhile (`runtime.ahead`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from bson import Timestamp

from streamq.core import queries
from streamq.core.claim import Ask, Past, is_number
from streamq.store.collections import Document, Tasks

WINDOW: Final = 2_000
"""Keys that one look passes over: read twice, once for where the window ends, once for what is in it."""

MOST_WINDOWS: Final = 5
"""Windows of one call: some 40 ms of the server's time when nothing else runs there and all are passed over."""


LAST_NAME: Final = "\U0010ffff"


class Head(msgspec.Struct, frozen=True):
    """What was read, in claim order. `more` says whether the queue goes on behind it; `past` where the next call is to
    begin, when what comes before that is for others."""

    found: list[Document]
    more: bool
    past: Past | None = None


def head(tasks: Tasks, ask: Ask, beside: dict[str, Any]) -> Head:
    """Read the first `ask.limit` that `ask` may claim and that are as `beside` says; fewer when there are fewer as far
    as one call looks. Trips: 1; when some of the first are for others 2 more, and 2 for each further window."""
    wanted = queries.ready(ask) | beside
    if ask.only is None or ask.ids is not None:
        return _whole(tasks, wanted, ask.limit)
    found: list[Document] = []
    past = ask.past
    if past is None:
        first = _read(tasks, {name: one for name, one in wanted.items() if name != "task"}, ask.limit)
        found = [one for one in first if one.get("task") in ask.only]
        if len(first) < ask.limit or len(found) == ask.limit:
            return Head(found, len(found) == ask.limit)
        past = _place_of(first[-1])
        if past is None:  # by hand: nothing can be told to lie behind it
            return _whole(tasks, wanted, ask.limit)
    begun: Past | None = None  # stays so when some were at the head itself
    for _ in range(MOST_WINDOWS):
        until = _end_of_window(tasks, ask, past)
        begun = begun if found else past
        found += _read(tasks, wanted | queries.between(past, until), ask.limit - len(found))
        if len(found) == ask.limit:
            return Head(found, True, begun)
        if until is None:
            return Head(found, False)
        past = until
    return Head(found, True, begun if found else past)


def _whole(tasks: Tasks, wanted: dict[str, Any], limit: int) -> Head:
    found = _read(tasks, wanted, limit)
    return Head(found, len(found) == limit)


def _read(tasks: Tasks, wanted: dict[str, Any], limit: int) -> list[Document]:
    # One trip: without a size of its own the first batch of a cursor ends at 101.
    return list(tasks.quick.find(wanted).sort(queries.CLAIM_ORDER).limit(limit).batch_size(limit))


def _end_of_window(tasks: Tasks, ask: Ask, past: Past) -> Past | None:
    """Find the last place of the window behind `past`; None when the queue ends in it."""
    behind = queries.waiting(ask.queue) | queries.between(past, None)
    fields = {"_id": 0, "priority": 1, "seq": 1, "task": 1}
    ends = list(tasks.quick.find(behind, fields).sort(queries.CLAIM_ORDER).skip(WINDOW - 1).limit(1))
    return _place_of(ends[0]) if ends else None


def _place_of(document: Document) -> Past | None:
    priority: Any
    priority, seq, task = document.get("priority"), document.get("seq"), document.get("task")
    named = task if task is None or type(task) is str else LAST_NAME  # by hand: it is nobody's
    return Past(priority, seq, named) if is_number(priority) and isinstance(seq, Timestamp) else None
