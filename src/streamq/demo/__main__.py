"""The process of the demo: its arguments, its signals, its exit code. Nothing heavy is imported before those."""

from __future__ import annotations

import signal
import sys
from types import FrameType

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130


def main() -> int:
    """Run the demo. Returns 0 when all that was put has ended and is accounted for."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        try:
            from streamq.demo.command import run
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "rich":
                raise
            print("streamq.demo: rich is missing: pip install 'streamq[cli,embedded]'", file=sys.stderr)
            return FAILED
        return run(sys.argv[1:])
    except KeyboardInterrupt:
        # Whatever comes now must not interrupt the ending; all that was started ends with this process.
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        print(
            "\nInterrupted: stopped cleanly." if sys.stderr.isatty() else "Interrupted: stopped cleanly.",
            file=sys.stderr,
        )
        return INTERRUPTED


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
