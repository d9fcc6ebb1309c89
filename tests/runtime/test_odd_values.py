"""Every parameter of every public call with every odd value: refused by its name with nothing stored, or taken, and
then what is stored is what a server can hold."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Final

import bson
import pytest
from bson import Int64, ObjectId

from streamq import OptionInvalid, Rate, Retry, StreamQ, TaskGone, UsageError
from streamq.bridge import InlineBridge
from streamq.core.options import Options
from streamq.core.retry import MAX_DELAY_S
from streamq.store.memory import MemoryStore
from streamq.store.setup import CODEC

DEEP: Any = []
for _ in range(50_000):
    DEEP = [DEEP]

ITSELF: Any = []
ITSELF.append(ITSELF)

ODD: Final[tuple[Any, ...]] = (
    *(True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 10**5_000, Int64(5), 0.5, -0.0, 1e308, 5e-324),
    *(math.nan, math.inf, -math.inf, Decimal("nan"), Decimal("1e6000"), 1j, b"", b"\0\xff", bytearray(3)),
    *("", " ", "x", "\0", "a\0b", "\ud800", "\x1b[31m", "$set", "a.b", "__proto__", "0" * 24, "nan", "x" * 1_000_000),
    *(
        [],
        [None],
        ["a", 1],
        (),
        ("a", 1),
        ((((((((((1,),),),),),),),),),),
        set(),
        {1},
        DEEP,
        ITSELF,
        range(3),
        iter("ab"),
    ),
    *(
        {},
        {"$gt": 0},
        {"a": {"$ne": 1}},
        {"\0": "a"},
        {"a": "\ud800"},
        {"": ""},
        {1: 2},
        {"a": "b"},
        {"a": "x" * 2_000},
        {"x" * 2_000: "a"},
    ),
    *(datetime(2030, 1, 1), datetime.max, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
    *(datetime.max.replace(tzinfo=timezone(-timedelta(hours=12))), timedelta(days=10**6), time(1), datetime.now(UTC)),
    *(object(), object, len, lambda: None, NotImplemented, ..., ObjectId(), ObjectId, OptionInvalid, ValueError("x")),
)

BESIDE: Final[dict[str, dict[str, Any]]] = {
    **{name: {"unique": "k"} for name in ("unique_for_s", "on_conflict")},
    **{name: {"every_s": 5} for name in ("missed", "overlap")},
    "tz": {"cron": "0 * * * *"},
}
"""What an option must not stand without."""


class Ground:
    def __init__(self) -> None:
        self.store = MemoryStore(lambda: datetime(2026, 1, 1, tzinfo=UTC))
        self.app = StreamQ.on(self.store, InlineBridge())
        self.queue = self.app.blocking.queue("q")

    def documents(self) -> list[Any]:
        return list(self.store.documents.values())


Call = Callable[[Ground, Any], object]


def tried(ground: Ground, name: str, value: Any, call: Call) -> bool:
    """Call with an odd value; say whether it was taken."""
    before = repr(ground.documents())
    try:
        call(ground, value)
    except UsageError as error:
        said = str(error)
        assert name in said, f"{name}={type(value)}: {said!r} does not name it"
        assert len(said) < 700, f"{name}: {len(said)} characters"
        assert repr(ground.documents()) == before, f"{name} was refused and stored"
        return False
    for document in ground.documents():
        bson.decode(bson.encode(document, codec_options=CODEC), CODEC)
    return True


PUTS: Final[tuple[Callable[[Ground, dict[str, Any]], object], ...]] = (
    lambda ground, options: ground.queue.put(1, **options),
    lambda ground, options: ground.queue.put_many([1] if "id" in options else [1, 2], **options),
    lambda ground, options: ground.app.blocking.put(ground.app.queue("q").new(1, **options)),
)


@pytest.mark.parametrize("name", Options.__struct_fields__)
def test_odd_option_of_a_put_is_refused_by_name_or_can_be_stored(name: str) -> None:
    taken = 0
    for value in ODD:
        for put in PUTS:
            taken += tried(Ground(), name, given(name, value), put)
    assert taken < len(PUTS) * len(ODD)


def given(name: str, value: Any) -> dict[str, Any]:
    return {**BESIDE.get(name, {}), name: value}


def in_no_time(value: Any) -> bool:
    """Say whether to wait so long does not take long: what is taken is waited for."""
    return isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 < value <= MAX_DELAY_S


CALLS: Final[dict[str, Call]] = {
    "queue": lambda ground, value: ground.app.queue(value),
    "wait_s": lambda ground, value: value == math.inf or (in_no_time(value) and ground.queue.claim(wait_s=value)),
    "lease_s": lambda ground, value: ground.queue.claim(lease_s=value),
    "n": lambda ground, value: ground.queue.claim_many(value),
    "rate": lambda ground, value: ground.app.limit("q", rate=value),
    "running": lambda ground, value: ground.app.limit("q", running=value),
    "key_rate": lambda ground, value: ground.app.limit("q", key_rate=value),
    "key_running": lambda ground, value: ground.app.limit("q", key_running=value),
    "count": lambda ground, value: Rate(value),
    "per_s": lambda ground, value: Rate(1, per_s=value),
    "burst": lambda ground, value: Rate(1, burst=value),
    "max_attempts": lambda ground, value: Retry(max_attempts=value),
    "first_s": lambda ground, value: Retry(first_s=value),
    "factor": lambda ground, value: Retry(factor=value),
    "cap_s": lambda ground, value: Retry(cap_s=value),
    "only": lambda ground, value: Retry(only=value),
    "never": lambda ground, value: Retry(never=value),
    "limit": lambda ground, value: ground.app.blocking.desk.find(limit=value),
    "tag": lambda ground, value: ground.app.blocking.desk.find(tag=value),
    "handler": lambda ground, value: ground.app.blocking.desk.find(handler=value),
    "status": lambda ground, value: ground.app.blocking.desk.find(status=value),
    "unique": lambda ground, value: ground.app.blocking.desk.find(unique=value),
    "error_type": lambda ground, value: ground.app.blocking.desk.find(error_type=value),
    "payload": lambda ground, value: ground.app.blocking.desk.find(payload=value),
    "created_from": lambda ground, value: ground.app.blocking.desk.find(created_from=value),
    "finished_until": lambda ground, value: ground.app.blocking.desk.find(finished_until=value),
    "older_than_s": lambda ground, value: ground.app.blocking.desk.purge(older_than_s=value),
    "delay_s": lambda ground, value: ground.app.blocking.desk.requeue_found(delay_s=value),
}


@pytest.mark.parametrize("name", CALLS)
def test_odd_argument_is_refused_by_name(name: str) -> None:
    for value in ODD:
        tried(Ground(), name, value, CALLS[name])


HELD: Final[dict[str, Callable[[Any, Any], object]]] = {
    "lease_s": lambda task, value: task.extend(value),
    "delay_s": lambda task, value: task.snooze(value),
    "value": lambda task, value: task.progress(value),
    "note": lambda task, value: task.progress(0, value),
    "reason": lambda task, value: task.cancel(value),
}


@pytest.mark.parametrize("name", HELD)
def test_odd_argument_of_a_holder_is_refused_by_name_and_the_task_is_still_held(name: str) -> None:
    for value in ODD:
        ground = Ground()
        ground.queue.put(1)
        task = ground.queue.claim()
        assert task is not None
        if not tried(ground, name, value, lambda _, value: HELD[name](task, value)):  # noqa: B023
            task.succeed()


OF_APPS: Final = (
    *("database", "collection", "lease_s", "retry", "keep_s", "keep_failed_s", "payload_limit_bytes", "timeout_s"),
    *("safety_scan_s", "expires_in_s", "worker_id", "dead_letter_collection", "wake", "codec"),
)


@pytest.mark.parametrize("name", OF_APPS)
def test_odd_option_of_an_app_is_refused_by_name(name: str) -> None:
    for value in ODD:
        tried(Ground(), name, value, lambda _, value: StreamQ("mongodb://unused", **{name: value}))


def work() -> None: ...


OF_HANDLERS: Final = (
    *("queue", "name", "retry", "timeout_s", "priority", "keep_s", "keep_failed_s", "lease_s", "cron", "tz", "every_s"),
    *("missed", "overlap", "expires_in_s", "total_timeout_s"),
)


@pytest.mark.parametrize("name", OF_HANDLERS)
def test_odd_option_of_a_handler_is_refused_by_name(name: str) -> None:
    for value in ODD:
        tried(Ground(), name, value, lambda ground, value: ground.app.task(**given(name, value))(work))


@pytest.mark.parametrize("call", ["status", "result", "wait", "progress", "cancel", "show", "delete"])
def test_odd_id_is_refused_or_not_stored(call: str) -> None:
    ground = Ground()
    door = ground.app.blocking.desk if call in ("show", "delete") else ground.app.blocking
    for value in ODD:
        with contextlib.suppress(UsageError, TaskGone):
            getattr(door, call)(value)
