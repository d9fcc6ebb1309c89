"""Those who take what intakes claim: the slots of a worker, or loops of the user's. What is ready lies here until it is
taken; how many wait for it decides how much is claimed.

Most takers have one intake. In a `Pool` several intakes, one a queue, claim for the same takers: a free slot is then
promised to one queue at a time, or more would be claimed than can start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

from streamq.core.sharing import Shared, charged, first_turns, shares
from streamq.errors import StreamQError
from streamq.runtime.held import Held
from streamq.runtime.offer import Offer

TAKES_A_TURN: Final = 16
"""Handlers that never wait would keep everything else from its turn (the next claim above all, which is to overlap
with them): one take in so many lets others run."""


class Source(Protocol):
    """What takers know of an intake."""

    @property
    def is_wanting(self) -> bool:
        """Whether it would claim if it had a slot."""

    def look(self) -> None:
        """Something has changed: decide anew whether to claim."""

    def watch(self) -> None:
        """More lies here than takers wait for."""


class Takers:
    """The takers of one intake. `keeps` says whether tasks may wait here for a taker to come."""

    def __init__(self, release: Callable[[Held], None], *, keeps: bool) -> None:
        self.ready: deque[Held] = deque()
        self.offer = Offer()
        self.taken = 0
        self.closed = False
        self._keeps = keeps
        self._release = release
        self._waiting = 0
        self._lot = trio.lowlevel.ParkingLot()
        self._early_back = trio.lowlevel.ParkingLot()
        self._refused: StreamQError | None = None
        self._sources: tuple[Source, ...] = ()

    def serve(self, source: Source) -> None:
        """Let `source` hear of takers that come and go."""
        self._sources = (*self._sources, source)

    # --- taking -------------------------------------------------------------------------------------------------

    async def take(self) -> Held:
        """Wait for a claimed task. Raises what there will be no more for, `trio.EndOfChannel` once closed.

        Cancellation: safe, nothing is taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.ready:
            held = self.ready.popleft()
            self.look()
        else:
            held = await self._wait()
        self.taken += 1
        if self.taken % TAKES_A_TURN == 0:
            await trio.lowlevel.cancel_shielded_checkpoint()
            if self.closed:  # meanwhile: what has not begun begins no more
                self._release(held)
                raise trio.EndOfChannel
        return held

    async def _wait(self) -> Held:
        self._waiting += 1
        self.look()
        try:
            while not self.ready:
                if self._refused is not None:
                    raise self._refused
                if self.closed:
                    raise trio.EndOfChannel
                await self._lot.park()
            return self.ready.popleft()
        except trio.Cancelled:
            self.offer.withdraw()  # this taker's slot is among what is on offer
            raise
        finally:
            self._waiting -= 1
            self._spill()
            self.look()

    def _spill(self) -> None:
        """Give back what was claimed for a taker that has left meanwhile, if it must not wait here."""
        while len(self.ready) > self._waiting and not self._may_wait(self.ready[-1]):
            self._release(self.ready.pop())
        if self.is_hoard:
            for source in self._sources:
                source.watch()

    def _may_wait(self, held: Held) -> bool:
        return not held.claim.is_delicate and self._keeps

    def refuse(self, error: StreamQError) -> None:
        """Tell the takers that there will be no more, and why."""
        self._refused = error
        self._lot.unpark_all()

    def close(self) -> None:
        """Hand out no more: what was not taken goes back, and takers that come or wait are told so."""
        self.closed = True
        while self.ready:
            self._release(self.ready.popleft())
        self._lot.unpark_all()

    # --- giving -------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Let the sources decide anew."""
        for source in self._sources:
            source.look()

    def deliver(self, held: Held) -> None:
        """Take in what was claimed; `wake` then."""
        if self.closed or (self._waiting <= len(self.ready) and not self._may_wait(held)):
            self._release(held)  # its taker has left meanwhile
        else:
            self.ready.append(held)

    def withdraw(self, source: Source) -> None:
        """Give back what `source` has claimed and nobody has taken, and let the others have its slots."""
        self.offer.withdraw()
        for held in [one for one in self.ready if one.owner is source]:
            self.ready.remove(held)
            self._release(held)
        self.look()

    def wake(self, count: int) -> None:
        """Wake takers for `count` tasks."""
        self._lot.unpark(count=count)

    def free(self, source: Source) -> int:
        """Return how many takers wait with nothing to take (negative: more is ready) that `source` may claim for."""
        return self.idle

    @property
    def idle(self) -> int:
        """How many takers wait that nothing is promised to."""
        return self._untaken() - self.offer.out

    @property
    def is_hoard(self) -> bool:
        """Say whether more lies here than takers wait for. What they wait for they were woken for: given back, it
        would leave them idle and nobody who looks what else there is."""
        return self._untaken() < 0

    def _untaken(self) -> int:
        """How many takers wait with nothing to take, whatever is on its way to them."""
        return self._waiting - len(self.ready)

    def asking(self, source: Source, slots: int) -> None:
        """Note that `source` claims for so many."""

    def asked(self, source: Source, slots: int, obtained: int) -> None:
        """Note that its claim was answered."""

    # --- in the feed's thread -----------------------------------------------------------------------------------

    def put_on_offer(self, source: Source) -> None:
        """Offer the free slots to the feed's thread: `source` has nothing to claim."""
        if not source.is_wanting:
            self.offer.give(self._untaken())

    def back(self, source: Source, obtained: int, taken: int = 1) -> None:
        """So many that were on offer and `taken` have come back."""
        self.offer.back(taken)
        self._early_back.unpark_all()

    async def wait_all_back(self) -> None:
        """Wait until nothing of the offer is out."""
        while self.offer.out:
            await self._early_back.park()


class Pool(Takers):
    """The takers of several intakes. Nothing waits here: a task that did would stand before a more urgent one."""

    def __init__(self, release: Callable[[Held], None], shared: Shared) -> None:
        super().__init__(release, keeps=False)
        self._shared = shared
        self._turns = first_turns(shared)
        self._asked: dict[Source, int] = {}

    @property
    def idle(self) -> int:
        """See `Takers.idle`."""
        return super().idle - sum(self._asked.values())

    def free(self, source: Source) -> int:
        """See `Takers.free`. While a claim is under way its queue is taken to want more: what it finds is not known."""
        wanting = [one.is_wanting or one in self._asked for one in self._sources]
        given = shares(self._shared, self._turns, wanting, self.idle)
        return given[self._sources.index(source)]

    def asking(self, source: Source, slots: int) -> None:
        """See `Takers.asking`."""
        self._asked[source] = slots
        self._charge(source, slots)

    def asked(self, source: Source, slots: int, obtained: int) -> None:
        """See `Takers.asked`; what it has not used is for the others."""
        del self._asked[source]
        self._charge(source, obtained - slots)
        self.look()

    def put_on_offer(self, source: Source) -> None:
        """See `Takers.put_on_offer`. Nothing is offered while any queue has something to claim."""
        if not self._asked and not any(one.is_wanting for one in self._sources):
            self.offer.give(self._untaken())

    def back(self, source: Source, obtained: int, taken: int = 1) -> None:
        """See `Takers.back`."""
        self._charge(source, obtained)
        super().back(source, obtained, taken)

    def _charge(self, source: Source, count: int) -> None:
        self._turns = charged(self._shared, self._turns, self._sources.index(source), count)
