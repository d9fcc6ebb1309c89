"""The desk on a real server, with trio and without."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import trio
from bson import ObjectId

from streamq import LeaseLost, OptionInvalid, Retry, Shared, StreamQ, TaskFailed, TaskGone, TaskRunning
from streamq.core.search import Search
from tests.integration.conftest import MakeApp


def fail(app: StreamQ, payload: Any = None, queue: str = "q") -> ObjectId:
    """Put a task and let it fail for good."""
    app.blocking.queue(queue).put(payload)
    task = app.blocking.queue(queue).claim()
    assert task is not None
    task.fail(ValueError("no luck"), retry=False)
    return task.info.id


def counts(app: StreamQ) -> Any:
    return app.blocking.counts()


def test_found_tasks_are_decoded(make_app: MakeApp) -> None:
    app = make_app()
    payload = {"pair": (1, 2), "price": Decimal("9.90")}
    id = fail(app, payload)
    (found,) = app.blocking.desk.find(error_type="ValueError", payload={"pair": (1, 2)})
    assert (found.id, found.status, found.payload, found.handler) == (id, "failed", payload, None)
    assert [(error.type, error.message, error.attempt) for error in found.errors] == [("ValueError", "no luck", 1)]
    assert "no luck" in found.errors[0].traceback or found.errors[0].traceback == ""
    assert app.blocking.desk.show(str(id)) == found
    assert [document["_id"] for document in app.blocking.find(queue="q")] == [id]


def test_a_found_task_shows_what_its_put_and_its_holder_said(make_app: MakeApp) -> None:
    app = make_app()
    queue = app.blocking.queue("q")
    queue.put(1, expires_in_s=60, lifetime_s=90, rate_key="ann", tag="spring")
    task = queue.claim()
    assert task is not None
    task.progress(0.4, "two of five")
    child = queue.put(2, after=[task.info.id], group="g").id
    shown = app.blocking.desk.show(task.info.id)
    assert shown.progress is not None
    assert (shown.progress.value, shown.progress.note) == (0.4, "two of five")
    assert shown.created_at is not None
    assert shown.expires_at is not None
    assert shown.lifetime_until is not None
    assert shown.created_at < shown.expires_at < shown.lifetime_until
    assert (shown.rate_key, shown.tag, shown.group, shown.blocked_by) == ("ann", "spring", None, ())
    waiting = app.blocking.desk.show(child)
    assert (waiting.group, waiting.blocked_by, waiting.progress) == ("g", (task.info.id,), None)


def test_a_task_of_another_program_is_shown_whatever_its_fields_hold(make_app: MakeApp, database: str) -> None:
    app = make_app()
    id = app.blocking.queue("q").put(1).id
    odd = {"progress": 7, "blocked_by": "x", "errors": "none", "unique_key": {"~": 1}}
    app.client[database]["tasks"].update_one({"_id": id}, {"$set": odd})
    shown = app.blocking.desk.show(id)
    assert (shown.progress, shown.blocked_by, shown.errors) == (None, (), ())


def test_pages_follow_each_other_by_the_last_id(make_app: MakeApp) -> None:
    app = make_app()
    ids = [reply.id for reply in app.blocking.queue("q").put_many(range(5))][::-1]
    first = app.blocking.desk.find(limit=3)
    second = app.blocking.desk.find(limit=3, after=str(first[-1].id))
    assert [one.id for one in (*first, *second)] == ids
    assert app.blocking.desk.find(after=second[-1].id) == []
    assert [one.payload for one in app.blocking.desk.peek("q", limit=2)] == [0, 1]


def test_what_is_not_stored_is_gone(make_app: MakeApp) -> None:
    app = make_app()
    with pytest.raises(TaskGone):
        app.blocking.desk.show(ObjectId())
    assert app.blocking.desk.delete(ObjectId()) is False


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda desk: desk.find(limit=0), "limit"),
        (lambda desk: desk.find(limit=1_001), "limit"),
        (lambda desk: desk.find(after="x"), "after"),
        (lambda desk: desk.find(colour="red"), "colour"),
        (lambda desk: desk.peek("no such name!"), "queue"),
        (lambda desk: desk.each(payload={"$x": 1}), "payload"),
        (lambda desk: desk.export(status="gone"), "status"),
        (lambda desk: desk.requeue("x"), "ids"),
        (lambda desk: desk.requeue([7]), "ids"),
        (lambda desk: desk.requeue(7), "ids"),
        (lambda desk: desk.requeue([], delay_s=-1), "delay_s"),
        (lambda desk: desk.requeue([], reset_attempts=0), "reset_attempts"),
        (lambda desk: desk.requeue_found(status="running"), "status"),
        (lambda desk: desk.cancel_found(status="failed"), "status"),
        (lambda desk: desk.purge(older_than_s=-1), "older_than_s"),
        (lambda desk: desk.purge(older_than_s=0, status="ready"), "status"),
        (lambda desk: desk.delete("x"), "id"),
        (lambda desk: desk.show("x"), "id"),
    ],
)
def test_bad_input_is_refused_by_name(make_app: MakeApp, call: Any, named: str) -> None:
    with pytest.raises(OptionInvalid) as caught:
        call(make_app().blocking.desk)
    assert caught.value.option == named


def test_a_running_task_is_deleted_by_force_and_its_holder_hears_of_it(make_app: MakeApp) -> None:
    app = make_app()
    app.blocking.queue("q").put(1)
    task = app.blocking.queue("q").claim()
    assert task is not None
    with pytest.raises(TaskRunning, match="force=True"):
        app.blocking.desk.delete(task.info.id)
    assert app.blocking.desk.delete(task.info.id, force=True) is True
    with pytest.raises(LeaseLost):
        task.succeed()
    assert counts(app) == {}


def test_everything_found_is_requeued_and_what_is_not_is_named(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamq.blocking_desk.MOST_AT_ONCE", 2)
    app = make_app()
    for _ in range(5):
        fail(app)
    other = fail(app, queue="other")
    report = app.blocking.desk.requeue_found(queue="q", error_type="ValueError")
    assert (report.requeued, report.others) == (5, ())
    assert counts(app) == {"q": {"ready": 5}, "other": {"failed": 1}}
    assert [one.verdict for one in app.blocking.desk.requeue([other, str(other), ObjectId()])] == ["requeued", "gone"]


def test_everything_found_that_has_not_ended_is_cancelled(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamq.blocking_desk.MOST_AT_ONCE", 2)
    app = make_app()
    queue, desk = app.blocking.queue("q"), app.blocking.desk
    ended, running = fail(app), queue.put("running", tag="spring")
    assert queue.claim() is not None
    ready = [reply.id for reply in queue.put_many(range(5), tag="spring")]
    queue.put("later", tag="spring", delay_s=60)
    other = queue.put("other").id
    report = desk.cancel_found(tag="spring", queue="q")
    assert (report.cancelled, report.asked, report.too_late) == (6, 1, 0)
    assert desk.cancel_found(tag="spring", status="ready").cancelled == 0
    assert {desk.show(id).status for id in ready} == {"cancelled"}
    assert [desk.show(id).status for id in (ended, other, running.id)] == ["failed", "ready", "running"]


def test_a_purge_goes_through_all_its_steps(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamq.store.tending.MOST_A_PURGE", 2)
    app = make_app()
    for _ in range(5):
        fail(app)
    app.blocking.queue("q").put(1)
    assert app.blocking.desk.purge(older_than_s=3_600) == 0
    assert app.blocking.desk.purge(older_than_s=0, queue="q") == 5
    assert counts(app) == {"q": {"ready": 1}}


def test_an_export_is_lines_of_json_page_by_page(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamq.store.looking.MOST_A_PAGE", 2)
    app = make_app()
    payload = {
        "id": ObjectId(b"twelve bytes"),
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "b": b"\0",
        "d": Decimal("0.10"),
    }
    app.blocking.queue("q").put(payload)
    ids = [reply.id for reply in app.blocking.queue("q").put_many(range(4))][::-1]
    lines = [json.loads(line) for line in app.blocking.desk.export(queue="q")]
    assert [line["id"] for line in lines[:4]] == [str(id) for id in ids]
    assert lines[4]["payload"] == {
        "id": "7477656c7665206279746573",
        "at": "2026-01-01T00:00:00+00:00",
        "b": "AA==",
        "d": "0.10",
    }
    assert [task.payload for task in app.blocking.desk.each(status=["ready"])][:4] == [3, 2, 1, 0]


def test_a_page_ends_where_the_server_ends_its_answer(make_app: MakeApp) -> None:
    """16 MB, however many tasks were asked for: what bounds the memory of an export."""
    app = make_app(payload_limit_bytes=6_000_000)
    for _ in range(5):
        app.blocking.queue("q").put("x" * 5_000_000)
    assert 1 <= len(app.store.page(Search())) < 5
    assert sum(1 for _ in app.blocking.desk.export()) == 5


async def test_the_desk_does_in_trio_what_it_does_without(make_app: MakeApp) -> None:
    app = make_app()
    ids = [fail(app, n) for n in range(3)]
    async with app:
        desk = app.desk
        assert [one.id for one in await desk.find(status="failed", limit=2)] == ids[:0:-1]
        assert [one.id for one in await desk.find(limit=2, after=ids[1])] == [ids[0]]
        assert (await desk.show(ids[0])).payload == 0
        assert [one.payload async for one in desk.each(queue="q")] == [2, 1, 0]
        assert [json.loads(line)["payload"] async for line in desk.export()] == [2, 1, 0]
        assert await desk.counts() == {"q": {"failed": 3}}
        assert await desk.counts_by_handler() == {"q": {"": {"failed": 3}}}
        assert [one.verdict for one in await desk.requeue(ids[0])] == ["requeued"]
        assert [one.payload for one in await desk.peek("q", tail=True)] == [0]
        assert (await desk.requeue_found(payload={"x": 1})).requeued == 0
        assert (await desk.requeue_found(delay_s=60)).requeued == 2
        assert (await desk.cancel_found(status="delayed", payload={"x": 1})).cancelled == 0
        assert (await desk.cancel_found(status="ready")).cancelled == 1
        assert (await desk.requeue(ids[0]))[0].verdict == "requeued"
        assert await desk.delete(ids[0]) is True
        assert await desk.purge(older_than_s=0) == 0
        assert [document["_id"] for document in await app.find(status="delayed")] == ids[:0:-1]


async def test_a_requeued_task_runs_again_and_its_waiter_hears_the_new_end(make_app: MakeApp) -> None:
    app = make_app(retry=Retry(max_attempts=1))
    broken = True

    @app.task
    async def work() -> str:
        if broken:
            raise ValueError("not yet")
        return "done"

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await work.put()
        assert (await handle.wait(10))["status"] == "failed"
        broken = False
        assert [one.verdict for one in await app.desk.requeue(handle.id)] == ["requeued"]
        assert await handle.result(10) == "done"
        nursery.cancel_scope.cancel()


async def test_the_handler_of_a_deleted_task_is_cancelled(make_app: MakeApp) -> None:
    app = make_app(lease_s=1)
    begun, cancelled = trio.Event(), trio.Event()

    @app.task
    async def work() -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await work.put()
        await begun.wait()
        assert await app.desk.delete(handle.id, force=True)
        with trio.fail_after(10):
            await cancelled.wait()
        assert await app.desk.counts() == {}
        nursery.cancel_scope.cancel()


async def test_a_dead_letter_is_waited_for_found_and_requeued(make_app: MakeApp) -> None:
    app = make_app(dead_letter_collection="dead_letters")

    @app.task(queue="q")
    async def work(n: int) -> int:
        return n

    def fail() -> None:
        task = app.blocking.queue("q").claim()
        assert task is not None
        task.fail("not yet", retry=False)

    async with app, trio.open_nursery() as nursery:
        handle = await work.put(7)
        nursery.start_soon(trio.to_thread.run_sync, fail)
        with pytest.raises(TaskFailed, match="not yet"):
            await handle.result(10)
        nursery.cancel_scope.cancel()
    async with app, trio.open_nursery() as nursery:
        assert [one.id for one in await app.dead_letters.find(handler="work", payload={"n": 7})] == [handle.id]
        assert await app.desk.find() == []
        assert (await app.dead_letters.requeue_found()).requeued == 1
        await nursery.start(app.work)
        assert await app.handle(handle.id).result(10) == 7
        assert await app.dead_letters.counts() == {}
        nursery.cancel_scope.cancel()
    assert app.blocking.dead_letters.find() == []


@pytest.mark.parametrize("name", ["", "tasks", "tasks.meta", "tasks.features", "a$b", "system.x", 7, "a b"])
def test_a_name_that_no_collection_of_dead_letters_can_have_is_refused(name: Any) -> None:
    with pytest.raises(OptionInvalid, match="dead_letter_collection"):
        StreamQ("mongodb://unused", dead_letter_collection=name)


async def test_the_workers_list_says_how_many_slots_a_process_has(make_app: MakeApp) -> None:
    app = make_app()
    for queue in ("a", "b", "c"):
        app.task(queue=queue, name=queue)(_nothing)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work, {"a": 3})
        (row,) = await app.desk.workers()
        assert (row.queues, row.slots, row.is_alive) == (("a",), 3, True)
        await nursery.start(app.work, Shared.by_weight({"b": 1, "c": 2}, slots=4))
        (row,) = await app.desk.workers()
        assert (row.queues, row.slots) == (("a", "b", "c"), 7)
        nursery.cancel_scope.cancel()


async def _nothing() -> None: ...


def test_fields_that_this_version_does_not_know_are_kept_whatever_people_do(make_app: MakeApp, database: str) -> None:
    app = make_app(dead_letter_collection="letters")
    tasks, letters = app.client[database].tasks, app.client[database].letters
    theirs = {"newer": {"a": ["$payload", 1]}, "v": 99}
    id = app.blocking.queue("q").put(1, unique="k", delay_s=60).id
    tasks.update_one({"_id": id}, {"$set": theirs})

    def kept(status: str, collection: Any = tasks) -> None:
        document = collection.find_one({"_id": id})
        assert document.items() >= (theirs | {"status": status}).items()

    app.blocking.queue("q").put(2, unique="k", on_conflict="replace")
    kept("ready")
    assert app.blocking.cancel(id) == "cancelled"
    kept("cancelled")
    app.blocking.desk.requeue([id])
    kept("ready")
    task = app.blocking.queue("q").claim()
    assert task is not None
    task.progress(1)
    kept("running")
    task.fail("no", retry=False)
    kept("failed", letters)
    app.blocking.dead_letters.requeue([id])
    kept("ready")
    again = app.blocking.queue("q").claim()
    assert again is not None
    with again.transaction() as session:
        app.client[database].orders.insert_one({}, session=session)
    kept("succeeded")
