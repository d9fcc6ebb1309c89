"""Every error streamq raises, in one tree, branched by who must act.

- `UsageError`: the caller passed something wrong; nothing was stored. Mend the call.
- `StoreError`: the server is away, unfit or refused us. Wait, or mend the deployment.
- `ClaimError`: the claim is no longer yours. Stop working on the task; change nothing.
- `TaskError`: the task itself did not succeed. Look at its stored errors.

What a handler raises to say how its attempt ends (`Snooze`) lives in `core/signals.py`: not an error of streamq.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from streamq.secret import redacted


class StreamQError(Exception):
    """The root: catch this to catch whatever streamq itself raises. No message shows the password of a URI."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(one) if isinstance(one, str) else one for one in args))


# --- the caller must act ---------------------------------------------------------------------------------------


class UsageError(StreamQError):
    """A call was wrong; nothing was stored or changed. The message names the parameter and what it takes."""


SHOWN: Final = 200
"""Characters of a refused value in its error. Chosen freely: what is wrong stands behind it, and is to be seen."""


def shown(value: object, most: int = SHOWN) -> str:
    """Return the beginning of `value`'s repr, at most `most` characters of it, whatever `value` is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of thousands of digits, a list of thousands of levels
        text = f"<{type(value).__name__}>"
    return text if len(text) <= most else text[:most] + "…"


class OptionInvalid(UsageError):
    """An option (priority, delay, queue name, …) has a value it cannot take."""

    def __init__(self, option: str, value: object, expected: str) -> None:
        super().__init__(f"{option}={shown(value)} is refused: expected {expected}")
        self.option = option
        self.value = value
        self.expected = expected


class PayloadInvalid(UsageError):
    """A payload, or one field of it, does not fit the handler's signature or cannot be stored exactly.

    `field` is the path of the offending value, e.g. `width` or `items[3].name`.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class PayloadTooLarge(UsageError):
    """An encoded payload (or result) is larger than the limit. Store the data elsewhere and pass a reference."""

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"{what} is {size_bytes:,} bytes, the limit is {limit_bytes:,}: store the data elsewhere "
            f"(GridFS, object storage) and pass a reference, or raise the app's payload limit"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class UniqueConflict(UsageError):
    """Another task of the queue has the unique `key`, and the put said `on_conflict="raise"`; nothing was stored.

    `task_id` is that task's. None: it came in between, inside a transaction, which the server has ended for it; run the
    transaction again.
    """

    def __init__(self, key: object, queue: str, task_id: Any) -> None:
        if task_id is None:
            super().__init__(
                f"unique={key!r}: another task of queue {queue!r} took the key while this transaction ran, and the "
                "server has ended the transaction: run it again"
            )
        else:
            super().__init__(f"unique={key!r} is taken in queue {queue!r} by task {task_id}; nothing was stored")
        self.key = key
        self.queue = queue
        self.task_id = task_id


class PutStopped(StreamQError):
    """A put of many stopped half way at its own input: a task that is refused, or an error of the iterable that the
    tasks are drawn from (`__cause__`). Mend that, and go on behind what is stored.

    `stored` tells what became of the tasks before that, in their order (a sequence of `PutReply`); nothing else is
    stored. Those drawn since the last of them, at most 1,000, were dropped.
    """

    def __init__(self, stored: Sequence[Any], error: BaseException) -> None:
        said = str(error) or type(error).__name__
        super().__init__(f"the first {len(stored):,} tasks are stored, no other: {said}")
        self.stored = stored


# --- the deployment, or time, must act ---------------------------------------------------------------------------


class StoreError(StreamQError):
    """The server could not do it."""


class StoreUnavailable(StoreError):
    """No primary could be reached in time. Nothing is known to have changed; trying again is safe."""


class ReadStopped(StoreUnavailable):
    """The server stopped a read, because its collection or an index went meanwhile. Reading again helps."""


class OutcomeUnknown(StoreError):
    """A write was sent and its outcome is unknown: it may have been applied, or still be."""


class PutUnknown(OutcomeUnknown):
    """The put may or may not be stored (no majority answered in time).

    Repeating the put with the same ids (`ids`) is safe: what is already stored is not stored twice. Of a put of many
    `stored` tells what became of the tasks before them, in their order (a sequence of `PutReply`).
    """

    def __init__(self, ids: Sequence[Any], reason: str, stored: Sequence[Any] = ()) -> None:
        shown = ", ".join(str(one) for one in ids[:3]) + (", …" if len(ids) > 3 else "")
        super().__init__(
            f"{len(ids)} task(s) may or may not be stored ({reason}); "
            f"putting again with the same id is safe (id={shown})"
        )
        self.ids = list(ids)
        self.reason = reason
        self.stored = stored


class ClaimUnknown(OutcomeUnknown):
    """A claim was sent and its outcome is unknown: `ids` may be held under `claim_id`.

    Do not run them. The write cannot take effect any more after `settles_in_s` seconds; whatever carries the
    `claim_id` then is released (the runtime does so), or its lease ends by itself.
    """

    def __init__(self, queue: str, claim_id: bytes, ids: tuple[Any, ...], settles_in_s: float, reason: str) -> None:
        super().__init__(f"a claim of {len(ids)} task(s) of queue {queue!r} has an unknown outcome ({reason})")
        self.queue = queue
        self.claim_id = claim_id
        self.ids = ids
        self.settles_in_s = settles_in_s
        self.reason = reason


class FeedEnded(StoreError):
    """A change stream is dead (its collection was dropped or renamed, its history lost, …): open a new one."""


class NotAReplicaSet(StoreError):
    """The server is a standalone: it has no change streams. The message says how to make a one-node set of it."""


class ServerTooOld(StoreError):
    """The server is older than streamq supports (MongoDB 6.0)."""


class AccessRefused(StoreError):
    """Wrong credentials, or a role that lacks a privilege. The message names what was refused."""


class EmbeddedError(StoreError):
    """An embedded mongod could not be found, started or stopped. The message says what to do."""


# --- the claim is gone ---------------------------------------------------------------------------------------------


class ClaimError(StreamQError):
    """The claim does not allow it."""


class LeaseLost(ClaimError):
    """The lease ended and the task was taken over (or removed): this holder's write changed nothing.

    Stop the work. Whatever the handler did outside of MongoDB may be done again by the next holder.
    """

    def __init__(self, task_id: object, what: str = "settle") -> None:
        super().__init__(f"task {task_id}: {what} refused, the claim is no longer held; nothing was changed")
        self.task_id = task_id


# --- the task itself -----------------------------------------------------------------------------------------------


class TaskError(StreamQError):
    """A task did not succeed."""


class TaskFailed(TaskError):
    """The awaited task ended in `failed`, `cancelled` or `expired`; `error_type` and `error_message` tell why."""

    def __init__(self, task_id: object, status: str, error_type: str | None, error_message: str | None) -> None:
        why = f": {error_type}: {error_message}" if error_type else ""
        super().__init__(f"task {task_id} {status}{why}")
        self.task_id = task_id
        self.status = status
        self.error_type = error_type
        self.error_message = error_message


class TaskTimeout(TaskError):
    """One attempt ran longer than its `timeout_s`; it was cancelled and counts as a failed attempt."""


class TaskGone(TaskError):
    """The task is not stored (any more): deleted, removed after its retention, or never put."""


class TaskRunning(TaskError):
    """The task is running, and was left alone: wait for its end, cancel it, or ask for it by `force=True`."""

    def __init__(self, task_id: object) -> None:
        super().__init__(f"task {task_id} is running: it was not deleted (force=True deletes it all the same)")
        self.task_id = task_id


class ResultTimeout(TaskError):
    """The task had not ended within `timeout_s`. It goes on; ask again."""


class PayloadUndecodable(TaskError):
    """A stored payload does not decode to the handler's signature; the task fails for good with this reason."""


class InsecureConnection(UserWarning):
    """A warning, no error: the connection string lets others read the tasks, or answer in the server's place."""


__all__ = [
    "AccessRefused",
    "ClaimError",
    "ClaimUnknown",
    "EmbeddedError",
    "FeedEnded",
    "InsecureConnection",
    "LeaseLost",
    "NotAReplicaSet",
    "OptionInvalid",
    "OutcomeUnknown",
    "PayloadInvalid",
    "PayloadTooLarge",
    "PayloadUndecodable",
    "PutStopped",
    "PutUnknown",
    "ResultTimeout",
    "ServerTooOld",
    "StoreError",
    "StoreUnavailable",
    "StreamQError",
    "TaskError",
    "TaskFailed",
    "TaskGone",
    "TaskRunning",
    "TaskTimeout",
    "UniqueConflict",
    "UsageError",
]
