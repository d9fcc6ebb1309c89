"""The options of a put, checked at the door: a wrong value names its parameter and stores nothing."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypedDict, cast, get_args

import msgspec
from bson import ObjectId
from msgspec.structs import force_setattr

from streamq.core.notice import WakeBy
from streamq.core.parents import MissingParent, OnParentFailure, Parent, require_parents
from streamq.core.retry import MAX_DELAY_S, require_max_attempts
from streamq.core.unique_key import UniqueKey, require_unique
from streamq.errors import OptionInvalid, shown

QUEUE_NAME: Final = re.compile(r"[A-Za-z0-9._:/-]{1,200}")
"""Linear, no operators, no `$`: a name is also a filter value, an index key and a label on a dashboard."""

COLLECTION_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

DATABASE_NAME: Final = re.compile(r"[^\x00-\x20/\\.\"$*<>:|?]+")
DATABASE_BYTES: Final = 63
"""What MongoDB takes on any system. Source: its manual, "Naming Restrictions"."""

INT32: Final = 2**31
LAST_SECOND: Final = timedelta(seconds=1)
"""Instants are rounded up to milliseconds, for which the very last one leaves no room."""

TEXT_KEPT: Final = 200
"""Characters of a free text that is shown in lists and is a key of an index."""

KEY_SHOWN: Final = 100
"""Characters of a refused key in its error."""

KEEP_DEFAULT_S: Final = 86_400.0
KEEP_FAILED_S: Final = 7 * 86_400.0


OnConflict = Literal["existing", "raise", "replace"]


class PutOptions(TypedDict, total=False):
    """The keywords that every put takes; see `Options`."""

    delay_s: float | None
    at: datetime | None
    priority: int | None
    max_attempts: int | None
    keep_s: float | None
    keep_failed_s: float | None
    expires_in_s: float | None
    expires_at: datetime | None
    total_timeout_s: float | None
    lifetime_s: float | None
    headers: dict[str, str] | None
    tag: str | None
    id: ObjectId | None
    unique: UniqueKey | None
    unique_for_s: float | None
    on_conflict: OnConflict | None
    rate_key: str | None
    after: Collection[Parent] | None
    after_any: Collection[Parent] | None
    on_parent_failure: OnParentFailure | None
    missing_parent: MissingParent | None
    group: str | None


class HandlerOptions(PutOptions, total=False):
    """The keywords of `handler.options`: those of every put, and the session whose transaction the puts join."""

    session: Any


def options_of(given: PutOptions) -> Options:
    """Check the keywords of a put. Raises `OptionInvalid`."""
    for name, value in given.items():
        if name not in Options.__struct_fields__:
            near = difflib.get_close_matches(name, Options.__struct_fields__, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise OptionInvalid(name, value, f"an option of put: {', '.join(Options.__struct_fields__)}{hint}")
    return Options(**given)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be said of one task beside its payload. None means: as the handler or the app has it.

    Args:
        delay_s: start no sooner than this many seconds from now, by the server's clock.
        at: start no sooner than this instant (aware datetime; the past means now). Not with `delay_s`.
        priority: higher is claimed first within the queue; negative allowed; `Priority` has names. Default 0.
        max_attempts: how often it may be tried.
        keep_s: how long a succeeded task and its result are kept, in seconds; 0 deletes it at once.
        keep_failed_s: how long the task is kept when it ends in failed, cancelled or expired, in seconds; 0: the server
            removes it within about a minute. Default: seven days.
        expires_in_s: not started within so many seconds from now, by the server's clock, it ends in `expired`.
            math.inf: never, whatever the handler says. A task that has been started, also one that waits for its next
            attempt, goes on.
        expires_at: the same as an instant (aware datetime; once it has passed the task expires at once). Not with
            `expires_in_s`.
        total_timeout_s: how long all attempts and the waits between them may take together, in seconds from the first
            claim. Then the handler is cancelled and the task fails for good with `TaskTimeout`; a retry that would
            start later is not made. math.inf: no limit, whatever the handler says.
        lifetime_s: remove the task so many seconds from now, whatever its status: who runs it gets `LeaseLost`, who
            waits for it `TaskGone`.
        headers: a small dict of strings carried along (trace context, the user's own).
        tag: free text to find the task by, 1 to 200 characters.
        rate_key: whose limits the task counts for besides its queue's, e.g. a customer's name: see `StreamQ.limit`.
        id: the task's id. Putting twice with one id stores one task: how to repeat after `PutUnknown`.
        unique: a key that only one task of the queue may have at a time, from its put until it has ended: a str, int,
            bytes or a tuple of these.
        unique_for_s: hold the key for this many seconds from the put instead, by the server's clock, whatever becomes
            of the task; `math.inf`: for ever.
        on_conflict: what a put does that meets a task with its key. `"existing"` (default): that task is returned, with
            `created=False`; `"raise"`: `UniqueConflict`; `"replace"`: that task gets this put's payload and options if
            it has not started, else it is returned as with `"existing"`.
        after: tasks (handles or ids) that must all have succeeded before this one is started.
        after_any: tasks of which one must have succeeded; with `after`, both must hold.
        on_parent_failure: what becomes of the task when they cannot succeed any more (they failed, were cancelled, have
            expired or are not stored): "cancel" it (default), "fail" it, or "run" it (then any end will do).
        group: tasks of one group of a queue run one at a time, in the order of storing; 1 to 200 characters.
        missing_parent: what it means that one of them is not stored at the put: an "error" (default), or "satisfied".
    """

    delay_s: float | None = None
    at: datetime | None = None
    priority: int | None = None
    max_attempts: int | None = None
    keep_s: float | None = None
    keep_failed_s: float | None = None
    expires_in_s: float | None = None
    expires_at: datetime | None = None
    total_timeout_s: float | None = None
    lifetime_s: float | None = None
    headers: dict[str, str] | None = None
    tag: str | None = None
    id: ObjectId | None = None
    unique: UniqueKey | None = None
    unique_for_s: float | None = None
    on_conflict: OnConflict | None = None
    rate_key: str | None = None
    after: Collection[Parent] | None = None
    after_any: Collection[Parent] | None = None
    on_parent_failure: OnParentFailure | None = None
    missing_parent: MissingParent | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if self.delay_s is not None and self.at is not None:
            raise OptionInvalid("at", self.at, "either at or delay_s, not both")
        if self.delay_s is not None:
            require_delay_s(self.delay_s)
        if self.at is not None:
            require_instant("at", self.at)
        if self.priority is not None:
            require_priority(self.priority)
        if self.max_attempts is not None:
            require_max_attempts(self.max_attempts)
        if self.keep_s is not None:
            require_keep_s(self.keep_s)
        if self.keep_failed_s is not None:
            require_keep_s(self.keep_failed_s, "keep_failed_s")
        if self.expires_in_s is not None or self.expires_at is not None:
            require_expiry(self)
        if self.total_timeout_s is not None:
            require_limit_s("total_timeout_s", self.total_timeout_s)
        if self.lifetime_s is not None:
            require_longer("lifetime_s", require_above_0("lifetime_s", self.lifetime_s), self.delay_s)
        if self.headers is not None:
            require_headers(self.headers)
        if self.tag is not None:
            require_text("tag", self.tag)
        if self.id is not None and not isinstance(self.id, ObjectId):
            raise OptionInvalid("id", self.id, "a bson.ObjectId")
        if self.unique is not None:
            require_unique(self.unique)
        if self.unique_for_s is not None:
            require_unique_for_s(self.unique_for_s, self.unique)
        if self.on_conflict is not None:
            require_on_conflict(self.on_conflict, self.unique)
        if self.rate_key is not None:
            require_text("rate_key", self.rate_key)
        for name in ("after", "after_any"):
            named = getattr(self, name)
            if named is not None:
                force_setattr(self, name, require_parents(name, named))
        if self.on_parent_failure not in (None, *get_args(OnParentFailure)):
            raise OptionInvalid("on_parent_failure", self.on_parent_failure, 'one of "cancel", "run", "fail"')
        if self.missing_parent not in (None, *get_args(MissingParent)):
            raise OptionInvalid("missing_parent", self.missing_parent, 'one of "error", "satisfied"')
        if self.group is not None:
            require_text("group", self.group)
        if self.on_conflict == "replace" and self.waits_for_others:
            # The task that is met may be ready already; it cannot be made to wait.
            raise OptionInvalid(
                "on_conflict", self.on_conflict, 'not "replace" together with after, after_any or group'
            )

    @property
    def has_parents(self) -> bool:
        """Say whether the task is to run after others."""
        return bool(self.after or self.after_any)

    @property
    def waits_for_others(self) -> bool:
        """Say whether the task begins its life blocked, unless what it waits for has come already."""
        return self.has_parents or self.group is not None

    @property
    def parents(self) -> tuple[ObjectId, ...]:
        """The ids of all tasks that it is to run after, each once."""
        return tuple(dict.fromkeys((*self.after_ids, *self.after_any_ids)))

    @property
    def after_ids(self) -> tuple[ObjectId, ...]:
        """The ids in `after`."""
        return cast("tuple[ObjectId, ...]", self.after or ())

    @property
    def after_any_ids(self) -> tuple[ObjectId, ...]:
        """The ids in `after_any`."""
        return cast("tuple[ObjectId, ...]", self.after_any or ())


NO_OPTIONS: Final = Options()
"""Of a task that was put without any, as most are: to be known by its identity, so that nothing else is asked."""


def require_queue(value: object) -> str:
    """Return `value` if it can name a queue, else raise `OptionInvalid`."""
    if not isinstance(value, str) or not QUEUE_NAME.fullmatch(value):
        raise OptionInvalid("queue", value, "1 to 200 letters, digits or any of . _ : / -")
    return value


def require_delay_s(value: object, name: str = "delay_s") -> float:
    """Return `value` as seconds if it can be a delay, else raise `OptionInvalid`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_DELAY_S:
        raise OptionInvalid(name, value, "seconds from 0 to ten years, as an int or float")
    return float(value)


def require_above_0(name: str, value: object) -> float:
    """Return `value` as seconds if it is a span of time with a length, else raise `OptionInvalid`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_DELAY_S:
        raise OptionInvalid(name, value, "seconds above 0, at most ten years, as an int or float")
    return float(value)


def require_limit_s(name: str, value: object) -> float:
    """Return `value` as seconds (math.inf: no limit) if it can be one of time, else raise `OptionInvalid`."""
    return math.inf if value == math.inf else require_above_0(name, value)


def require_expiry(given: Options) -> None:
    """Refuse an expiry that is none, and one that leaves no time to start. One that has passed is taken: how long a put
    is on its way must not decide whether it raises."""
    if given.expires_in_s is not None and given.expires_at is not None:
        raise OptionInvalid("expires_at", given.expires_at, "either expires_at or expires_in_s, not both")
    if given.expires_in_s is not None:
        require_longer("expires_in_s", require_limit_s("expires_in_s", given.expires_in_s), given.delay_s)
    if given.expires_at is not None:
        require_instant("expires_at", given.expires_at)
        if given.at is not None and given.expires_at <= given.at:
            raise OptionInvalid("expires_at", given.expires_at, f"an instant after at={given.at}")


def require_longer(name: str, value: float, delay_s: float | None) -> None:
    """Refuse what ends a task before its delay does: it could never start."""
    if delay_s is not None and value <= delay_s:
        raise OptionInvalid(name, value, f"more seconds than delay_s={delay_s:g}: the task could never start")


def require_keep_s(value: object, name: str = "keep_s") -> float:
    """Return `value` as seconds if it can be a retention, else raise `OptionInvalid`."""
    return require_delay_s(value, name)


def require_lease_s(value: object) -> float:
    """Return `value` as seconds if it can be a lease (1 s to 1 day), else raise `OptionInvalid`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 86_400:
        raise OptionInvalid("lease_s", value, "seconds from 1 to 86,400")
    return float(value)


def require_timeout_s(value: object, name: str = "timeout_s") -> float | None:
    """Return `value` as seconds (None: no limit) if it can be a time limit, else raise `OptionInvalid`."""
    if value is None:
        return None
    if value == math.inf:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_DELAY_S:
        raise OptionInvalid(name, value, "seconds above 0, at most ten years, or None for no limit")
    return float(value)


def require_wait_s(value: object) -> float:
    """Return `value` as seconds (infinity: for ever) if it can be a time to wait, else raise `OptionInvalid`."""
    if value == math.inf:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_DELAY_S:
        raise OptionInvalid("wait_s", value, "seconds from 0 to ten years (math.inf: for ever)")
    return float(value)


def require_count(value: object, name: str, *, least: int = 1, most: int = 100_000) -> int:
    """Return `value` if it is a whole number from `least` to `most`, else raise `OptionInvalid`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise OptionInvalid(name, value, f"an int from {least:,} to {most:,}")
    return value


def require_priority(value: object) -> int:
    """Return `value` if it can be a priority, else raise `OptionInvalid`."""
    if isinstance(value, bool) or not isinstance(value, int) or not -INT32 <= value < INT32:
        raise OptionInvalid("priority", value, "an int of 32 bits; higher is claimed first")
    return int(value)


def require_reason(value: object) -> str:
    """Return `value` if it can be the reason of a cancellation, else raise `OptionInvalid`."""
    if not isinstance(value, str):
        raise OptionInvalid("reason", value, "a str")
    return value


def require_id(value: object, name: str = "id") -> ObjectId:
    """Return the id that `value` is, or whose 24 hex digits it is, else raise `OptionInvalid`."""
    if isinstance(value, str) and ObjectId.is_valid(value):
        return ObjectId(value)
    if not isinstance(value, ObjectId):
        raise OptionInvalid(name, value, "a bson.ObjectId or its 24 hex digits")
    return value


def require_task_id(value: object, name: str = "id") -> ObjectId:
    """Return the id of the task that `value` names: by its id, the 24 hex digits of that, or as what has an id (a
    handle, the reply of a put); else raise `OptionInvalid`."""
    id = value if isinstance(value, str) else getattr(value, "id", value)
    if not isinstance(id, str | ObjectId):
        raise OptionInvalid(name, value, "a task's handle, its id (bson.ObjectId) or the id's 24 hex digits")
    return require_id(id, name)


def require_instant(name: str, value: object) -> datetime:
    """Return `value` if it is an aware datetime, else raise `OptionInvalid`."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise OptionInvalid(name, value, "a datetime with a tzinfo, e.g. datetime.now(timezone.utc)")
    try:
        value.astimezone(UTC) + LAST_SECOND
    except OverflowError:
        raise OptionInvalid(name, value, "an instant of the years 1 to 9999 in UTC") from None
    return value


def require_text(name: str, value: object) -> str:
    """Return `value` if it is a short text that can be stored and indexed, else raise `OptionInvalid`."""
    if not isinstance(value, str) or not 1 <= len(value) <= TEXT_KEPT or "\0" in value or not _is_unicode(value):
        raise OptionInvalid(name, value, f"text of 1 to {TEXT_KEPT} characters without NUL and lone surrogates")
    return value


def require_collection(name: str, value: object, *taken: str) -> str:
    """Return `value` if it can name a collection of our own besides those `taken`, else raise `OptionInvalid`."""
    if not isinstance(value, str) or not COLLECTION_NAME.fullmatch(value) or value.startswith("system."):
        raise OptionInvalid(name, value, "1 to 100 letters, digits or any of . _ -, not beginning with system.")
    if value in taken:
        raise OptionInvalid(name, value, "another collection than those of the tasks")
    return value


def require_database(value: object) -> str:
    """Return `value` if it can name a database, else raise `OptionInvalid`."""
    if not isinstance(value, str) or not DATABASE_NAME.fullmatch(value) or not _is_unicode(value):
        raise OptionInvalid("database", value, 'text without blanks and without any of / \\ . " $ * < > : | ?')
    if len(value.encode()) > DATABASE_BYTES:
        raise OptionInvalid("database", value, f"at most {DATABASE_BYTES} bytes")
    return value


def require_wake(value: object) -> WakeBy:
    """Return `value` if it says by what puts wake workers, else raise `OptionInvalid`."""
    if value not in get_args(WakeBy):
        raise OptionInvalid("wake", value, f"one of {', '.join(get_args(WakeBy))}")
    return cast("WakeBy", value)


def require_headers(value: object) -> dict[str, str]:
    """Return `value` if it is a small dict of strings, else raise `OptionInvalid`."""
    expected = "at most 32 str keys of at most 100 characters with str values of at most 1,000, without NUL"
    if not isinstance(value, dict) or len(value) > 32:
        raise OptionInvalid("headers", value, expected)
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str) or len(key) > 100 or len(text) > 1_000:
            raise OptionInvalid(f"headers[{shown(key, KEY_SHOWN)}]", text, expected)
        if "\0" in key or not _is_unicode(key) or not _is_unicode(text):
            raise OptionInvalid(
                f"headers[{shown(key, KEY_SHOWN)}]", text, "text without NUL in the key and without lone surrogates"
            )
    return value


def require_unique_for_s(value: object, unique: UniqueKey | None) -> None:
    """Raise `OptionInvalid` if `value` cannot be the time for which a key is held."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (value == math.inf or 0.001 <= value <= MAX_DELAY_S):  # type: ignore[operator]
        raise OptionInvalid("unique_for_s", value, "seconds from 0.001 to ten years, or math.inf (for ever)")
    if unique is None:
        raise OptionInvalid("unique_for_s", value, "unique= beside it: a key to hold")


def require_on_conflict(value: object, unique: UniqueKey | None) -> None:
    """Raise `OptionInvalid` if `value` does not say what a conflict of unique keys leads to."""
    if value not in get_args(OnConflict):
        raise OptionInvalid("on_conflict", value, f"one of {', '.join(get_args(OnConflict))}")
    if unique is None:
        raise OptionInvalid("on_conflict", value, "unique= beside it: without a key nothing conflicts")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
