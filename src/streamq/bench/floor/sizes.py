"""The batch sizes at which plain PyMongo is fastest: measured, with the date."""

from __future__ import annotations

from typing import Final

import msgspec


class Sizes(msgspec.Struct, frozen=True):
    """Tasks in one `insert_many`, tasks in one claim (and so in one settlement), and whether a claim reads whole
    documents or only what a handler needs."""

    insert: int
    claim: int
    whole: bool = False


SWEPT: Final = tuple(
    Sizes(insert, claim, whole)
    for insert in (1_000, 5_000)
    for claim in (250, 500, 1_000, 2_000)
    for whole in (False, True)
)

BEST: Final = Sizes(insert=5_000, claim=2_000, whole=False)
MEASURED: Final = "2026-11-23"
"""When `streamq bench throughput --find-floor` found `BEST` on a quiet machine; it says which lines to keep. The sweep
is in bench/README.md."""
