"""What programs under test may say on their standard error."""

from __future__ import annotations

import re

FAILED = re.compile(r"^task failed .*\n(?:Traceback .*\n(?:[ ].*\n)*\S.*\n)?", re.MULTILINE)


def without_failed_tasks(stderr: str) -> str:
    """Leave out the log of tasks that failed for good, each with its traceback: a program under test may have some."""
    return FAILED.sub("", stderr)
