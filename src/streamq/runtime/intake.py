"""The intake of one queue: claims what its takers have room for, and holds it until they take it.

    wake ──hint──┐
    scan ─behind─┤→ demand decides → claim (one in flight, one behind it) → ready → take()
    take() room ─┘

Level-triggered: `behind` is lowered before a claim is sent, never after, so a wake that arrives during the claim
makes another one. While there is more than this process can take, the next claim waits behind the one that is under way
(`runtime.flight`); answers are taken in one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio
from bson import ObjectId

from streamq.bridge import Bridge, Turn, Turns
from streamq.core import demand
from streamq.core.claim import Ask
from streamq.core.document import TaskDocument
from streamq.core.pressure import LOOK_S, Pressure
from streamq.core.rendezvous import Rendezvous
from streamq.core.rivals import Rivals
from streamq.core.wake import Wake
from streamq.errors import AccessRefused, ClaimUnknown, StoreError, StreamQError
from streamq.runtime import clock
from streamq.runtime.ahead import Ahead
from streamq.runtime.flight import Flight
from streamq.runtime.held import Held, Holdings
from streamq.runtime.hints import MOST_HINTS, Hints
from streamq.runtime.journal import Journal
from streamq.runtime.pace import Pace
from streamq.runtime.pauses import Pauses
from streamq.runtime.settler import Settler
from streamq.runtime.sole import sole_error
from streamq.runtime.standing_by import MOST_AMONG, StandingBy
from streamq.runtime.takers import Takers
from streamq.runtime.wants import Wants
from streamq.store.contract import Claimed, Store

HOARD_S: Final = 1.0
"""A task that was claimed ahead and is not taken for this long goes back. Its claim was sized for takers that take it
within a few claims, so they have become slow."""


class Early(msgspec.Struct, frozen=True):
    """What a thread obtained for an intake by a wake, or the releaser's by several for tasks that are due, on its way
    to it. For each of `wakes` a slot was taken off the offer. `sent_at` is by `clock.thread_now`."""

    intake: Intake
    wakes: tuple[Wake, ...]
    claimed: Claimed | None
    error: Exception | None
    sent_at: float


class Intake:
    """Runs as one task (`run`); takers call `take`."""

    def __init__(
        self,
        wants: Wants,
        store: Store,
        bridge: Bridge,
        holdings: Holdings,
        journal: Journal,
        unknown: Callable[[ClaimUnknown], None],
        settler: Settler,
        takers: Takers | None = None,
    ) -> None:
        self.wants = wants
        self.takers = takers or Takers(settler.release, keeps=wants.spare != 0)
        self.takers.serve(self)
        self._unknown = unknown
        self._settler = settler
        self._hoard = trio.lowlevel.ParkingLot()
        self.last_scan_at = -float("inf")
        self._store = store
        self._bridge = bridge
        self._holdings = holdings
        self._journal = journal
        self._claimer = trio.lowlevel.ParkingLot()
        self._behind = True
        self._refill_at: int | None = None  # asleep until no more than so many wait here
        self._only_startable = False  # nothing is left that may wait here: look again when a taker is free
        self._hints = Hints(holdings.keeps)
        self._ahead = Ahead()
        self._pausing = False  # after an error, or a lost race
        self._pace = Pace()
        self._pressure = Pressure()
        self._rivals = Rivals()
        self._wait_s = 0.0  # before the next claim, for rivals
        self._turns = Turns()
        self._full = False  # the last claim from the head left more there
        self._under_way: Ask | None = None  # what a claim asks for that another may follow
        self._following: Flight | None = None  # the claim behind it
        self._dry = trio.lowlevel.ParkingLot()
        self.rendezvous = Rendezvous()
        """Who is to try first; the watcher's, which knows the others."""
        self._standing_by = StandingBy(MOST_HINTS)
        self._others_turn = trio.lowlevel.ParkingLot()
        self._thread_behind_s: float | None = None  # trio's clock less that of threads, once known
        self.has_claimed: Callable[[], None] = lambda: None
        """Called after each claim: whether the queue `is_saturated` may have changed."""
        self._unheard = False  # no stream tells of the queue: it is looked at every few ms
        self._again_at = float("inf")  # when a rate that holds the queue up has its next token
        self._scope = trio.CancelScope()
        self._started = False
        self._stopped = trio.Event()
        self._broken: Exception | None = None
        self._paused = False

    # --- for the takers ---------------------------------------------------------------------------------------

    async def take(self) -> Held:
        """Wait for a claimed task; see `Takers.take`."""
        return await self.takers.take()

    def refuse(self, error: StreamQError) -> None:
        """Tell the takers that there will be no more."""
        self.takers.refuse(error)

    @property
    def is_wanting(self) -> bool:
        """Say whether there is something to claim once a slot is free."""
        return (self._behind or self._hints.has_any) and not self._pausing and not self._paused

    @property
    def is_saturated(self) -> bool:
        """Say whether the queue gives so much that looking at it costs less than its wakes."""
        return self.wants.limits is None and not self._paused and self._pressure.is_high(clock.now())

    def look(self) -> None:
        """Decide anew whether to claim. Called at every take: cheap while too little is wanted for a claim."""
        if self._claimer and (self._refill_at is None or len(self.takers.ready) <= self._refill_at):
            self._claimer.unpark()
        elif self._under_way is not None and not self.takers.ready:
            self._dry.unpark()

    def watch(self) -> None:
        """See to it that what lies here and nobody waits for does not lie here for long."""
        self._hoard.unpark_all()

    # --- for the watcher and the scheduler --------------------------------------------------------------------

    def scan(self) -> None:
        """Look at the queue itself at the next chance: something may be ready that no wake will tell."""
        self._ahead.hear()
        self._behind = True
        self._only_startable = False
        self.takers.offer.withdraw()
        self.look()

    def pause(self, paused: bool) -> None:
        """Claim nothing while the queue is paused, and give back what has not been taken. What a claim in flight still
        obtains goes back too. When it is resumed, the queue itself tells what is ready."""
        if paused == self._paused:
            return
        self._paused = paused
        if not paused:
            self.scan()
            return
        self._call_off()
        self.takers.withdraw(self)

    def rest(self, unheard: bool) -> None:
        """Note whether the stream that told of the queue is closed: then it is looked at, now and every few ms."""
        self._unheard = unheard
        if unheard:
            self.scan()

    def hint(self, wake: Wake, *, at_once: bool = False, looked: bool = False) -> None:
        """Note that a task became ready. Unless it is to be tried `at_once`, other processes may come first. `looked`:
        what stands by was looked at just now."""
        if self._paused or not self._knows(wake):
            return
        if self._behind:
            self._ahead.hear()
            return  # the next claim from the head finds it
        if not at_once and (place := self.rendezvous.place(wake)):
            if wake.is_new and wake.id is not None and self._holdings.keeps(wake.id):
                return  # it was told before; one that is not new was given back, which its holder may hear of later
            if self._stand_by_for(wake, place):
                return
        if self.wants.limits is not None:
            self.scan()
            return
        if 0 < len(self._standing_by) >= self.takers.idle:
            # What stands by came first, and may be the more urgent. Most often it is gone: to look costs less than to
            # claim from the head, which may take what others are about to.
            # Many of them are a burst, and some of it still there.
            many = len(self._standing_by) > MOST_AMONG
            if looked or many or wake.id is None or not self._stand_by_for(wake, 0):
                self.scan()
            return
        self.takers.offer.withdraw()  # what comes after it must not be claimed ahead of it
        if self._hints.hear(wake):
            self.look()
        else:
            self.scan()

    def _stand_by_for(self, wake: Wake, place: int) -> bool:
        sooner = self._standing_by.hear(wake, place, clock.now())
        if sooner:
            self.look_after()
        return sooner is not None

    def look_after(self) -> None:
        """Decide anew when to look after what others are to try first."""
        self._others_turn.unpark_all()

    def _knows(self, wake: Wake) -> bool:
        return not wake.is_new or self.wants.only is None or wake.task in self.wants.only

    # --- in the feed's thread ---------------------------------------------------------------------------------

    def claim_early(self, wake: Wake) -> Early | None:
        """Claim the task of a wake in the thread that read it, if a slot is on offer; None: tell trio the wake. A task
        that may start once is claimed by trio alone: a loop that stood still would lose its only attempt."""
        if (
            self._paused
            or wake.id is None
            or not wake.is_new
            or wake.durable
            or self.wants.limits is not None
            or self._hints.was_heard(wake.id)
            or not self._knows(wake)
            or self.rendezvous.place(wake)
        ):
            return None
        among: tuple[ObjectId, ...] = (wake.id,)
        plain = wake.is_plain
        if 0 < len(self._standing_by) >= self.takers.offer.left:
            first = self._standing_by.with_first_of(wake)
            if first is None:
                return None
            among, plain = first
        if not self.takers.offer.take():
            return None
        ask = self._ask(demand.ClaimIds(among, wake.durable), plain=plain, first=True)
        return self._early((wake,), lambda: self._store.claim(ask))

    def claim_due(self, due: Sequence[tuple[Wake, TaskDocument]]) -> Early | None:
        """Claim delayed tasks of the queue whose time has come, in the thread that read them, the more urgent first, as
        many as slots are on offer; None: none is for this intake now."""
        if self._paused or self.wants.limits is not None:
            return None
        # No echo can be among them, as among wakes: they were read from the store.
        mine = [one for one in due if self._knows(one[0]) and not self.rendezvous.place(one[0])]
        if not mine or 0 < len(self._standing_by) > self.takers.offer.left - len(mine):
            return None
        mine = [one for one in mine if self.takers.offer.take()]
        if not mine:
            return None
        wakes, found = tuple(wake for wake, _ in mine), [task for _, task in mine]
        ids = tuple(task["_id"] for task in found)
        ask = self._ask(demand.ClaimIds(ids, durable=False), due=True)
        return self._early(wakes, lambda: self._store.claim_due(ask, found))

    def _early(self, wakes: tuple[Wake, ...], claim: Callable[[], Claimed]) -> Early:
        sent_at = clock.thread_now()
        try:
            return Early(self, wakes, claim(), None, sent_at)
        except Exception as error:  # noqa: BLE001 - the slots must come back whatever happens; the claimer raises it
            return Early(self, wakes, None, error, sent_at)

    def stand_by_early(self, wake: Wake) -> bool | None:
        """Stand by for the task of a wake in the thread that read it, if others are to try it first; say whether trio
        must be told so (`look_after`). None: tell trio the wake."""
        if (
            self._paused
            or self._behind
            or wake.id is None
            or not self._knows(wake)
            or self._holdings.keeps(wake.id)
            or self._thread_behind_s is None
            or not (place := self.rendezvous.place(wake))
        ):
            return None
        return self._standing_by.hear(wake, place, clock.thread_now() + self._thread_behind_s)

    def take_early(self, early: Early) -> None:
        """Take in what `claim_early` or `claim_due` obtained. In trio's thread."""
        self.takers.back(self, len(early.claimed.claims) if early.claimed is not None else 0, len(early.wakes))
        sent_at = clock.now() - (clock.thread_now() - early.sent_at)
        if early.claimed is not None:
            heard = [wake.id for wake in early.wakes if wake.id is not None]
            obtained = [claim.id for claim in early.claimed.claims]
            if all(id in heard for id in obtained):
                self._hints.remember(heard)
            else:  # what came before it was still there: its own turn is next
                self._standing_by.forget(obtained)
                self._stand_by_for(early.wakes[0], 1)
            self._take_in(early.claimed, sent_at)
        elif isinstance(early.error, StoreError):
            self._note(early.error)
            self.scan()
        else:
            self._broken = early.error
            self._refill_at = None
        if self._broken is not None or not self.takers.ready:
            self.look()  # else who takes it will, and the claimer would only run ahead of the handler

    # --- the claimer ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Claim until `stop`, or until the server refuses for good: then the takers are told. Cancellation: a claim in
        flight is waited for; what it obtained is held and can be given back."""
        try:
            with self._scope, sole_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._let_go)
                    nursery.start_soon(self._stand_by)
                    nursery.start_soon(self._follow)
                    await self._claim_on()
                    nursery.cancel_scope.cancel()
        finally:
            self.takers.offer.withdraw()
            self._stopped.set()

    async def stop(self) -> None:
        """Claim no more; return when no claim is in flight. Cancellation: call it shielded."""
        self._scope.cancel()
        self._call_off()
        if self._started:
            await self._stopped.wait()
        await self.takers.wait_all_back()

    async def _claim_on(self) -> None:
        self._started = True
        try:
            await self._claim_until_refused()
        finally:
            await self._bring_in()

    async def _claim_until_refused(self) -> None:
        pauses = Pauses()
        while True:
            if self._broken is not None:
                raise self._broken
            flight = self._following
            action = demand.SLEEP if self._paused or flight is not None else demand.next_action(self._demand())
            if flight is None and isinstance(action, demand.Sleep):
                self.takers.put_on_offer(self)
                self._refill_at = action.left
                await self._sleep()
                self._refill_at = None
                self.takers.offer.withdraw()
                continue
            try:
                if flight is not None:
                    await self._land(flight)
                elif not isinstance(action, demand.Sleep):
                    await self._claim(action)
                pauses.went_well()
                wait_s, self._wait_s = self._wait_s, 0.0
                if wait_s and self._following is None:
                    await self._pause(wait_s)
            except AccessRefused as error:
                self.refuse(error)
                return
            except StoreError as error:
                self._note(error)
                self._ahead.hear()
                self._behind = True
                await self._pause(pauses.next_s())
            await trio.lowlevel.checkpoint_if_cancelled()

    async def _sleep(self) -> None:
        if self._again_at == float("inf"):
            await self._claimer.park()
            return
        with trio.move_on_at(self._again_at) as scope:
            await self._claimer.park()
        if scope.cancelled_caught:
            self._again_at = float("inf")
            self.scan()

    async def _pause(self, seconds: float) -> None:
        self._pausing = True
        self.takers.look()  # what another queue may have meanwhile
        try:
            await trio.sleep(seconds)
        finally:
            self._pausing = False

    def _demand(self) -> demand.Demand:
        free = self.takers.free(self)
        if self.wants.limits is not None:
            spare = 0  # it would hold slots and tokens that others could use
        elif self.wants.spare is not None:
            spare = self.wants.spare
        else:
            spare = demand.wanted_spare(self._pace.taken_per_s, self._pace.claim_s, cap=self.wants.most_spare)
        if self._only_startable and free <= 0:
            spare = 0
        return demand.Demand(free, spare, self._behind, self._hints.ids, self._hints.durable)

    async def _claim(self, action: demand.ClaimIds | demand.ClaimHead) -> None:
        ask = self._set_out(action)
        sent_at = clock.now()
        self.takers.asking(self, ask.slots)
        obtained = 0

        def claim(turn: Turn) -> Claimed:
            return self._store.claim(ask, turn.pass_on)

        try:
            if self._full and isinstance(action, demand.ClaimHead) and self.wants.spare is None:
                self._under_way = ask
                claimed = await self._bridge.in_turn(self._turns, claim)
            else:
                claimed = await self._bridge.call(self._store.claim, ask)
            obtained = len(claimed.claims)
        finally:
            self._full, self._under_way = False, None
            self._hints.asked()
            self.takers.asked(self, ask.slots, obtained)
        self._arrive(action, ask, claimed, sent_at)

    def _set_out(self, action: demand.ClaimIds | demand.ClaimHead) -> Ask:
        ask = self._ask(action)
        if ask.slots <= 0:
            self._ahead.hear()  # it leaves out what may not wait here
        self._hints.take()
        self._behind = False
        if isinstance(action, demand.ClaimHead):
            self.last_scan_at = clock.now()
        return ask

    def _arrive(self, action: demand.ClaimIds | demand.ClaimHead, ask: Ask, claimed: Claimed, sent_at: float) -> None:
        self._pace.note(clock.now(), clock.now() - sent_at, self.takers.taken)
        if isinstance(action, demand.ClaimIds):
            self._standing_by.tried(action.ids, [claim.id for claim in claimed.claims])
        self._take_in(claimed, sent_at)
        self._again_at = float("inf") if claimed.again_s is None else clock.now() + claimed.again_s
        goes_on = isinstance(action, demand.ClaimHead) and self._ahead.note(claimed)
        more = claimed.more and self._following is None  # else the claim that was sent behind this one sees to it
        self._behind = self._behind or more or goes_on
        if isinstance(action, demand.ClaimHead):
            self._rivals.note(len(claimed.claims), claimed.lost)
            self._wait_s = self._rivals.wait_s(clock.chance(), clock.now() - sent_at)
        # Beside rivals one claim at a time is enough to race with.
        alone = not self._rivals.are_there
        self._full = isinstance(action, demand.ClaimHead) and claimed.more and not goes_on and alone
        if isinstance(action, demand.ClaimHead) and not claimed.more:
            # It has seen whatever was named before it; tasks that may not wait here were left out.
            self._only_startable = ask.slots <= 0
            self._behind = self._behind or self._only_startable
        self._weigh(claimed, goes_on=goes_on)

    # --- a claim behind the one that is under way -------------------------------------------------------------

    async def _follow(self) -> None:
        """Send the next claim behind the one that is under way, once all that was claimed has been run."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._dry.park()
                ask = self._under_way
                if ask is None or self._following is not None:
                    continue
                action = demand.next_behind(self._demand(), ask.limit, ask.slots)
                if action is not None:
                    self._following = Flight(action, self._set_out(action), self._store)
                    nursery.start_soon(self._following.fly, self._bridge, self._turns)

    async def _land(self, flight: Flight) -> None:
        """Take in what a claim that was sent behind another obtains."""
        self._following = None
        if self._full:
            self._under_way = flight.ask
        await flight.wait_landed()
        self._full, self._under_way = False, None
        self._hints.asked()
        if flight.error is not None:
            raise flight.error
        if flight.claimed is None:
            self._behind = True  # cancelled before it left
            return
        sent_at = clock.now() - (clock.thread_now() - flight.left_at)
        self._arrive(flight.action, flight.ask, flight.claimed, sent_at)

    def _call_off(self) -> None:
        if self._following is not None:
            self._following.called_off = True

    async def _bring_in(self) -> None:
        """End of claiming: what is still under way is waited for."""
        if self._following is None:
            return
        self._call_off()
        try:
            await self._land(self._following)
        except StoreError as error:
            self._note(error)

    def _weigh(self, claimed: Claimed, *, goes_on: bool) -> None:
        """Note what a claim says of whether the stream is needed."""
        now = clock.now()
        if goes_on or any(claim.followed for claim in claimed.claims):
            # By the stream alone are told: an end that others wait for, and what comes before the place where a look
            # past others goes on.
            self._pressure.forget()
        else:
            self._pressure.note(now, len(claimed.claims), full=claimed.more)
        self.has_claimed()
        if self._unheard and not self._behind:
            self._again_at = min(self._again_at, now + LOOK_S)

    def _ask(
        self, action: demand.ClaimIds | demand.ClaimHead, *, due: bool = False, plain: bool = False, first: bool = False
    ) -> Ask:
        if isinstance(action, demand.ClaimIds):
            limit, spare, ids, durable, past = 1 if first else len(action.ids), 0, action.ids, action.durable, None
        else:
            limit, spare, ids, durable = action.limit, action.spare, None, False
            if self._hints.has_any:
                self._ahead.hear()  # this claim is to find what they name
            past = self._ahead.begin()
        return Ask(
            queue=self.wants.queue,
            limit=limit,
            claim_id=clock.new_claim_id(),
            lease_s=self.wants.lease_s,
            worker=self.wants.worker,
            only=self.wants.only,
            ids=ids,
            spare=spare,
            durable=durable,
            leases=self.wants.leases,
            limits=self.wants.limits,
            past=past,
            due=due,
            plain=plain,
        )

    def _take_in(self, claimed: Claimed, sent_at: float) -> None:
        self._hints.remember([claim.id for claim in claimed.claims])
        for held in self._settler.admit([Held(claim, sent_at, self) for claim in claimed.claims]):
            if self._paused:
                self._settler.release(held)
            else:
                self.takers.deliver(held)
        for refused in claimed.refused:
            self._journal.write_once("task cannot be moved", refused.id, doing="claim", error=refused.said)
        self._journal.add("claimed", len(claimed.claims))
        self._journal.add("claim calls", 1)
        if claimed.claims:
            first = claimed.claims[0].id
            self._journal.debug("claimed", queue=self.wants.queue, tasks=len(claimed.claims), first=first)
            self.takers.wake(len(claimed.claims))
            if self.takers.is_hoard:
                self.watch()

    async def _stand_by(self) -> None:
        """Look after those that others were to try first. Trips: 1 a look, for all of them."""
        while True:
            self._thread_behind_s = clock.now() - clock.thread_now()
            next_at = self._standing_by.next_look()
            if next_at > clock.now():
                with trio.move_on_at(next_at):
                    await self._others_turn.park()
                continue
            if self._behind or self._paused:
                self._ahead.hear()  # where the next claim goes on, they may have been passed already
                self._standing_by.clear()
                continue
            asked = self._standing_by.waiting
            try:
                there = await self._bridge.call(self._store.still_ready, list(asked))
            except StoreError as error:
                self._note(error)
                self._standing_by.clear()
                self.scan()
                continue
            for wake in self._standing_by.seen(asked, there, clock.now()):
                self.hint(wake, at_once=True, looked=True)

    async def _let_go(self) -> None:
        """Give back what was claimed ahead when its takers turn out slow: others may be idle."""
        while True:
            if not self.takers.ready or self.wants.spare is not None:
                await self._hoard.park()
                continue
            await trio.sleep_until(self.takers.ready[0].since + HOARD_S)
            if self.takers.ready and not self.takers.is_hoard:
                await trio.sleep(HOARD_S)  # it has come just now, by a claim that took long
                continue
            # Compared as it was slept for: written the other way round, rounding could leave nothing due for ever.
            while self.takers.is_hoard and self.takers.ready[0].since + HOARD_S <= clock.now():
                self._settler.release(self.takers.ready.popleft())
                self._pace.slow()

    def _note(self, error: StoreError) -> None:
        if isinstance(error, ClaimUnknown):
            self._unknown(error)
            self._journal.write("claim unknown", queue=error.queue, tasks=len(error.ids), error=error)
        else:
            self._journal.write("store error", doing="claim", queue=self.wants.queue, error=error)
