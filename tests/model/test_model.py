"""The real store beside the one in memory: hypothesis acts on both and compares every document after every step.

Time. Both stores live in one time, the server's, plus what `time_passes` adds: on the clock in memory as an offset, on
the real documents by moving their instants back. Every duration is a half-integer number of thousands of seconds (or
some sixteenths of one) and time passes by whole thousands, so no instant ever falls near "now", however slow the
machine: the two stores, which execute a step at slightly different moments, cannot come to different answers for that
reason. For the same reason two dates are equal when they differ by less than `TOLERANCE_S`: it is far more than a run
takes, and five times less than the smallest difference that a wrong duration could make. Ids are counted, so the same
steps lead to the same tasks whenever hypothesis plays them.

`seq` differs in value; its order is what counts, and shows in the order of claims.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, get_args

import pytest
from bson import ObjectId, Timestamp
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pymongo.write_concern import WriteConcern

from streamq.core.claim import Ask, Claim, Past
from streamq.core.document import BLOCKED, READY, RUNNING, TERMINAL, Status, TaskDocument
from streamq.core.features import FEATURES
from streamq.core.invariants import INVARIANTS
from streamq.core.limits import Limits, Rate
from streamq.core.moves import cancel as cancel_move
from streamq.core.moves import fence, take_back, unblock
from streamq.core.moves import replace as replace_move
from streamq.core.moves import requeue as requeue_move
from streamq.core.moves import settle as settle_move
from streamq.core.moves.fence import is_followed
from streamq.core.moves.requeue import Requeue
from streamq.core.new_task import NewTask
from streamq.core.options import Options
from streamq.core.outcome import Raised
from streamq.core.report import Report, Reported
from streamq.core.search import Search
from streamq.core.settlement import Settlement, SettleMove
from streamq.core.transitions import TABLE
from streamq.errors import ClaimUnknown
from streamq.store import claiming, dead_letters, following, looking_ahead, moving, settling
from streamq.store.memory import MemoryStore
from streamq.store.mongo import MongoStore

EXAMPLES, STEPS = 100, 50
SEARCHED = 240
"""Runs in which a planted bug must be found: the seeds below were found for so many."""
TOLERANCE_S = 100.0
LONG_S = (500.0, 1_500.0, 2_500.0)
INSTANTS = (
    "expires_at",
    "lifetime_until",
    "total_until",
    "due_at",
    "lease_until",
    "remove_at",
    "started_at",
    "finished_at",
    "created_at",
)

# Skewed on purpose: a step that finds nothing to do tests nothing.
queues = st.sampled_from(["a", "a", "a", "b"])
handlers = st.sampled_from(["t", "t", "u", None])
only = st.one_of(st.none(), st.none(), st.none(), st.sets(handlers).map(tuple))
durations = st.sampled_from(LONG_S)
picks = st.integers(0, 7)  # counted from the newest
# Waits for tokens are multiples of 700 s, far from whole thousands; a bucket of one is full or empty at each step.
A_RATE = Rate(1, per_s=700, burst=1)
MOST_RUNNING = 2
limits = st.sampled_from(
    [
        Limits(rate=A_RATE),
        Limits(running=MOST_RUNNING),
        Limits(key_rate=A_RATE),
        Limits(key_running=1),
        Limits(rate=A_RATE, running=MOST_RUNNING, key_rate=A_RATE, key_running=1),
    ]
)
moves = st.sampled_from([move for move in get_args(SettleMove) if move != "succeed"])


def assert_same_time(real_s: float | None, memory_s: float | None) -> None:
    assert (real_s is None) == (memory_s is None)
    if real_s is not None and memory_s is not None:
        assert abs(real_s - memory_s) < TOLERANCE_S


class Model(RuleBasedStateMachine):
    """Every rule does the same to both stores and compares what they answer."""

    real: MongoStore  # given by the subclass that a test makes

    def __init__(self) -> None:
        super().__init__()
        self.offset = timedelta(0)
        self.ids = itertools.count(1)
        self.memory = MemoryStore(lambda: self.real.now() + self.offset, dead_letters=self.real._dead is not None)
        self.claims: list[Claim] = []  # all that were ever given, the live and the stale
        self.statuses: dict[ObjectId, Status] = {}
        self.dead_statuses: dict[ObjectId, Status] = {}
        self.marked: set[ObjectId] = set()  # have a field that no move knows
        self.answered: set[tuple[ObjectId, bytes]] = set()  # settled or abandoned
        self.requeued: set[ObjectId] = set()  # in the step just made

    @initialize()
    def begin(self) -> None:
        self.real._tasks.quick.delete_many({})
        self.real._tasks.meta.delete_many({})
        if self.real._dead is not None:
            self.real._dead.quick.delete_many({})
        for max_attempts in (3, 1, 2, 1):
            self.put(1, None, "a", task="t", priority=0, max_attempts=max_attempts, keep_s=None, reply_to="m1")

    # --- rules ------------------------------------------------------------------------------------------------

    @rule(
        queue=queues,
        task=handlers,
        priority=st.integers(-1, 1),
        max_attempts=st.sampled_from([1, 1, 2, 3]),
        delay_s=st.one_of(st.none(), st.none(), durations),
        keep_s=st.sampled_from([None, 0.0, 1_500.0]),
        expires_in_s=st.one_of(st.none(), st.none(), durations),
        lifetime_s=st.one_of(*[st.none()] * 5, durations),
        total_timeout_s=st.one_of(*[st.none()] * 3, durations),
        keep_failed_s=st.sampled_from([None, None, 0.0, 2_500.0]),
        reply_to=st.sampled_from([None, "m1"]),
        rate_key=st.sampled_from([None, "k", "k", "l"]),
        count=st.integers(1, 3),
    )
    def put(
        self,
        count: int,
        delay_s: float | None,
        queue: str,
        rate_key: str | None = None,
        lifetime_s: float | None = None,
        **more: Any,
    ) -> None:
        if lifetime_s is not None:
            lifetime_s += delay_s or 0
        ids = [self._new_id() for _ in range(count)]
        expires_in_s = more.pop("expires_in_s", None)
        begin = self.real.now()

        def new(now: datetime) -> list[NewTask]:
            """Odd puts name their times as instants."""
            given: dict[str, Any] = {"rate_key": rate_key, "lifetime_s": lifetime_s}
            if count % 2:
                given["at"] = None if delay_s is None else now + timedelta(seconds=delay_s)
                given["expires_at"] = None if expires_in_s is None else now + timedelta(seconds=expires_in_s)
                if given["at"] and given["expires_at"] and given["expires_at"] <= given["at"]:
                    given["at"] = None
                of = Options(**given)
            else:
                of = Options(delay_s=delay_s, **given)
            span = None if count % 2 else expires_in_s
            return [
                NewTask(id, queue, payload={"n": n}, options=of, expires_in_s=span, **more) for n, id in enumerate(ids)
            ]

        assert self.real.put(new(begin)) == self.memory.put(new(begin + self.offset))

    @rule(
        queue=queues,
        keys=st.lists(st.sampled_from(["k", "k", ("k", 1)]), min_size=1, max_size=3),
        on_conflict=st.sampled_from(["existing", "raise", "replace", "replace"]),
        unique_for_s=st.sampled_from([None, None, None, 1_500.0, math.inf]),
        delay_s=st.one_of(st.none(), durations),
        keep_s=st.sampled_from([None, 1_500.0]),
        reply_to=st.sampled_from([None, "m1", "m2"]),
        again=st.booleans(),
    )
    def put_unique(
        self, queue: str, keys: list[Any], keep_s: float | None, reply_to: str | None, again: bool, **given: Any
    ) -> None:
        """Puts of few keys, so that most meet a twin; and the same once more, as after a lost reply."""
        new = [
            NewTask(
                self._new_id(),
                queue,
                "t",
                {"$unique": n},
                Options(unique=key, **given),
                max_attempts=2,
                keep_s=keep_s,
                reply_to=reply_to,
            )
            for n, key in enumerate(keys)
        ]
        replies = self.real.put(new)
        assert replies == self.memory.put(new)
        if again:
            created = [one for one, reply in zip(new, replies, strict=True) if reply.created]
            assert self.real.put(created) == self.memory.put(created)

    @rule(
        queue=queues,
        keys=st.lists(st.sampled_from([None, "k", ("k", 1)]), min_size=1, max_size=3),
        on_conflict=st.sampled_from(["existing", "raise", "replace"]),
        unique_for_s=st.sampled_from([None, None, 1_500.0, math.inf]),
        delay_s=st.one_of(st.none(), durations),
        commits=st.booleans(),
    )
    def put_in_a_transaction(
        self, queue: str, keys: list[Any], on_conflict: Any, unique_for_s: Any, delay_s: Any, commits: bool
    ) -> None:
        """Stored with the caller's own writes, or not at all."""
        with_key: Any = {"on_conflict": on_conflict, "unique_for_s": unique_for_s}
        options = [
            Options(delay_s=delay_s) if key is None else Options(unique=key, delay_s=delay_s, **with_key)
            for key in keys
        ]
        new = [NewTask(self._new_id(), queue, "t", {"n": n}, one, 2) for n, one in enumerate(options)]
        with self.real.client.start_session() as session:
            session.start_transaction(write_concern=WriteConcern("majority"))
            replies = self.real.put(new, session)
            if commits:
                session.commit_transaction()
                assert replies == self.memory.put(new)
            else:
                session.abort_transaction()

    @rule(queue=queues, key=st.sampled_from(["k", ("k", 1)]))
    def free_key(self, queue: str, key: Any) -> None:
        assert self.real.free_key(queue, key) == self.memory.free_key(queue, key)

    @precondition(lambda self: self.memory.documents)
    @rule(
        queue=queues,
        after=st.lists(picks, max_size=2),
        after_any=st.lists(picks, max_size=2),
        policy=st.sampled_from([None, None, "run", "fail"]),
        delay_s=st.sampled_from([None, None, None, 1_500.0]),
        keep_s=st.sampled_from([None, 0.0]),
        inside=st.booleans(),
    )
    def put_children(
        self, queue: str, after: list[int], after_any: list[int], policy: Any, inside: bool, keep_s: Any, **more: Any
    ) -> None:
        """Of tasks in whatever status, and of one that is put with them."""
        documents = self._everywhere()
        chosen: dict[str, Any] = {
            "after": [self._one_of(documents, pick) for pick in after],
            "after_any": [self._one_of(documents, pick) for pick in after_any],
            "on_parent_failure": policy,
        }
        first = NewTask(self._new_id(), queue, "t", None, Options(**chosen, **more), 2, keep_s=keep_s)
        new = [first, NewTask(self._new_id(), queue, "t", None, Options(after=[first.id]), 2)] if inside else [first]
        assert self.real.put(new) == self.memory.put(new)

    @rule(
        queue=queues,
        groups=st.lists(st.sampled_from(["g", "g", "h"]), min_size=1, max_size=3),
        delay_s=st.sampled_from([None, None, None, 1_500.0]),
        keep_s=st.sampled_from([None, 0.0]),
        parent=st.one_of(st.none(), st.none(), picks),
    )
    def put_groups(self, queue: str, groups: list[str], delay_s: Any, keep_s: Any, parent: int | None) -> None:
        documents = self._everywhere()
        after = [self._one_of(documents, parent)] if parent is not None and documents else None
        options = [Options(group=group, delay_s=delay_s, after=after) for group in groups]
        new = [NewTask(self._new_id(), queue, "t", None, one, 2, keep_s=keep_s) for one in options]
        assert self.real.put(new) == self.memory.put(new)

    @precondition(lambda self: self.memory.documents)
    @rule(pick=picks)
    def vanish(self, pick: int) -> None:
        """Somebody removes a task that is not running, a parent perhaps."""
        id = self._one_of(list(self.memory.documents), pick)
        if self.memory.documents[id]["status"] != RUNNING:
            self.real._tasks.durable.delete_one({"_id": id})
            del self.memory.documents[id]

    @rule()
    def sweep(self) -> None:
        assert sorted(self.real.sweep().released) == sorted(self.memory.sweep().released)

    @precondition(lambda self: self.memory.documents)
    @rule(pick=picks, fresh=st.booleans())
    def put_again(self, pick: int, fresh: bool) -> None:
        id = self._one_of(list(self.memory.documents), pick)
        new = [NewTask(id, "a", "t", {"again": True}, Options(), 3)]
        if fresh:
            new += [NewTask(self._new_id(), "a", "t", None, Options(), 3)] * 2
        assert self.real.put(new) == self.memory.put(new)

    @precondition(lambda self: self.memory.documents)
    @rule(pick=picks)
    def another_program_writes_a_field(self, pick: int) -> None:
        """Of a newer version, say: every move keeps what it does not know."""
        id = self._one_of(list(self.memory.documents), pick)
        self.real._tasks.quick.update_one({"_id": id}, {"$set": {"theirs": {"a": "$b"}}})
        self.memory.documents[id]["theirs"] = {"a": "$b"}  # type: ignore[typeddict-unknown-key]
        self.marked.add(id)

    @rule(
        queue=queues,
        limit=st.sampled_from([1, 2, 3, 4, 4]),
        spare=st.sampled_from([0, 0, 1, 2, 4]),
        only=only,
        lease_s=durations,
        durable=st.booleans(),
        leases=st.sampled_from([{}, {}, {"t": 2_500.0}]),
        heeds_pause=st.booleans(),
    )
    def claim(self, limit: int, spare: int, queue: str, **more: Any) -> None:
        ask = Ask(queue, limit, os.urandom(16), worker="w", spare=min(limit, spare), **more)
        self._claim(ask)

    @rule(queue=queues, paused=st.sampled_from([True, False, False]))
    def pause(self, queue: str, paused: bool) -> None:
        """Only those who ask heed it: workers hear of it."""
        self.real.pause(queue, paused)
        self.memory.pause(queue, paused)

    @rule(queue=queues, limit=st.sampled_from([1, 2, 4]), limits=limits)
    def claim_within_limits(self, queue: str, limit: int, limits: Limits) -> None:
        # It begins by making ready what waited for a slot of its key.
        held_up = [id for id, one in self.memory.documents.items() if one["queue"] == queue and "held_up_by" in one]
        self.statuses |= dict.fromkeys(held_up, READY)
        self._claim(Ask(queue, limit, os.urandom(16), 1_500.0, "w", limits=limits))
        self._at_most_running(queue, limits)

    def _at_most_running(self, queue: str, limits: Limits) -> None:
        running = [one for one in self.memory.documents.values() if one["queue"] == queue and "slot" in one]
        assert limits.running is None or len(running) <= MOST_RUNNING

    @precondition(lambda self: self.memory.documents)
    @rule(
        queue=queues,
        chosen=st.lists(picks, min_size=1, max_size=3),
        lease_s=durations,
        durable=st.booleans(),
        leases=st.sampled_from([{}, {"t": 2_500.0}]),
    )
    def claim_ids(self, queue: str, chosen: list[int], **more: Any) -> None:
        ids = tuple({self._one_of(list(self.memory.documents), pick) for pick in chosen})
        ask = Ask(queue, len(ids), os.urandom(16), worker="w", ids=ids, **more)
        self._claim(ask)

    def _claim(self, ask: Ask) -> None:
        real, memory = self.real.claim(ask), self.memory.claim(ask)
        assert (real.more, real.paused) == (memory.more, memory.paused)
        assert [self._plain(claim) for claim in real.claims] == [self._plain(claim) for claim in memory.claims]
        self.claims += real.claims

    def _claim_due(self, ask: Ask, found: list[tuple[TaskDocument, TaskDocument]]) -> None:
        real = self.real.claim_due(ask, [one for one, _ in found])
        memory = self.memory.claim_due(ask, [two for _, two in found])
        assert [self._plain(claim) for claim in real.claims] == [self._plain(claim) for claim in memory.claims]
        self.claims += real.claims

    @staticmethod
    def _plain(claim: Claim) -> dict[str, Any]:
        return {name: getattr(claim, name) for name in claim.__struct_fields__ if name not in ("created_at", "total_s")}

    @precondition(lambda self: self.claims)
    @rule(chosen=st.lists(picks, min_size=1, max_size=4))
    def extend(self, chosen: list[int]) -> None:
        """Live and stale claims in one batch, as after a freeze."""
        claims = self._some_claims(chosen)
        assert self.real.extend(claims) == self.memory.extend(claims)

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def renew(self, pick: int) -> None:
        claim = self._one_of(self.claims, pick)
        assert self.real.renew(claim) == self.memory.renew(claim)

    @precondition(lambda self: self.claims)
    @rule(chosen=st.lists(picks, min_size=1, max_size=3), value=st.sampled_from([0.5, 7]))
    def report(self, chosen: list[int], value: float) -> None:
        reports = [Reported(claim, Report(value, "$status")) for claim in self._some_claims(chosen)]
        assert self.real.report(reports) == self.memory.report(reports)

    @precondition(lambda self: self.claims)
    @rule(pick=picks, result=st.sampled_from([None, "$payload", {"n": 1}]), keep_s=st.sampled_from([0.0, 2_500.0]))
    def succeed(self, pick: int, result: Any, keep_s: float) -> None:
        claim = self._one_of(self.claims, pick)
        self._settle([self._settlement(claim, "succeed", result=result, keep_s=keep_s)])

    @precondition(lambda self: any(self._holds(one) for one in self.claims))
    @rule(pick=picks, keep_s=st.sampled_from([0.0, 2_500.0]), commits=st.booleans())
    def succeed_in_a_transaction(self, pick: int, keep_s: float, commits: bool) -> None:
        """Its success is stored with its holder's own writes, or not at all."""
        claim = self._one_of([one for one in self.claims if self._holds(one)], pick)
        success = self._settlement(claim, "succeed", result="$payload", keep_s=keep_s)
        session = self.real.begin()
        if not commits:
            assert self.real.abort(session, ValueError()) is None
            return
        assert [self.real.commit(session, success)] == self.memory.settle([success])
        self.answered.add((claim.id, claim.claim_id))

    @precondition(lambda self: self.claims)
    @rule(pick=picks, move=moves)
    def settle(self, pick: int, move: SettleMove) -> None:
        self._settle([self._settlement(self._one_of(self.claims, pick), move)])

    @precondition(lambda self: self.claims)
    @rule(chosen=st.lists(picks, min_size=2, max_size=5), kinds=st.lists(moves, min_size=5, max_size=5))
    def settle_many(self, chosen: list[int], kinds: list[SettleMove]) -> None:
        """Live and stale claims in one batch, and claims of one task under several claim ids.

        Not a claim that was settled before beside another of its task: the second answer to the first is "settled" as
        long as nobody has settled since, so it would depend on the order within the batch, which is free.
        """
        claims = self._some_claims(chosen)
        ids = [claim.id for claim in claims]
        claims = [one for one in claims if ids.count(one.id) == 1 or (one.id, one.claim_id) not in self.answered]
        self._settle([self._settlement(claim, move) for claim, move in zip(claims, kinds, strict=False)])

    def _settlement(self, claim: Claim, move: SettleMove, **more: Any) -> Settlement:
        if move in ("retry", "retry_later") and claim.is_last_attempt:
            move = "fail"  # as `settlement_of` decides: the stores are not asked for more attempts than there may be
        if move in ("retry", "retry_later", "fail"):
            more["error"] = Raised(type="E", message="$attempt", traceback="")
        if move in ("retry_later", "snooze"):
            more["delay_s"] = 1_500.0
        return Settlement(claim.id, claim.queue, claim.claim_id, move, **more)

    def _settle(self, settlements: list[Settlement]) -> None:
        held = [self._is_held(one.id, one.claim_id) for one in settlements]
        before = {one.id: self._real(one.id) for one in settlements}
        verdicts = self.real.settle(settlements)
        assert verdicts == self.memory.settle(settlements)
        self.answered |= {(one.id, one.claim_id) for one in settlements}
        touched = {one.id for one, was_held in zip(settlements, held, strict=True) if was_held}
        for one, verdict, was_held in zip(settlements, verdicts, held, strict=True):
            assert not was_held or verdict == "settled"
            if one.id not in touched:
                assert self._real(one.id) == before[one.id], "a stale claim has changed its task"

    @precondition(lambda self: self.memory.documents)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        ids = [self._one_of(self._everywhere(), pick), self._new_id()]
        assert self.real.cancel(ids) == self.memory.cancel(ids)
        assert self.real.asked(self.claims) == self.memory.asked(self.claims)

    @precondition(lambda self: self.claims)
    @rule(pick=picks, every=st.booleans())
    def abandon(self, pick: int, every: bool) -> None:
        claim = self._one_of(self.claims, pick)
        ids = tuple(self.memory.documents) if every else (claim.id,)
        if ids:
            unknown = ClaimUnknown(claim.queue, claim.claim_id, ids, 0.0, "model")
            assert self.real.abandon(unknown) == self.memory.abandon(unknown)
            self.answered |= {(id, claim.claim_id) for id in ids}

    @precondition(lambda self: self.memory.documents)
    @rule(
        chosen=st.lists(picks, min_size=1, max_size=4, unique=True),
        delay_s=st.sampled_from([0.0, 0.0, 1_500.0]),
        reset=st.booleans(),
    )
    def requeue(self, chosen: list[int], delay_s: float, reset: bool) -> None:
        how = Requeue(self._new_id(), delay_s, reset)
        ids = list(dict.fromkeys(self._one_of(list(self.memory.documents), pick) for pick in chosen))
        ended = {id for id in ids if self.memory.documents[id]["status"] in TERMINAL}
        report = self.real.requeue([*ids, ObjectId(b"twelve bytes")], how)
        said = [(one.id, one.verdict) for one in report]
        assert said == [(one.id, one.verdict) for one in self.memory.requeue([*ids, ObjectId(b"twelve bytes")], how)]
        assert {id for id, verdict in said if verdict in ("requeued", "conflict")} == ended
        self.requeued = {id for id, verdict in said if verdict == "requeued"}

    @precondition(lambda self: self.memory.dead)
    @rule(chosen=st.lists(picks, min_size=1, max_size=4), delay_s=st.sampled_from([0.0, 1_500.0]), reset=st.booleans())
    def requeue_dead_letters(self, chosen: list[int], delay_s: float, reset: bool) -> None:
        how = Requeue(self._new_id(), delay_s, reset)
        ids = list(dict.fromkeys(self._one_of(list(self.memory.dead or {}), pick) for pick in chosen))
        real, memory = (store.dead_letters().requeue(ids, how) for store in (self.real, self.memory))
        assert [(one.id, one.verdict) for one in real] == [(one.id, one.verdict) for one in memory]
        self.requeued = {one.id for one in real if one.verdict == "requeued"}

    @precondition(lambda self: self.memory.dead)
    @rule(pick=picks)
    def delete_a_dead_letter(self, pick: int) -> None:
        id = self._one_of(list(self.memory.dead or {}), pick)
        assert self.real.dead_letters().delete(id) == self.memory.dead_letters().delete(id) == "deleted"

    @precondition(lambda self: self.memory.dead)
    @rule(older_than_s=st.sampled_from([0.0, 500.0, 1_500.0]))
    def purge_dead_letters(self, older_than_s: float) -> None:
        purged = [store.dead_letters().purge(Search(), older_than_s) for store in (self.real, self.memory)]
        assert purged[0] == purged[1]

    @precondition(lambda self: self.memory.documents)
    @rule(pick=picks, force=st.booleans())
    def delete(self, pick: int, force: bool) -> None:
        id = self._one_of(list(self.memory.documents), pick)
        assert self.real.delete(id, force=force) == self.memory.delete(id, force=force)

    @rule(
        older_than_s=st.sampled_from([0.0, 500.0, 1_500.0]),
        statuses=st.sampled_from([TERMINAL, ("failed",)]),
        queue=queues,
    )
    def purge(self, older_than_s: float, **wanted: Any) -> None:
        search = Search(**wanted)
        assert self.real.purge(search, older_than_s) == self.memory.purge(search, older_than_s)

    @rule()
    def tick(self) -> None:
        real, memory = self.real.tick(), self.memory.tick()
        assert sorted(real.released) == sorted(memory.released)
        assert (real.failed, real.followed) == (memory.failed, memory.followed)
        assert (real.expired, real.removed) == (memory.expired, memory.removed)
        assert_same_time(real.next_s, memory.next_s)

    @rule(claimed=st.integers(0, 2), flood=st.booleans())
    def release_due(self, claimed: int, flood: bool) -> None:
        """As a releaser does: some are claimed at once, the rest is released."""
        real, memory = self.real.due(64, whole=True), self.memory.due(64, whole=True)
        assert {one.id: one for one in real.wakes} == {one.id: one for one in memory.wakes}
        assert_same_time(real.next_s, memory.next_s)
        there = {one["_id"]: one for one in real.found if one is not None}
        chosen = [(there[two["_id"]], two) for two in memory.found if two is not None][:claimed]
        for queue in dict.fromkeys(two["queue"] for _, two in chosen):
            mine = [pair for pair in chosen if pair[1]["queue"] == queue]
            ids = tuple(two["_id"] for _, two in mine)
            self._claim_due(Ask(queue, len(ids), os.urandom(16), 1_500.0, "w", ids=ids, due=True), mine)
        due = [one.id for one in memory.wakes if one.id is not None]
        queues = sorted({one.queue for one in memory.wakes}) if flood else []
        assert self.real.release_due(due, queues).moved == self.memory.release_due(due, queues).moved

    @rule()
    def tick_without_releases(self) -> None:
        real, memory = self.real.tick(False), self.memory.tick(False)
        assert sorted(real.released) == sorted(memory.released)
        assert_same_time(real.next_s, memory.next_s)
        assert_same_time(real.due_s, memory.due_s)

    @rule(queue=queues, expires_in_s=durations)
    def nobody_starts_in_time(self, queue: str, expires_in_s: float) -> None:
        """Long enough for a task to expire, and a claim before the timer has seen to it."""
        new = [NewTask(self._new_id(), queue, "t", None, Options(), 3, expires_in_s=expires_in_s)]
        assert self.real.put(new) == self.memory.put(new)
        self.time_passes(2)
        self._claim(Ask(queue, 4, os.urandom(16), 1_500.0, "w"))

    @rule(thousands=st.integers(1, 3))
    def time_passes(self, thousands: int) -> None:
        self.offset += timedelta(seconds=1_000 * thousands)
        moved = {
            name: {"$cond": [{"$eq": [{"$type": f"${name}"}, "date"]}, {"$subtract": [f"${name}", ms]}, "$$REMOVE"]}
            for name in INSTANTS
            for ms in [1_000_000 * thousands]
        }
        for handle in (self.real._tasks, self.real._dead):
            if handle is not None:
                handle.durable.update_many({}, [{"$set": moved}])
        filled = {"$set": {"filled_at": {"$subtract": ["$filled_at", 1_000_000 * thousands]}}}
        self.real._tasks.meta.update_many({"filled_at": {"$exists": True}}, [filled])
        ended = {"$set": {"remove_at": {"$subtract": ["$remove_at", 1_000_000 * thousands]}}}
        self.real._tasks.meta.update_many({"kind": "unique", "remove_at": {"$exists": True}}, [ended])

    @precondition(lambda self: self.claims)
    @rule(queue=queues)
    def others_take_over(self, queue: str) -> None:
        """All holders freeze past their leases; others claim what they held."""
        self.time_passes(3)
        self.tick()
        self.the_documents_are_the_same()
        self._claim(Ask(queue, 4, os.urandom(16), 1_500.0, "other"))

    @precondition(lambda self: self.memory.documents)
    @rule(pick=picks, member=st.sampled_from(["m1", "m2"]))
    def wait_for(self, pick: int, member: str) -> None:
        id = self._one_of(list(self.memory.documents), pick)
        real, memory = self.real.wait_for(id, member), self.memory.wait_for(id, member)
        assert real is not None
        assert memory is not None
        assert real["reply_to"] == memory["reply_to"] if "reply_to" in memory else "reply_to" not in real

    def _new_id(self) -> ObjectId:
        """The same at every run of the same steps: how long a lost task is put off is told by its id."""
        return ObjectId(next(self.ids).to_bytes(12, "big"))

    def _everywhere(self) -> list[ObjectId]:
        """Name the tasks and the dead letters, the newest last."""
        return sorted([*self.memory.documents, *(self.memory.dead or {})])

    @staticmethod
    def _one_of(items: list[Any], pick: int) -> Any:
        return items[-1 - pick % len(items)]

    def _some_claims(self, chosen: list[int]) -> list[Claim]:
        """Without repetition: nobody settles one claim twice in a batch."""
        claims = {(claim.id, claim.claim_id): claim for claim in (self._one_of(self.claims, pick) for pick in chosen)}
        return list(claims.values())

    # --- comparing --------------------------------------------------------------------------------------------

    def _real(self, id: ObjectId) -> dict[str, Any] | None:
        wanted, dead = {"_id": id}, self.real._dead
        found = self.real._tasks.quick.find_one(wanted)
        return found or (None if dead is None else dead.quick.find_one(wanted))

    def _holds(self, claim: Claim) -> bool:
        """As memory has it, which is as the server has it: both are compared after every step."""
        return self.memory.documents.get(claim.id, {}).get("claim_id") == claim.claim_id

    def _is_held(self, id: ObjectId, claim_id: bytes) -> bool:
        document = self._real(id)
        return document is not None and document["status"] == RUNNING and document["claim_id"] == claim_id

    @invariant()
    def the_documents_are_the_same(self) -> None:
        real = {document["_id"]: document for document in self.real._tasks.quick.find({"kind": {"$exists": False}})}
        assert real.keys() == self.memory.documents.keys()
        for id, document in real.items():
            self._compare(document, dict(self.memory.documents[id]))
        self._compare_dead_letters(real)
        by_seq = sorted(real.values(), key=lambda one: one["seq"])
        in_memory = sorted(self.memory.documents.values(), key=lambda one: one["seq"])
        assert [one["_id"] for one in by_seq] == [one["_id"] for one in in_memory]
        self._check(real)

    def teardown(self) -> None:
        """What a check looks for holds of whatever came about on the road; but for what is late, as time passes by
        leaps here and nobody ticks."""
        for one in INVARIANTS:
            if one.mend != "tick":
                broken = list(self.real._tasks.quick.find(one.broken))
                assert not broken, (one.what, broken)

    def _compare_dead_letters(self, living: dict[ObjectId, dict[str, Any]]) -> None:
        if self.real._dead is None:
            return
        dead = {document["_id"]: document for document in self.real._dead.quick.find()}
        assert self.memory.dead is not None
        assert dead.keys() == self.memory.dead.keys()
        assert dead.keys().isdisjoint(living), "a task is in one place"
        assert "failed" not in {one["status"] for one in living.values()}
        for id, document in dead.items():
            self._compare(document, dict(self.memory.dead[id]))
            assert document["status"] == "failed"
            assert {"claim_id", "lease_until", "remove_at", "unique_lock", "group_lock"}.isdisjoint(document)
            assert "follow_up" not in document or is_followed(document)
            before = self.statuses.get(id, "ready")
            assert before not in TERMINAL or before == "failed", "an ended task has moved"
        self.dead_statuses = {id: document["status"] for id, document in dead.items()}

    def _compare(self, real: dict[str, Any], memory: dict[str, Any]) -> None:
        assert real.keys() == memory.keys()
        for name, value in real.items():
            if name == "progress":
                # Its instant is not moved when time passes, so it is compared without.
                assert {**value, "at": None} == {**memory[name], "at": None}
            elif name == "errors":
                self._compare_errors(value, memory[name])
            elif isinstance(value, datetime):
                self._compare_instants(name, value, memory[name])
            elif name != "seq":
                assert value == memory[name], name

    def _compare_errors(self, real: list[dict[str, Any]], memory: list[dict[str, Any]]) -> None:
        # Their own instants are not moved when time passes, so they are compared without.
        assert [{**one, "at": None} for one in real] == [{**one, "at": None} for one in memory]

    def _compare_instants(self, name: str, real: datetime, memory: datetime) -> None:
        difference_s = ((real + self.offset) - memory).total_seconds()
        assert abs(difference_s) < TOLERANCE_S, f"{name} differs by {difference_s:g} s"

    # --- what holds always ------------------------------------------------------------------------------------

    def _check_keys(self, real: dict[ObjectId, dict[str, Any]]) -> None:
        """One task a key; and keys that outlive their tasks are held by the same ones in both."""
        locks = [(one["queue"], one["unique_lock"]) for one in real.values() if "unique_lock" in one]
        assert len(locks) == len(set(locks))
        for one in real.values():
            locked = "unique_key" in one and "unique_for_s" not in one and one["status"] not in TERMINAL
            assert ("unique_lock" in one) == locked
        held = {one["_id"]: one["task_id"] for one in self.real._tasks.meta.find({"kind": "unique"})}
        assert held == {id: one["task_id"] for id, one in self.memory.meta.items() if one.get("kind") == "unique"}

    def _check(self, real: dict[ObjectId, dict[str, Any]]) -> None:
        self._check_keys(real)
        for id, document in real.items():
            status: Status = document["status"]
            assert (document.get("theirs") == {"a": "$b"}) == (id in self.marked)
            assert status in TERMINAL or {"finished_at", "remove_at", "settled_for", "result"}.isdisjoint(document)
            assert (status == RUNNING) == ("claim_id" in document) == ("lease_until" in document)
            assert status == BLOCKED or "blocked_by" not in document
            assert status != BLOCKED or document.get("blocked_by") or "group" in document
            waits_or_ended = status == BLOCKED or status in TERMINAL
            assert document.get("group_lock") == (None if waits_or_ended else document.get("group"))
            assert status not in TERMINAL or ("follow_up" in document) != ("remove_at" in document)
            assert status not in TERMINAL or "follow_up" not in document or is_followed(document)
            assert 0 <= document["attempt"] <= document["max_attempts"]
            before = self.statuses.get(id, status)
            if before in TERMINAL:
                assert status == before or id in self.requeued, "an ended task has moved"
            assert status == before or status in TABLE[before].values(), f"{before} to {status}"
            held = [claim for claim in self.claims if claim.id == id and claim.claim_id == document.get("claim_id")]
            assert len(held) == (status == RUNNING), "one live claim a running task, none else"
        self.requeued = set()
        turns = [(one["queue"], one["group_lock"]) for one in real.values() if "group_lock" in one]
        assert len(turns) == len(set(turns)), "one at a time"
        self.statuses = self.dead_statuses | {id: document["status"] for id, document in real.items()}


@pytest.fixture(autouse=True)
def far_from_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost tasks are put off for parts of their leases, as long as those are: 31 s from a whole thousand at least."""
    monkeypatch.setattr(take_back, "MOST_APART_S", math.inf)


@pytest.fixture(autouse=True)
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks past tasks of other handlers go window by window; one call goes as far as it must."""
    monkeypatch.setattr(looking_ahead, "WINDOW", 2)
    monkeypatch.setattr(looking_ahead, "MOST_WINDOWS", 1_000)


def run(real: MongoStore, *, examples: int, phases: tuple[Phase, ...], begin: int | None = None) -> None:
    """`begin`: the seed of the search, the same at every run without it too."""
    machine = type("Machine", (Model,), {"real": real})
    run_state_machine_as_test(
        machine if begin is None else seed(begin)(machine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def real(uri: str, database: str) -> Iterator[MongoStore]:
    store = MongoStore.connect(uri, database)
    store.prepare()
    store.use(frozenset(FEATURES))  # a sweep looks for what waits for others only where somebody has made the index
    yield store
    store.close()


@pytest.fixture
def real_with_dead_letters(uri: str, database: str) -> Iterator[MongoStore]:
    store = MongoStore.connect(uri, database, dead_letters="dead")
    store.prepare()
    store.use(frozenset(FEATURES))
    yield store
    store.close()


def test_the_real_store_keeps_dead_letters_as_the_one_in_memory_does(real_with_dead_letters: MongoStore) -> None:
    examples = int(os.environ.get("STREAMQ_MODEL_EXAMPLES", EXAMPLES)) // 2
    run(real_with_dead_letters, examples=examples, phases=(Phase.generate, Phase.shrink))


def test_the_real_store_does_what_the_one_in_memory_does(real: MongoStore) -> None:
    """Set STREAMQ_MODEL_EXAMPLES for a longer run; a failure is shrunk, which takes minutes."""
    run(real, examples=int(os.environ.get("STREAMQ_MODEL_EXAMPLES", EXAMPLES)), phases=(Phase.generate, Phase.shrink))


# --- the model can fail -------------------------------------------------------------------------------------------


def fence_without_claim(queue: str, claim_id: bytes, ids: Iterable[ObjectId]) -> dict[str, Any]:
    found = real_fence(queue, claim_id, ids)
    del found["claim_id"]
    return found


def counted_release(settlement: Settlement) -> list[dict[str, Any]]:
    fields, *rest = real_update(settlement)
    return [{"$set": {name: value for name, value in fields["$set"].items() if name != "attempt"}}, *rest]


def claim_left_at_take_back(move: take_back.TakeBack, delay_s: float = 0.0) -> list[dict[str, Any]]:
    return real_take_back(move, delay_s)[:1]


def asked_for_nothing() -> list[dict[str, Any]]:
    return []


def waits_for_single_attempts(found: list[dict[str, Any]], ask: Ask) -> list[dict[str, Any]]:
    return found


def later_is_now(delay_s: float) -> dict[str, Any]:
    return {"$add": ["$$NOW", 0]}


def requeued_whatever_the_status() -> dict[str, Any]:
    return {"status": {"$exists": True}}


def end_left_at_requeue(how: Requeue, lock: bytes | None = None) -> list[dict[str, Any]]:
    return real_requeue(how, lock)[:1]


real_requeue = requeue_move.update


def any_is_all(document: Any, ends: Any) -> str | None:
    document.pop("blocked_by_any", None)
    return real_take_off(document, ends)


real_take_off = unblock._take_off
real_fence = fence.fence
real_update = settle_move.update
real_take_back = take_back.update

Bug = tuple[int, list[tuple[Any, str, Any]]]
"""The seed to search from, and what is broken. Any seed is good: this one was found to lead to the bug within some five
examples of as many as are allowed below (on that number the search depends too). After a change of the rules another
may; until it stands here the search only takes longer."""

PLANTED: dict[str, Bug] = {
    "fence without claim": (6, [(claiming, "fence", fence_without_claim), (settling, "fence", fence_without_claim)]),
    "release is counted": (1, [(settle_move, "update", counted_release)]),
    "requeue whatever the status": (0, [(requeue_move, "guard", requeued_whatever_the_status)]),
    "end left at requeue": (1, [(requeue_move, "update", end_left_at_requeue)]),
    "claim left at take-back": (1, [(take_back, "update", claim_left_at_take_back)]),
    "single attempts wait": (2, [(claiming, "_startable", waits_for_single_attempts)]),
    "goes back although it was to be cancelled": (4, [(cancel_move, "if_asked", asked_for_nothing)]),
    "children are forgotten": (0, [(fence, "is_followed", lambda document: False)]),
    "any is all": (15, [(unblock, "_take_off", any_is_all)]),
    "replaced although it runs": (1, [(replace_move, "NOT_STARTED", {})]),
    "a key left at the end": (1, [(fence, "LOCKS", ("held_up_by",))]),
    "windows that overlap": (9, [(looking_ahead, "_place_of", lambda document: Past(9, Timestamp(1, 1)))]),
    "snooze without delay": (4, [(settle_move, "after_ms", later_is_now)]),
}


def finds(real: MongoStore, begin: int) -> bool:
    """Say whether a search comes upon a difference, or a broken invariant. When it plays the same steps once more, a
    planted bug may show in another of these ways, as the time is another."""
    try:
        run(real, examples=SEARCHED, phases=(Phase.generate,), begin=begin)
    except AssertionError:
        return True
    except FlakyFailure as two_ways:
        return all(isinstance(one, AssertionError) for one in two_ways.exceptions)
    return False


@pytest.mark.parametrize("name", PLANTED)
def test_the_model_sees_a_planted_bug(real: MongoStore, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    begin, parts = PLANTED[name]
    for module, attribute, broken in parts:
        monkeypatch.setattr(module, attribute, broken)
    assert finds(real, begin)


def where_it_is(tasks: Any, guard: Any, update: Any, ids: Any, refused: Any) -> int:
    return moving.move(tasks.durable, guard, update, ids, refused)


PLANTED_DEAD: dict[str, Bug] = {
    "a lease that ends fails where it is": (
        1,
        [(dead_letters, "fail", where_it_is), (dead_letters, "bury", lambda *_: 0)],
    ),
    "followers of letters are forgotten": (17, [(dead_letters, "marked", lambda *_: [])]),
    "the mark of a letter is left": (17, [(following, "_retain_dead", lambda *_: 0)]),
    "followers of a removed task are not told": (4, [(following, "mark_followers", lambda *_: None)]),
}


@pytest.mark.parametrize("name", PLANTED_DEAD)
def test_the_model_sees_a_planted_bug_of_dead_letters(
    real_with_dead_letters: MongoStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    begin, parts = PLANTED_DEAD[name]
    for module, attribute, broken in parts:
        monkeypatch.setattr(module, attribute, broken)
    assert finds(real_with_dead_letters, begin)
