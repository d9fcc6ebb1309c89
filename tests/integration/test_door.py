"""What the public door refuses, and that it says what to do instead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from streamq import OptionInvalid, PayloadInvalid, StreamQ, UsageError
from streamq.cli.place import Place
from streamq.testing import memory_app


@pytest.fixture
def app() -> StreamQ:
    return StreamQ("mongodb://127.0.0.1:1/?replicaSet=rs0")


def test_entering_from_asyncio_says_how_to_put_from_there(app: StreamQ) -> None:
    async def enter() -> None:
        async with app:
            pass

    with pytest.raises(UsageError, match=r"streamq\.asyncio\.Door\(app\)\.put"):
        asyncio.run(enter())


def test_put_from_asyncio_says_how_to_put_from_there(app: StreamQ) -> None:
    @app.task
    async def job() -> None: ...

    with pytest.raises(UsageError, match=r"streamq\.asyncio\.Door\(app\)\.put"):
        asyncio.run(_of(job.put()))


async def _of(put: Any) -> None:
    await put


def test_put_before_the_app_is_entered_says_to_enter_it(app: StreamQ) -> None:
    @app.task
    async def job() -> None: ...

    async def put() -> None:
        await job.put()

    with pytest.raises(UsageError, match="async with app"):
        trio.run(put)


def test_what_is_not_a_task_is_refused_with_the_call_that_makes_one(app: StreamQ) -> None:
    @app.task
    async def job() -> None: ...

    async def put() -> None:
        wrong: Any = job.put()
        with pytest.raises(UsageError, match=r"handler\.new\(\.\.\.\) instead of handler\.put"):
            app.blocking.put_many([wrong])
        wrong.close()

    trio.run(put)
    with pytest.raises(UsageError, match="got dict"):
        app.blocking.put({"a": 1})  # type: ignore[arg-type]


def test_generator_is_refused_as_a_handler(app: StreamQ) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(UsageError, match="numbers: a handler returns one value"):
        app.task(numbers)


def test_lambda_without_a_name_is_refused_as_a_handler(app: StreamQ) -> None:
    with pytest.raises(UsageError, match="give name="):
        app.task(lambda: None)
    app.task(name="nothing")(lambda: None)
    assert set(app.handlers) == {"nothing"}


def test_object_with_an_async_call_is_run_as_async() -> None:
    class Doubler:
        async def __call__(self, n: int) -> int:
            await trio.lowlevel.checkpoint()
            return n * 2

    app = memory_app()
    double: Any = app.task(name="double")(Doubler())

    async def main() -> int:
        async with app, trio.open_nursery() as nursery:
            await nursery.start(app.work)
            got: int = await (await double.put(4)).result()
            nursery.cancel_scope.cancel()
        return got

    assert trio.run(main) == 8


def test_second_handler_of_a_name_is_told_who_has_it(app: StreamQ) -> None:
    @app.task(name="resize")
    def first() -> None: ...

    with pytest.raises(OptionInvalid, match=r"taken by .*first"):

        @app.task(name="resize")
        def second() -> None: ...


async def test_handle_by_id_takes_hex_digits_and_decodes_by_the_tasks_handler() -> None:
    app = memory_app()

    @app.task
    async def pair(n: int) -> tuple[int, int]:
        return (n, n)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await pair.put(3)
        assert await app.handle(str(handle.id)).result() == (3, 3)
        nursery.cancel_scope.cancel()
    with pytest.raises(OptionInvalid, match="24 hex digits"):
        app.handle("short")


async def test_task_is_named_by_its_handle_the_reply_of_its_put_or_its_id() -> None:
    app = memory_app()
    async with app:
        handle = await app.queue("q").put(1)
        reply = app.blocking.queue("q").put(2)
        assert app.blocking.status(handle) == app.blocking.status(str(handle.id)) == "ready"
        assert app.blocking.status(reply) == app.blocking.desk.show(reply).status == "ready"
        assert await app.handle(reply).status() == "ready"
        assert await app.cancel([handle, reply]) == {handle.id: "cancelled", reply.id: "cancelled"}
        assert app.blocking.cancel(reply) == "cancelled"
        assert app.blocking.desk.requeue([reply])[0].verdict == "requeued"
        assert app.blocking.desk.delete(reply)
    wrong: Any = 7
    with pytest.raises(OptionInvalid, match="a task's handle"):
        app.handle(wrong)


def test_option_that_is_given_as_an_argument_is_said_to_be_one() -> None:
    @memory_app().task
    async def send(to: str) -> None: ...

    new: Any = send.new
    with pytest.raises(PayloadInvalid, match=r"an option: options\(delay_s=\.\.\.\)\.put"):
        new("ann@x", delay_s=5)


async def test_stored_traceback_begins_at_the_users_own_code() -> None:
    app = memory_app()

    @app.task
    async def job() -> None:
        raise ValueError("no")

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await job.options(max_attempts=1).put()
        ended = await handle.wait()
        nursery.cancel_scope.cancel()
    first_frame = ended["errors"][0]["traceback"].splitlines()[1]
    assert Path(__file__).name in first_frame


def test_command_line_does_not_use_a_server_that_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A put to it would be acknowledged and then thrown away."""
    monkeypatch.delenv("STREAMQ_URI", raising=False)
    app = StreamQ.embedded()
    try:
        with pytest.raises(UsageError, match=r"StreamQ\.embedded\(\)"):
            Place().move(app)
        monkeypatch.setenv("STREAMQ_URI", "mongodb://127.0.0.1:1/?replicaSet=rs0")
        Place().move(app)
        assert not app.is_embedded
    finally:
        app.close()
