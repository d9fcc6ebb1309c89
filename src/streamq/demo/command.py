"""From the command line to the job, and from what it raises to one line and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import trio

from streamq.cli.safe import plain
from streamq.cli.stopping import Stopping, stopping
from streamq.demo.job import DemoFailed, job
from streamq.demo.report import print_report
from streamq.demo.screen import Screen, show_cursor
from streamq.demo.tally import Tally
from streamq.demo.tree import Tree, read_tree
from streamq.errors import StreamQError

DONE, FAILED, MISUSED = 0, 1, 2


def run(arguments: Sequence[str]) -> int:
    """Run the demo; returns its exit code, raises `KeyboardInterrupt` when it was told to stop."""
    parser = argparse.ArgumentParser(prog="python -m streamq.demo", description=__doc__)
    parser.description = "Count what is in every .py file of a tree, by tasks, on a MongoDB of its own."
    parser.add_argument("--dir", type=Path, help="the tree; default: Python's own standard library")
    given: Path | None = parser.parse_args(arguments).dir
    logging.getLogger("streamq").setLevel(logging.CRITICAL)  # what goes wrong is told by the one error it ends with
    directory = Path(sysconfig.get_path("stdlib")) if given is None else given
    if not directory.is_dir():
        return _told(f"--dir {plain(str(directory))} is not a directory", MISUSED)
    try:
        return _run(read_tree(directory))
    except (StreamQError, DemoFailed) as error:
        return _told(str(error), FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: nor shall the flush at exit
        return FAILED


def _run(tree: Tree) -> int:
    screen = Screen()
    screen.say(f"streamq demo: one task for each .py file in {tree.root}")
    for note in tree.notes:
        screen.say(note)
    if not tree.files:
        screen.say("No .py files there: nothing to put.")
        return DONE
    # A second signal ends the process at once: workers, mongod and temporary directory go with it by themselves.
    with stopping(at_once=show_cursor) as state:
        tally = trio.run(_stoppable, tree, screen, state)
    if tally is None or state.by is not None:
        raise KeyboardInterrupt
    print_report(tally, screen.console)
    return DONE if tally.is_complete else FAILED


async def _stoppable(tree: Tree, screen: Screen, state: Stopping) -> Tally | None:
    """Do the job; None when a signal stopped it, in good order."""
    with state.cancelling():
        return await job(tree, screen)
    return None


def _told(message: str, code: int) -> int:
    print(f"streamq.demo: {message}", file=sys.stderr)
    return code
