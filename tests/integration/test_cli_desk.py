"""The command line's desk: show, peek, export, cancel, requeue, delete, purge, workers, check."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bson import ObjectId

from streamq import StreamQ
from streamq.cli import main
from streamq.core.document import STATUSES
from streamq.store import checking

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def app(uri: str, database: str) -> Iterator[StreamQ]:
    app = StreamQ(uri, database=database)
    yield app
    app.close()


@pytest.fixture
def run(uri: str, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("STREAMQ_URI", uri)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--database", database])
        return (code, *capsys.readouterr())

    return run


def bare(printed: str) -> str:
    """What is read of what was printed in colour."""
    return re.sub(r"\x1b\[[0-9;]*m", "", printed)


def fail(app: StreamQ, payload: Any = None, queue: str = "q") -> str:
    app.blocking.queue(queue).put(payload)
    task = app.blocking.queue(queue).claim()
    assert task is not None
    try:
        raise ValueError("no\x1b luck")
    except ValueError as error:
        task.fail(error, retry=False)
    return str(task.info.id)


def test_a_task_is_shown_with_its_tracebacks_and_cannot_steer_the_terminal(app: StreamQ, run: Run) -> None:
    id = fail(app, {"user": 7})
    code, out, _ = run("show", id)
    assert code == 0
    assert '{"user": 7}' in out
    assert "ValueError: no\\x1b luck" in out
    assert "Traceback" in out
    assert "\x1b" not in out
    shown = json.loads(run("show", id, "--json")[1])
    assert (shown["id"], shown["errors"][0]["type"]) == (id, "ValueError")
    assert run("show", str(ObjectId()))[0] == 1
    assert run("show", "x")[0] == 2


def test_an_export_holds_what_was_found(app: StreamQ, run: Run) -> None:
    ids = [fail(app, {"user": n}) for n in (7, 8)]
    app.blocking.queue("q").put({"user": 7})
    lines = [json.loads(line) for line in run("export", "--status", "failed")[1].splitlines()]
    assert [line["id"] for line in lines] == ids[::-1]
    (line,) = run("export", "--payload", "user=7", "--status", "failed", "--error", "ValueError")[1].splitlines()
    assert json.loads(line)["id"] == ids[0]
    assert run("export", "--handler", "none")[1] == ""


def test_tasks_are_listed_page_by_page(app: StreamQ, run: Run) -> None:
    app.blocking.queue("q").put_many(range(3))
    first = [json.loads(line) for line in run("tasks", "--json", "--limit", "2")[1].splitlines()]
    second = [json.loads(line) for line in run("tasks", "--json", "--after", first[-1]["id"])[1].splitlines()]
    assert [task["payload"] for task in (*first, *second)] == [2, 1, 0]


# --- cancel and peek ------------------------------------------------------------------------------------------------


def test_tasks_are_cancelled_by_id_and_what_is_not_is_named(app: StreamQ, run: Run) -> None:
    ended, gone = fail(app), str(ObjectId())
    queue = app.blocking.queue("q")
    running = str(queue.put(1).id)
    assert queue.claim() is not None
    ready = str(queue.put(2).id)
    code, out, err = run("cancel", ready, running, ended, gone)
    assert (code, out) == (1, "cancelled 1, asked 1 that run\n")
    assert err == f"streamq: not cancelled:\n{ended} ended\n{gone} gone\n"
    assert run("cancel", ready) == (0, "cancelled 1\n", "")
    code, out, _ = run("cancel", ready, running, "--json")
    tasks = {ready: "cancelled", running: "asked"}
    assert (code, json.loads(out)) == (0, {"cancelled": 1, "asked": 1, "too_late": 0, "tasks": tasks})


def test_tasks_are_cancelled_as_found(app: StreamQ, run: Run) -> None:
    app.blocking.queue("a").put_many(range(3), tag="spring")
    app.blocking.queue("a").put(1, unique=("order", 7))
    app.blocking.queue("b").put(1)
    assert run("cancel", "--queue", "a", "--tag", "spring") == (0, "cancelled 3\n", "")
    assert run("cancel", "--unique-json", '["order", 7]') == (0, "cancelled 1\n", "")
    assert app.blocking.counts() == {"a": {"cancelled": 4}, "b": {"ready": 1}}
    assert run("cancel", "--all") == (0, "cancelled 1\n", "")


def test_a_peek_shows_head_and_tail(app: StreamQ, run: Run) -> None:
    app.blocking.queue("q").put_many(range(4))
    for arguments, payloads in (((), [0, 1, 2, 3]), (("--limit", "2"), [0, 1]), (("--limit", "2", "--tail"), [2, 3])):
        lines = run("peek", "q", "--json", *arguments)[1].splitlines()
        assert [json.loads(line)["payload"] for line in lines] == payloads
    assert len(run("peek", "q")[1].splitlines()) == 5
    assert run("peek", "other") == (0, "no ready tasks in other\n", "")
    assert app.blocking.counts() == {"q": {"ready": 4}}


def test_what_is_listed_fits_a_narrow_terminal(
    app: StreamQ, run: Run, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")  # the same to an older rich
    app.blocking.queue("a-queue-with-a-long-name").put({"text": "x" * 200})
    fail(app)
    for status in STATUSES:
        app.client[database]["tasks"].insert_one({"queue": "other", "status": status})
    assert re.findall(r"\w+", bare(run("counts")[1]).splitlines()[0]) == ["queue", *STATUSES, "total"]
    app.client[database]["tasks"].delete_many({"queue": "other"})
    lines = bare(run("tasks")[1]).splitlines()
    assert [len(line) <= 80 for line in lines] == [True] * 3
    assert "ValueError: no" in lines[1]
    assert '{"text": "xxx' in lines[2]


# --- requeue --------------------------------------------------------------------------------------------------------


def test_tasks_are_requeued_by_id_and_what_is_not_is_named(app: StreamQ, run: Run) -> None:
    id, gone = fail(app), str(ObjectId())
    code, out, err = run("requeue", id, gone, "--delay", "60")
    assert (code, out) == (1, "requeued 1\n")
    assert f"{gone} gone" in err
    assert app.blocking.counts() == {"q": {"delayed": 1}}


def test_tasks_are_requeued_as_found(app: StreamQ, run: Run) -> None:
    for queue in ("a", "a", "b"):
        fail(app, queue=queue)
    assert run("requeue", "--queue", "a", "--status", "failed") == (0, "requeued 2\n", "")
    assert run("requeue", "--all", "--keep-attempts") == (0, "requeued 1\n", "")
    assert app.blocking.counts() == {"a": {"ready": 2}, "b": {"ready": 1}}


def test_dead_letters_are_requeued_from_their_collection(uri: str, database: str, run: Run) -> None:
    app = StreamQ(uri, database=database, dead_letter_collection="dead")
    ids = [fail(app) for _ in range(2)]
    assert [json.loads(one)["id"] for one in run("export", "--collection", "dead")[1].splitlines()] == ids[::-1]
    assert run("requeue", ids[0], "--dead-letters", "dead") == (0, "requeued 1\n", "")
    assert run("requeue", "--queue", "q", "--dead-letters", "dead") == (0, "requeued 1\n", "")
    assert app.blocking.counts() == {"q": {"ready": 2}}
    app.close()


def test_what_was_done_is_told_as_json(app: StreamQ, run: Run) -> None:
    id, gone = fail(app), str(ObjectId())
    code, out, _ = run("requeue", id, gone, "--json")
    others = [{"id": gone, "verdict": "gone", "said": ""}]
    assert (code, json.loads(out)) == (1, {"requeued": 1, "others": others})
    assert json.loads(run("pause", "q", "--json")[1]) == {"queue": "q", "paused": True}
    assert json.loads(run("resume", "q", "--json")[1]) == {"queue": "q", "paused": False}
    assert json.loads(run("delete", id, "--json")[1]) == {"deleted": id}
    assert json.loads(run("purge", "--older-than", "0", "--json")[1]) == {"purged": 0}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("requeue",), "--all"),
        (("requeue", "x"), "hexadecimal"),
        (("requeue", "0" * 24, "--all"), "--all"),
        (("requeue", "--status", "running"), "status"),
        (("requeue", "--all", "--delay", "-1"), "delay_s"),
        (("requeue", "--all", "--dead-letters", "a$b"), "dead_letter_collection"),
        (("cancel",), "--all"),
        (("cancel", "x"), "hexadecimal"),
        (("cancel", "0" * 24, "--queue", "q"), "--all"),
        (("cancel", "--status", "failed"), "status"),
        (("cancel", "--unique", "a", "--unique-json", "1"), "--unique-json"),
        (("cancel", "--unique-json", "x"), "--unique-json"),
        (("cancel", "--unique-json", "1.5"), "unique"),
        (("peek", "no such queue"), "queue"),
        (("peek", "q", "--limit", "0"), "--limit"),
        (("purge",), "older-than"),
        (("purge", "--older-than", "-1"), "older_than_s"),
        (("purge", "--older-than", "0", "--status", "ready"), "status"),
        (("delete", "x"), "hexadecimal"),
        (("export", "--payload", "$where=1"), "payload"),
        (("export", "--payload", "user"), "PATH=JSON"),
        (("export", "--payload", "user=x"), "JSON"),
        (("export", "--created-from", "yesterday"), "created-from"),
        (("export", "--created-from", "2026-01-01"), "time zone"),
        (("export", "--payload", "user=ann"), "in quotes"),
        (("tasks", "--after", "x"), "hexadecimal"),
    ],
)
def test_what_is_wrong_is_refused_by_name(run: Run, arguments: tuple[str, ...], part: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert part in err


def test_a_task_is_deleted_a_running_one_by_force(app: StreamQ, run: Run) -> None:
    app.blocking.queue("q").put(1)
    task = app.blocking.queue("q").claim()
    assert task is not None
    id = str(task.info.id)
    code, _, err = run("delete", id)
    assert code == 1
    assert "running" in err
    assert run("delete", id, "--force") == (0, f"deleted {id}\n", "")
    assert run("delete", id)[0] == 1


def test_a_purge_says_how_many(app: StreamQ, run: Run) -> None:
    fail(app)
    fail(app, queue="other")
    assert run("purge", "--older-than", "3600") == (0, "purged 0\n", "")
    assert run("purge", "--older-than", "0", "--queue", "q") == (0, "purged 1\n", "")
    assert app.blocking.counts() == {"other": {"failed": 1}}


def test_workers_are_listed(app: StreamQ, run: Run) -> None:
    assert run("workers") == (0, "no workers\n", "")
    app.blocking.queue("q").put(1)
    assert app.blocking.queue("q").claim() is not None
    assert app.blocking.worker in run("workers")[1]
    (row,) = [json.loads(line) for line in run("workers", "--json")[1].splitlines()]
    assert (row["name"], row["running"], row["is_alive"]) == (app.blocking.worker, 1, False)


@pytest.mark.open("asks how far the oplog reaches back, which no role may")
def test_a_check_tells_repairs_and_fails_when_there_is_something_wrong(
    app: StreamQ, database: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "OPLOG_HOURS", 0.0)  # the server's is small, and full of what other tests wrote
    app.blocking.queue("q").put(1)
    assert app.blocking.queue("q").claim() is not None
    code, out, _ = run("check")
    assert (code, out.splitlines()[1:]) == (0, ["nothing found"])
    app.client[database]["tasks"].update_many({}, {"$unset": {"lease_until": ""}})
    code, out, _ = run("check", "--json")
    checkup = json.loads(out)
    assert (code, checkup["valid"], checkup["findings"][0]["count"]) == (1, False, 1)
    code, out, err = run("check")
    assert (code, "error: expected: a running task has a claim and a lease; found: " in out, "see above" in err) == (
        1,
        True,
        True,
    )
    code, out, _ = run("check", "--repair")
    assert (code, "repaired: ended the leases of 1" in out) == (0, True)
    assert run("check")[0] == 0
