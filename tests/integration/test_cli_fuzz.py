"""Whatever stands on a command line or in the environment: done, or one clear complaint, and what is refused has
changed nothing. Options and commands are taken from the commands themselves, so that a new one is tried too."""

from __future__ import annotations

import dataclasses
import inspect
import io
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo import MongoClient

from streamq import StreamQ
from streamq.bench.options import Common
from streamq.cli import main
from streamq.cli.bench import SCENARIOS
from streamq.cli.commands import COMMANDS
from streamq.cli.safe import STEERING
from streamq.errors import EmbeddedError
from tests.fuzzing import fuzzed

Mongo = MongoClient[dict[str, Any]]

SENTINEL: Final = "sentinel"
ID: Final = "5f0000000000000000000001"

DESTROYING: Final = frozenset({"cancel", "requeue", "delete", "purge"})
NARROWING: Final = ("--queue", "--handler", "--tag", "--unique", "--unique-json", "--error", "--payload")
"""Options of which none is ever given with a value that fits the sentinels."""

WORDS: Final = (
    *("", "-", "--", "---", "-1", "0", "1", "7", "1e3", "1e999", "-0.0", "nan", "inf", "-inf", "1_000", "9" * 30),
    *("true", "null", "ready", "failed", "all", "worker", "producer", "2100-01-01T00:00:00+00:00", "0001-01-01T00:00Z"),
    *("9999-12-31T23:59:59.999999-23:59", "2030-01-01", "tomorrow", ID, ID[:-1], ID.upper()),
    *("q", "other", "q=3", "q=-1", "q=", "=", "a=1", "a.b=1", "$where=1", "a.$gt=1", "a..b=1", 'a={"$ne": 1}', "a=\0"),
    *('{"$ne": null}', '{"$where": "1"}', '{"a": {"$gt": 0}}', '{"a": 1, "a": 2}', '["$gt"]', '["mail", 7]', "{", "[["),
    *(
        "[" * 2_000,
        '{"a":' * 99 + "1" + "}" * 99,
        '{"__proto__": {"x": 1}}',
        '{"~int": "no"}',
        '{"\\u0000": 1}',
        '"\\ud800"',
    ),
    *(
        "$where",
        "$$NOW",
        "$status",
        "a.b",
        "_id",
        "__proto__",
        "~int",
        "\0",
        "a\0b",
        "\udcff",
        "\ud800",
        "\x1b[31m",
        "é́",
    ),
    *("[bold]x[/bold]", "%s%n{0}{name}", "../..", "*", "$(id)", "; id", "x" * 100_000, "\u202e", "\n", "a\nb", " "),
    *(
        "shop:app",
        "shop:empty",
        "shop:number",
        "shop",
        "shop:",
        ":app",
        "shop.py",
        "json:loads",
        "os:environ",
        "shop:app.",
    ),
)

SERVER: Final = "mongodb://SERVER/?replicaSet=rs0"

URIS: Final = (
    *(
        "",
        " ",
        "mongodb://",
        "http://h",
        "mongodb://user:@h:port/",
        "mongodb://[::1/",
        "mongodb://h/a$b",
        "mongodb://a@b@c/",
    ),
    *(
        f"{SERVER}&{more}"
        for more in ("tls=2", "w=-1", "$x=1", "readPreference=x", "tlsCAFile=/none", "\udcff=1", "=", "&")
    ),
    *(f"{SERVER}{more}" for more in ("", "#\0", "\0", "&authMechanism=$", "&appName=\x1b[31m", "&replicaSet=\udcff")),
    *("mongodb+srv://h:1/", "mongodb://h:99999999", "mongodb://a,b,,c:x"),
)
"""None that is looked for long: any word at all is the name of a host."""

words = st.sampled_from(WORDS) | st.text(max_size=6)


def values_of(option: str) -> st.SearchStrategy[str]:
    return st.sampled_from(URIS) if option == "--uri" else words


def options_of(command: Callable[..., Any]) -> Iterator[str]:
    """Name the options of a command as they are typed."""
    hints = get_type_hints(command)
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if dataclasses.is_dataclass(kind):
            yield from (spelled(field.name) for field in dataclasses.fields(kind))
        elif parameter.kind is parameter.KEYWORD_ONLY or parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            yield spelled(parameter.name)


def spelled(name: str) -> str:
    return "--" + name.replace("_", "-")


OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    **{one.__name__: tuple(options_of(one)) for one in COMMANDS},
    "bench": tuple(spelled(one.name) for one in dataclasses.fields(Common)),
}

FLAGS: Final = ("--json", "--all", "--force", "--help", "--repair", "--keep-attempts", "--version")


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Draw a command with values and options, most of them its own."""
    name = draw(st.sampled_from(sorted(OPTIONS)))
    line = [name]
    if name == "bench":
        line.append(draw(st.sampled_from([*SCENARIOS, "compare"]) | words))
    line += draw(st.lists(words, max_size=2))
    for option in draw(st.lists(st.sampled_from(OPTIONS[name]) | st.sampled_from(FLAGS), max_size=3)):
        match draw(st.integers(0, 5)):
            case 0:
                line.append(option)
            case 1:
                line.append(f"{option}={draw(values_of(option))}")
            case 2:
                line += [option, draw(values_of(option)), draw(words)]
            case _:
                line += [option, draw(values_of(option))]
    return line


def sound(name: str) -> list[str]:
    """Return arguments with which the command gets as far as the server."""
    return {
        "put": ["q", "1"],
        "show": [ID],
        "delete": [ID],
        "cancel": [ID],
        "requeue": [ID],
        "peek": ["q"],
        "pause": ["q"],
        "resume": ["q"],
        "purge": ["--older-than", "0", "--queue", "q"],
        "worker": ["shop:empty"],
    }.get(name, [])


@st.composite
def nearly_sound_lines(draw: st.DrawFn) -> list[str]:
    """Draw a command that is right but for one option, or is right with it."""
    name = draw(st.sampled_from(sorted(OPTIONS.keys() - {"bench", "dev"})))
    option = draw(st.sampled_from(OPTIONS[name]))
    return [name, *sound(name), option, draw(values_of(option))]


class Said:
    """What a command left."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def run(line: list[str]) -> Said:
    """Run a command; stdout and stderr are what they are in a process of its own: text that must be encoded."""
    sys.modules.pop("shop", None)
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = main(line)
    return Said(code, *(read(one) for one in (out, err)))


def read(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


class Ground:
    """A server that the commands may find, with tasks that none of them names."""

    def __init__(self, uri: str, mongo: Mongo, database: str) -> None:
        self.database = database
        self.address = uri.partition("://")[2].rpartition("/?")[0]
        self._mongo = mongo
        app = StreamQ(uri, database=database)
        queue = app.blocking.queue(SENTINEL)
        for number in range(3):
            queue.put({"secret": SENTINEL}, tag=SENTINEL, unique=f"{SENTINEL}{number}")
        failing, ending = queue.claim_many(2)
        failing.fail(ValueError(SENTINEL), retry=False)
        ending.succeed()
        app.close()
        self.sentinels = self.stored(SENTINEL)
        self.tasks = mongo[database]["tasks"]
        self.begun = set(mongo.list_database_names())

    def stored(self, queue: str | None = None) -> list[dict[str, Any]]:
        sought = {} if queue is None else {"queue": queue}
        return list(self._mongo[self.database]["tasks"].find(sought).sort("_id"))

    def elsewhere(self) -> dict[str, list[str]]:
        """Name the collections of databases that were not there."""
        names = set(self._mongo.list_database_names()) - self.begun
        return {name: sorted(self._mongo[name].list_collection_names()) for name in names}

    def clear(self) -> None:
        self.tasks.delete_many({"queue": {"$ne": SENTINEL}})
        for name in self.elsewhere():
            self._mongo.drop_database(name)
        for name in set(self._mongo[self.database].list_collection_names()):
            if not name.startswith("tasks"):
                self._mongo[self.database].drop_collection(name)


SHOP = """
from streamq import StreamQ
app, empty, number = StreamQ(), StreamQ(), 7
@app.task(queue="q")
def resize(path: str, *, width: int = 100) -> int:
    return width
"""


@pytest.fixture
def ground(uri: str, mongo: Mongo, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("STREAMQ_URI", uri)
    monkeypatch.setenv("STREAMQ_MONGOD", "/nowhere/mongod")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"from": "stdin"}')))
    # What would begin and not end: workers, and measurements.
    monkeypatch.setattr("streamq.cli.worker.trio.run", lambda *_: None)
    monkeypatch.setattr("streamq.cli.supervisor.Supervisor.run", lambda _: None)

    def nothing(*_: object, **__: object) -> None:
        raise EmbeddedError("nothing is measured here")

    monkeypatch.setattr("streamq.bench.place.made", nothing)
    made = Ground(uri, mongo, database)
    yield made
    made.clear()


def tell_of_itself(said: Said) -> None:
    """A command succeeds, or says in a few safe lines why not; what it prints cannot steer a terminal."""
    assert said.code in (0, 1, 2)
    assert "Traceback" not in said.err
    assert ".py:" not in said.err
    for line in said.err.splitlines():
        assert not [one for one in line if unicodedata.category(one) in STEERING], line
    if said.code:
        assert "streamq: " in said.err
        assert len(said.err) > len("streamq: \n")
        assert len(said.err) < 5_000, said.err[:300]


def holds(ground: Ground, line: list[str]) -> None:
    name = line[0]
    before = ground.stored()
    said = run([one.replace("SERVER", ground.address) for one in line])
    tell_of_itself(said)
    after = ground.stored()
    if said.code == 2 or (said.code and name == "put"):
        assert [one for one in after if one.get("kind") is None] == before
        assert ground.elsewhere() == {}
    if name not in DESTROYING or any(one.partition("=")[0] in NARROWING for one in line):
        assert [one for one in after if one.get("queue") == SENTINEL] == ground.sentinels
    ground.clear()


pytestmark = pytest.mark.filterwarnings("default")


def test_command_with_one_odd_option_is_done_or_refused_whole(ground: Ground) -> None:
    @fuzzed(50)
    @given(line=nearly_sound_lines())
    def holds_for(line: list[str]) -> None:
        holds(ground, [*line, "--database", ground.database])

    holds_for()


def test_any_command_line_is_done_or_refused_whole(ground: Ground) -> None:
    @fuzzed(50)
    @given(line=command_lines())
    def holds_for(line: list[str]) -> None:
        holds(ground, line)

    holds_for()


VARIABLES: Final = ("STREAMQ_URI", "STREAMQ_WORKER_URI", "STREAMQ_LIFELINE", "STREAMQ_MONGOD", "COLUMNS", "TERM", "TZ")


def test_any_environment_is_taken_or_refused(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    @fuzzed(30)
    @given(
        line=st.sampled_from((["counts"], ["tasks"], ["worker", "shop:app"], ["dev"], ["put", "q", "1"])),
        variable=st.sampled_from(VARIABLES),
        word=st.sampled_from([one for one in WORDS if "\0" not in one and "\ud800" not in one]),
        uri=st.sampled_from([one for one in URIS if "\0" not in one]),
    )
    def holds_for(line: list[str], variable: str, word: str, uri: str) -> None:
        # A number would be taken for a pipe from a parent, and its end for the parent's.
        value = uri if variable.endswith("URI") else f"x{word}" if variable == "STREAMQ_LIFELINE" else word
        with monkeypatch.context() as patch:
            patch.setenv(variable, value.replace("SERVER", ground.address))
            holds(ground, [*line, *(() if line == ["dev"] else ("--database", ground.database))])

    holds_for()


def test_risk_is_told_in_one_line_without_the_line_of_source(ground: Ground) -> None:
    said = run(["counts", "--database", ground.database, "--uri", f"mongodb://{ground.address}/?tlsInsecure=true&x=1"])
    first, second, *_ = said.err.splitlines()
    assert first.startswith("streamq: warning: Unknown option: x")
    assert second.startswith("streamq: warning: tlsInsecure=true in the connection string: ")
