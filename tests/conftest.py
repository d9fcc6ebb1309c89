"""What tests of several kinds share: one embedded server a session, one database a test."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from streamq import embedded
from tests import canary
from tests.access import Access, GuardedAccess
from tests.guarded import Guarded, guarded


def pytest_addoption(parser: pytest.Parser) -> None:
    """How far the sweeps of tests/faults go; whether the session's server lets in only who may."""
    group = parser.getgroup("faults")
    group.addoption(
        "--faults-cases",
        help="which cases of each sweep: a number, all, or 200:400 (these of all); default: a few seconds' worth",
    )
    group.addoption("--faults-only", default="", help="cases whose name holds this text, as a failure names them")
    group.addoption("--faults-seed", type=int, default=1, help="which cases are drawn")
    access = parser.getgroup("access")
    access.addoption(
        "--auth", action="store_true", help="with access control: tests use users of streamq's roles (docs/security.md)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "open(why): is skipped with --auth: needs a server that lets everybody in")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell that starts a command in the background has it ignore Ctrl-C. Programs that it starts inherit that,
        # and tests send it to them.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --auth: only tests that use the session's server. The others are no different with it."""
    if config.getoption("--auth"):
        config.hook.pytest_deselected(items=[item for item in items if not uses_server(item)])
        items[:] = [item for item in items if uses_server(item)]


def uses_server(item: pytest.Item) -> bool:
    # The conformance tests' lab asks for what it needs by its parameter.
    stands_on = getattr(item, "callspec", None) and item.callspec.params.get("lab")  # type: ignore[attr-defined]
    return stands_on == "mongo" or "access" in getattr(item, "fixturenames", ())


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("open")
    if mark is not None and item.config.getoption("--auth"):
        pytest.skip(mark.args[0])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    canary.look_at_report(report)
    return report


@pytest.fixture(scope="session", autouse=True)
def no_password_is_shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """See `tests.canary`."""
    canary.watch_programs()
    with canary.watched_captures():
        if request.config.getoption("--auth"):
            with canary.watched_processes(tmp_path_factory.mktemp("canary") / "seen.txt"):
                yield
        else:
            yield
    canary.look_at_files(tmp_path_factory.getbasetemp())
    assert canary.SIGHTINGS.take() == []


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server with access control."""
    with guarded(tmp_path_factory.mktemp("key")) as made:
        yield made
        canary.look_at_files(made.server.path)


@pytest.fixture(scope="session")
def access(request: pytest.FixtureRequest) -> Access:
    """The ways to the session's server."""
    if request.config.getoption("--auth"):
        return GuardedAccess(request.getfixturevalue("guard"))
    return Access(request.getfixturevalue("open_server"))


@pytest.fixture(scope="session")
def open_server() -> Iterator[embedded.EmbeddedServer]:
    # Without the server's own removal of old tasks, which looks once a minute and would do so in the middle of a test.
    with embedded.start(parameters={"enableTestCommands": 1, "ttlMonitorEnabled": False}) as server:
        yield server


@pytest.fixture(scope="session")
def server(access: Access) -> embedded.EmbeddedServer:
    """A one-node set with fail points, started by the first test that asks for it."""
    return access.server


@pytest.fixture(scope="session")
def uri(access: Access) -> str:
    """The connection string of the session's server, by which applications reach it."""
    return access.uri


@pytest.fixture(scope="session")
def admin_uri(access: Access) -> str:
    """The same for who may do everything: to prepare, to disturb, and to clear up."""
    return access.admin_uri


@pytest.fixture
def database(access: Access) -> Iterator[str]:
    """The name of a database of the test's own, dropped when the test ends."""
    with access.lend(f"test_{uuid.uuid4().hex[:12]}") as name:
        yield name


@pytest.fixture(scope="session")
def admin(admin_uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client of who may do everything."""
    with MongoClient[dict[str, Any]](admin_uri, tz_aware=True) as client:
        yield client
