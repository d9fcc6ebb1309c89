"""The ear of a caller that blocks: a change stream of its own, open while it waits.

The order is the one that misses nothing (see `runtime.watcher`): open, barrier, look, follow; again from the start when
the stream was lost, at once the first time and after a longer pause each time it is lost again soon. Between two wakes
nothing is asked but what is due by then.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable
from typing import Final, Self, TypeVar

from streamq.core.member import Member
from streamq.core.wakes import Interest
from streamq.errors import FeedEnded, StoreError
from streamq.runtime import clock
from streamq.runtime.pauses import Pauses
from streamq.runtime.watcher import QUIET_S
from streamq.store.contract import Feed, Store

T = TypeVar("T")

Look = Callable[[], tuple[T | None, float]]
"""What is done at each wake: what was waited for, if it is there, else in how many seconds to look again anyway."""

RECHECK_S: Final = 30.0
"""It looks again after this long without a word, so that a stream that hangs costs latency only."""


class Ear:
    """For one thread, as `with Ear(...) as ear:`. Nothing is opened before the first wait."""

    def __init__(
        self,
        store: Store,
        *,
        queues: tuple[str, ...] = (),
        hears_ends: bool = False,
        lease_s: float,
        slice_s: float,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Hear of ready tasks of `queues`, and of the ends of tasks that the `member` is to be told of if it
        `hears_ends`. One read waits at most `slice_s`: so late it may see the time, or that it is `stopped`."""
        self.member = Member(clock.new_name(), socket.gethostname(), os.getpid(), (), 1 if queues else 0, lease_s)
        self._store = store
        reply_to = self.member.id if hears_ends else None
        self._interest = Interest(queues=queues, timers=bool(queues), reply_to=reply_to, bell=self.member.id)
        self._shortest_s = lease_s
        self._slice_s = slice_s
        self._stopped = stopped
        self._feed: Feed | None = None
        self._has_beaten = False
        self._opened_at = -math.inf
        self._open_at = -math.inf
        self._pauses = Pauses()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, look: Look[T], wait_s: float) -> T | None:
        """Look, and again at every wake, until something is found; None after `wait_s` or when stopped."""
        until = time.monotonic() + wait_s
        look_at = -math.inf
        while not self._stopped() and (now := time.monotonic()) < until:
            if self._feed is None and self._open_at <= now:
                self._open(wait_s)
                look_at = now
            if look_at <= now:
                found, again_s = look()
                if found is not None:
                    return found
                look_at = time.monotonic() + min(again_s, self._shortest_s, RECHECK_S)
            if self._feed is None:
                now = time.monotonic()
                time.sleep(max(0.0, min(self._slice_s, self._open_at - now, look_at - now, until - now)))
            elif self._hear():
                look_at = -math.inf
            else:
                look_at = min(look_at, time.monotonic() + self._shortest_s)  # whoever has come may claim for less
        return None

    def close(self) -> None:
        """Hear no more, until the next wait."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        if self._has_beaten:
            self._has_beaten = False
            with contextlib.suppress(StoreError):  # without a good-bye it is forgotten by itself
                self._store.leave(self.member)

    def _open(self, wait_s: float) -> None:
        slices = max(1, math.ceil(wait_s / self._slice_s)) if wait_s < math.inf else 1
        self._feed = self._store.feed(self._interest, min(self._slice_s, wait_s / slices))
        self._has_beaten = True
        self._opened_at = time.monotonic()
        self._shortest_s = self._store.beat(self.member).lease_s

    def _hear(self) -> bool:
        """Wait for a wake; say whether to look."""
        assert self._feed is not None
        try:
            wake = self._feed.read()
        except FeedEnded:
            self._feed.close()
            self._feed = None
            now = time.monotonic()
            if now - self._opened_at > QUIET_S:
                self._pauses.went_well()
            self._open_at = now + self._pauses.next_s(first_free=True)
            return False
        if wake is not None and wake.kind == "member":  # many that come at once must not make each other look
            if wake.lease_s > 0:
                self._shortest_s = min(self._shortest_s, wake.lease_s)
            return False
        return wake is not None
