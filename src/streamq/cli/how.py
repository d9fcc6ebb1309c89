"""How a task is put: the options of `put`, as they are typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bson import ObjectId
from cyclopts import Group, Parameter

from streamq.cli.sought import id_of, instant_of, unique_of
from streamq.core.options import OnConflict, PutOptions
from streamq.core.parents import MissingParent, OnParentFailure
from streamq.errors import UsageError

WHEN = Group("When it runs", sort_key=1)
KEPT = Group("How it is found and kept", sort_key=2)
UNIQUE = Group("Unique keys", sort_key=3)
OTHERS = Group("Other tasks", sort_key=4)

Texts = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class How:
    """None, or nothing: as the handler or the app has it."""

    delay: Annotated[float | None, Parameter(group=WHEN, help="Start no sooner than so many seconds from now.")] = None
    at: Annotated[str | None, Parameter(group=WHEN, help="Start no sooner than 2030-01-31T12:00:00+01:00.")] = None
    priority: Annotated[int | None, Parameter(group=WHEN, help="Higher is claimed first; default 0.")] = None
    max_attempts: Annotated[int | None, Parameter(group=WHEN, help="How often it may be tried.")] = None
    expires_in: Annotated[
        float | None, Parameter(group=WHEN, help="Not started in so many seconds, it expires; inf: never.")
    ] = None
    expires_at: Annotated[str | None, Parameter(group=WHEN, help="Not started by then, it expires.")] = None
    total_timeout: Annotated[
        float | None, Parameter(group=WHEN, help="Seconds for all attempts together; inf: no limit.")
    ] = None
    rate_key: Annotated[str | None, Parameter(group=WHEN, help="Whose limits it counts for.")] = None
    tag: Annotated[str | None, Parameter(group=KEPT, help="Text to find it by.")] = None
    header: Annotated[Texts, Parameter(group=KEPT, help="NAME=TEXT, carried along; may be repeated.")] = ()
    id: Annotated[str | None, Parameter(group=KEPT, help="Its id: putting it twice stores one task.")] = None
    keep: Annotated[float | None, Parameter(group=KEPT, help="Seconds to keep it once it has succeeded.")] = None
    keep_failed: Annotated[float | None, Parameter(group=KEPT, help="The same when it ends otherwise.")] = None
    lifetime: Annotated[float | None, Parameter(group=KEPT, help="Remove it in so many seconds, even if it runs.")] = (
        None
    )
    unique: Annotated[str | None, Parameter(group=UNIQUE, help="Only one task that has not ended may have it.")] = None
    unique_json: Annotated[
        str | None, Parameter(group=UNIQUE, help='A key that is no text, as JSON: 7, or ["mail", 7].')
    ] = None
    unique_for: Annotated[float | None, Parameter(group=UNIQUE, help="Hold it so many seconds; inf: for ever.")] = None
    on_conflict: Annotated[OnConflict | None, Parameter(group=UNIQUE, help="When the key is taken.")] = None
    after: Annotated[Texts, Parameter(group=OTHERS, help="Run after the task with this id; may be repeated.")] = ()
    after_any: Annotated[Texts, Parameter(group=OTHERS, help="Run after one of the tasks with these ids.")] = ()
    on_parent_failure: Annotated[OnParentFailure | None, Parameter(group=OTHERS, help="When those do not succeed.")] = (
        None
    )
    missing_parent: Annotated[
        MissingParent | None, Parameter(group=OTHERS, help="When one of those is not stored.")
    ] = None
    group: Annotated[str | None, Parameter(group=OTHERS, help="Tasks of one group run one at a time, in order.")] = None

    def options(self) -> PutOptions:
        """Return the options of a put. Raises `UsageError` for what cannot be read."""
        return {
            "delay_s": self.delay,
            "at": instant_of("at", self.at),
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "expires_in_s": self.expires_in,
            "expires_at": instant_of("expires-at", self.expires_at),
            "total_timeout_s": self.total_timeout,
            "rate_key": self.rate_key,
            "tag": self.tag,
            "headers": _headers(self.header) or None,
            "id": None if self.id is None else id_of(self.id, "--id"),
            "keep_s": self.keep,
            "keep_failed_s": self.keep_failed,
            "lifetime_s": self.lifetime,
            "unique": unique_of(self.unique, self.unique_json),
            "unique_for_s": self.unique_for,
            "on_conflict": self.on_conflict,
            "after": _ids("--after", self.after),
            "after_any": _ids("--after-any", self.after_any),
            "on_parent_failure": self.on_parent_failure,
            "missing_parent": self.missing_parent,
            "group": self.group,
        }


def _ids(option: str, given: tuple[str, ...]) -> list[ObjectId] | None:
    return [id_of(one, option) for one in given] or None


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not name or not equals or name in headers:
            raise UsageError(f"--header {one!r} is refused: expected NAME=TEXT, each name once")
        headers[name] = text
    return headers
