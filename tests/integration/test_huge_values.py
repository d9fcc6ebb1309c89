"""Ten megabytes in whatever a user may give: refused by name before anything is stored, or cut as documented; and what
is put after it runs as ever."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest
import trio

from streamq import CancelTask, OptionInvalid, PayloadTooLarge, StreamQ, TaskFailed, UsageError, progress
from streamq.cli import main
from streamq.core.outcome import MESSAGE_KEPT, TRACEBACK_KEPT, TYPE_KEPT

if TYPE_CHECKING:
    from tests.integration.conftest import MakeApp, Mongo

HUGE: Final = "x" * 10_000_000

TOLD: Final = 700
"""Characters of an error, at most: it shows the beginning of a value."""

Refused = Callable[[StreamQ], object]

PUTS: Final[dict[str, Refused]] = {
    "payload": lambda app: app.blocking.queue("q").put(HUGE),
    "key of a payload": lambda app: app.blocking.queue("q").put({HUGE: 1}),
    "bytes": lambda app: app.blocking.queue("q").put(HUGE.encode()),
    "one of many": lambda app: app.blocking.queue("q").put_many([1, HUGE, 2]),
    "queue": lambda app: app.blocking.queue(HUGE).put(1),
    "unique": lambda app: app.blocking.queue("q").put(1, unique=HUGE),
    "part of unique": lambda app: app.blocking.queue("q").put(1, unique=("a", HUGE.encode())),
    "key to hold": lambda app: app.blocking.queue("q").put(1, unique=HUGE, unique_for_s=60),
    "group": lambda app: app.blocking.queue("q").put(1, group=HUGE),
    "rate_key": lambda app: app.blocking.queue("q").put(1, rate_key=HUGE),
    "tag": lambda app: app.blocking.queue("q").put(1, tag=HUGE),
    "header": lambda app: app.blocking.queue("q").put(1, headers={"a": HUGE}),
    "name of a header": lambda app: app.blocking.queue("q").put(1, headers={HUGE: "a"}),
    "id": lambda app: app.blocking.queue("q").put(1, id=HUGE),  # type: ignore[arg-type]
    "parent": lambda app: app.blocking.queue("q").put(1, after=[HUGE]),  # type: ignore[list-item]
    "any parent": lambda app: app.blocking.queue("q").put(1, after_any=[HUGE]),  # type: ignore[list-item]
    "on_conflict": lambda app: app.blocking.queue("q").put(1, unique="a", on_conflict=HUGE),  # type: ignore[arg-type]
}

DECLARED: Final[dict[str, Refused]] = {
    "handler": lambda app: app.task(name=HUGE)(print),
    "queue of a handler": lambda app: app.task(queue=HUGE)(print),
    "schedule": lambda app: app.task(cron=HUGE)(_nothing),
    "zone": lambda app: app.task(cron="0 * * * *", tz=HUGE)(_nothing),
    "limits": lambda app: app.limit(HUGE, running=1),
    "worker": lambda app: StreamQ("mongodb://unused", worker_id=HUGE),
    "database": lambda app: StreamQ("mongodb://unused", database=HUGE),
    "collection": lambda app: StreamQ("mongodb://unused", collection=HUGE).blocking.store(),
    "collection of dead letters": lambda app: StreamQ("mongodb://unused", dead_letter_collection=HUGE),
}

ASKED: Final[dict[str, Refused]] = {
    "queue to find": lambda app: app.blocking.desk.find(queue=HUGE),
    "handler to find": lambda app: app.blocking.desk.find(handler=HUGE),
    "tag to find": lambda app: app.blocking.desk.find(tag=HUGE),
    "type of errors to find": lambda app: app.blocking.desk.find(error_type=HUGE),
    "status to find": lambda app: app.blocking.desk.find(status=HUGE),  # type: ignore[arg-type]
    "key to find": lambda app: app.blocking.desk.find(unique=HUGE),
    "field to find": lambda app: app.blocking.desk.find(payload={HUGE: 1}),
    "values to find": lambda app: app.blocking.desk.find(payload={"a": HUGE, "b": HUGE}),
    "tasks to cancel": lambda app: app.blocking.desk.cancel_found(tag=HUGE),
    "tasks to requeue": lambda app: app.blocking.desk.requeue_found(tag=HUGE),
    "tasks to purge": lambda app: app.blocking.desk.purge(older_than_s=0, tag=HUGE),
    "key to free": lambda app: app.blocking.desk.free_key("q", HUGE),
    "queue to look into": lambda app: app.blocking.desk.peek(HUGE),
    "id to show": lambda app: app.blocking.desk.show(HUGE),
    "id to cancel": lambda app: app.blocking.cancel(HUGE),
    "id to wait for": lambda app: app.blocking.result(HUGE, 0.1),
    "queue to claim from": lambda app: app.blocking.queue(HUGE).claim(),
    "queue to pause": lambda app: app.blocking.queue(HUGE).pause(),
    "schedule to stop": lambda app: app.blocking.disable_schedule(HUGE),
}

REFUSED: Final = {"put": PUTS, "declare": DECLARED, "ask": ASKED}


def _nothing() -> None: ...


@pytest.fixture
def bare(make_app: MakeApp) -> StreamQ:
    app = make_app()
    app.blocking.store()
    return app


def refusal(of: Refused, app: StreamQ) -> str:
    """Return what was said of it, or that nothing was."""
    try:
        of(app)
    except UsageError as error:
        said = str(error)
        return f"{len(said)} characters" if len(said) >= TOLD else ""
    return "taken"


@pytest.mark.parametrize("door", REFUSED)
def test_ten_megabytes_are_refused_in_a_few_words_and_nothing_is_stored(
    bare: StreamQ, mongo: Mongo, database: str, door: str
) -> None:
    assert {what: said for what, call in REFUSED[door].items() if (said := refusal(call, bare))} == {}
    assert [mongo[database][name].count_documents({}) for name in ("tasks", "tasks.meta")] == [0, 0]
    queue = bare.blocking.queue("q")
    queue.put("after it")
    task = queue.claim()
    assert task is not None
    assert task.payload == "after it"


def test_holder_that_gives_ten_megabytes_is_refused_or_they_are_cut(bare: StreamQ) -> None:
    queue = bare.blocking.queue("q")
    first, second = (queue.put(number).id for number in range(2))
    task = queue.claim()
    assert task is not None
    with pytest.raises(OptionInvalid, match="note"):
        task.progress(1, HUGE)
    with pytest.raises(PayloadTooLarge, match="result"):
        task.succeed(HUGE)
    task.fail(HUGE, retry=False)
    task = queue.claim()
    assert task is not None
    task.cancel(HUGE)
    for id in (first, second):
        assert len(bare.blocking.desk.show(id).errors[-1].message) == MESSAGE_KEPT


HANDLED: Final = {
    "result": "PayloadTooLarge",
    "message": "ValueError",
    "type": "x" * TYPE_KEPT,
    "cause": "ValueError",
    "group": "ExceptionGroup",
    "progress": "streamq.errors.OptionInvalid",
    "reason": "Cancelled",
}
"""What a handler does with them, and the type of the error that is kept."""


async def test_handler_that_gives_ten_megabytes_fails_alone(make_app: MakeApp) -> None:
    app = make_app()

    @app.task(queue="q", retry=None)
    async def give(what: str) -> str:
        match what:
            case "result":
                return HUGE
            case "message":
                raise ValueError(HUGE)
            case "type":
                raise type(HUGE, (Exception,), {"__module__": "builtins"})("no")
            case "cause":
                raise ValueError("no") from KeyError(HUGE)
            case "group":
                raise ExceptionGroup(HUGE, [ValueError(HUGE)])
            case "progress":
                await progress(1, HUGE)
            case "reason":
                raise CancelTask(HUGE)
        return "as ever"

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        with trio.fail_after(120):
            handles = {what: await give.options(max_attempts=1).put(what) for what in HANDLED}
            for what, handle in handles.items():
                with pytest.raises(TaskFailed):
                    await handle.result()
                (kept,) = (await app.desk.show(handle.id)).errors
                assert (kept.type, len(kept.message) <= MESSAGE_KEPT) == (HANDLED[what], True)
                assert len(kept.traceback) <= TRACEBACK_KEPT
            assert await (await give.put("nothing")).result() == "as ever"
        nursery.cancel_scope.cancel()


async def test_result_for_which_the_payload_leaves_no_room_fails_its_task_alone(make_app: MakeApp) -> None:
    """Each is within its limit; the server takes 16 MB of both together."""
    app = make_app(payload_limit_bytes=15_000_000)

    @app.task(queue="q", retry=None)
    async def echo(text: str) -> str:
        return text

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        with trio.fail_after(120):
            huge = await echo.put(HUGE)
            with pytest.raises(TaskFailed, match="PayloadTooLarge"):
                await huge.result()
            assert await (await echo.put("as ever")).result() == "as ever"
            found = await app.desk.find(payload={"text": HUGE})
            assert [one.id for one in found] == [huge.id]
        nursery.cancel_scope.cancel()


WORD: Final = HUGE[: 128 * 1_024 - 2]
"""The longest argument that the system lets a program have (execve). A longer payload comes by stdin."""

WORDS: Final[dict[str, list[str]]] = {
    "no JSON": ["put", "q", WORD],
    "queue": ["put", WORD, "1"],
    **{f"--{name}": ["put", "q", "1", f"--{name}", WORD] for name in ("tag", "unique", "group", "rate-key", "after")},
    "--header": ["put", "q", "1", "--header", f"a={WORD}"],
    "--at": ["put", "q", "1", "--at", WORD],
    "--priority": ["put", "q", "1", "--priority", WORD],
    "--delay": ["put", "q", "1", "--delay", WORD],
    "--on-conflict": ["put", "q", "1", "--unique", "a", "--on-conflict", WORD],
    "--task": ["put", "q", "{}", "--task", WORD],
    "--app": ["counts", "--app", WORD],
    "id": ["show", WORD],
    "--status": ["tasks", "--status", WORD],
    "command": [WORD],
    "option": ["counts", f"--{WORD}"],
    "--database": ["counts", "--database", WORD],
    "--collection": ["counts", "--collection", WORD],
}


def test_command_line_refuses_the_longest_argument_in_a_few_words(
    bare: StreamQ, uri: str, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMQ_URI", uri)
    wrong = {}
    for what, words in WORDS.items():
        code = main([*words, *([] if what == "--database" else ["--database", database])])
        told = capsys.readouterr()
        if code != 2 or told.out or not 0 < len(told.err) < 2 * TOLD:
            wrong[what] = (code, len(told.out), len(told.err), told.err[:200])
    assert wrong == {}
    assert bare.blocking.counts() == {}


def test_command_line_refuses_ten_megabytes_from_stdin(
    bare: StreamQ, uri: str, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMQ_URI", uri)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f'"{HUGE}"'.encode())))
    assert main(["put", "q", "-", "--database", database]) == 2
    assert "the limit is 1,048,576" in capsys.readouterr().err
    assert bare.blocking.counts() == {}
