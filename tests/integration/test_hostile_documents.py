"""What others have stored as tasks may hold anything in any field: a worker fails it or leaves it, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex
from bson.datetime_ms import DatetimeMS
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.errors import BulkWriteError

from streamq.core.document import ASSIGN_SEQ, STATUSES, TERMINAL, TaskDocument
from streamq.core.features import FEATURES
from streamq.core.invariants import INVARIANTS
from streamq.store.mongo import MongoStore
from streamq.store.setup import CODEC
from tests.long_form import sized
from tests.patience import eventually

if TYPE_CHECKING:
    from tests.integration.conftest import MakeApp

ABSENT: Final = object()

DEEP: Any = 1
for _ in range(90):
    DEEP = [DEEP]

ODD: Final[tuple[Any, ...]] = (
    ABSENT,
    None,
    True,
    -1,
    Int64(2**62),
    float("nan"),
    float("-inf"),
    "",
    "$$NOW",
    "$status",
    "x" * 2_000,
    [],
    ["a", None, 1],
    {},
    {"$gt": 0},
    {"a": {"$ne": 1}},
    {"~int": "no"},
    {"~later": 1},
    b"\\x00",
    Binary(b"x", 128),
    ObjectId("0" * 24),
    datetime(1, 1, 1, tzinfo=UTC),
    DatetimeMS(2**60),
    Timestamp(1, 1),
    Decimal128("1e6000"),
    Regex(".*"),
    Code("function(){}"),
    DBRef("tasks", 1),
    MinKey(),
    MaxKey(),
    DEEP,
)

EACH: Final = sized((7, 11), (1, 1))
"""Of all documents each so manieth, for the worker and for the desk: no divisor of the number of values. The long form
has them all."""

SOUND_ENOUGH: Final = 400
"""So many of them can be run all the same."""

FIELDS: Final = tuple(sorted(TaskDocument.__annotations__.keys() - {"_id", "queue"}))


def bases() -> Iterator[dict[str, Any]]:
    """One sound task of each status."""
    past = datetime.now(UTC) - timedelta(seconds=5)
    common = {
        "v": 1,
        "queue": "q",
        "task": "work",
        "priority": 0,
        "seq": Timestamp(1, 1),
        "payload": {"word": "w"},
        "attempt": 0,
        "max_attempts": 3,
        "created_at": past,
    }
    more: dict[str, dict[str, Any]] = {
        "delayed": {"due_at": past},
        "running": {"attempt": 1, "claim_id": b"c" * 16, "lease_until": past, "worker": "w", "started_at": past},
        "blocked": {"blocked_by": [ObjectId()], "follow_up": 0.0},
        "succeeded": {"finished_at": past, "settled_by": b"c" * 16},
        "failed": {"finished_at": past, "errors": [{"attempt": 1, "type": "E", "message": "m", "at": past}]},
    }
    for status in STATUSES:
        yield common | {"status": status} | more.get(status, {})


def odd_documents(**more: Any) -> Iterator[dict[str, Any]]:
    """Every field of every status with every odd value, one at a time; some of a schema to come. With `more` fields of
    all of them, the queue may be odd too."""
    for base in (one | more for one in bases()):
        for field in (*FIELDS, "queue") if more else FIELDS:
            for value in ODD:
                changed = {name: one for name, one in base.items() if name != field}
                if value is not ABSENT:
                    changed[field] = value
                elif field not in base:
                    continue
                yield changed | {"_id": ObjectId()} | ({} if field == "seq" else {"seq": ASSIGN_SEQ})
        yield base | {"_id": ObjectId(), "v": 99, "status": "hibernating", "new": {"$set": 1}}


def fill(mongo: MongoClient[dict[str, Any]], database: str, documents: list[dict[str, Any]]) -> int:
    """Store them; those that an index refuses are left out."""
    try:
        mongo[database].get_collection("tasks", codec_options=CODEC).insert_many(documents, ordered=False)
    except BulkWriteError as error:
        refused = error.details["writeErrors"]
        if {one["code"] for one in refused} != {11000}:
            raise
        return len(documents) - len(refused)
    return len(documents)


async def test_worker_gets_through_whatever_is_stored_and_sound_tasks_are_run(
    make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    app = make_app()
    ran: list[str] = []
    through = trio.Event()

    @app.task(queue="q")
    async def work(word: str) -> str:
        ran.append(word)
        if len(ran) > SOUND_ENOUGH:
            through.set()
        return word

    app.blocking.store()
    assert fill(mongo, database, list(odd_documents())[:: EACH[0]]) > 1_000
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        with trio.fail_after(60):
            sound = [await work.options(priority=priority).put("sound") for priority in (9, 0, -9)]
            assert [await one.result() for one in sound] == ["sound"] * 3
            await through.wait()
        nursery.cancel_scope.cancel()


async def test_worker_goes_on_whatever_is_stored_while_it_works(
    make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    """The stream tells of all of it, and all that followers of tasks are looked for by is there."""
    app = make_app()

    @app.task(queue="q")
    async def work(word: str) -> str:
        return word

    cast(MongoStore, app.blocking.store()).use(FEATURES)
    ends = dict.fromkeys(("expires_at", "lifetime_until"), datetime.now(UTC) + timedelta(seconds=30))
    every = [*odd_documents(**ends), *odd_documents(follow_up=0.0, **ends)]
    odd = [one for number, one in enumerate(every) if number % EACH[0] == 0 or one.get("queue") != "q"]
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        assert await trio.to_thread.run_sync(fill, mongo, database, odd) > 1_000
        with trio.fail_after(60):
            children = [await work.options(priority=9, after=[await work.put("parent")]).put("sound") for _ in range(3)]
            assert [await one.result() for one in children] == ["sound"] * 3
        assert await trio.to_thread.run_sync(eventually, lambda: has_no_marks(mongo, database), 60)
        nursery.cancel_scope.cancel()


# --- what became of each ---------------------------------------------------------------------------------------------


async def test_every_odd_document_has_ended_or_waits_for_what_there_is_or_is_named_by_the_check(
    make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    app = make_app()

    @app.task(queue="q")
    async def work(word: str) -> str:
        return word

    cast(MongoStore, app.blocking.store()).use(FEATURES)
    every = odd_documents(headers={"odd": True})
    odd = {one["_id"]: one for n, one in enumerate(every) if n % EACH[0] == 0}
    fill(mongo, database, list(odd.values()))
    tasks = mongo[database].get_collection("tasks", codec_options=CODEC)
    odd = {one["_id"]: one for one in tasks.find({"_id": {"$in": list(odd)}})}
    assert len(odd) > 1_000
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        left: dict[ObjectId, str] = {}

        def is_told() -> bool:
            left.clear()
            left.update(untold(mongo, database, odd))
            return not left

        # Until the sweep of the blocked tasks, which is made every half minute, where one of them has no mark.
        told = await trio.to_thread.run_sync(eventually, is_told, sized(60, 180))
        assert told, [(reason, odd[id]) for id, reason in left.items()][:5]
        with trio.fail_after(60):
            assert await (await work.options(priority=9).put("sound")).result() == "sound"
        nursery.cancel_scope.cancel()


def untold(
    mongo: MongoClient[dict[str, Any]], database: str, odd: dict[ObjectId, dict[str, Any]]
) -> dict[ObjectId, str]:
    """Say of the odd documents what is wrong: that they are gone though their time was not over, have ended without a
    stored reason, or will never be moved and no check says so."""
    tasks = mongo[database].get_collection("tasks", codec_options=CODEC)
    now = datetime.now(UTC)
    there = {one["_id"]: one for one in tasks.find({"_id": {"$in": list(odd)}})}
    named = {one["_id"] for rule in INVARIANTS for one in tasks.find(rule.broken, {"_id": 1})}
    fates = {id: fate(before, there.get(id), now, is_named=id in named) for id, before in odd.items()}
    return {id: one for id, one in fates.items() if one}


def fate(before: dict[str, Any], task: dict[str, Any] | None, now: datetime, *, is_named: bool) -> str:
    """Return what is wrong with what became of one; empty: nothing."""
    if task is None:
        return "" if any(has_passed(before.get(name), now) for name in ("remove_at", "lifetime_until")) else "lost"
    status = task.get("status")
    if status in TERMINAL:
        return "" if status == before.get("status") or has_reason(task, now) else "ended without a reason"
    return "" if is_named or waits_for_what_there_is(task, now) else f"stuck, {status}"


def has_reason(task: dict[str, Any], now: datetime) -> bool:
    """Say whether an ended task tells why: who settled it, an error, or the instant that has passed."""
    match task["status"]:
        case "succeeded":
            return isinstance(task.get("settled_by"), bytes)
        case "expired":
            return has_passed(task.get("expires_at"), now)
        case _:
            errors = task.get("errors")
            return (
                isinstance(errors, list)
                and bool(errors)
                and type(errors[-1]["type"]) is type(errors[-1]["message"]) is str
            )


def waits_for_what_there_is(task: dict[str, Any], now: datetime) -> bool:
    """Say whether something that can come moves a task: its instant, or a worker that knows its queue and handler,
    which `unclaimed` and the check tell a person."""
    match task.get("status"):
        case "delayed":
            return isinstance(task["due_at"], DatetimeMS) or (
                isinstance(task["due_at"], datetime) and task["due_at"] > now
            )
        case "ready":
            known = (task.get("queue"), task.get("task")) == ("q", "work")
            return type(task.get("queue")) is str and isinstance(task.get("task"), str | None) and not known
        case _:
            return False


def has_passed(value: Any, now: datetime) -> bool:
    return isinstance(value, datetime) and value < now


def has_no_marks(mongo: MongoClient[dict[str, Any]], database: str) -> bool:
    """Say whether no ended task is left marked: each of them would be looked at for ever."""
    ended = {"$in": list(TERMINAL), "$not": {"$type": "array"}}
    return mongo[database].tasks.find_one({"follow_up": {"$exists": True}, "status": ended}, {"_id": 1}) is None


def test_desk_looks_at_whatever_is_stored(make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str) -> None:
    app = make_app()
    app.blocking.store()
    documents = list(odd_documents())[:: EACH[1]]
    fill(mongo, database, documents)
    desk = app.blocking.desk
    assert len(list(desk.export())) == len(list(desk.each())) > 1_000
    assert desk.counts().keys() == desk.counts_by_handler().keys() == {"q"}
    assert len(desk.peek("q", limit=100)) == 100
    assert (len(desk.workers()) > 0, app.blocking.unclaimed() != [], app.blocking.schedules()) == (True, True, [])
    assert not desk.check().valid
    desk.check(repair=True)
    assert desk.cancel_found(queue="q").cancelled > 100
    assert desk.requeue_found(queue="q").requeued > 100
    desk.cancel_found(queue="q")
    assert desk.purge(queue="q", older_than_s=0) > 100


def test_bare_loop_gets_through_whatever_is_stored(
    make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    app = make_app()

    @app.task(queue="q", lease_s=5)
    def work(word: str) -> None: ...

    app.blocking.store()
    ready = [one for one in odd_documents() if one.get("status") == "ready"]
    odd = [one for n, one in enumerate(ready) if n % EACH[0] == 0 or one.get("task") != "work"]
    fill(mongo, database, odd)
    queue = app.blocking.queue("q")
    claimed = 0
    while tasks := queue.claim_many(100):
        claimed += len(tasks)
        for task in tasks:
            task.succeed()
    assert claimed > 100
