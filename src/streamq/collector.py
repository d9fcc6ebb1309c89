"""The garbage collector of a process that stays."""

from __future__ import annotations

import gc


def spare_what_is_there() -> None:
    """Have the garbage collector leave out what is there by now. All that was imported stays for as long as the process
    does, and a full collection that goes over it holds up all tasks for about 0.1 s (docs/measurements.md)."""
    gc.collect()
    gc.freeze()
