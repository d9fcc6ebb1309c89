"""Which file is put in which way. Pure: the same tree gives the same plan."""

from __future__ import annotations

from typing import Final

import msgspec

from streamq.demo.tree import File, Tree

SINGLY_MOST: Final = 100
DELAYED_MOST: Final = 40
SMALL_BYTES: Final = 16_384
"""Files put singly are small where there are enough: their own parsing must not stand before the next one's pickup."""
DELAYS_S: Final = (1.0, 3.0)


class Plan(msgspec.Struct, frozen=True):
    """Every file once: put singly, put with a delay, or put in bulk."""

    singly: tuple[File, ...]
    delayed: tuple[tuple[File, float], ...]
    at_once: tuple[File, ...]


def plan_of(tree: Tree) -> Plan:
    """Choose evenly: about a quarter of a small tree singly (at least one file), a tenth of it delayed."""
    files = list(tree.files)
    small = [file for file in files if file.size_bytes <= SMALL_BYTES] or files
    singly = _evenly(small, min(SINGLY_MOST, (len(files) + 3) // 4))
    rest = [file for file in files if file not in set(singly)]
    delayed = _evenly(rest, min(DELAYED_MOST, (len(rest) + 9) // 10))
    first_s, last_s = DELAYS_S
    step_s = (last_s - first_s) / max(len(delayed), 1)
    waits = tuple((file, first_s + step_s * number) for number, file in enumerate(delayed))
    return Plan(tuple(singly), waits, tuple(file for file in rest if file not in set(delayed)))


def _evenly(files: list[File], wanted: int) -> list[File]:
    """Pick up to `wanted` files, spread over the whole list."""
    wanted = min(wanted, len(files))
    return [files[number * len(files) // wanted] for number in range(wanted)]
