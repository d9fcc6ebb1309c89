"""Echoes: of several channels that tell of one new task only the first is acted on."""

from __future__ import annotations

import math
from collections import deque

from bson import ObjectId

from streamq.core.wake import Wake
from streamq.runtime.echoes import MOST_REMEMBERED, Echoes, FirstTold


def test_second_channel_that_tells_of_a_task_is_an_echo() -> None:
    echoes, id = Echoes(), ObjectId()
    assert not echoes.is_echo(id, "tail")
    assert echoes.is_echo(id, "stream")
    assert echoes.is_echo(id, "own")


def test_channel_that_tells_of_a_task_again_tells_of_another_task_under_its_id() -> None:
    """It was deleted at its success and put again; the other channels then tell of that one too."""
    echoes, id = Echoes(), ObjectId()
    assert not echoes.is_echo(id, "tail")
    assert echoes.is_echo(id, "stream")
    assert not echoes.is_echo(id, "tail")
    assert echoes.is_echo(id, "stream")


def test_task_that_one_channel_alone_tells_of_is_never_an_echo() -> None:
    """Puts of a program without the wake channel, whose ids come again."""
    echoes, id = Echoes(), ObjectId()
    assert not any(echoes.is_echo(id, "stream") for _ in range(3))


def test_no_telling_is_an_echo_after_a_channel_was_opened_anew() -> None:
    """What it was to tell may have been lost with the one before."""
    echoes, id = Echoes(), ObjectId()
    echoes.is_echo(id, "tail")
    echoes.forget()
    assert not echoes.is_echo(id, "stream")


def test_number_of_remembered_tasks_is_bounded_and_the_newest_are_kept() -> None:
    echoes = Echoes()
    ids = [ObjectId() for _ in range(3 * MOST_REMEMBERED)]
    for id in ids:
        echoes.is_echo(id, "tail")
    assert len(echoes._told) + len(echoes._told_before) <= 2 * MOST_REMEMBERED + 1
    assert all(echoes.is_echo(id, "stream") for id in ids[-MOST_REMEMBERED:])


class Listed:
    """A feed that tells what is listed."""

    def __init__(self, *wakes: Wake) -> None:
        self.wakes = deque(wakes)

    def read(self) -> Wake | None:
        return self.wakes.popleft() if self.wakes else None

    def close(self) -> None: ...


def test_stream_tells_all_that_is_no_new_task() -> None:
    """A task that was told of may be given back, end, or be cancelled."""
    id, echoes = ObjectId(), Echoes()
    echoes.is_echo(id, "tail")
    wakes = [Wake("ready", id, "q"), Wake("settled", id), Wake("cancel", id), Wake("bell")]
    stream = FirstTold(Listed(*wakes), echoes, "stream")
    assert [stream.read() for _ in wakes] == wakes


def test_echo_of_a_task_that_expires_is_still_told_to_the_scheduler() -> None:
    """The wake channel does not say when."""
    id, echoes = ObjectId(), Echoes()
    echoes.is_echo(id, "tail")
    stream = FirstTold(Listed(Wake("ready", id, "q", "job", is_new=True, look_in_s=3.0)), echoes, "stream")
    wake = stream.read()
    assert wake is not None
    assert (wake.kind, wake.look_in_s, wake.due_in_s) == ("delayed", 3.0, math.inf)
