"""A worker process of the demo. Its stdin is its tie to the main process: a line with the server's URI to begin with,
a line to stop in good order, and its end when the main process is gone, however that went.

    main ──stdin──▶ crewman: uri, then "stop" · stdout: "ready" once no task can be missed
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import warnings

import trio

from streamq.demo.census import QUEUE, Census
from streamq.errors import StreamQError

AT_ONCE = 4
"""Files in hand of one process. Parsing holds the interpreter's lock: more would only wait for it."""


def main() -> int:
    """Work until told to stop."""
    warnings.simplefilter("ignore")  # the standard library's tests are full of code that deserves warnings
    logging.getLogger("streamq").setLevel(logging.ERROR)  # files that do not parse are shown at the end
    uri = os.read(0, 4096).decode().strip()
    if not uri or uri == "stop":
        return 0
    try:
        trio.run(_work, uri)
    except StreamQError as error:
        print(f"worker {os.getpid()}: {error}", file=sys.stderr)
        return 1
    return 0


async def _work(uri: str) -> None:
    app = Census(uri).app
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        # A thread, so that the end of the main process is heard whatever the event loop is doing.
        threading.Thread(target=_listen, args=(token, scope), daemon=True).start()
        async with app, trio.open_nursery() as nursery:
            await nursery.start(app.work, {QUEUE: AT_ONCE})
            print("ready", flush=True)
    app.close()


def _listen(token: trio.lowlevel.TrioToken, scope: trio.CancelScope) -> None:
    while os.read(0, 4096):
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(scope.cancel)
    # The main process was killed, and the mongod goes with it: there is nobody to give anything back to.
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
