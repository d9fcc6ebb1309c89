"""Which searches an index serves, and which walk: what docs/look-and-repair.md says of it, asked of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from streamq.core import queries
from streamq.core.outcome import Raised
from streamq.core.search import search_of

if TYPE_CHECKING:
    from tests.conformance.conftest import MongoLab

OTHERS = 60
"""Tasks of the kind that is not looked for: a search by an index reads none of them."""

FEW = 3


def tagged(mongo: MongoLab) -> list[ObjectId]:
    """Store a few tasks with a tag among many without; return the few."""
    before = [mongo.new() for _ in range(OTHERS)]
    few = [mongo.new(options={"tag": "spring"}) for _ in range(FEW)]
    mongo.store.put([*before, *few, *(mongo.new() for _ in range(OTHERS))])
    return [one.id for one in few]


def examined(mongo: MongoLab, after: ObjectId | None = None, *, way: int = -1, limit: int = 20, **sought: Any) -> Any:
    """Run a search as the store does; return the index it went by, keys and documents it read, and what it found."""
    wanted = queries.beyond(search_of(sought).filter(), after, "$lt" if way < 0 else "$gt")  # type: ignore[arg-type]
    find = {"find": "tasks", "filter": wanted, "sort": {"_id": way}, "limit": limit}
    said = mongo.database.command({"explain": find, "verbosity": "executionStats"})
    stats = said["executionStats"]
    plan = str(said["queryPlanner"]["winningPlan"])
    names = [one for one in ("streamq_tag", "streamq_unique_key", "streamq_unsuccessful") if f"'{one}'" in plan]
    return names, stats["totalKeysExamined"], stats["totalDocsExamined"], stats["nReturned"], "'SORT'" in plan


@pytest.mark.parametrize("way", [-1, 1])
def test_a_tag_is_found_without_reading_other_tasks(mongo: MongoLab, way: int) -> None:
    ids = tagged(mongo)
    names, keys, documents, found, sorts = examined(mongo, tag="spring", way=way)
    assert (names, found, documents, sorts) == (["streamq_tag"], FEW, FEW, False)
    assert keys <= FEW + 1
    names, keys, documents, found, sorts = examined(mongo, ids[1], tag="spring", way=way)
    assert (names, found, documents, sorts) == (["streamq_tag"], 1, 1, False)
    assert keys <= 2


@pytest.mark.parametrize("key", ["a", 7, b"a", ("a", 1), ("a", ("b", 2))])
def test_a_unique_key_is_found_without_reading_other_tasks(mongo: MongoLab, key: Any) -> None:
    mongo.store.put([mongo.new() for _ in range(OTHERS)])
    mongo.store.put([mongo.new(options={"unique": n}) for n in range(100, 100 + OTHERS)])
    mongo.store.put([mongo.new(options={"unique": key})])
    names, keys, documents, found, _ = examined(mongo, unique=key)
    assert (names, found, documents) == (["streamq_unique_key"], 1, 1)
    assert keys <= 3


@pytest.mark.parametrize("status", ["failed", ["failed", "expired"], ["failed", "cancelled", "expired"]])
@pytest.mark.parametrize("more", [{}, {"error_type": "Boom"}, {"payload": {"n": 0}}])
def test_failed_tasks_are_found_past_all_others(mongo: MongoLab, status: Any, more: dict[str, Any]) -> None:
    mongo.store.put([mongo.new() for _ in range(OTHERS // 2)])
    ids = []
    for _ in range(FEW):
        claim = mongo.claimed("f", payload={"n": 0})
        mongo.settle(claim, "fail", error=Raised("Boom", "m"), keep_s=60.0)
        ids.append(claim.id)
    mongo.store.put([mongo.new() for _ in range(OTHERS // 2)])
    names, keys, documents, found, sorts = examined(mongo, status=status, **more)
    assert (names, found, documents, sorts) == (["streamq_unsuccessful"], FEW, FEW, False)
    assert keys <= FEW + 3
    assert examined(mongo, ids[1], status=status, **more)[2:4] == (1, 1)


def test_what_is_neither_is_walked_for_from_the_newest(mongo: MongoLab) -> None:
    mongo.store.put([mongo.new(payload={"n": n}) for n in range(OTHERS)])
    assert examined(mongo, payload={"n": 0})[:3] == ([], OTHERS, OTHERS)
    assert examined(mongo, payload={"n": OTHERS - 5}, limit=1)[2] == 5


def test_a_plain_task_enters_no_index_for_looking(mongo: MongoLab) -> None:
    mongo.put()
    mongo.settle(mongo.claimed("other"), "succeed")
    stats = mongo.database["tasks"].aggregate([{"$indexStats": {}}])
    assert {"streamq_tag", "streamq_unique_key", "streamq_unsuccessful"} <= {one["name"] for one in stats}
    validated = mongo.database.command("validate", "tasks")
    entered = {name: validated["keysPerIndex"][name] for name in validated["keysPerIndex"]}
    assert [entered[name] for name in ("streamq_tag", "streamq_unique_key", "streamq_unsuccessful")] == [0, 0, 0]
