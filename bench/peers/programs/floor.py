"""The floor: the same work in plain PyMongo, as `bench.floor` has it."""

from __future__ import annotations

import time
from typing import Any

from bench import floor
from bench.peers import talk
from bench.place import Place


def about() -> None:
    """Say what is measured here."""
    talk.about(
        "pymongo",
        settings=f"insert_many of 1,000; find, update_many, delete_many of {floor.BATCH}; latency: one thread",
        durability="puts and settles: majority, journaled; claims: w:1",
        wake="change stream (latency), polling (throughput)",
    )


def place(heard: talk.Order) -> Place:
    """Name the place, with streamq's indexes."""
    one = Place(heard["uri"], heard["name"])
    one.prepare()
    return one


def prepare(heard: talk.Order) -> None:
    """Make the collection and its indexes."""
    place(heard)


def put_at_rate(heard: talk.Order) -> None:
    """Put open loop."""
    here = place(heard)
    talk.wait_go()
    began = time.monotonic_ns()
    floor.put_at_rate(here, heard["rate"], heard["count"])
    talk.say(began=began, ended=time.monotonic_ns())


def put_many(heard: talk.Order) -> None:
    """Put in thousands."""
    here = place(heard)
    talk.wait_go()
    began = time.monotonic_ns()
    floor.put_in_thousands(here, heard["count"])
    talk.say(began=began, ended=time.monotonic_ns())


class Ready:
    """What the floor sets when its stream is open."""

    def __init__(self, tally: talk.Tally) -> None:
        self._tally = tally

    def set(self) -> None:
        """Tell the run."""
        self._tally.listening()


def consume(heard: talk.Order) -> None:
    """Take and settle."""
    here = place(heard)
    tally = talk.Tally(heard)
    if heard["scenario"] == "latency":
        ready: Any = Ready(tally)
        tally.pickups = floor.consume_one_by_one(here, heard["count"], ready)
    else:
        if heard["waits"]:
            tally.listening()
        tally.first = time.monotonic_ns()
        floor.drain(here, heard["count"])
        tally.pickups = [0] * heard["count"]
    tally.say()


if __name__ == "__main__":
    talk.play(about=about, prepare=prepare, put_at_rate=put_at_rate, put_many=put_many, consume=consume)
