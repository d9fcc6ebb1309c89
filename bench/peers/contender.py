"""Who takes part: each a program, the interpreter it runs in, the kind of server it needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import msgspec

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".peers"
"""Where `make bench-peers` puts what the peers need: `venv`, and `node` with `node_modules` in it."""

Kind = Literal["mongo", "postgres", "redis"]
Runtime = Literal["own", "venv", "node"]


class Contender(msgspec.Struct, frozen=True):
    """A queue, or the floor.

    `throughput_per_s` and `drain_per_s` are about what it does on a small machine: a round is sized by them, so that it
    takes the seconds it was given. Nothing else depends on them.
    """

    name: str
    kind: Kind
    program: str
    runtime: Runtime
    throughput_per_s: int
    drain_per_s: int
    variant: str | None = None
    prepares: bool = False
    """Whether its indexes have to be there before two processes connect at once."""

    @property
    def command(self) -> list[str]:
        """The command of its program, without the order."""
        if self.runtime == "node":
            return ["node", str(ROOT / f"bench/peers/programs/{self.program}.mjs")]
        python = sys.executable if self.runtime == "own" else str(CACHE / "venv/bin/python")
        return [python, "-m", f"bench.peers.programs.{self.program}"]

    @property
    def missing(self) -> str | None:
        """Say what it needs and is not there; None when nothing is."""
        if self.runtime == "venv" and not (CACHE / "venv/bin/python").exists():
            return "its environment .peers/venv is not made (make bench-peers makes it)"
        if self.runtime == "node" and not (CACHE / "node/node_modules").exists():
            return "its packages are not installed in .peers/node (make bench-peers does it where npm is)"
        return None


CONTENDERS = (
    Contender("floor", "mongo", "floor", "own", 16_000, 20_000),
    Contender("streamq", "mongo", "streamq", "own", 10_000, 14_000),
    Contender("mongo-taskqueue", "mongo", "mongo_taskqueue", "venv", 200, 200, prepares=True),
    Contender("beanie-batteries-queue", "mongo", "beanie_queue", "venv", 300, 300, prepares=True),
    Contender("pgqueuer", "postgres", "pgqueuer", "venv", 6_000, 10_000),
    Contender("procrastinate", "postgres", "procrastinate", "venv", 300, 300),
    Contender("graphile-worker", "postgres", "graphile_worker", "node", 3_000, 3_000),
    Contender("graphile-worker, localQueue 500", "postgres", "graphile_worker", "node", 12_000, 20_000, "local"),
    Contender("streaq", "redis", "streaq", "venv", 1_000, 1_200),
    Contender("arq", "redis", "arq", "venv", 400, 500),
)
