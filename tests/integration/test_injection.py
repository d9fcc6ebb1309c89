"""Whatever a user gives is data: refused by name before anything is stored, or stored and back the same, and no other
task is any different for it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient

from streamq import StreamQ, UsageError
from streamq.core.new_task import NewTask
from tests.long_form import sized

if TYPE_CHECKING:
    from tests.integration.conftest import MakeApp

SHARP = ("$set", "$where", "$$NOW", "$status", "a.b", "_id", "__proto__", "~int", "\0", "\ud800", "", "$", ".", "{}")

keys = st.sampled_from(SHARP) | st.text(max_size=5)
scalars = keys | st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.binary()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)

TOGETHER = 25
EXAMPLES = sized(20, 4_000)
"""Of so many payloads each."""

NESTED: Any = {"$gt": 0}
for _ in range(120):
    NESTED = {"$and": [NESTED]}


def same(app: StreamQ, mongo: MongoClient[dict[str, Any]], database: str, given: dict[str, Any]) -> None:
    queue, tasks = app.blocking.queue("q"), mongo[database]["tasks"]
    payload = given.pop("payload")
    before = tasks.count_documents({})
    sentinel = tasks.find_one({"queue": "sentinel"})
    try:
        put = queue.put(payload, **given)
    except UsageError:
        assert tasks.count_documents({}) == before
        return
    stored = tasks.find_one({"_id": put.id})
    assert stored is not None
    status = "ready" if given.get("group") is None else "blocked"
    assert (stored["status"], stored["queue"], stored["attempt"]) == (status, "q", 0)
    found = app.blocking.desk.find(**{name: given[name] for name in ("tag", "unique") if given.get(name) is not None})
    assert put.id in [one.id for one in found]
    task = queue.claim()
    assert task is not None
    assert task.payload == payload
    task.progress(0.5, "$status")
    task.fail("$payload", retry=False)
    shown = app.blocking.desk.show(put.id)
    assert (shown.payload, shown.errors[-1].message) == (payload, "$payload")
    assert shown.progress is not None
    assert shown.progress.note == "$status"
    assert app.blocking.desk.delete(put.id)
    assert tasks.find_one({"queue": "sentinel"}) == sentinel
    assert tasks.count_documents({}) == before


def test_what_users_give_is_never_an_operator(
    make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    app = make_app()
    app.blocking.queue("sentinel").put("untouched", tag="$set", delay_s=3_600)

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(
        payload=values,
        tag=st.none() | keys,
        unique=st.none() | keys | st.tuples(keys, st.binary(max_size=3)),
        group=st.none() | keys,
        rate_key=st.none() | keys,
        headers=st.none() | st.dictionaries(keys, keys, max_size=2),
    )
    @example(payload=NESTED, tag=None, unique=None, group=None, rate_key=None, headers=None)
    @example(payload="$" * 500_000, tag="$set", unique="$gt", group="$ne", rate_key="a.b", headers={"$set": "$$NOW"})
    def holds(**given: Any) -> None:
        same(app, mongo, database, given)

    holds()


def test_any_payload_and_result_comes_back_as_it_was(
    make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    """Several at a time; what is refused is refused before anything is stored."""
    app = make_app()
    queue, tasks = app.blocking.queue("q"), mongo[database]["tasks"]
    queue.put_many([None])
    (plain,) = queue.claim_many(1)
    plain.succeed(None)
    fields = set(tasks.find_one({"_id": plain.info.id}) or {}) | {"payload", "result"}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=(Phase.generate,),
    )
    @given(payloads=st.lists(values, min_size=TOGETHER, max_size=TOGETHER))
    def come_back(payloads: list[Any]) -> None:
        taken: list[Any] = []
        wanted: list[NewTask] = []
        for payload in payloads:
            with suppress(UsageError):
                wanted.append(app.queue("q").new(payload))
                taken.append(payload)
        app.blocking.put_many(wanted)
        held = queue.claim_many(TOGETHER)
        assert [task.payload for task in held] == taken
        for task in held:
            task.succeed(task.payload)
        stored = list(tasks.find({"_id": {"$in": [task.info.id for task in held]}}).sort("seq"))
        assert [app.blocking.result(one["_id"]) for one in stored] == taken
        assert [one["_id"] for one in stored if set(one) - fields] == []

    come_back()


def test_filters_take_no_operators(make_app: MakeApp) -> None:
    desk = make_app().blocking.desk
    hostile: list[Any] = [{"$ne": None}, {"$where": "1"}, ["$gt"], b"$gt"]
    for name in ("queue", "handler", "tag", "error_type", "status", "created_from"):
        for value in hostile:
            sought: dict[str, Any] = {name: value}
            try:
                desk.find(**sought)
            except UsageError:
                continue
            raise AssertionError(f"{name}={value!r} was taken")
    assert desk.find(payload={"a": {"$ne": 1}}) == []
    for path in ("$where", "a.$b", "a..b", "\0", ""):
        try:
            desk.find(payload={path: 1})
        except UsageError:
            continue
        raise AssertionError(f"the path {path!r} was taken")
