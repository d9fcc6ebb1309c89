"""What happened, as one line of a log: values only.

Instants are of CLOCK_MONOTONIC, which all processes of a machine share and no fault here moves. `at` is when the line
was written; `sent_at` is when what it tells of was begun.
"""

from __future__ import annotations

import msgspec

TaskId = str
"""The 24 hex digits of a task's id."""

ClaimId = str
"""The hex digits of a claim's id."""


class Event(msgspec.Struct, frozen=True, tag_field="what", tag=str.lower, kw_only=True):
    """The root."""

    at: float


# --- of producers --------------------------------------------------------------------------------------------------


class Tried(Event, frozen=True):
    """These tasks are about to be put, maybe once more."""

    ids: list[TaskId]


class Acked(Event, frozen=True):
    """The put of these was acknowledged."""

    ids: list[TaskId]


class Refused(Event, frozen=True):
    """The put of these raised an error that says that nothing was stored."""

    ids: list[TaskId]
    why: str


class Unknown(Event, frozen=True):
    """The put of these raised an error that says that they may be stored."""

    ids: list[TaskId]
    why: str


# --- of workers ----------------------------------------------------------------------------------------------------


class Claimed(Event, frozen=True):
    """A call to the store answered with these tasks."""

    sent_at: float
    claim: ClaimId
    ids: list[TaskId]


class Began(Event, frozen=True):
    """A delivery: the work on a task begins."""

    id: TaskId
    claim: ClaimId
    attempt: int
    once: bool = False
    """Whether it has no other attempt."""


class Ended(Event, frozen=True):
    """It ended: done, raised or cancelled."""

    id: TaskId
    claim: ClaimId
    how: str


class Settled(Event, frozen=True):
    """The store's answer to a settlement: settled, lost, unknown or refused."""

    sent_at: float
    id: TaskId
    claim: ClaimId
    move: str
    verdict: str


class Kept(Event, frozen=True):
    """An extension or a progress of these was acknowledged as having taken effect."""

    sent_at: float
    by: str
    held: list[tuple[TaskId, ClaimId]]


# --- of the auditor: committed by a majority, in the order of the server -------------------------------------------


class Given(Event, frozen=True):
    """A task was claimed."""

    id: TaskId
    claim: ClaimId


class Closed(Event, frozen=True):
    """A settlement was written; `status` is what the task became by it."""

    id: TaskId
    by: ClaimId
    status: str


class Lapsed(Event, frozen=True):
    """A task has ended without a settlement: with the lease of its last attempt, cancelled while it waited, expired."""

    id: TaskId
    status: str


class Marked(Event, frozen=True):
    """The auditor has seen a mark that the run has set."""

    mark: str


class Gap(Event, frozen=True):
    """The auditor has missed something: what it saw is not all."""

    why: str


# --- of the probe --------------------------------------------------------------------------------------------------


class Probed(Event, frozen=True):
    """A client made for it has written, with majority."""

    sent_at: float


# --- of the run ----------------------------------------------------------------------------------------------------


class Struck(Event, frozen=True):
    """A fault begins."""

    fault: str
    saying: str


class Healed(Event, frozen=True):
    """It is over, as far as the nemesis is concerned."""

    fault: str


class Died(Event, frozen=True):
    """A process of the run ended though nobody had killed it."""

    actor: str
    said: str


AnyEvent = (
    Tried
    | Acked
    | Refused
    | Unknown
    | Claimed
    | Began
    | Ended
    | Settled
    | Kept
    | Given
    | Closed
    | Lapsed
    | Marked
    | Gap
    | Probed
    | Struck
    | Healed
    | Died
)
