"""Dedupe works in every API: from trio, from threads without it, from processes, and on the command line."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import streamq
from streamq import OptionInvalid, PutReply, StreamQ, UniqueConflict

if TYPE_CHECKING:
    from tests.integration.conftest import MakeApp

SOURCE = str(Path(streamq.__file__).parents[1])

PUTTER = """
import os, sys
from streamq import StreamQ
app = StreamQ(os.environ["STREAMQ_URI"], database=sys.argv[1])
queue = app.blocking.queue("q")
app.blocking.store().now()
print("ready", flush=True)
sys.stdin.readline()
for key in range(10):
    print(queue.put(sys.argv[2], unique=("key", key)).outcome, flush=True)
"""


def test_of_racing_processes_exactly_one_creates_each_key(uri: str, database: str, make_app: MakeApp) -> None:
    app = make_app()
    app.blocking.queue("q")
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PUTTER, database, str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": SOURCE, "STREAMQ_URI": uri},
        )
        for place in range(4)
    ]
    for one in programs:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in programs:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    said = Counter(line for one in programs for line in one.communicate(timeout=30)[0].split())
    assert said == {"created": 10, "existing": 30}
    assert app.store.counts() == {"q": {"ready": 10}}


@pytest.mark.parametrize("scope", [{}, {"unique_for_s": 60}, {"unique_for_s": math.inf}])
def test_of_racing_threads_exactly_one_creates_a_key(make_app: MakeApp, scope: dict[str, Any]) -> None:
    app = make_app()
    queue = app.blocking.queue("q")

    def put(n: int) -> PutReply:
        return queue.put(n, unique="k", **scope)

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(put, range(16)))
    assert Counter(one.outcome for one in replies) == {"created": 1, "existing": 15}
    assert len({one.id for one in replies}) == 1


@pytest.mark.parametrize("scope", [{}, {"unique_for_s": 60}])
async def test_of_racing_puts_from_trio_exactly_one_creates_a_key(make_app: MakeApp, scope: dict[str, Any]) -> None:
    app = make_app()

    @app.task(queue="q")
    async def job(n: int) -> None: ...

    outcomes: list[str] = []

    async def put(n: int) -> None:
        given = {"unique": "k"} | scope
        if n % 2:
            outcomes.append((await job.options(**given).put(n)).outcome)
        else:
            outcomes.extend(one.outcome for one in await app.put_many([job.options(**given).new(n)]))

    async with app, trio.open_nursery() as nursery:
        for n in range(16):
            nursery.start_soon(put, n)
    assert Counter(outcomes) == {"created": 1, "existing": 15}


async def test_a_duplicate_in_the_callers_transaction_from_trio_does_not_end_it(make_app: MakeApp) -> None:
    app = make_app()
    async with app:
        queue = app.queue("q")
        first = await queue.put(1, unique="k")
        with app.client.start_session() as session, session.start_transaction():
            again = await queue.put(2, unique="k", session=session)
            await queue.put(3, session=session)
            with pytest.raises(UniqueConflict):
                await queue.put(4, unique="k", on_conflict="raise", session=session)
        assert (again.created, again.id) == (False, first.id)
        assert await app.counts() == {"q": {"ready": 2}}


def test_blocking_puts_report_what_became_of_each(make_app: MakeApp) -> None:
    app = make_app()
    queue = app.blocking.queue("q")
    first = queue.put("old", unique="k")
    assert queue.put("new", unique="k", on_conflict="replace") == PutReply(first.id, "replaced")
    with pytest.raises(UniqueConflict, match=str(first.id)):
        queue.put("x", unique="k", on_conflict="raise")
    replies = queue.put_many(["a", "b"], unique="k", on_conflict="raise")
    assert [one.outcome for one in replies] == ["refused", "refused"]
    task = queue.claim()
    assert task is not None
    assert task.payload == "new"
    running = queue.put("y", unique="k", on_conflict="replace")
    assert (running.created, running.replaced, running.id) == (False, False, first.id)
    task.succeed()
    assert queue.put("z", unique="k").created


@pytest.mark.parametrize("value", [1.5, True, None, [], {}, ("a", None)])
def test_what_cannot_be_a_key_is_refused_in_every_api_and_nothing_stored(make_app: MakeApp, value: Any) -> None:
    app = make_app()

    @app.task(queue="q")
    def job() -> None: ...

    if value is not None:  # given as it is, None means: without a key
        with pytest.raises(OptionInvalid, match="unique"):
            job.options(unique=value)
        with pytest.raises(OptionInvalid, match="unique"):
            app.queue("q").new(1, unique=value)
        with pytest.raises(OptionInvalid, match="unique"):
            app.blocking.queue("q").put_many([1], unique=value)
    with pytest.raises(OptionInvalid, match="unique"):
        app.blocking.queue("q").put(1, unique=("x", value, 1.5))  # type: ignore[arg-type]
    assert app.store.counts() == {}


def test_a_key_can_be_given_on_the_command_line(uri: str, database: str) -> None:
    def put(*more: str) -> subprocess.CompletedProcess[str]:
        words = ["put", "q", "1", "--database", database, *more]
        environment = {"PYTHONPATH": SOURCE, "STREAMQ_URI": uri}
        return subprocess.run(
            [sys.executable, "-m", "streamq", *words], env=environment, text=True, capture_output=True
        )

    first, second = put("--unique", "k"), put("--unique", "k")
    assert first.stdout == second.stdout != ""
    refused = put("--unique", "k", "--on-conflict", "raise")
    assert refused.returncode != 0
    assert "is taken in queue 'q'" in refused.stderr
    app = StreamQ(uri, database=database)
    assert app.store.counts() == {"q": {"ready": 1}}
    app.close()


async def test_a_key_is_freed_at_the_desk(make_app: MakeApp) -> None:
    app = make_app(dead_letter_collection="dead")
    async with app:
        queue = app.queue("q")
        await queue.put(1, unique=("k", 1), unique_for_s=math.inf)
        assert await app.desk.free_key("q", ("k", 1))
        assert (await queue.put(2, unique=("k", 1), unique_for_s=math.inf)).created
        assert await app.dead_letters.free_key("q", ("k", 1))
        assert not app.blocking.desk.free_key("q", ("k", 1))
        for wrong in (1.5, None):
            with pytest.raises(OptionInvalid, match="unique"):
                await app.desk.free_key("q", wrong)  # type: ignore[arg-type]
            with pytest.raises(OptionInvalid, match="unique"):
                app.blocking.desk.free_key("q", wrong)  # type: ignore[arg-type]
        with pytest.raises(OptionInvalid, match="queue"):
            await app.desk.free_key("no queue", "k")
