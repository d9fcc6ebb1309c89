"""What reads that which others have stored or sent, with whatever BSON can hold in any place. Each is a hypothesis
test: run as one for a short while by `test_readers`, and led by coverage for long by `python -m tests.fuzz`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import bson
import msgspec
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from hypothesis import given
from hypothesis import strategies as st

from streamq.core.claim import claim_of
from streamq.core.codec import from_stored, to_stored
from streamq.core.document import STATUSES, TaskDocument
from streamq.core.jsonable import record
from streamq.core.schema import Schema
from streamq.core.view import view_of
from streamq.core.wakes import Interest, wake_of
from streamq.errors import PayloadInvalid, PayloadUndecodable
from streamq.store.setup import CODEC
from tests.fuzzing import fuzzed

EXAMPLES: Final = 50

TAGS: Final = ("~int", "~tuple", "~set", "~frozenset", "~dict", "~decimal", "~datetime", "~date", "~time", "~timedelta")

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
keys = st.sampled_from(("a", "$ref", "$id", "~", "~~int", "", "a.b", *TAGS)) | text

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | text
    | st.binary(max_size=8)
    | st.datetimes(timezones=st.just(UTC))
    | st.sampled_from(
        (
            *(Int64(2**62), ObjectId("0" * 24), Timestamp(1, 1), Decimal128("nan"), Decimal128("1e6000"), Regex(".*")),
            *(Code("function(){}"), Code("x", {"a": 1}), DBRef("tasks", 1), MinKey(), MaxKey(), bson.DatetimeMS(2**60)),
            *(Binary(b"x", 4), Binary(b"x" * 16, 4), Binary(b"x", 128), *STATUSES, "$$NOW", "2026-01-01", "nan", "1e9"),
        )
    )
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=12
)


def fields(kind: type[Any], *more: str) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(sorted({*kind.__annotations__, *more} - {"_id", "queue"}))
    return st.dictionaries(names, values, max_size=8)


tasks = fields(TaskDocument, "kind", "bell", "beat_at").map(lambda one: {"_id": ObjectId(), "queue": "q"} | one)

INTERESTS: Final = (
    Interest(("q",), timers=True, reply_to="me", bell="bell", holder="me"),
    Interest((), timers=False, reply_to=None, bell="bell"),
)


class Size(msgspec.Struct):
    width: int
    of: list[int] | None = None


def handler(path: str, *, size: Size | None = None, at: datetime | None = None, some: dict[str, float] = {}) -> None:  # noqa: B006
    """Has what handlers have: text, a record, an instant, containers."""


SCHEMA: Final = Schema.of(handler)
arguments = st.dictionaries(st.sampled_from(("path", "size", "at", "some")) | keys, values, max_size=4) | values


def through_bson(document: dict[str, Any]) -> dict[str, Any]:
    return bson.decode(bson.encode(document, codec_options=CODEC), CODEC)


@fuzzed(EXAMPLES)
@given(tasks)
def read_task(document: dict[str, Any]) -> None:
    """A task is claimed, shown and listed, whatever is in it."""
    stored: Any = through_bson(document)
    claim_of(stored, claim_id=b"c" * 16, lease_s=30.0, attempt=1)
    view_of(stored)
    if "status" in stored:
        json.dumps(record(stored), allow_nan=False)


@fuzzed(EXAMPLES)
@given(
    st.sampled_from(("insert", "update", "drop", "rename", "invalidate", "dropDatabase")),
    tasks,
    tasks,
    st.booleans(),
)
def read_event(kind: str, full: dict[str, Any], changed: dict[str, Any], has_time: bool) -> None:
    """An event of the change stream is a wake or nothing, whatever is in it."""
    event: dict[str, Any] = {"_id": {"_data": "x"}, "operationType": kind}
    if kind in ("insert", "update"):
        event |= (
            {"documentKey": {"_id": full["_id"]}, "wallTime": datetime.now(UTC)}
            if has_time
            else {"documentKey": {"_id": full["_id"]}}
        )
        event |= {"fullDocument": full} if kind == "insert" else {"updateDescription": {"updatedFields": changed}}
    for interest in INTERESTS:
        wake_of(through_bson(event), interest)


@fuzzed(EXAMPLES)
@given(arguments)
def read_payload(stored: Any) -> None:
    """A payload becomes what the handler takes, or is refused as undecodable; what was decoded can be stored again."""
    stored = through_bson({"payload": stored})["payload"]
    with contextlib.suppress(PayloadUndecodable):
        SCHEMA.load(stored)
    with contextlib.suppress(PayloadUndecodable, PayloadInvalid):  # what streamq never writes is passed through
        to_stored(from_stored(stored))


READERS: Final[dict[str, Callable[[], None]]] = {
    "task": read_task,
    "event": read_event,
    "payload": read_payload,
}
