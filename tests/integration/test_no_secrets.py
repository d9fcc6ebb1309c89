"""No password of a connection string is ever shown: a canary is looked for wherever something is said."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import streamq
from streamq import AccessRefused, OptionInvalid, StoreError, StreamQ, UsageError
from streamq.cli import main, supervisor
from streamq.cli.place import URI, Server
from streamq.core.roles import role_of
from streamq.secret import Secret, redacted
from tests.canary import CANARY as SECRET
from tests.canary import descendants
from tests.guarded import Guarded

CANARY = "CANARY"

SHOP: Final = """
from streamq import StreamQ

app = StreamQ()


@app.task(queue="q")
async def pack() -> None: ...
"""

SOURCE: Final = str(Path(streamq.__file__).parents[1])

WRONG = [
    "mongodb://user:CANARY/CANARY@host/db",
    "mongodb://user:CANARY@host:port/",
    "mongodb://user:CANARY@CANARY@host/",
    "mongodb://user:CANARY%@host/",
    "mongodb://us:er:CANARY@host/",
    "mongodb://user:CANARY@[::1/",
    "mongodb://user:CANARY@/",
    "mongo://user:CANARY@host",
    "user:CANARY@host",
    "mongodb://user:CANARY/x.$CANARY@host/",
    "mongodb+srv://user:CANARY@host:27017/",
]


def told_by(error: BaseException) -> str:
    """All that a traceback shows of an error, with the locals of streamq's own frames."""
    told: list[str] = []
    one: BaseException | None = error
    while one is not None:
        told += traceback.format_exception_only(one)
        frames = [frame for frame, _ in traceback.walk_tb(one.__traceback__)]
        told += [repr(frame.f_locals) for frame in frames if "/streamq/" in frame.f_code.co_filename]
        one = one.__cause__ or one.__context__
    return "".join(told)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("uri", WRONG)
def test_uri_that_is_wrong_is_refused_without_any_of_it(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        StreamQ(uri).blocking.store()
    assert CANARY not in told_by(caught.value)


def test_other_option_that_is_wrong_does_not_show_the_uri() -> None:
    with pytest.raises(OptionInvalid) as caught:
        StreamQ("mongodb://user:CANARY@host", lease_s=-1)
    assert "lease_s=-1" in told_by(caught.value)
    assert CANARY not in told_by(caught.value)


def test_uri_in_the_place_of_another_option_is_not_shown() -> None:
    for wrong in ("database", "collection", "dead_letter_collection", "worker_id"):
        with pytest.raises(UsageError) as caught:
            StreamQ("mongodb://h", **{wrong: "mongodb://user:CANARY@host/$/" + "x" * 300}).blocking.store()  # type: ignore[arg-type]
        assert CANARY not in str(caught.value)


def test_server_that_is_away_is_told_without_the_password() -> None:
    app = StreamQ("mongodb://user:CANARY@127.0.0.1:1/?serverSelectionTimeoutMS=50", timeout_s=0.1)
    with pytest.raises(StoreError) as caught:
        app.blocking.store()
    assert CANARY not in told_by(caught.value)
    assert CANARY not in f"{app!r} {app} {app._address!r} {vars(app._address)} {app.client!r}"
    app.close()


def test_wrong_password_is_refused_without_it(guard: Guarded, place: str) -> None:
    uri = guard.server.uri.replace("://", "://nobody:CANARY@")
    app = StreamQ(uri, database=place)
    with pytest.raises(AccessRefused) as caught:
        app.blocking.store()
    said = [str(error) for error in (caught.value, caught.value.__cause__)]
    assert CANARY not in "".join(said)
    app.close()


async def test_nothing_that_is_logged_holds_the_password(
    guard: Guarded, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    role = role_of("operator", database=place)
    guard.root[place].command(role.command())
    app = StreamQ(guard.user("canary", CANARY, [role.name, "readWrite"], place), database=place)

    @app.task
    async def fail() -> None:
        raise ValueError("no")

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await fail.options(max_attempts=1).put()
        with pytest.raises(streamq.TaskFailed):
            await handle.result(timeout_s=10)
        nursery.cancel_scope.cancel()
    assert "task failed" in caplog.text
    assert CANARY not in caplog.text


def test_command_line_shows_no_password(capfd: pytest.CaptureFixture[str]) -> None:
    place = Server(uri="mongodb://user:CANARY@host")
    assert CANARY not in repr(place)
    for arguments in (
        ["counts", "--uri", "mongodb://user:CANARY/CANARY@host/"],
        ["counts", "--url", "mongodb://user:CANARY@host/"],
        ["counts", "--database", "mongodb://user:CANARY@host/", "--uri", "mongodb://h"],
        ["worker", "mongodb://user:CANARY@host/"],
    ):
        assert main(arguments) == 2
    assert CANARY not in "".join(capfd.readouterr())


def test_worker_processes_get_the_uri_past_their_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[list[str], dict[str, str]]] = []

    def popen(argv: list[str], *, env: dict[str, str], **_: Any) -> object:
        begun.append((argv, env))
        return object()

    monkeypatch.setattr("streamq.cli.supervisor.subprocess.Popen", popen)
    place = Server(uri="mongodb://user:CANARY@host", database="shop")
    supervisor.Supervisor(["worker", *place.arguments()], 1, place.environment())._fill(0)
    ((argv, env),) = begun
    assert argv[-2:] == ["--database", "shop"]
    assert CANARY not in "".join(argv)
    monkeypatch.setenv(URI, env[URI])
    assert Server(database="shop").told().uri == place.uri
    assert Server().told().uri is None  # what handlers start does not inherit it


def test_value_that_holds_a_uri_works_as_text_and_shows_no_password() -> None:
    uri = Secret("mongodb://user:CANARY@host/?tlsCertificateKeyFilePassword=CANARY&tls=true")
    assert (repr(uri), len(uri)) == ("'mongodb://***@host/?tlsCertificateKeyFilePassword=***&tls=true'", 73)
    assert redacted("see a=b") == "see a=b"


def test_processes_of_a_worker_show_no_password_in_their_arguments(guard: Guarded, place: str, tmp_path: Path) -> None:
    """Their environment holds it, which only the same user can read."""
    (tmp_path / "shop.py").write_text(SHOP)
    operator = StreamQ(guard.user_with(role_of("operator", database=place)), database=place)
    operator.blocking.store()
    operator.close()
    worker = guard.user_with(role_of("worker", database=place))
    argv = [sys.executable, "-m", "streamq", "worker", "shop:app", "--procs", "2", "--queue", "q", "--database", place]
    environment = {**os.environ, "STREAMQ_URI": worker, "PYTHONPATH": f"{SOURCE}{os.pathsep}{tmp_path}"}
    rows = guard.root[place]["tasks"]
    with subprocess.Popen(argv, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as process:
        try:
            until = time.monotonic() + 30
            while rows.count_documents({"kind": "member"}) < 2:
                assert time.monotonic() < until
                time.sleep(0.05)
            children = list(descendants(process.pid))
            shown = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in (process.pid, *children)}
            held = [Path(f"/proc/{pid}/environ").read_bytes().decode() for pid in children]
        finally:
            process.terminate()
            process.communicate(timeout=30)
    assert len(children) == 2
    for said in shown.values():
        assert "streamq\0worker" in said
        assert "mongodb://" not in said
        assert SECRET not in said
    assert all(SECRET in one for one in held)
