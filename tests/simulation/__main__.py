"""`make simulate SEEDS=100000 SEED=n`: runs of the whole runtime in virtual time, one for each seed from SEED on, on as
many processes as there are cores (`ARGS="--jobs 1"`); `ARGS="--failures 20"` goes on after the first that fails."""

from __future__ import annotations

import argparse
import sys
import time
from random import SystemRandom

from tests.simulation.drawing import drawn
from tests.simulation.jobs import cores, failures
from tests.simulation.plan import decoded
from tests.simulation.run import play
from tests.simulation.search import Found, made_small

BAD = 1
STOPPED = 130
EVERY_S = 10.0


def main() -> int:
    """Run it; 1 when a seed fails."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many")
    parser.add_argument("--seed", type=int, default=None, help="the first; printed")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes; as many as there are cores")
    parser.add_argument("--failures", type=int, default=1, help="stop once so many seeds have failed")
    parser.add_argument("--plan", default=None, help="instead: this one run, as a failing seed printed it")
    asked = parser.parse_args()
    if asked.plan is not None:
        plan = decoded(asked.plan)
        seen = play(plan)
        print(Found(plan.schedule, plan, plan, seen))
        return BAD if seen.verdict else 0
    first = SystemRandom().getrandbits(31) if asked.seed is None else asked.seed
    print(f"simulate: {asked.seeds:,} seeds from SEED={first} on {asked.jobs} processes", flush=True)
    began, told = time.monotonic(), [time.monotonic()]

    def done(count: int) -> None:
        now = time.monotonic()
        if now - told[0] > EVERY_S:
            told[0] = now
            print(f"{count:,} are played, {60 * count / (now - began):,.0f} a minute", flush=True)

    try:
        failed = failures(range(first, first + asked.seeds), max(1, asked.jobs), done, most=max(1, asked.failures))
    except KeyboardInterrupt:
        return STOPPED
    if not failed:
        took_s = time.monotonic() - began
        print(f"all are good: {asked.seeds:,} in {took_s:.0f} s, {60 * asked.seeds / took_s:,.0f} a minute")
        return 0
    print("\n".join(f"SEED={seed} fails" for seed in failed))
    print(f"making SEED={failed[0]} small:", flush=True)
    print(drawn(failed[0]))
    print(made_small(failed[0]))
    return BAD


if __name__ == "__main__":
    sys.exit(main())
