"""By what tasks are looked for: the options that the commands about stored tasks share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from bson import ObjectId
from bson.errors import InvalidId
from cyclopts import Group, Parameter

from streamq.cli.payload import loads
from streamq.core.document import Status
from streamq.core.search import Sought
from streamq.errors import PayloadInvalid, UsageError

WHICH = Group("Which tasks", sort_key=5)


@Parameter(name="*", group=WHICH)
@dataclass(frozen=True)
class Which:
    """All that is given must hold; None: whatever it is."""

    queue: Annotated[str | None, Parameter(help="Of this queue only.")] = None
    status: Annotated[
        tuple[Status, ...], Parameter(negative=(), show_default=False, help="In this status only; may be repeated.")
    ] = ()
    handler: Annotated[str | None, Parameter(help="Of this handler only.")] = None
    tag: Annotated[str | None, Parameter(help="With this tag only.")] = None
    unique: Annotated[str | None, Parameter(help="Put with this unique key only.")] = None
    unique_json: Annotated[str | None, Parameter(help="With this one, as put takes it.")] = None
    error: Annotated[str | None, Parameter(help="That failed with this exception, e.g. ValueError.")] = None
    payload: Annotated[
        tuple[str, ...],
        Parameter(negative=(), show_default=False, help="PATH=JSON, e.g. user.id=7; may be repeated."),
    ] = ()
    created_from: Annotated[str | None, Parameter(help="Put since 2030-01-31T12:00:00+01:00.")] = None
    created_until: Annotated[str | None, Parameter(help="Put before then.")] = None
    finished_from: Annotated[str | None, Parameter(help="Ended since then.")] = None
    finished_until: Annotated[str | None, Parameter(help="Ended before then.")] = None

    def sought(self) -> Sought:
        """Return the keywords of a search. Raises `UsageError` for what cannot be read."""
        return {
            "queue": self.queue,
            "status": self.status or None,
            "handler": self.handler,
            "tag": self.tag,
            "unique": unique_of(self.unique, self.unique_json),
            "error_type": self.error,
            "payload": dict(map(_field, self.payload)) or None,
            "created_from": instant_of("created-from", self.created_from),
            "created_until": instant_of("created-until", self.created_until),
            "finished_from": instant_of("finished-from", self.finished_from),
            "finished_until": instant_of("finished-until", self.finished_until),
        }


ANY = Which()


def chosen(ids: Iterable[str], which: Which, *, all: bool) -> list[ObjectId]:
    """Read the ids of tasks; none when options say which. Raises `UsageError` unless exactly one of the ways to choose
    is taken."""
    known = [id_of(one) for one in ids]
    if bool(known) + (which != ANY) + all != 1:
        raise UsageError("give the ids of tasks, or say which (e.g. --status failed --queue mail), or --all")
    return known


def id_of(text: str, what: str = "the id") -> ObjectId:
    """Read the id of a task."""
    try:
        return ObjectId(text)
    except InvalidId:
        raise UsageError(f"{what} {text!r} is refused: expected 24 hexadecimal digits") from None


def unique_of(text: str | None, json: str | None) -> Any:
    """Read a unique key: a text, or what JSON can say besides (a list stands for a tuple)."""
    if text is not None and json is not None:
        raise UsageError("give --unique or --unique-json, not both")
    return text if json is None else _tuples(loads(json, "--unique-json"))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _field(given: str) -> tuple[str, Any]:
    path, equals, value = given.partition("=")
    if not path or not equals:
        raise UsageError(f"--payload {given!r} is refused: expected PATH=JSON, e.g. user.id=7 or 'name=\"x\"'")
    try:
        return path, loads(value)
    except PayloadInvalid as error:
        raise UsageError(
            f"--payload {given!r} is refused: {error.reason}; a text stands in quotes: '{path}=\"...\"'"
        ) from None


def instant_of(option: str, text: str | None) -> datetime | None:
    """Read an instant. Raises `UsageError` naming the option."""
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--{option} {text!r} is refused: expected e.g. 2030-01-31T12:00:00+01:00") from None
    if instant.utcoffset() is None:
        zoned = instant.isoformat()
        raise UsageError(f"--{option} {text!r} is refused: it lacks its time zone, e.g. {zoned}Z or {zoned}+01:00")
    return instant
