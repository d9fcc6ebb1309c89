"""Echoes: one new task is told of by several channels (the wake channel, the change stream, this process's own put),
and only the first telling is to be acted on.

A channel tells of one insert once. So what another channel has told of already is an echo; what the same channel tells
of again is not: the task was deleted and put again under its id. Told by one channel alone, as the puts of others that
know no wake channel are, nothing is ever an echo.
"""

from __future__ import annotations

import math
import threading
from typing import Final, Literal

import msgspec
from bson import ObjectId

from streamq.core.wake import Wake
from streamq.store.contract import Feed

Channel = Literal["stream", "tail", "own"]

MOST_REMEMBERED: Final = 4_000
"""Tasks in each of two generations. An echo comes milliseconds after the first telling; one that is not known as such
costs a look at the queue."""


class Echoes:
    """One per process. Any thread: channels are read by threads of their own."""

    def __init__(self) -> None:
        self._told: dict[ObjectId, set[Channel]] = {}
        self._told_before: dict[ObjectId, set[Channel]] = {}
        self._lock = threading.Lock()

    def is_echo(self, id: ObjectId, channel: Channel) -> bool:
        """Note that `channel` tells of task `id`; say whether another has told of it before."""
        with self._lock:
            told_by = self._told.get(id) or self._told_before.pop(id, None)
            if told_by is None or channel in told_by:
                self._told[id] = {channel}
                if len(self._told) > MOST_REMEMBERED:
                    self._told_before, self._told = self._told, {}
                return False
            told_by.add(channel)
            self._told[id] = told_by
            return True

    def forget(self) -> None:
        """Take every telling for the first: a channel was opened anew, and may have missed some."""
        with self._lock:
            self._told, self._told_before = {}, {}


class FirstTold:
    """A feed that tells what no other channel has told."""

    def __init__(self, feed: Feed, echoes: Echoes, channel: Channel) -> None:
        self._feed = feed
        self._echoes = echoes
        self._channel: Channel = channel

    def read(self) -> Wake | None:
        """See `Feed.read`; None for an echo too."""
        wake = self._feed.read()
        if wake is None or not wake.is_new or wake.id is None or not self._echoes.is_echo(wake.id, self._channel):
            return wake
        if wake.look_in_s is None:
            return None
        # The other channel has not told that the scheduler must see to it.
        return msgspec.structs.replace(wake, kind="delayed", queue="", due_in_s=math.inf, is_new=False, durable=False)

    def close(self) -> None:
        """See `Feed.close`."""
        self._feed.close()
