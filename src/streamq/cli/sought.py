"""By what tasks are looked for: the options that the commands about stored tasks share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from bson import ObjectId
from bson.errors import InvalidId
from cyclopts import Group, Parameter

from streamq.cli.payload import loads
from streamq.core.document import Status
from streamq.core.search import Sought
from streamq.errors import UsageError

WHICH = Group("Which tasks")


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
            "error_type": self.error,
            "payload": dict(map(_field, self.payload)) or None,
            "created_from": _instant("created-from", self.created_from),
            "created_until": _instant("created-until", self.created_until),
            "finished_from": _instant("finished-from", self.finished_from),
            "finished_until": _instant("finished-until", self.finished_until),
        }


ANY = Which()


def id_of(text: str) -> ObjectId:
    """Read the id of a task."""
    try:
        return ObjectId(text)
    except InvalidId:
        raise UsageError(f"the id {text!r} is refused: expected 24 hexadecimal digits") from None


def _field(given: str) -> tuple[str, Any]:
    path, equals, value = given.partition("=")
    if not path or not equals:
        raise UsageError(f"--payload {given!r} is refused: expected PATH=JSON, e.g. user.id=7 or 'name=\"x\"'")
    return path, loads(value)


def _instant(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--{option} {text!r} is refused: expected e.g. 2030-01-31T12:00:00+01:00") from None
