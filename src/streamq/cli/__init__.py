"""The command line: `streamq dev | init | worker | put | counts | tasks | peek | show | export | cancel | requeue |
delete | purge | pause | resume | workers | schedules | check | bench`.

One file a command; each parses its arguments, calls the library and prints. What they share: `place` (which server),
`sought` (which tasks), `listing` (how they are shown), `locate` (MODULE:APP), `safe` (text that is safe on a terminal),
`screen` (where it is printed), `stopping` (signals).
cyclopts and rich are imported below this file only: without them `main` says what to install.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

EXTRA = ("cyclopts", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 the server could not, 2 the command was wrong."""
    try:
        from streamq.cli.commands import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        print(f"streamq: the command line needs {error.name}: pip install 'streamq[cli]'", file=sys.stderr)
        return 1
    return run(sys.argv[1:] if arguments is None else arguments)
