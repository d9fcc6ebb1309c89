"""Delay: a ready task is put off without having been claimed, because a limit holds it up. It keeps its place.

Held up by the rate of its key it comes back when its token does. Held up by how many of its key may run it waits for
one of them to end: `held_up_by` names the key, and the next claim of the queue brings it back. It keeps the name until
it is claimed: of a key as many are back as it has free slots, also while the queue itself lets nothing start. Were
others called at each claim, each would wake the next. `BACKSTOP_S` is for the case that nobody who knows of the limit
is left.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from streamq.core.document import READY, TaskDocument
from streamq.core.moves.fence import after, after_ms
from streamq.core.transitions import next_status

BACKSTOP_S: Final = 300.0


def update(delay_s: float, key: str | None = None) -> list[dict[str, Any]]:
    """Build the update; its filter names the task and `ready`. `key`: what it waits for, if for more than time."""
    fields: dict[str, Any] = {"status": next_status(READY, "delay"), "due_at": after_ms(delay_s)}
    if key is not None:
        fields["held_up_by"] = {"$literal": key}
    return [{"$set": fields}, {"$unset": ["ready_in", *(() if key is not None else ("held_up_by",))]}]


def apply(document: TaskDocument, delay_s: float, key: str | None, now: datetime) -> None:
    """Put a document in memory off."""
    document["status"] = next_status(document["status"], "delay")
    document["due_at"] = after(now, delay_s)
    document.pop("held_up_by", None)
    if key is not None:
        document["held_up_by"] = key
    document.pop("ready_in", None)
