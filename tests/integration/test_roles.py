"""The roles on a server with access control: each lets its kind of program do its work, and nothing else."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import pytest
import trio
from pymongo import MongoClient, monitoring
from pymongo.errors import OperationFailure

import streamq
from streamq import AccessRefused, Rate, Retry, Snooze, StreamQ, TaskFailed
from streamq.cli import main
from streamq.core.features import FEATURES
from streamq.core.roles import KINDS, RoleKind, role_of
from streamq.drafting import schedules_of
from streamq.store.mongo import MongoStore
from tests.guarded import Guarded
from tests.integration.holding import settlements_held

DEAD: Final = "failed"


class Apps(Protocol):
    def __call__(self, kind: RoleKind, **options: Any) -> StreamQ: ...


@pytest.fixture
def app_of(guard: Guarded, place: str) -> Iterator[Apps]:
    """Make apps whose user has the role of one kind; the collections and indexes have been made by an operator."""
    made: list[StreamQ] = []
    given: dict[str, str] = {}

    def uri_of(kind: RoleKind, options: dict[str, Any]) -> str:
        if kind not in given:
            wanted = {name: options[name] for name in ("dead_letter_collection", "wake") if name in options}
            given[kind] = guard.user_with(role_of(kind, database=place, **wanted))
        return given[kind]

    def make(kind: RoleKind, **options: Any) -> StreamQ:
        if not made:
            made.append(StreamQ(uri_of("operator", options), database=place, **options))
            operator = made[0].blocking.store()
            assert isinstance(operator, MongoStore)
            operator.use(FEATURES)
        made.append(StreamQ(uri_of(kind, options), database=place, **options))
        return made[-1]

    yield make
    for app in made:
        app.close()


def declare(app: StreamQ, ran: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Handlers that go each road on which a worker writes."""

    @app.task
    async def add(a: int, b: int) -> int:
        ran("add")
        return a + b

    @app.task(retry=Retry(max_attempts=2, first_s=0, cap_s=0))
    async def fail() -> None:
        raise ValueError("no")

    @app.task(keep_s=0)
    async def vanish() -> None:
        ran("vanish")

    @app.task
    async def snooze() -> None:
        if not ran_before:
            ran_before.append(True)
            raise Snooze(0.05)
        ran("snooze")

    @app.task(queue="slow")
    async def last() -> None:
        await streamq.progress(0.5)
        ran("last")
        await trio.sleep_forever()

    @app.task(queue="limited")
    async def limited() -> None:
        ran("limited")

    @app.task
    async def pay() -> None:
        async with streamq.transaction():
            pass
        ran("pay")

    @app.task(every_s=1)
    async def tick() -> None:
        ran("tick")

    ran_before: list[bool] = []
    app.limit("limited", rate=Rate(100, per_s=1), running=2, key_rate=Rate(50, per_s=1), key_running=1)
    return {one.handling.name: one for one in (add, fail, vanish, snooze, last, limited, pay)}


# --- what is allowed ----------------------------------------------------------------------------------------------


def insert(database: Any, collection: str) -> Any:
    return database[collection].insert_one({"x": 1})


TRIALS: Final[dict[str, Callable[[Any, str], Any]]] = {
    "find": lambda database, name: database[name].find_one({}),
    "insert": insert,
    "update": lambda database, name: database[name].update_one({"_id": 0}, {"$set": {"x": 1}}),
    "remove": lambda database, name: database[name].delete_one({"_id": 0}),
    "changeStream": lambda database, name: database[name].watch().close(),
    "createIndex": lambda database, name: database[name].create_index("x"),
    "listIndexes": lambda database, name: list(database[name].list_indexes()),
    "dropIndex": lambda database, name: database[name].drop_index("none"),
    "dropCollection": lambda database, name: database.command("drop", name),
    "collMod": lambda database, name: database.command("collMod", name),
    "collStats": lambda database, name: database.command("collStats", name),
    "renameCollection": lambda database, name: database.client.admin.command(
        "renameCollection", f"{database.name}.{name}", to=f"{database.name}.other"
    ),
}

TRIALS_OF_ALL: Final[dict[str, Callable[[Any], Any]]] = {
    "listCollections": lambda database: database.command("listCollections"),
    "changeStream of all": lambda database: database.watch().close(),
    "dropDatabase": lambda database: database.command("dropDatabase"),
    "createRole": lambda database: database.command("createRole", "r", privileges=[], roles=[]),
    "createUser": lambda database: database.command("createUser", "other", pwd="x", roles=[]),
    "usersInfo": lambda database: database.command("usersInfo"),
    "another collection": lambda database: insert(database, "other"),
    "the users": lambda database: database.client.admin["system.users"].find_one({}),
    "the oplog": lambda database: database.client.local["oplog.rs"].find_one({}),
    "another database": lambda database: insert(database.client["other"], "tasks"),
    "serverStatus": lambda database: database.client.admin.command("serverStatus"),
    "replSetGetStatus": lambda database: database.client.admin.command("replSetGetStatus"),
    "getParameter": lambda database: database.client.admin.command("getParameter", "*"),
    "setParameter": lambda database: database.client.admin.command("setParameter", 1, quiet=True),
    "currentOp": lambda database: list(database.client.admin.aggregate([{"$currentOp": {"allUsers": True}}])),
    "shutdown": lambda database: database.client.admin.command("shutdown"),
}


def is_let(trial: Callable[..., Any], *where: Any) -> bool:
    try:
        trial(*where)
    except OperationFailure as error:
        if error.code == 13:
            return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_role_allows_its_actions_and_no_other(guard: Guarded, place: str, kind: RoleKind) -> None:
    role = role_of(kind, database=place, dead_letter_collection=DEAD)
    guard.root[place]["tasks"].insert_one({"_id": 1})
    with MongoClient[dict[str, Any]](guard.user_with(role)) as client:
        database = client[place]
        granted = {one.collection: set(one.actions) for one in role.privileges}
        for collection in ("tasks", "tasks.meta", "tasks.features", DEAD):
            let = {name for name, trial in TRIALS.items() if is_let(trial, database, collection)}
            assert let == granted.get(collection, set()), collection
        let = {name for name, trial in TRIALS_OF_ALL.items() if is_let(trial, database)}
        assert let == granted.get("", set())


# --- producer -----------------------------------------------------------------------------------------------------


async def test_producer_puts_whatever_needs_no_reading(app_of: Apps, guard: Guarded, place: str) -> None:
    app = app_of("producer")
    handlers = declare(app)
    async with app:
        first = await handlers["add"].put(1, b=2)
        await handlers["add"].options(delay_s=60, priority=3, tag="t", unique="k", expires_in_s=90).put(1, b=2)
        again = await handlers["add"].options(unique="k", on_conflict="replace").put(1, b=2)
        assert again.outcome == "hidden"
        await app.put_many(handlers["add"].new(n, b=2) for n in range(3))
        await app.queue("q").put({"x": 1}, group="g")
        with pytest.raises(AccessRefused):
            await first.status()
        with pytest.raises(AccessRefused):
            await first.result(timeout_s=5)
        with pytest.raises(AccessRefused):
            await first.cancel()
        with pytest.raises(AccessRefused):
            await app.counts()
        with pytest.raises(AccessRefused):
            await handlers["add"].options(after=[first]).put(1, b=2)
        with trio.fail_after(5), pytest.raises(AccessRefused):
            await app.work()
    assert guard.root[place]["tasks"].count_documents({}) == 6
    with pytest.raises(AccessRefused):
        app.blocking.queue("q").claim()
    app.blocking.queue("q").put(7)


def test_refused_put_does_not_show_its_payload(app_of: Apps) -> None:
    with pytest.raises(AccessRefused) as caught:
        app_of("reader").blocking.queue("q").put("CANARY")
    assert "CANARY" not in str(caught.value)
    assert 'insert "tasks"' in str(caught.value)


async def test_producer_with_a_wake_channel_tells_it(app_of: Apps, guard: Guarded, place: str) -> None:
    app = app_of("producer", wake="tailable")
    before = guard.root[place]["tasks.wakes"].count_documents({})
    async with app:
        await app.queue("q").put(1)
    assert guard.root[place]["tasks.wakes"].count_documents({}) == before + 1


# --- client -------------------------------------------------------------------------------------------------------


async def test_client_waits_depends_and_replaces_and_its_worker_does_the_rest(
    app_of: Apps, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"dead_letter_collection": DEAD, "wake": "tailable"}
    client, worker = app_of("client", **options), app_of("worker", **options)
    ran: dict[str, trio.Event] = defaultdict(trio.Event)
    handlers = declare(client)
    declare(worker, lambda name: ran[name].set())
    async with client, worker, trio.open_nursery() as nursery:
        with trio.fail_after(30):
            held = handlers["add"].options(unique="k", delay_s=3_600)
            first = await held.put(1, b=1)
            assert (await held.put(2, b=2)).id == first.id
            now = await handlers["add"].options(unique="k", on_conflict="replace").put(3, b=3)
            assert now.outcome == "replaced"
            once = handlers["add"].options(unique="once", unique_for_s=math.inf)
            assert ((await once.put(1, b=1)).created, (await once.put(1, b=1)).created) == (True, False)
            child = await handlers["add"].options(after=[now]).put(4, b=4)
            await nursery.start(worker.work, {"default": 4, "slow": 1, "limited": 4})
            assert (await now.result(), await child.result()) == (6, 8)
            failed = await handlers["fail"].put()
            with pytest.raises(TaskFailed, match="no"):
                await failed.result()
            for name in ("vanish", "snooze", "pay"):
                await handlers[name].options(delay_s=0.05).put()
            limited = [await handlers["limited"].options(rate_key="a").put() for _ in range(2)]
            for one in limited:
                await one.result()
            grouped = [await handlers["add"].options(group="g").put(n, b=0) for n in range(2)]
            assert [await one.result() for one in grouped] == [0, 1]
            running = await handlers["last"].put()
            await ran["last"].wait()
            assert await running.progress() is not None
            with settlements_held(monkeypatch):
                assert await running.cancel() == "asked"
            with pytest.raises(TaskFailed, match="cancelled"):
                await running.result()
            for name in ("vanish", "snooze", "pay", "tick"):
                await ran[name].wait()
            with pytest.raises(AccessRefused):
                await client.desk.delete(now.id)
        nursery.cancel_scope.cancel()
    assert "not authorized" not in caplog.text


async def test_client_leaves_no_living_row_behind(app_of: Apps, guard: Guarded, place: str) -> None:
    client, worker = app_of("client"), app_of("worker")
    handlers = declare(client)
    declare(worker)
    async with client, worker, trio.open_nursery() as nursery:
        await nursery.start(worker.work)
        assert await (await handlers["add"].put(1, b=2)).result(timeout_s=5) == 3
        nursery.cancel_scope.cancel()
    rows = list(guard.root[place]["tasks"].find({"kind": "member"}))
    assert [row for row in rows if "beat_at" in row] == []
    assert app_of("reader").blocking.desk.workers() == []


async def test_client_waits_without_trio(app_of: Apps) -> None:
    client, worker = app_of("client"), app_of("worker")
    handlers = declare(client)
    declare(worker)
    reply = client.blocking.put(handlers["add"].new(1, b=2))
    async with worker, trio.open_nursery() as nursery:
        await nursery.start(worker.work)
        assert await trio.to_thread.run_sync(lambda: client.blocking.result(reply.id, 5)) == 3
        nursery.cancel_scope.cancel()


# --- worker -------------------------------------------------------------------------------------------------------


def test_worker_claims_without_trio(app_of: Apps) -> None:
    app = app_of("worker", dead_letter_collection=DEAD)
    queue = app.blocking.queue("q")
    queue.put_many(range(6))
    for end in ("succeed", "extend", "release", "snooze", "fail"):
        task = queue.claim()
        assert task is not None
        match end:
            case "succeed":
                task.succeed(1)
            case "extend":
                task.extend()
                task.succeed()
            case "release":
                task.release()
            case "snooze":
                task.snooze(60)
            case "fail":
                task.fail(ValueError("no"), retry=False)
    assert queue.pop() is not None


def test_worker_may_not_start_where_an_index_is_missing(app_of: Apps, guard: Guarded, place: str) -> None:
    app = app_of("worker")
    guard.root[place]["tasks"].drop_index("streamq_unique")
    with pytest.raises(AccessRefused, match=r"streamq_unique.*streamq init") as caught:
        app.blocking.store()
    assert "streamq_claim" not in str(caught.value)


def test_worker_may_not_start_where_the_wake_channel_is_missing(app_of: Apps, guard: Guarded, place: str) -> None:
    app = app_of("worker", wake="tailable")
    guard.root[place]["tasks.wakes"].drop()
    with pytest.raises(AccessRefused, match=r"no tasks\.wakes.*streamq init --wake-channel"):
        app.blocking.store()


def test_worker_may_not_start_where_nothing_is_prepared(guard: Guarded, place: str) -> None:
    app = StreamQ(guard.user_with(role_of("worker", database=place)), database=place)
    with pytest.raises(AccessRefused, match="streamq_claim"):
        app.blocking.store()
    app.close()


def test_user_who_has_not_logged_in_is_told_at_the_start(guard: Guarded, place: str) -> None:
    app = StreamQ(guard.server.uri, database=place)
    with pytest.raises(AccessRefused, match="requires authentication"):
        app.blocking.store()
    app.close()


# --- operator and reader ------------------------------------------------------------------------------------------


def test_operator_puts_right(app_of: Apps) -> None:
    app, worker = (app_of(kind, dead_letter_collection=DEAD) for kind in ("operator", "worker"))
    operator, desk = app.blocking, app.blocking.desk
    queue = worker.blocking.queue("q")
    queue.put(1, tag="fails")
    task = queue.claim()
    assert task is not None
    task.fail(ValueError("no"), retry=False)
    assert [one.verdict for one in operator.dead_letters.requeue([task.info.id])] == ["requeued"]
    operator.queue("q").pause()
    assert queue.claim() is None
    operator.queue("q").resume()
    assert operator.cancel(task.info.id) == "cancelled"
    assert [one.verdict for one in desk.requeue(task.info.id)] == ["requeued"]
    assert desk.cancel_found(queue="q").cancelled == 1
    assert desk.purge(older_than_s=0, queue="q") == 1
    worker.blocking.queue("q").put(1, unique="k", unique_for_s=60)
    assert desk.free_key("q", "k")
    assert desk.delete(desk.find(queue="q")[0].id)
    checkup = desk.check(repair=True)
    assert [one.said for one in checkup.findings if "oplog" not in one.said] == []


def test_operator_switches_schedules(app_of: Apps) -> None:
    worker, operator = app_of("worker"), app_of("operator")
    declare(worker)
    worker.blocking.store().declare(schedules_of(worker.handlers.values()), "w")
    operator.blocking.disable_schedule("tick")
    assert [one.enabled for one in app_of("reader").blocking.schedules()] == [False]


def test_reader_looks_and_changes_nothing(app_of: Apps) -> None:
    app_of("client").blocking.queue("q").put(1, tag="t")
    reader = app_of("reader")
    desk = reader.blocking.desk
    (found,) = desk.find(tag="t")
    assert desk.show(found.id).payload == 1
    assert reader.blocking.counts() == {"q": {"ready": 1}}
    assert len(desk.peek("q")) == len(list(desk.export())) == 1
    assert reader.blocking.status(found.id) == "ready"
    assert (desk.workers(), reader.blocking.schedules(), reader.blocking.unclaimed()[0].count) == ([], [], 1)
    assert [one for one in desk.check().findings if one.severity == "error"] == []
    for change in (
        lambda: reader.blocking.queue("q").put(1),
        lambda: reader.blocking.queue("q").claim(),
        lambda: reader.blocking.queue("q").pause(),
        lambda: reader.blocking.cancel(found.id),
        lambda: desk.delete(found.id),
    ):
        with pytest.raises(AccessRefused):
            change()


async def test_reader_enters_an_app(app_of: Apps) -> None:
    async with app_of("reader") as reader:
        assert await reader.counts() == {}


# --- at the start -------------------------------------------------------------------------------------------------


def test_start_without_the_right_to_make_indexes_asks_once_more_a_collection(app_of: Apps, place: str) -> None:
    app = app_of("worker")
    sent: list[str] = []

    class Listener(monitoring.CommandListener):
        def started(self, event: monitoring.CommandStartedEvent) -> None:
            sent.append(event.command_name)

        def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

        def failed(self, event: monitoring.CommandFailedEvent) -> None: ...

    uri = app._address._uri
    with MongoClient[dict[str, Any]](uri, event_listeners=[Listener()]) as client:
        StreamQ(client=client, database=place).blocking.store()
    sent = [one for one in sent if not one.startswith("sasl") and one != "endSessions"]
    assert sent == ["hello", "find", "createIndexes", "listIndexes", "createIndexes", "listIndexes"]


# --- the command line ---------------------------------------------------------------------------------------------


def test_init_prints_a_role_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--print-role", "worker", "--database", "shop", "--collection", "jobs"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith('db.getSiblingDB("shop").createRole({\n  role: "streamq_jobs_worker",\n')
    assert '{"resource": {"db": "shop", "collection": "jobs.meta"}, "actions": ' in printed
    assert main(["init", "--print-role", "worker", "--database", "shop", "--collection", "jobs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == role_of("worker", database="shop", collection="jobs").command()


def test_init_makes_what_a_worker_may_not(
    guard: Guarded, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = guard.user_with(role_of("worker", database=place))
    monkeypatch.setenv("STREAMQ_URI", worker)
    assert main(["init", "--database", place]) == 1
    assert "not authorized" in capsys.readouterr().err
    monkeypatch.setenv("STREAMQ_URI", guard.user_with(role_of("operator", database=place)))
    assert main(["init", "--database", place]) == 0
    app = StreamQ(worker, database=place)
    app.blocking.queue("q").put(1)
    app.close()
