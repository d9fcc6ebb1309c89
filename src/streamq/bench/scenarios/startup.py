"""How long a program takes to begin."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from typing import Annotated, Any

from cyclopts import Parameter

from streamq.bench.floor import idling as floor_idling
from streamq.bench.floor.putting import stored
from streamq.bench.options import COMMON, Common
from streamq.bench.ours import idling
from streamq.bench.result import FLOOR, STREAMQ, ratio
from streamq.bench.run import Run, running

IMPORTS = {FLOOR: "import trio, pymongo", STREAMQ: "import trio, pymongo, streamq"}
TIMED = "import time; began_at = time.perf_counter(); {}; print(time.perf_counter() - began_at)"


def startup(
    *, rounds: Annotated[int, Parameter(help="Rounds of each contender.")] = 10, common: Common = COMMON
) -> None:
    """Start-up: the import of streamq over that of trio and pymongo, and from the start of a worker to its first claim.

    Each in a fresh process; the figures are medians. The floor connects, opens a change stream and claims. Modules are
    imported from their byte-code, as where an installer has compiled them: from source it takes three times as long.
    """
    with (
        running("startup", common, 120.0, {"rounds": rounds}) as run,
        tempfile.TemporaryDirectory(prefix="streamq-bench-") as bytecode,
    ):
        for name in IMPORTS:
            _import_s(run, name, bytecode)
        imports: dict[str, list[float]] = {FLOOR: [], STREAMQ: []}
        readies: dict[str, list[float]] = {FLOOR: [], STREAMQ: []}
        for _, order in run.turns(rounds):
            for name in order:
                imports[name].append(_import_s(run, name, bytecode))
                with run.place() as place:
                    stored(place, run.until, 1)
                    actor = run.cast.actor(f"{name} starter")
                    actor.begin(floor_idling.first_claim if name == FLOOR else idling.first_claim, place)
                    actor.wait_ready()
                    actor.go()
                    took_ns = actor.result()
                    run.cast.dismiss(actor)
                    if took_ns:
                        readies[name].append(took_ns / 1e9)
            figures: dict[str, dict[str, Any]] = {
                name: {"import_s": _median(imports[name]), "first_claim_s": _median(readies[name])} for name in imports
            }
            over_s = (figures[STREAMQ]["import_s"] or 0.0) - (figures[FLOOR]["import_s"] or 0.0)
            run.found(
                {"ratio": ratio(figures[STREAMQ]["first_claim_s"], figures[FLOOR]["first_claim_s"])},
                figures,
                import_over_s=round(over_s, 3),
            )


def _import_s(run: Run, name: str, bytecode: str) -> float:
    """Time an import in a fresh interpreter, which ends by itself; it keeps its byte-code there."""
    argv = [sys.executable, "-c", TIMED.format(IMPORTS[name])]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = bytecode
    left_s = max(0.1, run.budget.left_s)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=left_s, env=env)
    except subprocess.TimeoutExpired:
        run.undone("an import")
        return 0.0
    return float(done.stdout)


def _median(samples: list[float]) -> float | None:
    return round(statistics.median(samples), 4) if samples else None
