"""`make chaos MINUTES=60 SEED=n`: all nemeses one after the other, then mixed; a report of each."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom
from typing import Final

from tests.chaos.nemeses import CLOCKS, NEMESES, skipped
from tests.chaos.nemeses.clock import WRONG_S
from tests.chaos.orders import LONG_LEASE_S, Load
from tests.chaos.report import Report, table
from tests.chaos.round import Round, play
from tests.chaos.scene import STILL_S, Scene, three_nodes
from tests.chaos.schedule import strikes

MIXED: Final = "mixed"
LONGEST_S: Final = 600.0
"""A round is checked as a whole, in memory."""

LOAD: Final = Load(lease_s=LONG_LEASE_S, lasting_share=0.005)
"""What lasts takes as many slots as in a short round, whose leases are shorter."""

BAD: Final = 1
SHORT: Final = 2


def rounds(seed: int, names: Sequence[str], length_s: float) -> list[Round]:
    """Plan a run: half of it each nemesis alone, half of it all of them mixed."""
    each_s = min(length_s / 2 / len(names), LONGEST_S)
    planned = [_round(seed, name, [name], each_s) for name in names]
    left_s = length_s - each_s * len(names)
    count = max(1, round(left_s / LONGEST_S + 0.49))
    return planned + [_round(seed + number, MIXED, names, left_s / count) for number in range(count)]


def _round(seed: int, name: str, names: Sequence[str], length_s: float) -> Round:
    # What was put off by a clock that is ahead waits until that which is behind has come there.
    late_s = 2 * WRONG_S if set(names) & set(CLOCKS) else 0
    return Round(name, seed, length_s, strikes(seed, NEMESES, names, length_s), STILL_S + late_s)


def main() -> int:
    """Run it; 1 when something happened that must never happen, 2 when something was slower than it is meant to be."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long load is on, in all")
    parser.add_argument("--seed", type=int, default=None, help="by which a run is repeated; printed")
    parser.add_argument("--only", action="append", choices=sorted(NEMESES), help="these nemeses; may be repeated")
    parser.add_argument("--client-options", default="", help="for the connection string of all programs: &name=value&…")
    parser.add_argument("--keep", type=Path, default=Path(".chaos"), help="where the history of a bad round is kept")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    seed = SystemRandom().getrandbits(31) if asked.seed is None else asked.seed
    without = skipped()
    names = [name for name in asked.only or NEMESES if name not in without]
    print(f"chaos: {asked.minutes:g} minutes, SEED={seed}", flush=True)
    for name, why in without.items():
        print(f"skipped: {name}: {why}", flush=True)
    if not names:
        return SHORT
    reports: list[Report] = []
    try:
        with three_nodes() as (server, network):
            for number, one in enumerate(rounds(seed, names, asked.minutes * 60)):
                directory = asked.keep / f"{seed}-{number}-{one.name}"
                with Scene(
                    server,
                    directory.absolute(),
                    one.seed,
                    load=LOAD,
                    client_options=asked.client_options,
                    network=network,
                ) as scene:
                    scene.hire_all()
                    reports.append(play(scene, one, lambda line: print(line, flush=True)))
                    print(f"{reports[-1]}\n", flush=True)
    except KeyboardInterrupt:
        print("interrupted: what was done until then", flush=True)
    finally:
        print(f"SEED={seed}\n{table(reports)}", flush=True)
    shortfalls = [line for report in reports for line in report.shortfalls]
    print("\n".join(shortfalls))
    if not all(report.is_good for report in reports):
        return BAD
    return SHORT if shortfalls else 0


if __name__ == "__main__":
    sys.exit(main())
