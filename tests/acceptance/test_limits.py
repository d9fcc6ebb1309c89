"""Limits with real processes: a rate and a number of running tasks hold however many race, and a holder that is killed
takes no slot with it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from streamq import StreamQ
from tests.acceptance.test_processes import Hire, app, counts, hire, lines
from tests.patience import eventually

__all__ = ["app", "hire"]  # fixtures

A_SECOND, BURST, RUNNING = 100, 10, 4


def put(app: StreamQ, count: int, *, stuck: bool = False) -> None:
    @app.task
    async def job(number: int, stuck: bool) -> None:
        raise AssertionError("it runs in the worker processes")

    app.blocking.put_many([job.new(number, stuck) for number in range(count)])


def test_rate_and_running_limits_hold_with_eight_processes_racing(hire: Hire, app: StreamQ, tmp_path: Path) -> None:
    count = 150
    hands = [hire("limited-long-lease") for _ in range(8)]
    for hand in hands:
        hand.wait_ready()
    put_at = time.monotonic_ns()
    put(app, count)
    assert eventually(lambda: counts(app) == {"succeeded": count}, 40)
    told = sorted((int(words[1]), words[0], words[-1]) for words in lines(tmp_path / "log"))
    began = [at for at, what, _ in told if what == "began"]
    assert len(began) == count
    assert len({who for _, _, who in told}) >= 3, "several took part"
    # A start comes after its token, by how much depends on the machine; never before.
    for started, at in enumerate(began, 1):
        assert started <= BURST + (at - put_at) / 1e9 * A_SECOND
    running = 0
    for _, what, _ in told:
        running += 1 if what == "began" else -1
        assert running <= RUNNING


def test_slots_of_a_holder_that_was_killed_are_free_again_after_its_lease(
    hire: Hire, app: StreamQ, tmp_path: Path
) -> None:
    put(app, 6, stuck=True)
    victim = hire("limited")
    victim.wait_ready()
    assert eventually(lambda: sum(words[0] == "began" for words in lines(tmp_path / "log")) == RUNNING, 20)
    assert counts(app) == {"ready": 2, "running": RUNNING}
    victim.send(signal.SIGKILL)
    victim.process.wait()
    heir = hire("limited", "heir")
    heir.wait_ready()
    # The two that were not started get stuck with it at first, and are not waited for.
    assert eventually(lambda: counts(app).get("succeeded", 0) >= 4, 20)
