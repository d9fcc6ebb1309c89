"""A stream meets errors of all kinds, as a seed draws them, at its reads and at its openings: each put is run soon.

The seed is `--faults-seed`. What each kind does alone is in test_streams.py, test_dropped.py and
tests/integration/test_stream.py. The safety scan is off: what is not told is never found.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Final

import pytest
import trio
from pymongo import MongoClient

from streamq.runtime import watcher
from tests.databases import rename
from tests.faults.test_streams import HOW, ends
from tests.integration.conftest import MakeApp
from tests.integration.echo import echoing
from tests.long_form import sized

MIXED_S: Final = sized(5.0, 3_600.0)
SOON_S: Final = sized(15.0, 3.0)
"""How soon a put must have been run; the short form is run beside other tests."""

GOES: Final = ("drop", "rename", "drop database")
GOES_SHARE: Final = 0.05
"""How often the collection goes: each time all indexes are made anew."""

COMMANDS: Final = (["getMore"], ["aggregate"], ["getMore", "aggregate"])
MOST_TIMES: Final = 3
MOST_PUTS: Final = 3
MOST_APART_S: Final = 0.1

QUIET_S: Final = 0.2
"""After how long an open stream counts as healthy here, in place of 5 s: an error that comes sooner lengthens the pause
before the next opening, up to 7.5 s, as it must where errors do not end."""

APART_S: Final = 0.7
"""Between two strikes: the longest pause after the errors of one, and that."""

HEARTBEAT_MS: Final = 500
"""In place of 5,000. A server that says that it shuts down (11600), and does not, is trusted again when the driver's
monitor next hears from it, so much later: each such error would cost up to 5 s."""

APP: Final = "mixed"


class Dice:
    """Draws what happens next, and lets it happen."""

    def __init__(self, mongo: MongoClient[dict[str, Any]], database: str, seed: int) -> None:
        self._mongo = mongo
        self._database = database
        self._chance = random.Random(seed)
        self.hits = 0
        """How many commands have failed."""

    def strike(self) -> str:
        """Say what."""
        if self._chance.random() < GOES_SHARE:
            return self._go(self._chance.choice(GOES))
        how, commands = self._chance.choice(sorted(HOW)), self._chance.choice(COMMANDS)
        times = self._chance.randint(1, MOST_TIMES)
        data = {"failCommands": commands, "appName": APP} | HOW[how]
        self._mongo.admin.command("configureFailPoint", "failCommand", mode={"times": times}, data=data)
        return how

    def _go(self, how: str) -> str:
        match how:
            case "drop":
                self._mongo[self._database].tasks.drop()
            case "rename":
                rename(self._mongo[self._database].tasks, "old")
                self._mongo[self._database].drop_collection("old")
            case _:
                self._mongo.drop_database(self._database)
        return how

    def end(self) -> None:
        """Let nothing fail any more; count what has."""
        said = self._mongo.admin.command("configureFailPoint", "failCommand", mode="off")
        self.hits = max(self.hits, said["count"])

    def puts(self) -> int:
        """Say how many puts follow."""
        return self._chance.randint(1, MOST_PUTS)

    def apart_s(self) -> float:
        """Say how long until the next of them."""
        return self._chance.uniform(0, MOST_APART_S)


async def test_each_put_is_run_soon_whatever_errors_a_stream_meets(
    make_app: MakeApp,
    mongo: MongoClient[dict[str, Any]],
    uri: str,
    database: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to three errors a strike. No task may be left when the collection goes: that takes it away."""
    monkeypatch.setattr(watcher, "QUIET_S", QUIET_S)
    seed = request.config.getoption("--faults-seed")
    dice = Dice(mongo, database, seed)
    before = mongo.admin.command("configureFailPoint", "failCommand", mode="off")["count"]
    here, elsewhere = (
        make_app(f"{uri}&appName={APP}&heartbeatFrequencyMS={HEARTBEAT_MS}", safety_scan_s=None),
        make_app(),
    )
    echo = echoing(here)
    drawn: Counter[str] = Counter()
    longest_s = 0.0
    try:
        async with here, elsewhere, trio.open_nursery() as nursery:
            await nursery.start(here.work)
            until = trio.current_time() + MIXED_S
            while trio.current_time() < until:
                what = await trio.to_thread.run_sync(dice.strike)
                drawn[what] += 1
                for number in range(dice.puts()):
                    await trio.sleep(dice.apart_s())
                    (handle,) = await elsewhere.put_many([echo.new(what)])
                    put_at = trio.current_time()
                    said = f"put {number} after {what}, strike {drawn.total()} of seed {seed}"
                    assert await ends(elsewhere, handle.id, SOON_S), f"not run: {said}"
                    longest_s = max(longest_s, trio.current_time() - put_at)
                await trio.to_thread.run_sync(dice.end)
                await trio.sleep(APART_S)
            nursery.cancel_scope.cancel()
    finally:
        dice.end()
    print(f"seed {seed}: {drawn.total()} strikes, {dict(drawn)}, longest {longest_s:.2f} s")
    assert dice.hits - before > drawn.total() / 4, "what was to fail did not"
    assert here.journal.counts["stream lost, trying again"] > 0
