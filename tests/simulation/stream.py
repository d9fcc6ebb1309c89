"""A stream: what the server tells one process, on its way, and who reads it there.

Wakes are hints: they may come late, in any order, more than once. What says how things stand (a pause) keeps its order,
as a real stream does.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from streamq.bridge import NOTHING, SWIFT_IN_A_ROW, Swift
from streamq.core.wake import Wake
from streamq.core.wakes import Interest
from streamq.errors import StoreError
from streamq.store.memory_feed import MemoryFeed
from tests.simulation.plan import Host
from tests.simulation.process import Process
from tests.simulation.server import Server

IN_ORDER: Final = frozenset({"pause", "resume", "bell"})


class Stream(MemoryFeed):
    """One open stream of a host."""

    def __init__(self, server: Server, process: Process, host: Host, interest: Interest) -> None:
        super().__init__(interest, lambda feed: server.feeds.remove(feed))
        self._world = server.world
        self._process = process
        self._host = host
        self._last_at = 0.0
        self._closed = False
        self.silent_until = 0.0
        self.reader: Reader | None = None
        self._early: deque[Wake] = deque()  # what came before anybody read it
        self.error: StoreError | None = None

    def tell(self, wake: Wake) -> None:
        """Send a wake on its way."""
        host, dice = self._host, self._process.dice
        if wake.kind != "bell" and wake.kind not in IN_ORDER and dice.random() < host.drops:
            self._process.struck()
            return
        copies = 2 if wake.kind not in IN_ORDER and dice.random() < host.twice else 1
        for _ in range(copies):
            # What holds it up does so once, however many of them there are.
            at = max(self._world.now, self.silent_until, self._process.stalled_until) + self._process.way()
            if host.reorders and wake.kind not in IN_ORDER:
                at += 5 * self._process.way()
            else:
                at = self._last_at = max(at, self._last_at)
            self._world.at(at, lambda: self._process.tell(lambda: self._arrive(wake)))

    def _arrive(self, wake: Wake) -> None:
        if self._closed or self.error is not None:
            return
        if self.reader is None:
            self._early.append(wake)
        else:
            self.reader.hear(wake)

    def end(self, error: StoreError) -> None:
        """Tell no more; whoever reads it hears of the error."""

        def hear() -> None:
            if not self._closed and self.error is None:
                self.error = error
                if self.reader is not None:
                    self.reader.lot.unpark_all()

        self._process.tell(hear)

    def read_by(self, reader: Reader) -> None:
        """Let `reader` have it, what came before too."""
        self.reader = reader
        while self._early:
            reader.hear(self._early.popleft())

    def close(self) -> None:
        """Hear no more."""
        if not self._closed:
            self._closed = True
            super().close()


class Reader:
    """The thread of a process that reads a stream: it may claim by a wake, which takes its time, before it reads on."""

    def __init__(self, process: Process, swift: Swift | None) -> None:
        self.inbox: deque[object] = deque()
        self.lot = trio.lowlevel.ParkingLot()
        self.busy = False
        self._process = process
        self._swift = swift
        self._unread: deque[Wake] = deque()
        self._ahead = 0

    def hear(self, wake: Wake) -> None:
        """Take a wake in, as soon as the thread is free. In the process."""
        self._unread.append(wake)
        self._read()

    def _read(self) -> None:
        while self._unread and not self.busy:
            wake = self._unread.popleft()
            if wake.kind == "bell":
                continue
            if not self.inbox:
                self._ahead = SWIFT_IN_A_ROW
            if self._swift is None or not self._ahead:
                self._hand(wake, None)
                continue
            self._claim(wake, self._swift)

    def _claim(self, wake: Wake, swift: Swift) -> None:
        made: list[object | None] = []
        answer = self._process.at_server(lambda: made.append(swift(wake)))
        if answer is None:
            self._hand(wake, made[0])
            return
        self.busy = True

        def heard() -> None:
            self.busy = False
            self._hand(wake, made[0])
            self._read()
            self.lot.unpark_all()

        answer(heard)

    def _hand(self, wake: Wake, early: object | None) -> None:
        if early is NOTHING:
            return
        self._ahead = self._ahead - 1 if early else 0
        self.inbox.append(early or wake)
        self.lot.unpark_all()
