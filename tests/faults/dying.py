"""Programs that die at a call to the server: `python -m tests.faults.dying`.

It imports everything once and then forks a child for each order that comes in a line of its standard input; the child
runs its script and kills itself by SIGKILL immediately before or after the n-th command it sends. How each child ended
is a line of the standard output. The seam is the driver's own command monitoring: the product knows nothing of it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import trio
from pymongo import MongoClient

from tests.faults import mortal, script
from tests.faults.commands import AtCommand, When
from tests.faults.fault import DEFAULTS
from tests.faults.script import Pen

Role = Literal["worker", "producer", "mortal", "survivor", "stopped"]

SCRIPTS: Final = {
    "worker": script.work,
    "producer": script.produce,
    "mortal": mortal.die,
    "survivor": mortal.survive,
    "stopped": mortal.stop,
}


class Order(msgspec.Struct, frozen=True):
    """What a child is to run and at which command it dies; at none, if `nth` is 0: then it writes down how many it has
    sent."""

    number: int
    role: Role
    uri: str
    database: str
    path: str
    nth: int
    when: When


class Death(msgspec.Struct, frozen=True):
    """How the child of an order ended: the signal that killed it, negative, or its exit code."""

    number: int
    code: int


def die() -> None:
    """End this process as a SIGKILL does."""
    os.kill(os.getpid(), signal.SIGKILL)


def run(order: Order) -> None:
    """In the child: run the script."""
    pen = Pen(Path(order.path))
    killer = AtCommand(order.nth, order.when, die)
    with MongoClient[dict[str, Any]](order.uri, tz_aware=True, event_listeners=[killer], **DEFAULTS) as client:
        trio.run(SCRIPTS[order.role], script.app_on(client, order.database, pen), order.database, pen)
    pen.write("sent", killer.count)


def born(order: Order) -> int:
    """Fork the child of an order; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.close(0)
        os.dup2(2, 1)  # the standard output is the parent's
        run(order)
        code = 0
    except BaseException as error:  # noqa: BLE001 - a child never comes back to the parent's loop
        print(f"{order}: {error!r}", file=sys.stderr, flush=True)
    os._exit(code)


def main() -> None:
    """Serve orders until the standard input ends; children that are left are killed then."""
    children: dict[int, tuple[int, int]] = {}
    rest = b""
    while True:
        ready, _, _ = select.select([0, *children], [], [])
        for fd in ready:
            if fd:
                number, pid = children.pop(fd)
                os.close(fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(1, msgspec.json.encode(Death(number, code)) + b"\n")
                continue
            data = os.read(0, 65_536)
            if not data:
                for _, pid in children.values():
                    os.kill(pid, signal.SIGKILL)
                return
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                order = msgspec.json.decode(line, type=Order)
                pid = born(order)
                children[os.pidfd_open(pid)] = order.number, pid


if __name__ == "__main__":
    main()
