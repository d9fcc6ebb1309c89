"""The check: whether the server and the collection can carry a queue as they are, and whether the tasks are sound.

What cannot be asked (a role that lacks a privilege, a query that takes too long) is a finding too, and no end of the
check: of all that is wrong a person should hear at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import pymongo
from pymongo.collection import Collection
from pymongo.database import Database

from streamq.core import queries
from streamq.core.checkup import CLOCK_S, IDS_SHOWN, OPLOG_HOURS, Checkup, Finding, Severity
from streamq.core.indexes import LETTER_INDEXES, META_INDEXES, Index
from streamq.core.invariants import INVARIANTS, Invariant
from streamq.core.moves.repair import DID, UPDATES
from streamq.core.workers import HOLDERS, ROWS_WITH_AGE, WorkerView, workers_of
from streamq.errors import AccessRefused, NotAReplicaSet, ServerTooOld, StoreError
from streamq.store.collections import Document, Tasks
from streamq.store.faults import reading, writing
from streamq.store.providing import indexes_of, is_as
from streamq.store.setup import check_server, make_indexes
from streamq.store.ticking import tick

COUNTED: Final = 10_000
"""How far the tasks of one finding are counted."""

FULL: Final = 0.9
"""An oplog below this share of its size has not yet dropped anything: how far it reaches back says nothing."""

MOST_TICKS: Final = 1_000


def workers(tasks: Tasks) -> list[WorkerView]:
    """List the members and who else holds tasks. Trips: 2."""
    with reading("list the workers"), tasks.deadline():
        return workers_of(list(tasks.quick.aggregate(ROWS_WITH_AGE)), list(tasks.quick.aggregate(HOLDERS)))


def check(
    database: Database[Document],
    tasks: Tasks,
    indexes: Sequence[Index],
    beside: Sequence[Index] = META_INDEXES,
    *,
    repair: bool,
) -> Checkup:
    """Look at everything; `indexes` are those of the tasks, `beside` those of the meta collection, which is not looked
    at where there are none: no role reads what is beside dead letters.

    Trips: about 30, and 2 for each thing that is repaired. Raises `StoreUnavailable` when there is no server at all.
    """
    return _Check(database, tasks, indexes, beside, repair=repair).run()


class _Check:
    """One check on its way: the findings gather in it."""

    def __init__(
        self,
        database: Database[Document],
        tasks: Tasks,
        indexes: Sequence[Index],
        beside: Sequence[Index],
        *,
        repair: bool,
    ) -> None:
        self._database = database
        self._tasks = tasks
        self._wanted = indexes
        self._wanted_beside = beside
        self._repair = repair
        self._findings: list[Finding] = []

    def run(self) -> Checkup:
        hello, clock_ahead_s = self._hello()
        usable = self._server()
        with self._asking("the server's version"):
            version = str(self._database.client.admin.command("buildInfo")["version"])
        if usable:
            self._majority()
        oplog_hours = self._oplog() if "setName" in hello else None
        if self._tasks.dead is not None and self._collection(self._tasks.dead.quick.name):
            self._indexes(self._tasks.dead.durable, LETTER_INDEXES)
        if self._collection(self._tasks.quick.name):
            self._indexes(self._tasks.durable, self._wanted)
            if self._wanted_beside:
                self._indexes(self._tasks.meta, self._wanted_beside)
            for invariant in INVARIANTS:
                with self._asking(f"whether {invariant.what}"):
                    self._hold(invariant)
            with self._asking("who works"):
                self._left_alone()
        return Checkup(tuple(self._findings), version, hello.get("setName"), oplog_hours, clock_ahead_s)

    def _find(self, severity: Severity, what: str, said: str, advice: str, **more: Any) -> None:
        self._findings.append(Finding(severity, what, said, advice, **more))

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Make a finding of what cannot be asked."""
        try:
            with reading(f"ask {what}"), self._tasks.deadline():
                yield
        except StoreError as error:
            self._not_asked(error)

    def _not_asked(self, error: StoreError) -> None:
        self._find("warning", "everything can be asked", str(error), "give the user the role, or ask at a calm time")

    # --- the server -------------------------------------------------------------------------------------------

    def _hello(self) -> tuple[Mapping[str, Any], float]:
        with reading("ask the server"), self._tasks.deadline():
            before = wall()
            sent = time.monotonic()
            hello = self._database.client.admin.command("hello", codec_options=self._tasks.quick.codec_options)
            took_s = time.monotonic() - sent
        # The server's answer is from some moment in between: the difference is known to half a round trip.
        ahead_s = (hello["localTime"] - before).total_seconds() - took_s / 2
        if abs(ahead_s) > CLOCK_S + took_s:
            self._find(
                "info",
                "the clocks agree",
                f"the server's clock is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's",
                "nothing: streamq goes by the server's; but at= is an instant by its clock. Set the clocks by NTP",
            )
        return hello, ahead_s

    def _server(self) -> bool:
        try:
            with self._tasks.deadline():
                check_server(self._database)
        except (NotAReplicaSet, ServerTooOld) as error:
            self._find("error", "the server can carry a queue", str(error), "see there")
            return False
        return True

    def _majority(self) -> None:
        """A write that changes nothing waits for the majority all the same."""
        try:
            with writing("write with majority"), self._tasks.deadline():
                self._tasks.durable.update_one({"_id": "check:nothing"}, {"$set": {"checked": True}})
        except AccessRefused as error:
            self._not_asked(error)
        except StoreError as error:
            self._find(
                "error",
                "a majority takes writes",
                str(error),
                "puts and settlements wait for it: look at rs.status() for members that are down or lag behind",
            )

    def _oplog(self) -> float | None:
        hours: float | None = None
        with self._asking("how far the oplog reaches back"):
            local = self._database.client.local
            oplog = local["oplog.rs"]
            first = next(iter(oplog.find({}, {"ts": 1}).sort("$natural", 1).limit(1)), None)
            last = next(iter(oplog.find({}, {"ts": 1}).sort("$natural", -1).limit(1)), None)
            if first is None or last is None:
                return None
            hours = (last["ts"].time - first["ts"].time) / 3600
            stats = local.command("collStats", "oplog.rs")
            if hours < OPLOG_HOURS and stats["size"] >= FULL * stats.get("maxSize", stats["size"]):
                self._find(
                    "warning",
                    "the oplog reaches back an hour",
                    f"it reaches back {hours * 60:.0f} minutes",
                    "a node that is away for longer must be synchronised anew: make it larger (replSetResizeOplog)",
                )
        return hours

    # --- the collection ---------------------------------------------------------------------------------------

    def _collection(self, name: str) -> bool:
        """Say whether a collection is there, and of a kind that holds tasks."""
        found: Mapping[str, Any] | None = None
        with self._asking("the collection"):
            found = next(iter(self._database.list_collections(filter={"name": name})), None)
            if found is None and name == self._tasks.quick.name:
                self._find(
                    "info", "the collection is there", f"{name} is not there yet", "nothing: the first put makes it"
                )
        if found is None:
            return False
        options = found.get("options", {})
        kind = "capped" if options.get("capped") else found.get("type", "collection")
        if kind != "collection" or "collation" in options:
            said = f"{name} is a {kind} collection" if kind != "collection" else f"{name} has a collation of its own"
            self._find("error", "the collection can hold tasks", said, "use an ordinary collection of another name")
        if "validator" in options:
            self._find(
                "info", "the collection takes every task", f"{name} has a validator", "what it refuses cannot be moved"
            )
        return kind == "collection"

    def _indexes(self, collection: Collection[Document], wanted: Sequence[Index]) -> None:
        with self._asking("the indexes"):
            there = indexes_of(collection)
            for index in wanted:
                if index.name in there and not is_as(there[index.name], index):
                    self._find(
                        "error",
                        "the indexes are as they should be",
                        f"{index.name} differs from what streamq needs",
                        f"no worker starts: drop it (db.{collection.name}.dropIndex({index.name!r})), the next start "
                        "makes it anew",
                    )
            missing = [index for index in wanted if index.name not in there]
            always = [index for index in missing if index.feature is None]
            if always:
                advice = "claims are slow, unique keys are not kept: start a worker, or repair makes them"
                self._missing(collection, always, "error", advice)
            if missing != always:
                advice = "nothing: the next look of a worker makes them, as would repair"
                self._missing(collection, [index for index in missing if index not in always], "info", advice)

    def _missing(
        self, collection: Collection[Document], indexes: Sequence[Index], severity: Severity, advice: str
    ) -> None:
        repaired = ""
        if self._repair:
            make_indexes(collection, indexes, time.monotonic() + self._tasks.timeout_s)
            repaired = "made them"
        self._find(
            severity,
            "the indexes are there",
            f"{collection.name} misses {', '.join(index.name for index in indexes)}",
            advice,
            repaired=repaired,
        )

    # --- the tasks --------------------------------------------------------------------------------------------

    def _hold(self, invariant: Invariant) -> None:
        broken = invariant.broken
        ids = [one["_id"] for one in self._tasks.quick.find(broken, {"_id": 1}).limit(IDS_SHOWN)]
        if not ids:
            return
        count = self._tasks.quick.count_documents(broken, limit=COUNTED)
        repaired = self._mend(invariant) if self._repair and invariant.mend is not None else ""
        said = f"not of {count}{' or more' if count == COUNTED else ''}"
        self._find(
            invariant.severity, invariant.what, said, invariant.advice, ids=tuple(ids), count=count, repaired=repaired
        )

    def _mend(self, invariant: Invariant) -> str:
        assert invariant.mend is not None
        count = 0
        with writing("repair tasks"), pymongo.timeout(self._tasks.timeout_s):
            for further, update in UPDATES[invariant.mend]:
                wanted = {"$and": [invariant.broken, further]}
                count += self._tasks.durable.update_many(wanted, update).modified_count
        if invariant.mend in ("end_lease", "tick"):
            for _ in range(MOST_TICKS):
                moved = tick(self._tasks)
                if not (moved.released or moved.failed or moved.followed or moved.expired or moved.removed):
                    break
        return DID[invariant.mend].format(count=count)

    def _left_alone(self) -> None:
        """Queues with ready tasks on which nobody works."""
        waiting = self._tasks.quick.distinct("queue", queries.all_ready())
        worked = {queue for one in workers(self._tasks) if one.is_alive for queue in one.queues}
        alone = sorted(queue for queue in waiting if type(queue) is str and queue not in worked)
        if alone:
            named = ", ".join(alone[:IDS_SHOWN]) + (", …" if len(alone) > IDS_SHOWN else "")
            self._find(
                "info",
                "queues with ready tasks have a worker",
                f"none works on: {named}",
                "start one, unless a program claims from there by app.blocking",
            )


def wall() -> datetime:
    """This machine's clock, which is only ever compared with the server's here."""
    return datetime.now(UTC)
