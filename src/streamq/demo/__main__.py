"""The process of the demo: its arguments, its signals, its exit code. Nothing heavy is imported before those."""

from __future__ import annotations

import signal
import sys
from types import FrameType

FAILED, INTERRUPTED = 1, 130


def main() -> int:
    """Run the demo. Returns 0 when all that was put has ended and is accounted for."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _run()
        _ignore_signals()  # it is over: none may spoil the interpreter's own ending
        return code
    except KeyboardInterrupt:
        _ignore_signals()
        start = "\n" if sys.stderr.isatty() else ""  # after the terminal's own ^C
        print(f"{start}Interrupted: stopped cleanly.", file=sys.stderr)
        return INTERRUPTED


def _run() -> int:
    try:
        from streamq.demo.command import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        print("streamq.demo: rich is missing: pip install 'streamq[cli,embedded]'", file=sys.stderr)
        return FAILED
    return run(sys.argv[1:])


def _ignore_signals() -> None:
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
