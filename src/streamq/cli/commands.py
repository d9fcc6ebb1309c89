"""All commands together, and what becomes of their errors: one clear line on stderr, and an exit code."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any, Final

from cyclopts import App, CycloptsError, Group

from streamq.cli import (
    bench,
    cancel,
    check,
    control,
    counts,
    delete,
    dev,
    export,
    init,
    peek,
    purge,
    put,
    requeue,
    schedules,
    screen,
    show,
    tasks,
    worker,
    workers,
)
from streamq.errors import InsecureConnection, StreamQError, UsageError
from streamq.secret import redacted

DONE, FAILED, MISUSED = 0, 1, 2
INTERRUPTED = 130

DRIVER: Final = f"{os.sep}pymongo{os.sep}"

Command = Callable[..., None]

GROUPS: Final[Mapping[str, tuple[Command, ...]]] = {
    "Run": (dev.dev, init.init, worker.worker, put.put),
    "Look": (counts.counts, tasks.tasks, peek.peek, show.show, export.export, workers.workers, schedules.schedules),
    "Put right": (
        *(cancel.cancel, requeue.requeue, delete.delete, purge.purge),
        *(control.pause, control.resume, check.check),
    ),
}

COMMANDS: Final[tuple[Command, ...]] = tuple(command for group in GROUPS.values() for command in group)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to fail
    try:
        with _warnings_told():
            _app(arguments)(list(arguments), exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        return _told(f"{redacted(_all_named(str(error))).rstrip('.')} (see {_help_of(arguments)})", MISUSED)
    except UsageError as error:
        return _told(str(error), MISUSED)
    except StreamQError as error:
        return _told(str(error), FAILED)
    except ModuleNotFoundError as error:
        if (said := bench.missing(error)) is None:
            raise
        return _told(said, FAILED)
    except KeyboardInterrupt:
        return _told("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone (`streamq tasks | head`); the flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return DONE


@contextmanager
def _warnings_told() -> Iterator[None]:
    """Tell what streamq and the driver warn of in one line, without the line of source; others as they are."""
    with warnings.catch_warnings():
        other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], filename: str, *more: Any, **named: Any) -> None:
            if category is InsecureConnection or DRIVER in filename:
                screen.complain(f"warning: {redacted(str(message))}")
            else:
                other(message, category, filename, *more, **named)

        warnings.showwarning = show
        yield


def _app(arguments: Sequence[str]) -> App:
    app = App(
        name="streamq",
        help="A task queue in the application's own MongoDB.",
        version=_version,
        result_action="return_value",
        group_commands=Group("Besides", sort_key=len(GROUPS)),
    )
    for place, (name, commands) in enumerate(GROUPS.items()):
        group = Group(name, sort_key=place)
        for order, command in enumerate(commands):
            app.command(command, group=group, sort_key=order)
    app.command(bench.bench(arguments))
    return app


def _version() -> str:
    try:
        return metadata.version("streamq")
    except metadata.PackageNotFoundError:
        return "not installed: run from its source"


def _help_of(arguments: Sequence[str]) -> str:
    named = next((one for one in arguments if not one.startswith("-")), "")
    return f"streamq {named} --help" if named in _names() else "streamq --help"


def _all_named(said: str) -> str:
    """Put all commands where cyclopts names the first ones."""
    head, listed, _ = said.partition("Available commands: ")
    return head + listed + ", ".join(_names()) if listed else said


def _names() -> list[str]:
    return [*(command.__name__ for command in COMMANDS), bench.NAME]


def _told(message: str, code: int) -> int:
    screen.complain(message)
    return code
