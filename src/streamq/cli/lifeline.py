"""The lifeline: by it a worker process that a parent started learns that the parent is gone, in whatever way.

The parent alone holds the writing end of a pipe, so its death reads as an end of file here; that holds on every Unix
and needs no polling. The worker then stops as at a SIGTERM, and at a second one when it has not ended by its grace.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Final

from streamq.errors import UsageError

VARIABLE: Final = "STREAMQ_LIFELINE"
MARGIN_S: Final = 5.0
"""What a worker may take beyond its grace before it is told again."""


def hold(grace_s: float) -> None:
    """Watch the lifeline that the environment names, if any. Programs that handlers start do not inherit the name."""
    named = os.environ.pop(VARIABLE, None)
    if named is not None and not (named.isascii() and named.isdigit()):
        raise UsageError(
            f"{VARIABLE}={named!r} is refused: unset it, `streamq worker --procs` sets it for its processes"
        )
    if named is not None:
        threading.Thread(target=_watch, args=(int(named), grace_s), name="lifeline", daemon=True).start()


def _watch(fd: int, grace_s: float) -> None:
    with contextlib.suppress(OSError):
        while os.read(fd, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s + MARGIN_S)
    os.kill(os.getpid(), signal.SIGTERM)
