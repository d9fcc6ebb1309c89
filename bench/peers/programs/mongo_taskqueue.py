"""mongo-taskqueue: the user's loop around `next`; nothing wakes it."""

from __future__ import annotations

import time

from mongotq import TaskQueue, get_task_queue

from bench.peers import talk

POLL_S = 0.001
"""Chosen here: the package has no loop of its own and names no interval. A poll takes about as long."""


def about() -> None:
    """Say what is measured here."""
    talk.about(
        "mongo-taskqueue",
        "pymongo",
        settings="one loop of `next`, 1 ms between polls that find nothing; append_many of 1,000",
        durability="all writes: majority, journaled (by the URI)",
        wake="polling",
    )


def queue_for(heard: talk.Order) -> TaskQueue:
    """Open the queue."""
    return get_task_queue(
        database_name=heard["name"],
        collection_name="tasks",
        host=heard["uri"] + "&w=majority&journal=true",
        ttl=-1,
        ensure_indexes=heard["role"] == "prepare",
    )


def prepare(heard: talk.Order) -> None:
    """Make the indexes."""
    queue_for(heard)


def put_at_rate(heard: talk.Order) -> None:
    """Put open loop."""
    queue = queue_for(heard)
    queue.next()
    talk.wait_go()
    began = time.monotonic_ns()
    for number, at in talk.ticks(heard["rate"], heard["count"]):
        queue.append({"number": number, "at": at})
    talk.say(began=began, ended=time.monotonic_ns())


def put_many(heard: talk.Order) -> None:
    """Put in thousands."""
    queue = queue_for(heard)
    queue.next()
    talk.wait_go()
    began = time.monotonic_ns()
    for numbers in talk.batches(heard["count"]):
        at = time.monotonic_ns()
        queue.append_many([{"number": number, "at": at} for number in numbers])
    talk.say(began=began, ended=time.monotonic_ns())


def consume(heard: talk.Order) -> None:
    """Run handlers. A task is settled when `on_success` has returned."""
    queue = queue_for(heard)
    tally = talk.Tally(heard)
    if heard["waits"]:
        queue.next()
        tally.listening()
    while not tally.is_over:
        task = queue.next()
        if task is None:
            time.sleep(POLL_S)
            continue
        tally.note(task.payload["at"])
        queue.on_success(task)
    tally.say()


if __name__ == "__main__":
    talk.play(about=about, prepare=prepare, put_at_rate=put_at_rate, put_many=put_many, consume=consume)
