"""Claim: a ready task, or a delayed one that is due, becomes running in the hands of one holder. The attempt is counted
here, so that a task which kills its process is bounded."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from streamq.core import queries
from streamq.core.claim import INT32, Ask, is_number, is_plain_new
from streamq.core.document import DELAYED, READY, TaskDocument
from streamq.core.moves import total
from streamq.core.moves.fence import after, after_ms
from streamq.core.moves.release_due import is_due
from streamq.core.transitions import next_status

WAKES: Final = ["ready_in", "freed_in"]
"""What is written for the stream and must be absent, to be a change when it is written again."""

WAITED: Final = [*WAKES, "held_up_by"]
"""What a claim takes off."""


class Place(msgspec.Struct, frozen=True):
    """The slots that one claim takes of the limits on running tasks."""

    slot: int | None = None
    key_slot: str | None = None


def guard(ask: Ask, attempt: int, *, plain: bool) -> dict[str, Any]:
    """Match what may be claimed of documents read a moment ago with `attempt` attempts behind them.

    The attempt is guarded because the task may have been claimed and put back by others since it was read:
    the holder would then count its attempts wrongly. Its expiry is, unless all are `plain`.
    """
    held = {"status": READY, "queue": ask.queue, "attempt": attempt}
    if ask.due:
        held |= queries.due()  # it may have been claimed and put off since, which no attempt tells
    return held if attempt or plain else held | queries.UNEXPIRED


def revision_guard(revision: float) -> dict[str, Any]:
    """Match tasks as they were read: a later put with the unique key may have replaced the payload since, and the
    holder would run the old one. What has no key has no revision, and 0 matches it too."""
    return {"revision": revision if revision else {"$in": [None, 0]}}


def update(ask: Ask, place: Place | None = None, *, plain: bool = False) -> list[dict[str, Any]]:
    """Build the update that claims; of a task whose queue has limits with its `place`."""
    fields = {
        "status": next_status(DELAYED if ask.due else READY, "claim"),
        "claim_id": ask.claim_id,
        "lease_until": _lease_until(ask),
        "attempt": {"$add": ["$attempt", 1]},
        "worker": {"$literal": ask.worker},
        "started_at": "$$NOW",
    }
    if place is not None:
        fields |= place_fields(place)
    if plain:
        return [{"$set": fields}, {"$unset": WAITED}]
    fields["lease_until"] = total.capped(_lease_until(ask))
    return [{"$set": total.BEGUN}, {"$set": fields}, {"$unset": WAITED}]


def _lease_until(ask: Ask) -> dict[str, Any]:
    if not ask.leases:
        return after_ms(ask.lease_s)
    own = [
        {"case": {"$eq": ["$task", {"$literal": name}]}, "then": after_ms(lease_s)}
        for name, lease_s in ask.leases.items()
    ]
    return {"$switch": {"branches": own, "default": after_ms(ask.lease_s)}}


def is_ready(document: TaskDocument, ask: Ask, now: datetime) -> bool:
    """`queries.ready`, for a document in memory."""
    return (
        document["status"] == READY
        and document["queue"] == ask.queue
        and (ask.only is None or document["task"] in ask.only)
        and (ask.ids is None or document["_id"] in ask.ids)
        and document["_id"] not in ask.beside
        and (ask.slots > 0 or not is_delicate(document))
        and (not ask.plain or is_plain_new(document))
    )


def is_task(document: Mapping[str, Any]) -> bool:
    """Say of a stored document whether it can be claimed at all, as `queries.ready` asks the server."""
    attempt: Any = document.get("attempt")
    counted = is_number(attempt) and 0 <= attempt < INT32 - 1 and is_number(document.get("max_attempts"))
    return counted and type(document.get("queue")) is str and not isinstance(document["_id"], dict)


def is_as_read(document: TaskDocument, read: Mapping[str, Any], ask: Ask, now: datetime) -> bool:
    """`guard` and `revision_guard` of a due task, for a document in memory."""
    return (
        is_due(document, now)
        and document["queue"] == ask.queue
        and document["attempt"] == read["attempt"]
        and document.get("revision") == read.get("revision")
    )


def is_delicate(document: Mapping[str, Any]) -> bool:
    """Say whether a second start would be more than a nuisance: such a task is claimed with majority, and never waits
    in a process."""
    return not document["max_attempts"] > 1 or "group_lock" in document


def place_fields(place: Place) -> dict[str, Any]:
    """Say which slots a claim takes."""
    fields: dict[str, Any] = {}
    if place.slot is not None:
        fields["slot"] = place.slot
    if place.key_slot is not None:
        fields["key_slot"] = {"$literal": place.key_slot}
    return fields


def apply(document: TaskDocument, ask: Ask, now: datetime, place: Place | None = None) -> None:
    """Claim a document in memory."""
    document["status"] = next_status(document["status"], "claim")
    document["claim_id"] = ask.claim_id
    total.begin(document, now)
    document["lease_until"] = total.cap(document, after(now, ask.lease_of(document["task"])))
    document["attempt"] += 1
    document["worker"] = ask.worker
    document["started_at"] = now
    for name in WAITED:
        document.pop(name, None)  # type: ignore[misc]
    if place is not None and place.slot is not None:
        document["slot"] = place.slot
    if place is not None and place.key_slot is not None:
        document["key_slot"] = place.key_slot
