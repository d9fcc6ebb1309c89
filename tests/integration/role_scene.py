"""A database with a program that may do everything, and one whose user has one role alone."""

from __future__ import annotations

from typing import Any, Final, Literal

from streamq import BlockingTask, Handler, StreamQ
from streamq.core.features import FEATURES
from streamq.core.roles import RoleKind, role_of
from streamq.drafting import schedules_of
from streamq.store.mongo import MongoStore
from tests.canary import PASSWORD
from tests.guarded import Guarded

STORED: Final = ("tasks", "tasks.meta", "tasks.features", "failed")

Given = Literal["ready", "keyed", "ended", "reported", "asked", "paused", "disabled", "without an index"]

NO_MEMBER: Final = {"kind": {"$ne": "member"}}
"""All but the rows that programs write of themselves."""


def declare(app: StreamQ) -> tuple[Handler[..., Any, Any], Handler[..., Any, Any]]:
    @app.task(queue="q")
    async def add(a: int, b: int) -> int:
        return a + b

    @app.task(queue="q", every_s=3_600)
    async def tick() -> None: ...

    return add, tick


class Scene:
    """The two programs, and tasks as the calls of the one need them: made by the other."""

    def __init__(self, guard: Guarded, place: str, kind: RoleKind) -> None:
        self._root = guard.root[place]
        self.database = place
        self.id: Any = None
        role = role_of(kind, database=place, dead_letter_collection="failed")
        self.uri = guard.user_with(role)
        self.app = StreamQ(self.uri, database=place, dead_letter_collection="failed")
        self.add, self.tick = declare(self.app)
        everything = guard.user("everything", PASSWORD, ["readWrite", "dbAdmin"], place)
        self.full = StreamQ(everything, database=place, dead_letter_collection="failed")
        declare(self.full)
        store = self.full.blocking.store()
        assert isinstance(store, MongoStore)
        store.use(FEATURES)

    def begin(self, given: Given) -> None:
        """Take away what the call before has left, and make one task, which is in the state that is given."""
        for name in ("tasks", "tasks.meta", "failed"):
            self._root[name].delete_many(NO_MEMBER)
        door = self.full.blocking
        door.store().declare(schedules_of(self.full.handlers.values()), "w")
        self.id = door.queue("q").put(1, unique="k", unique_for_s=None if given == "keyed" else 60, tag="t").id
        match given:
            case "ended":
                self._claim().succeed(7)
            case "reported":
                self._claim().progress(0.5)
            case "paused":
                door.queue("q").pause()
            case "disabled":
                door.disable_schedule("tick")
            case "without an index":
                self._root["tasks"].drop_index("streamq_unique")

    def stored(self) -> list[list[Any]]:
        """What there is: documents and indexes."""
        documents = [list(self._root[name].find(NO_MEMBER).sort("_id")) for name in STORED]
        return [*documents, sorted(self._root["tasks"].index_information())]

    def in_hand(self, given: Given) -> BlockingTask:
        """The task, held by the program that may claim, in the hands of the other."""
        task = self._claim()
        if given == "asked":
            self.full.blocking.cancel(task.info.id)
        task._store = self.app.blocking.store()
        return task

    def _claim(self) -> BlockingTask:
        task = self.full.blocking.queue("q").claim()
        assert task is not None
        return task

    def close(self) -> None:
        self.app.close()
        self.full.close()
