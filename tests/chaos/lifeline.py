"""What ties a program of the run to the run: it never outlives it.

The kernel kills it when its parent dies (it may be frozen just then and could not do so itself); where it cannot ask
for that, and for a parent that died before it could, its standard input ends with the parent. The request is tied to
the thread that forked: a run starts its programs from its main thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import Final

from streamq.embedded.minder import PR_SET_PDEATHSIG

EXIT: Final = 70


def hold() -> None:
    """Tie this process to whoever started it. Call it first."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def wait() -> None:
    """Wait for that end, with nothing else to do."""
    threading.Event().wait()


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os._exit(EXIT)
