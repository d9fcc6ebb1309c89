"""Holds network namespaces: `python -m tests.chaos.spaces COUNT`. They have no names: each is a descriptor of this
process, `/proc/<pid>/fd/<n>`, and is gone with it and with who runs inside, together with its interfaces, routes and
rules. So nothing of a run that is killed is left behind."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Final

from tests.chaos import lifeline

CLONE_NEWNET: Final = 0x4000_0000


def make(count: int) -> list[int]:
    """Make them; return their descriptors. Raises OSError where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    made = []
    for _ in range(count):
        if libc.unshare(CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        made.append(os.open("/proc/self/ns/net", os.O_RDONLY))
    return made


def main() -> None:
    """Make them, say which they are, and hold them until the end of standard input."""
    try:
        said = {"spaces": make(int(sys.argv[1]))}
    except (OSError, AttributeError) as error:
        said = {"error": str(error)}  # type: ignore[dict-item]
    print(json.dumps(said), flush=True)
    lifeline.hold()
    lifeline.wait()


if __name__ == "__main__":
    main()
