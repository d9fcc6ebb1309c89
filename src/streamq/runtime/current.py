"""The task that runs here: what a handler may ask about its own task."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime

import msgspec
import trio
from bson import ObjectId

from streamq.core.claim import Claim
from streamq.core.report import Report, report_of
from streamq.errors import UsageError
from streamq.runtime.held import Held


class TaskInfo(msgspec.Struct, frozen=True):
    """What is known of a running task. `attempt` counts from 1; `claim_id` is a token that outside systems may
    store to tell an old holder from a new one. `slot_at` is the instant a recurring task is for, None for any other."""

    id: ObjectId
    queue: str
    task: str | None
    attempt: int
    max_attempts: int
    priority: int
    headers: Mapping[str, str]
    created_at: datetime | None
    claim_id: bytes
    tag: str | None = None
    slot_at: datetime | None = None


RUNNING: ContextVar[Held] = ContextVar("streamq_running_task")


def info_of(claim: Claim) -> TaskInfo:
    """Build the view of a claim that its handler gets."""
    return TaskInfo(
        id=claim.id,
        queue=claim.queue,
        task=claim.task,
        attempt=claim.attempt,
        max_attempts=claim.max_attempts,
        priority=claim.priority,
        headers=claim.headers or {},
        created_at=claim.created_at,
        claim_id=claim.claim_id,
        tag=claim.tag,
        slot_at=claim.slot_at,
    )


def current_task() -> TaskInfo:
    """Return the task whose handler is running here, in a handler of either kind (async or in a thread).

    Raises `UsageError` outside of a handler.
    """
    return info_of(_running("current_task").claim)


async def progress(value: float, note: str = "") -> None:
    """Say how far the running task is, in an async handler: `await streamq.progress(0.4, "two of five")`.

    `value` is any number, as the handler counts; `note` is for people. It is stored on the task with the server's time,
    and renews the lease. Report as often as you like: of what is said within 50 ms the newest is written, and the last
    word is stored with the task's end at the latest. Who asks reads `handle.progress()`.

    Raises `OptionInvalid`, `LeaseLost` when the task is not held any more, `UsageError` outside of a handler. A server
    that is away raises nothing: it is written later. Trips: 1 in 50 ms, shared with other handlers. Cancellation: safe;
    what was said is written.
    """
    await _report(_running("progress"), report_of(value, note))


def progress_in_thread(value: float, note: str = "") -> None:
    """Say how far the running task is, in a handler that is not async; as `progress`.

    Raises `LeaseLost` also when the attempt was given up (at its timeout, or because the task was cancelled): let it
    through, nobody waits for the handler any more.
    """
    trio.from_thread.run(_report, _running("progress_in_thread"), report_of(value, note))


async def _report(held: Held, report: Report) -> None:
    assert held.report_by is not None  # what runs is held
    await held.report_by(held, report)


def _running(asked: str) -> Held:
    try:
        return RUNNING.get()
    except LookupError:
        raise UsageError(f"{asked}() was called outside of a handler") from None
