"""A store in memory that looks past tasks of unknown handlers step by step, as the real server is asked to."""

from __future__ import annotations

from typing import Any

import msgspec

from streamq.core.claim import Ask, Past
from streamq.core.document import READY, TaskDocument
from streamq.store.contract import Claimed, Taking
from streamq.store.memory import MemoryStore

WINDOW = 10


class LookingStore(MemoryStore):
    """One window a call."""

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        if ask.ids is not None or ask.only is None:
            return super().claim(ask, taking)
        of_queue = [one for one in self.documents.values() if one["queue"] == ask.queue and one["status"] == READY]
        behind = sorted((one for one in of_queue if is_behind(one, ask.past)), key=place_of)
        seen = behind[:WINDOW]
        known = tuple(one["_id"] for one in seen if one["task"] in ask.only)[: ask.limit]
        claimed = (
            super().claim(msgspec.structs.replace(ask, ids=known, past=None)) if known else Claimed((), more=False)
        )
        if known:
            return Claimed(claimed.claims, more=True, past=ask.past)
        last = seen[-1] if len(seen) < len(behind) else None
        past = None if last is None else Past(last["priority"], last["seq"])
        return Claimed((), more=past is not None, past=past)


def is_behind(document: TaskDocument, past: Past | None) -> bool:
    return past is None or place_of(document) > (-past.priority, past.seq)


def place_of(document: TaskDocument) -> tuple[float, Any]:
    return -document["priority"], document["seq"]
