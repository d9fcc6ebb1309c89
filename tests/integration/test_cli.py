"""The command line as its user meets it: real processes, exit codes, and what stands on stdout and stderr."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

import streamq
from streamq import NewTask, StreamQ
from streamq.cli import main
from streamq.core.search import Search
from tests.patience import eventually, is_alive

SOURCE = str(Path(streamq.__file__).parents[1])

ID = "5f0000000000000000000001"

SHOP = """
import time, trio
from streamq import StreamQ

app = StreamQ()
empty = StreamQ()
number = 7

@app.task(queue="images")
async def resize(path: str, *, width: int = 100) -> int:
    print("started", path, flush=True)
    if path == "slow":
        await trio.sleep_forever()
    if path == "brief":
        await trio.sleep(0.7)
    if path == "bad":
        raise ValueError("\\x1b[31mred [bold]news[/bold]\\nand a second line")
    return width

@app.task(queue="mail")
def send(to: str) -> str:
    print("started", to, flush=True)
    time.sleep(0.5)
    return to

@app.task(queue="busy")
async def spin() -> None:
    print("started spin", flush=True)
    while True:
        time.sleep(0.01)  # what a handler should not do: the event loop cannot turn
"""


class Shell:
    """A directory with `shop.py`, and `streamq` run in it against a database of the test's own."""

    def __init__(self, directory: Path, uri: str, database: str) -> None:
        self.directory = directory
        self.database = database
        self.environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": SOURCE, "STREAMQ_URI": uri, "COLUMNS": "200"}
        self.app = StreamQ(uri, database=database)

    def argv(self, *arguments: str, here: bool = True) -> list[str]:
        place = ["--database", self.database] if here else []
        return [sys.executable, "-m", "streamq", *arguments, *place]

    def run(self, *arguments: str, here: bool = True, stdin: str | bytes = "", **environment: str) -> Done:
        done = subprocess.run(
            self.argv(*arguments, here=here),
            cwd=self.directory,
            env={**self.environment, **environment},
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=60,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextmanager
    def running(self, *arguments: str, here: bool = True, **environment: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            self.argv(*arguments, here=here),
            cwd=self.directory,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def put(self, *tasks: NewTask) -> None:
        self.app.blocking.put_many(tasks)

    def statuses(self) -> dict[str, int]:
        """Count by status, over all queues."""
        counted: dict[str, int] = {}
        for row in self.app.store.counts().values():
            for status, count in row.items():
                counted[status] = counted.get(status, 0) + count
        return counted

    def document(self) -> dict[str, Any]:
        """The one task there is."""
        (found,) = self.app.store.find(Search(), limit=2)
        return dict(found)


class Done:
    """What a command left."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def shell(tmp_path: Path, uri: str, database: str) -> Iterator[Shell]:
    (tmp_path / "shop.py").write_text(SHOP)
    shell = Shell(tmp_path, uri, database)
    yield shell
    shell.app.close()


Here = Callable[..., Done]


@pytest.fixture
def here(shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Run a command in this process, for what is refused early: there is much of it, and a process takes a second."""
    monkeypatch.chdir(shell.directory)
    monkeypatch.syspath_prepend(str(shell.directory))
    monkeypatch.setenv("STREAMQ_URI", shell.environment["STREAMQ_URI"])

    def run(*arguments: str) -> Done:
        for module in ("shop", "broken", "needy", "quitter"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        code = main([*arguments, "--database", shell.database])
        return Done(code, *capsys.readouterr())

    return run


def read_until(process: subprocess.Popen[str], part: str) -> str:
    """Read stdout to the first line that holds `part`."""
    assert process.stdout is not None
    for line in process.stdout:
        if part in line:
            return line
    raise AssertionError(f"{part!r} never came; stderr: {process.communicate()[1]}")


def assert_refused(done: Done, code: int, *parts: str) -> None:
    """One clear line on stderr, nothing on stdout."""
    assert (done.code, done.out) == (code, ""), done.err
    assert done.err.startswith("streamq: ")
    assert done.err.count("\n") == 1, done.err
    for part in parts:
        assert part in done.err


# --- put -----------------------------------------------------------------------------------------------------------


def test_put_prints_the_id_of_what_is_stored(shell: Shell) -> None:
    done = shell.run("put", "ticks", '{"price": 101.5, "at": [1, null, true]}')
    document = shell.document()
    assert (done.code, done.out, done.err) == (0, f"{document['_id']}\n", "")
    assert (document["queue"], document["task"], document["status"]) == ("ticks", None, "ready")
    assert document["payload"] == {"price": 101.5, "at": [1, None, True]}


def test_put_takes_all_options(shell: Shell) -> None:
    options = {"delay": "60", "priority": "9", "max-attempts": "2", "keep": "0", "header": "trace=a=b", "id": ID}
    shell.run("put", "ticks", "-5", *(f"--{name}={value}" for name, value in options.items()))
    document = shell.document()
    assert document["payload"] == -5
    assert str(document["_id"]) == ID
    assert document["status"] == "delayed"
    told = {name: document[name] for name in ("priority", "max_attempts", "keep_s", "headers")}
    assert told == {"priority": 9, "max_attempts": 2, "keep_s": 0.0, "headers": {"trace": "a=b"}}


def test_put_takes_what_a_put_takes_in_a_program(shell: Shell, here: Here) -> None:
    parent = here("put", "ticks", "1").out.strip()
    at = "2100-01-01T00:00:00+00:00"
    options = {"expires-at": at, "total-timeout": "60", "lifetime": "90", "keep-failed": "5", "tag": "spring"}
    options |= {"rate-key": "ann", "unique-json": '["order", 7]', "after": parent, "after-any": parent}
    options |= {"on-parent-failure": "run", "missing-parent": "satisfied", "group": "g"}
    done = here("put", "ticks", "2", "--json", *(f"--{name}={value}" for name, value in options.items()))
    told = json.loads(done.out)
    assert (done.code, told["outcome"]) == (0, "created")
    (document,) = shell.app.store.find(Search(tag="spring"), limit=2)
    assert str(document["_id"]) == told["id"]
    assert document["expires_at"].isoformat() == at
    assert document["lifetime_until"] > document["created_at"]
    names = ("total_timeout_s", "keep_failed_s", "rate_key", "unique_key", "on_parent_failure", "group")
    assert {name: document.get(name) for name in names} == {
        "total_timeout_s": 60.0,
        "keep_failed_s": 5.0,
        "rate_key": "ann",
        "unique_key": ["order", 7],
        "on_parent_failure": "run",
        "group": "g",
    }
    assert [str(id) for id in document["blocked_by"]] == [parent]
    assert json.loads(here("put", "ticks", "3", "--unique-json", '["order", 7]', "--json").out) == {
        "id": told["id"],
        "outcome": "existing",
    }


def test_put_with_the_same_id_twice_stores_one_task(shell: Shell) -> None:
    for _ in range(2):
        assert shell.run("put", "ticks", "1", "--id", ID).code == 0
    assert shell.statuses() == {"ready": 1}


def test_put_reads_stdin(shell: Shell) -> None:
    assert shell.run("put", "ticks", "-", stdin='{"a": "ä"}\n').code == 0
    assert shell.document()["payload"] == {"a": "ä"}


def test_put_for_a_handler_stores_what_its_own_put_would(shell: Shell) -> None:
    assert shell.run("put", "images", '{"path": "a.png"}', "--task", "resize").code == 0
    document = shell.document()
    assert (document["task"], document["payload"]) == ("resize", {"path": "a.png"})


def test_put_with_app_finds_the_only_handler_of_the_queue(shell: Shell) -> None:
    assert shell.run("put", "mail", '{"to": "me"}', "--app", "shop:app").code == 0
    assert shell.document()["task"] == "send"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("ticks", '{"a": 1,}'), "line 1 column 9"),
        (("ticks", '{\n  "a": x}'), "line 2 column 8"),
        (("ticks", ""), "line 1 column 1"),
        (("ticks", "NaN"), "NaN is no JSON number"),
        (("ticks", "1e999"), "too large"),
        (("ticks", '{"a": 1, "a": 2}'), "'a' stands twice"),
        (("ticks", "9" * 5_000), "not JSON that can be stored"),
        (("ticks", "[" * 100_000), "nested"),
        (("ticks", '{"a": {"b": "\\ud800"}}'), "payload.a.b"),
        (("a*b", "1"), "queue='a*b'"),
        (("ticks", "1", "--delay", "-1"), "delay_s=-1.0"),
        (("ticks", "1", "--delay", "soon"), "--delay"),
        (("ticks", "1", "--at", "tomorrow"), "--at 'tomorrow'"),
        (("ticks", "1", "--at", "2030-01-01T00:00:00"), "time zone"),
        (("ticks", "1", "--id", "7"), "--id '7'"),
        (("ticks", "1", "--header", "trace"), "--header 'trace'"),
        (("ticks", "1", "--expires-in", "0"), "expires_in_s=0"),
        (("ticks", "1", "--expires-at", "soon"), "--expires-at 'soon'"),
        (("ticks", "1", "--expires-in", "5", "--delay", "9"), "expires_in_s=5"),
        (("ticks", "1", "--unique", "a", "--unique-json", "1"), "not both"),
        (("ticks", "1", "--unique-json", "{}"), "unique="),
        (("ticks", "1", "--unique-for", "5"), "unique_for_s=5"),
        (("ticks", "1", "--after", "7"), "--after '7'"),
        (("ticks", "1", "--after", ID), ID),
        (("ticks", "1", "--on-conflict", "shrug"), "--on-conflict"),
        (("images", "5", "--task", "resize"), "JSON object"),
        (("images", '{"pat": "a"}', "--app", "shop:app"), "did you mean path?"),
        (("images", '{"path": 5}', "--app", "shop:app"), "path: expected str, got int"),
        (("images", "{}", "--app", "shop:app", "--task", "send"), "no handler 'send' in queue 'images'"),
        (("image", "{}", "--app", "shop:app"), "queue 'image' has no handler in this app (queues with handlers: "),
        (("ticks",), "PAYLOAD"),
    ],
)
def test_put_refuses_what_is_wrong_and_stores_nothing(
    shell: Shell, here: Here, arguments: tuple[str, ...], part: str
) -> None:
    assert_refused(here("put", *arguments), 2, part)
    assert shell.statuses() == {}


def test_put_refuses_stdin_that_is_not_utf8(shell: Shell) -> None:
    assert_refused(shell.run("put", "ticks", "-", stdin=b'"\xff"'), 2, "byte 1")


# --- counts and tasks ----------------------------------------------------------------------------------------------


def test_counts_shows_queues_and_totals(shell: Shell) -> None:
    ticks, mail = shell.app.queue("ticks"), shell.app.queue("mail")
    shell.put(ticks.new(1), ticks.new(2), ticks.new(3, delay_s=60), mail.new(4))
    done = shell.run("counts")
    assert [line.split() for line in done.out.splitlines()] == [
        ["queue", "delayed", "ready", "total"],
        ["mail", "1", "1"],
        ["ticks", "1", "2", "3"],
        ["total", "1", "3", "4"],
    ]
    rows = [json.loads(line) for line in shell.run("counts", "--json").out.splitlines()]
    assert [(row["queue"], row["ready"], row["delayed"], row["failed"]) for row in rows] == [
        ("mail", 1, 0, 0),
        ("ticks", 2, 1, 0),
    ]


def test_queue_is_paused_and_resumed_and_counts_names_it(shell: Shell) -> None:
    assert shell.run("pause", "images").out == "images is paused\n"
    shell.app.blocking.queue("mail").put(1)
    assert "images (paused)" in shell.run("counts").out
    rows = [json.loads(line) for line in shell.run("counts", "--json").out.splitlines()]
    assert [(row["queue"], row["paused"]) for row in rows] == [("images", True), ("mail", False)]
    assert shell.run("resume", "images").out == "images is not paused\n"
    assert "paused" not in shell.run("counts").out
    assert shell.run("pause", "no such queue").code == 2


def test_counts_names_ready_tasks_whose_handler_nobody_knows(shell: Shell, here: Here) -> None:
    for _ in range(2):
        here("put", "images", '{"path": "a.png"}', "--task", "resize")
    here("put", "images", "1")  # for a loop of somebody's own, which may well claim without being seen
    done = here("counts")
    assert done.out.splitlines()[-1] == "images: 2 ready for resize, a handler that no live worker knows"
    assert json.loads(here("counts", "--json").out)["unclaimed"] == {"resize": 2}
    with shell.running("worker", "shop:app", "--queue", "mail"):
        assert eventually(lambda: "worker" in here("workers").out)
        assert "no live worker knows" in here("counts").out
    with shell.running("worker", "shop:app", "--queue", "images"):
        assert eventually(lambda: json.loads(here("counts", "--json").out)["unclaimed"] == {})


def test_an_app_says_where_the_tasks_are_and_which_queues_there_are(shell: Shell, uri: str, database: str) -> None:
    (shell.directory / "placed.py").write_text(
        f"from streamq import StreamQ\nfrom streamq.testing import memory_app\n"
        f"app = StreamQ({str(uri)!r}, database={database!r}, collection='jobs', dead_letter_collection='dead')\n"
        f"memory = memory_app()\n"
        f"@app.task(queue='images')\ndef resize(path: str) -> None: ...\n"
        f"app.blocking.queue('ticks').put(1)\n"
    )
    done = shell.run("counts", "--app", "placed:app", here=False, STREAMQ_URI="")
    assert [line.split() for line in done.out.splitlines()] == [
        ["queue", "ready", "total"],
        ["images", "0"],
        ["ticks", "1", "1"],
        ["total", "1", "1"],
    ]
    assert shell.run("tasks", "--app", "placed:app", "--json", here=False, STREAMQ_URI="").out.count("\n") == 2
    assert_refused(shell.run("counts", "--app", "placed:nope", here=False), 2, "placed:app")
    assert_refused(shell.run("counts", "--app", "placed:memory", here=False), 2, "in memory")


def test_counts_of_an_app_tells_its_dead_letters(shell: Shell, uri: str, database: str) -> None:
    (shell.directory / "letters.py").write_text(
        f"from streamq import StreamQ\n"
        f"app = StreamQ({str(uri)!r}, database={database!r}, dead_letter_collection='dead')\n"
    )
    app = StreamQ(uri, database=database, dead_letter_collection="dead")
    queue = app.blocking.queue("mail")
    queue.put_many([1, 2, 3])
    for _ in range(2):
        task = queue.claim()
        assert task is not None
        task.fail("no such mailbox", retry=False)
    app.close()
    done = shell.run("counts", "--app", "letters:app", here=False)
    _, row, letters = done.out.splitlines()
    assert (row.split(), letters) == (["mail", "1", "1"], "mail: 2 dead letters")
    rows = [
        json.loads(line) for line in shell.run("counts", "--app", "letters:app", "--json", here=False).out.splitlines()
    ]
    assert [(row["queue"], row["ready"], row["dead_letters"]) for row in rows] == [("mail", 1, 2)]
    assert json.loads(shell.run("counts", "--json").out)["dead_letters"] == 0


def test_dead_letters_of_an_app_are_looked_at_by_naming_their_collection(shell: Shell, uri: str, database: str) -> None:
    (shell.directory / "shop.py").write_text(
        f"from streamq import StreamQ\n"
        f"app = StreamQ({str(uri)!r}, database={database!r}, dead_letter_collection='dead')\n"
    )
    assert shell.run("tasks", "--app", "shop:app", "--collection", "dead", here=False).out == "no tasks\n"


@pytest.mark.parametrize("command", ["counts", "tasks"])
def test_an_empty_database_is_said_to_be_empty_and_stays_so(shell: Shell, command: str) -> None:
    assert shell.run(command).out == "no tasks\n"
    assert shell.run(command, "--json").out == ""
    assert shell.app.client[shell.database].list_collection_names() == []


def test_tasks_are_listed_newest_first_and_filtered(shell: Shell) -> None:
    ticks, mail = shell.app.queue("ticks"), shell.app.queue("mail")
    shell.put(ticks.new("old"), mail.new("mail"), ticks.new("late", delay_s=60), ticks.new("new"))

    def payloads(*arguments: str) -> list[Any]:
        return [json.loads(line)["payload"] for line in shell.run("tasks", "--json", *arguments).out.splitlines()]

    assert payloads() == ["new", "late", "mail", "old"]
    assert payloads("--queue", "ticks", "--status", "ready") == ["new", "old"]
    assert payloads("--limit", "1") == ["new"]


def test_tasks_as_json_has_ids_and_dates_as_text(shell: Shell) -> None:
    shell.run("put", "ticks", '{"a": 1}', "--delay", "60", "--header", "trace=x")
    (task,) = [json.loads(line) for line in shell.run("tasks", "--json").out.splitlines()]
    assert re.fullmatch(r"[0-9a-f]{24}", task["id"])
    assert task["due_at"] > task["created_at"] > "2020-01-01T"
    shown = {name: task[name] for name in ("queue", "task", "status", "attempt", "payload", "headers")}
    assert shown == {
        "queue": "ticks",
        "task": None,
        "status": "delayed",
        "attempt": 0,
        "payload": {"a": 1},
        "headers": {"trace": "x"},
    }


def test_nothing_stored_can_steer_the_terminal(shell: Shell) -> None:
    queue = shell.app.queue("ticks")
    shell.put(queue.new("\x1b[2J [red]x[/red] \u202e\x9b", max_attempts=1))
    claimed = shell.app.blocking.queue("ticks").claim()
    assert claimed is not None
    claimed.fail("\x1b]0;title\x07 [bold]", retry=False)
    for arguments in (["tasks"], ["tasks", "--json"]):
        done = shell.run(*arguments)
        assert done.code == 0
        assert not set(done.out) & set("\x1b\x07\x9b\u202e")
        assert "[red]x[/red]" in done.out
        assert "[bold]" in done.out


def test_a_reader_that_goes_away_ends_the_listing_quietly(shell: Shell) -> None:
    shell.put(*(shell.app.queue("ticks").new("x" * 1_000) for _ in range(500)))
    with shell.running("tasks", "--json", "--limit", "500") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 1


# --- worker --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_worker_gives_back_what_it_was_running(shell: Shell, number: signal.Signals) -> None:
    shell.run("put", "images", '{"path": "slow"}', "--task", "resize")
    with shell.running("worker", "shop:app", "--grace", "0.1") as process:
        read_until(process, "started slow")
        assert shell.statuses() == {"running": 1}
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert shell.statuses() == {"ready": 1}
    assert "worker started queues=['busy', 'images', 'mail']" in err
    assert "worker stopped" in err


def test_a_stopped_worker_waits_for_handlers_in_threads(shell: Shell) -> None:
    shell.run("put", "mail", '{"to": "me"}', "--task", "send")
    with shell.running("worker", "shop:app") as process:
        read_until(process, "started me")
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert shell.statuses() in ({"succeeded": 1}, {"ready": 1})


def test_a_worker_that_waits_for_handlers_in_threads_says_so(shell: Shell) -> None:
    shell.run("put", "mail", '{"to": "me"}', "--task", "send")
    with shell.running("worker", "shop:app", "--grace", "0") as process:
        read_until(process, "started me")
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert "waiting for threads tasks=1 handlers=send" in err
    assert shell.statuses() == {"succeeded": 1}


def test_what_runs_may_end_within_the_grace_and_nothing_else_begins(shell: Shell) -> None:
    for _ in range(3):
        shell.run("put", "images", '{"path": "brief"}', "--task", "resize")
    with shell.running("worker", "shop:app", "--concurrency", "1") as process:
        read_until(process, "started brief")
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, ""), err
    assert shell.statuses() == {"succeeded": 1, "ready": 2}


def test_a_second_signal_does_not_wait_for_the_grace_and_gives_back_what_ran(shell: Shell) -> None:
    shell.run("put", "images", '{"path": "slow"}', "--task", "resize")
    with shell.running("worker", "shop:app", "--grace", "60") as process:
        read_until(process, "started slow")
        process.terminate()
        assert process.stderr is not None
        while "worker stopping" not in process.stderr.readline():
            pass
        asked_at = time.monotonic()
        process.terminate()
        process.communicate(timeout=30)
    assert time.monotonic() - asked_at < 3
    assert shell.statuses() == {"ready": 1}


# --- several processes ------------------------------------------------------------------------------------------------


def children_of(process: subprocess.Popen[str]) -> set[int]:
    return set(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


def workers(shell: Shell) -> int:
    return shell.app.client[shell.database].tasks.count_documents({"kind": "member"})


def test_processes_share_the_work_and_one_that_dies_is_replaced(shell: Shell) -> None:
    with shell.running("worker", "shop:app", "--procs", "2", "--queue", "images") as process:
        assert eventually(lambda: workers(shell) == 2)
        before = children_of(process)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        assert eventually(lambda: len(children_of(process) - before) == 1)
        shell.run("put", "images", '{"path": "a"}', "--task", "resize")
        assert eventually(lambda: shell.statuses() == {"succeeded": 1})
        assert eventually(lambda: workers(shell) == 3)  # the row of the one that was killed is still there
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert f"(pid {victim}) was ended by SIGKILL; it is started again in 0.5 s" in err
    assert not any(is_alive(pid) for pid in before)
    assert err.count("worker stopped") == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_outlives_its_parent(shell: Shell, number: signal.Signals) -> None:
    shell.run("put", "images", '{"path": "slow"}', "--task", "resize")
    with shell.running("worker", "shop:app", "--procs", "2", "--grace", "0.1") as process:
        read_until(process, "started slow")
        assert eventually(lambda: workers(shell) == 2)
        children = children_of(process)
        process.send_signal(number)
        process.wait(timeout=30)
        assert eventually(lambda: not any(is_alive(pid) for pid in children))
    assert len(children) == 2
    assert process.returncode == (-9 if number == signal.SIGKILL else 0)
    assert shell.statuses() == {"ready": 1}


def test_a_second_signal_ends_all_processes_at_once_whatever_they_do(shell: Shell) -> None:
    shell.run("put", "busy", "{}", "--task", "spin")
    with shell.running("worker", "shop:app", "--procs", "2", "--grace", "60") as process:
        read_until(process, "started spin")
        children = children_of(process)
        process.terminate()
        # Two signals at the same moment are one: the idle process has heard the first when it is gone.
        assert eventually(lambda: not all(is_alive(pid) for pid in children))
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 1
    assert not any(is_alive(pid) for pid in children)


def test_processes_that_cannot_start_are_not_started_for_ever(shell: Shell) -> None:
    done = shell.run("worker", "shop:number", "--procs", "2")
    assert done.code == 2
    assert "'shop:number' is a int, not a StreamQ" in done.err


def test_a_second_signal_ends_a_worker_whose_event_loop_is_stuck(shell: Shell) -> None:
    shell.run("put", "busy", "{}", "--task", "spin")
    with shell.running("worker", "shop:app") as process:
        read_until(process, "started spin")
        process.terminate()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    assert process.returncode in (-signal.SIGTERM, -signal.SIGINT)


def test_worker_spares_the_garbage_collector_what_was_imported(shell: Shell) -> None:
    (shell.directory / "lean.py").write_text(
        "import gc\nfrom streamq import StreamQ\napp = StreamQ()\n"
        '@app.task(queue="lean")\nasync def frozen() -> None:\n    print(gc.get_freeze_count(), flush=True)\n'
    )
    assert shell.run("put", "lean", "{}", "--task", "frozen").code == 0
    with shell.running("worker", "lean:app") as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 10_000


def test_a_worker_works_on_the_queues_named_only(shell: Shell) -> None:
    shell.put(shell.app.queue("images").new({"path": "a"}))
    shell.run("put", "images", '{"path": "a"}', "--task", "resize")
    shell.run("put", "mail", '{"to": "me"}', "--task", "send")
    with shell.running("worker", "shop:app", "--queue", "mail=2") as process:
        read_until(process, "started me")
        assert eventually(lambda: shell.statuses().get("succeeded") == 1)
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert shell.statuses() == {"ready": 2, "succeeded": 1}
    assert "queues=['mail']" in err


def test_a_worker_logs_failures_on_one_line_that_cannot_steer_the_terminal(shell: Shell) -> None:
    shell.run("put", "images", '{"path": "bad"}', "--task", "resize", "--max-attempts", "1")
    with shell.running("worker", "shop:app") as process:
        failed = eventually(lambda: shell.statuses() == {"failed": 1})
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert failed, (shell.document(), out, err)
    (line,) = [line for line in err.splitlines() if "task failed" in line]
    assert line.endswith(r"error=ValueError: \x1b[31mred [bold]news[/bold]\nand a second line")
    assert '    raise ValueError("' in err, "a failure for good is logged with its traceback"
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("nowhere:app",), "no module 'nowhere'"),
        (("shop.sub:app",), "shop"),
        (("shop:ap",), "module 'shop' has no 'ap': there is shop:app"),
        (("shop",), "names a module"),
        (("shop.py:app",), "name its module, e.g. shop:app"),
        (("shop:number",), "is a int, not a StreamQ"),
        (("shop:empty",), "has no handlers"),
        (("broken:app",), "ZeroDivisionError"),
        (("needy:app",), "No module named 'nowhere'"),
        (("quitter:app",), "SystemExit"),
        (("shop:app", "--queue", "nope"), "queue 'nope' has no handler"),
        (("shop:app", "--queue", "mail=many"), "'mail=many'"),
        (("shop:app", "--queue", "mail=0"), "--queue mail=0"),
        (("shop:app", "--concurrency", "0"), "--concurrency=0"),
    ],
)
def test_worker_refuses_what_it_cannot_run(shell: Shell, here: Here, arguments: tuple[str, ...], part: str) -> None:
    (shell.directory / "broken.py").write_text("x = 1 / 0\n")
    (shell.directory / "needy.py").write_text("import nowhere\n")
    (shell.directory / "quitter.py").write_text("import sys\nsys.exit(3)\n")
    assert_refused(here("worker", *arguments), 2, part)


def test_worker_says_where_the_import_failed(shell: Shell) -> None:
    (shell.directory / "broken.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    assert_refused(shell.run("worker", "broken:app"), 2, "broken.py, line 2")


# --- dev -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_dev_leaves_nothing_however_it_ends(shell: Shell, tmp_path: Path, number: signal.Signals) -> None:
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    with shell.running("dev", "--quiet", here=False, TMPDIR=str(tmp)) as process:
        uri = read_until(process, "mongodb://").strip()
        with_it = StreamQ(uri)
        mongod = with_it.client.admin.command("serverStatus")["pid"]
        with_it.close()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0 if number != signal.SIGKILL else -9, "", "")
    assert eventually(lambda: not is_alive(mongod) and not list(tmp.glob("*/set-*")))


def test_dev_prints_its_uri_last_and_serves_other_commands(shell: Shell) -> None:
    with shell.running("dev", here=False) as process:
        read_until(process, "export STREAMQ_URI=")
        uri = read_until(process, "mongodb://").strip()
        assert shell.run("put", "ticks", "1", STREAMQ_URI=uri).code == 0
        assert shell.run("counts", "--uri", uri).out.split()[-3:] == ["ticks", "1", "1"]
        process.terminate()
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")


def test_dev_keeps_its_data_in_a_path(shell: Shell, tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        with shell.running("dev", "--quiet", "--path", str(tmp_path / "data"), here=False) as process:
            uri = read_until(process, "mongodb://").strip()
            seen.append(shell.run("counts", STREAMQ_URI=uri).out.split()[-3:])
            shell.run("put", "ticks", "1", STREAMQ_URI=uri)
            process.terminate()
            process.communicate(timeout=30)
        assert process.returncode == 0
    assert seen == [["no", "tasks"], ["ticks", "1", "1"]]


def test_dev_says_so_when_its_mongod_is_killed(shell: Shell) -> None:
    with shell.running("dev", "--quiet", here=False) as process:
        app = StreamQ(read_until(process, "mongodb://").strip())
        os.kill(app.client.admin.command("serverStatus")["pid"], signal.SIGKILL)
        app.close()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith("streamq: mongod ended by itself")


def test_dev_refuses_a_taken_port(shell: Shell) -> None:
    port = shell.environment["STREAMQ_URI"].rpartition(":")[2].partition("/")[0]
    done = shell.run("dev", "--port", port, "--quiet", here=False)
    assert done.code == 1
    assert done.err.startswith("streamq: ")
    assert port in done.err
    assert "Traceback" not in done.err


# --- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("counts",), ("tasks",), ("put", "q", "1"), ("worker", "shop:app")])
def test_without_a_server_named_a_command_says_how_to_name_one(shell: Shell, command: tuple[str, ...]) -> None:
    assert_refused(shell.run(*command, STREAMQ_URI=""), 2, "STREAMQ_URI")


AWAY: Final = "mongodb://me:s3cret@127.0.0.1:9/?replicaSet=rs0&serverSelectionTimeoutMS=200"


def test_a_worker_whose_server_is_away_says_so_in_one_line_without_the_password(shell: Shell) -> None:
    done = shell.run("worker", "shop:app", "--uri", AWAY)
    assert_refused(done, 1, "no server could be reached")
    assert "s3cret" not in done.err


def test_a_command_whose_server_is_away_says_what_it_waits_for_and_then_that_it_was_in_vain(shell: Shell) -> None:
    done = shell.run("counts", "--uri", AWAY)
    assert (done.code, done.out) == (1, "")
    waits, gave_up = done.err.splitlines()
    assert waits.startswith("streamq: still waiting for a primary (127.0.0.1:9: ")
    assert "no server could be reached" in gave_up
    assert "s3cret" not in done.err


@pytest.mark.parametrize("given", [("--url", "mongodb://me:s3cret@h/"), ("mongodb://me:s3@cret@h/",)])
def test_a_password_in_a_mistyped_command_is_not_shown(shell: Shell, given: tuple[str, ...]) -> None:
    done = shell.run("counts", *given, here=False)
    assert_refused(done, 2)
    assert "cret" not in done.err


def test_an_unknown_command_names_the_known_ones(shell: Shell) -> None:
    assert_refused(shell.run("frobnicate", here=False), 2, "dev, init, worker, put, counts, tasks")


def test_help_and_version_are_printed(shell: Shell) -> None:
    for arguments in (["--help"], ["worker", "--help"], ["put", "--help"], ["--version"]):
        done = shell.run(*arguments, here=False)
        assert (done.code, done.err) == (0, "")
        assert done.out


def test_without_its_extra_the_command_line_says_what_to_install(shell: Shell) -> None:
    (shell.directory / "cyclopts.py").write_text("raise ModuleNotFoundError('gone', name='cyclopts')\n")
    done = shell.run("counts")
    assert (done.code, done.out) == (1, "")
    assert done.err == "streamq: the command line needs cyclopts: pip install 'streamq[cli]'\n"
