"""Dependencies and groups on the real server: races, crashes, transactions, many consumers."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import trio

from streamq import StreamQ

if TYPE_CHECKING:
    from tests.integration.conftest import MakeApp


def ended(app: StreamQ, id: Any) -> None:
    """Succeed the next task of `parents`, as a program that dies right after it."""
    task = app.blocking.queue("parents").claim()
    assert task is not None
    assert task.info.id == id
    task.succeed()


async def test_child_runs_although_whoever_settled_its_parent_has_died(make_app: MakeApp) -> None:
    dying, app = make_app(), make_app()
    parent = dying.blocking.queue("parents").put(1)
    ran = trio.Event()

    @app.task(queue="children")
    async def follow() -> None:
        ran.set()

    dying.blocking.put(follow.options(after=[parent]).new())
    ended(dying, parent.id)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        with trio.fail_after(10):
            await ran.wait()
        nursery.cancel_scope.cancel()


def test_parent_that_ends_while_its_child_is_put_is_not_missed(make_app: MakeApp) -> None:
    app, other = make_app(keep_s=0), make_app(keep_s=0)
    parents, children = app.blocking.queue("parents"), other.blocking.queue("children")
    for number in range(25):
        parent = parents.put(number)
        task = parents.claim()
        assert task is not None
        together = threading.Barrier(2)

        def settle(task: Any = task, together: threading.Barrier = together) -> None:
            together.wait()
            task.succeed()

        settler = threading.Thread(target=settle)
        settler.start()
        together.wait()
        children.put(number, after=[parent], missing_parent="satisfied")
        settler.join()
        child = children.claim()
        assert child is not None, "neither stuck nor cancelled"
        assert child.payload == number
        child.succeed()
    assert other.blocking.counts().get("children", {}) == {}


def test_child_put_in_a_transaction_learns_of_a_parent_that_ended_before_the_commit(make_app: MakeApp) -> None:
    app = make_app()
    children = app.blocking.queue("children")
    parent = app.blocking.queue("parents").put(1)
    with app.client.start_session() as session, session.start_transaction():
        children.put("x", after=[parent], session=session)
        ended(app, parent.id)
        assert children.claim() is None  # sees to whatever followed the end
    task = children.claim()
    assert task is not None
    assert task.payload == "x"


def test_parent_and_child_are_put_in_one_transaction(make_app: MakeApp) -> None:
    app = make_app()
    children = app.blocking.queue("children")
    with app.client.start_session() as session, session.start_transaction():
        parent = app.blocking.queue("parents").put(1, session=session)
        children.put("x", after=[parent], session=session)
    assert children.claim() is None
    ended(app, parent.id)
    assert children.claim() is not None


async def test_groups_run_in_order_one_at_a_time_with_eight_consumers(make_app: MakeApp) -> None:
    apps = [make_app() for _ in range(4)]
    seen: dict[str, list[int]] = defaultdict(list)
    running: set[str] = set()
    all_done = trio.Event()
    groups, each = [f"g{n}" for n in range(6)], 5

    async def note(group: str, number: int) -> None:
        assert group not in running, "one at a time"
        running.add(group)
        await trio.sleep(0.001)
        running.remove(group)
        seen[group].append(number)
        if sum(map(len, seen.values())) == len(groups) * each:
            all_done.set()

    handlers = [app.task(queue="ordered")(note) for app in apps]
    async with trio.open_nursery() as nursery:
        for app in apps:
            await nursery.start(serve, app)
        new = [handlers[0].options(group=group).new(group, number) for number in range(each) for group in groups]
        await apps[0].put_many(new)
        with trio.fail_after(20):
            await all_done.wait()
        nursery.cancel_scope.cancel()
    assert seen == {group: list(range(each)) for group in groups}


async def serve(app: StreamQ, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=2, task_status=task_status))
        task_status.started()
        await trio.sleep_forever()
