"""A search for stored tasks: the filter as a value, checked at the door, for the server and for documents in memory.

Field paths are never built from text of users as it is: a path into the payload is taken apart, and a segment with
which an operator could begin is refused. Values are compared by `$eq` with what the codec stores for them.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypedDict

import bson
import msgspec
from bson.decimal128 import Decimal128

from streamq.core.codec import require_size, to_stored
from streamq.core.document import STATUSES, TERMINAL, UNSUCCESSFUL, Status, TaskDocument
from streamq.core.handling import LARGEST_LIMIT_BYTES
from streamq.core.options import TEXT_KEPT, require_instant, require_queue
from streamq.core.unique_key import UniqueKey, require_unique, stored_key
from streamq.errors import OptionInvalid

MOST_STEPS: Final = 50
LONGEST_STEP: Final = 200
NULL: Final = {"$type": "null"}
"""`{"$eq": null}` would match a missing field too."""


class Sought(TypedDict, total=False):
    """The keywords by which tasks are looked for; see `Search`. None, or left out: whatever it is."""

    queue: str | None
    status: Status | Iterable[Status] | None
    handler: str | None
    tag: str | None
    unique: UniqueKey | None
    error_type: str | None
    payload: Mapping[str, Any] | None
    created_from: datetime | None
    created_until: datetime | None
    finished_from: datetime | None
    finished_until: datetime | None


class Search(msgspec.Struct, frozen=True):
    """What is looked for; all of it must hold. Made by `search_of`.

    Args:
        queue, handler, tag: equal to this text.
        statuses: one of these.
        unique: the unique key of a task, as stored.
        error_type: the name of an exception that one of the kept attempts failed with.
        payload: pairs of a path (`user.id`; a number steps into a list) and the value stored there. A list matches if
            one of its items does.
        created, finished: from the first instant on, until before the second.
    """

    queue: str | None = None
    statuses: tuple[Status, ...] = ()
    handler: str | None = None
    tag: str | None = None
    unique: tuple[Any, ...] = ()
    error_type: str | None = None
    payload: tuple[tuple[tuple[str, ...], Any], ...] = ()
    created: tuple[datetime | None, datetime | None] = (None, None)
    finished: tuple[datetime | None, datetime | None] = (None, None)

    def filter(self) -> dict[str, Any]:
        """Build the filter for the server. Rows that are no tasks have no status, and never match."""
        found: dict[str, Any] = {"status": {"$in": list(self.statuses)} if self.statuses else {"$exists": True}}
        if 1 < len(set(self.statuses)) < len(UNSUCCESSFUL) and set(self.statuses) <= set(UNSUCCESSFUL):
            # Of a part of its statuses the server does not see that `streamq_unsuccessful` holds them all.
            found["$and"] = [{"status": {"$in": list(UNSUCCESSFUL)}}]
        for field, value in self._texts():
            found[field] = {"$eq": value}
        if self.unique:
            # Inside `$expr` an array is compared as a whole: elsewhere the key "a" matches ("a", 1) too. But an index
            # that holds arrays serves the latter only.
            found["unique_key"] = {"$eq": self.unique[0]}
            found["$expr"] = {"$eq": ["$unique_key", {"$literal": self.unique[0]}]}
        for steps, value in self.payload:
            found[".".join(("payload", *steps))] = NULL if value is None else {"$eq": value}
        for field, (first, until) in (("created_at", self.created), ("finished_at", self.finished)):
            span = {"$gte": first, "$lt": until}
            if first is not None or until is not None:
                found[field] = {operator: at for operator, at in span.items() if at is not None}
        return found

    def matches(self, document: TaskDocument) -> bool:
        """`filter`, for a document in memory."""
        return (
            (not self.statuses or document["status"] in self.statuses)
            and all(is_at(document, field.split("."), value) for field, value in self._texts())
            and (not self.unique or ("unique_key" in document and _is_same(document["unique_key"], self.unique[0])))
            and all(is_at(document, ["payload", *steps], value) for steps, value in self.payload)
            and _is_within(document.get("created_at"), self.created)
            and _is_within(document.get("finished_at"), self.finished)
        )

    def _texts(self) -> Iterable[tuple[str, str]]:
        texts = {"queue": self.queue, "task": self.handler, "tag": self.tag, "errors.type": self.error_type}
        return ((field, text) for field, text in texts.items() if text is not None)


def search_of(given: Sought, *, only: tuple[Status, ...] = STATUSES) -> Search:
    """Check the keywords of a search. With `only` other statuses are refused, and it is the default.

    Raises `OptionInvalid` naming the keyword, `PayloadInvalid` for a value that could not be stored.
    """
    for name, value in given.items():
        if name not in Sought.__annotations__:
            raise OptionInvalid(name, value, f"what tasks are looked for by: {', '.join(Sought.__annotations__)}")
    queue = given.get("queue")
    unique = given.get("unique")
    return Search(
        queue=None if queue is None else require_queue(queue),
        statuses=statuses_of(given.get("status"), only),
        handler=_text("handler", given.get("handler")),
        tag=_text("tag", given.get("tag")),
        unique=() if unique is None else (_unique(unique),),
        error_type=_text("error_type", given.get("error_type")),
        payload=_fields(given.get("payload")),
        created=_span("created", given.get("created_from"), given.get("created_until")),
        finished=_span("finished", given.get("finished_from"), given.get("finished_until")),
    )


def statuses_of(given: object, only: tuple[Status, ...] = STATUSES) -> tuple[Status, ...]:
    """Return one or several statuses as a tuple; none given: `only`, or () for whatever it is."""
    if given is None:
        return () if only == STATUSES else only
    named = (given,) if isinstance(given, str) else given
    expected = f"one or several of {', '.join(only)}"
    if not isinstance(named, Iterable):
        raise OptionInvalid("status", given, expected)
    chosen = tuple(named)
    if not chosen or not all(isinstance(one, str) and one in only for one in chosen):
        raise OptionInvalid("status", given, expected)
    return chosen


def ended(given: Sought) -> Search:
    """Check the keywords of a search for tasks that have ended."""
    return search_of(given, only=TERMINAL)


def steps_of(path: object) -> tuple[str, ...]:
    """Take the path of a payload field apart, or raise `OptionInvalid`."""
    expected = f"a field path such as user.id: at most {MOST_STEPS} names without $ or NUL, parted by dots"
    steps = tuple(path.split(".")) if isinstance(path, str) else ()
    if not 1 <= len(steps) <= MOST_STEPS or not all(map(_is_step, steps)):
        raise OptionInvalid("payload", path, expected)
    return steps


def _is_step(step: str) -> bool:
    return 0 < len(step) <= LONGEST_STEP and "$" not in step and "\0" not in step and _is_unicode(step)


def _is_unicode(text: str) -> bool:
    return text == text.encode("utf-8", "replace").decode()


def _fields(given: object) -> tuple[tuple[tuple[str, ...], Any], ...]:
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise OptionInvalid("payload", given, "a mapping of field paths and values, e.g. {'user.id': 7}")
    fields = tuple((steps_of(path), to_stored(value, where=f"payload[{path!r}]")) for path, value in given.items())
    require_size([value for _, value in fields], LARGEST_LIMIT_BYTES, "the payload that is looked for")
    return fields


def _unique(key: Any) -> Any:
    require_unique(key)
    return stored_key(key)


def _text(name: str, value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or len(value) > TEXT_KEPT or not _is_unicode(value)):
        raise OptionInvalid(name, value, f"a text of at most {TEXT_KEPT} characters: none that is stored is longer")
    return value


def _span(name: str, first: object, until: object) -> tuple[datetime | None, datetime | None]:
    return (
        None if first is None else require_instant(f"{name}_from", first).astimezone(UTC),
        None if until is None else require_instant(f"{name}_until", until).astimezone(UTC),
    )


# --- in memory ----------------------------------------------------------------------------------------------------


def _is_within(at: object, span: tuple[datetime | None, datetime | None]) -> bool:
    first, until = span
    if first is None and until is None:
        return True
    return isinstance(at, datetime) and (first is None or at >= first) and (until is None or at < until)


def is_at(value: Any, steps: list[str], wanted: Any) -> bool:
    """Say whether `wanted` lies at the end of `steps`, as the server finds it: through lists by number or item."""
    if not steps:
        return _is_same(value, wanted) or (isinstance(value, list) and any(_is_same(one, wanted) for one in value))
    step, rest = steps[0], steps[1:]
    if isinstance(value, Mapping):
        return step in value and is_at(value[step], rest, wanted)
    if isinstance(value, list):
        by_number = step.isdecimal() and int(step) < len(value) and is_at(value[int(step)], rest, wanted)
        return by_number or any(isinstance(one, Mapping) and is_at(one, steps, wanted) for one in value)
    return False


def _is_same(one: Any, other: Any) -> bool:
    """Compare as the server does: numbers by value whatever their type, all else by type too."""
    left, right = _number(one), _number(other)
    if left is not None and right is not None:
        return bool(left == right)
    return bool(bson.encode({"": one}) == bson.encode({"": other}))


def _number(value: Any) -> int | float | decimal.Decimal | None:
    if isinstance(value, Decimal128):
        number = value.to_decimal()
        return None if number.is_nan() else number
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return value if is_number else None
