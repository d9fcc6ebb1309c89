"""The workers list: who claims tasks, by the rows of the members and by the names on running tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from streamq.core.document import RUNNING
from streamq.core.member import ALIVE_BEATS, BEAT_S, PREFIX, ROWS, alive_s
from streamq.core.queries import DATE


class WorkerView(msgspec.Struct, frozen=True):
    """One process, as of its last heartbeat.

    `name` is what it writes on the tasks it claims: its id, or the app's `worker_id`, which several may share;
    `running` counts the running tasks with that name. `queues` is empty for a process that only puts, or waits for
    results. `beat_age_s` is counted by the server's clock; up to `alive_s` the process is counted on. A program that
    claims by `app.blocking` sends no heartbeats: it is listed while it holds tasks, without id.
    """

    id: str | None
    name: str
    host: str | None
    pid: int | None
    queues: tuple[str, ...]
    slots: int
    started_at: datetime | None
    beat_age_s: float | None
    running: int
    alive_s: float = ALIVE_BEATS * BEAT_S

    @property
    def is_alive(self) -> bool:
        """Say whether it is counted on: its last heartbeat is no older than two and a half of them."""
        return self.beat_age_s is not None and self.beat_age_s < self.alive_s


ROWS_WITH_AGE: Final[list[dict[str, Any]]] = [
    {"$match": ROWS | {"beat_at": DATE}},
    {"$set": {"age_ms": {"$subtract": ["$$NOW", "$beat_at"]}}},
    {"$sort": {"_id": 1}},
]

HOLDERS: Final[list[dict[str, Any]]] = [
    {"$match": {"status": RUNNING, "lease_until": DATE}},
    {"$group": {"_id": "$worker", "count": {"$sum": 1}}},
]
"""How many tasks run under each name. By the index `streamq_lease`."""


def workers_of(rows: Iterable[Mapping[str, Any]], holders: Iterable[Mapping[str, Any]]) -> list[WorkerView]:
    """Join the members' rows with who holds tasks."""
    running = {str(one["_id"]): int(one["count"]) for one in holders}
    listed = [_view(row, running) for row in rows]
    known = {one.name for one in listed}
    others = sorted(name for name in running if name not in known)
    return listed + [WorkerView(None, name, None, None, (), 0, None, None, running[name]) for name in others]


def _view(row: Mapping[str, Any], running: Mapping[str, int]) -> WorkerView:
    id = str(row["_id"]).removeprefix(PREFIX)
    name = str(row.get("worker", id))
    return WorkerView(
        id=id,
        name=name,
        host=row.get("host"),
        pid=row.get("pid"),
        queues=tuple(row.get("queues", ())),
        slots=row.get("slots", 0),
        started_at=row.get("started_at"),
        beat_age_s=max(0.0, row["age_ms"] / 1000),
        running=running.get(name, 0),
        alive_s=alive_s(row),
    )
