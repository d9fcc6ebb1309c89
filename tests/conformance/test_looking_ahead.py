"""A queue whose head holds tasks of handlers that the asker does not know, on the real server."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId, Timestamp

from streamq.core import queries
from streamq.core.claim import Ask, Past
from streamq.store import looking_ahead
from streamq.store.contract import Claimed
from tests.conformance.conftest import MongoLab

OTHERS = 30_000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of two keys, two a call."""
    monkeypatch.setattr(looking_ahead, "WINDOW", 2)
    monkeypatch.setattr(looking_ahead, "MOST_WINDOWS", 2)


def put_others(mongo: MongoLab, count: int, **more: Any) -> list[ObjectId]:
    return [mongo.put(task="other", **more) for _ in range(count)]


def keys_examined(mongo: MongoLab) -> int:
    metrics = mongo.admin.admin.command("serverStatus")["metrics"]
    return int(metrics["queryExecutor"]["scanned"])


def ask(mongo: MongoLab, limit: int, past: Past | None = None) -> Ask:
    return mongo.ask(limit, only=("mine",), past=past)


def calls(mongo: MongoLab, limit: int) -> list[Claimed]:
    """Claim as an intake does, until something is found or the queue has ended."""
    answers = [mongo.store.claim(ask(mongo, limit))]
    while not answers[-1].claims and answers[-1].past is not None:
        answers.append(mongo.store.claim(ask(mongo, limit, answers[-1].past)))
    return answers


def test_no_call_goes_through_all_tasks_of_others_at_the_head(mongo: MongoLab) -> None:
    document = {"queue": "q", "task": "other", "status": "ready", "priority": 0, "attempt": 0, "max_attempts": 5}
    rows = [document | {"seq": Timestamp(1, n + 1)} for n in range(OTHERS)]
    mongo.mongo._tasks.quick.insert_many(rows, ordered=False)
    mine = [mongo.put(task="mine") for _ in range(30)]
    most = 2 * looking_ahead.WINDOW * looking_ahead.MOST_WINDOWS
    past: Past | None = None
    for _ in range(OTHERS // (looking_ahead.WINDOW * looking_ahead.MOST_WINDOWS) + 1):
        before = keys_examined(mongo)
        claimed = mongo.store.claim(ask(mongo, 10, past))
        assert keys_examined(mongo) - before <= most + 100
        past = claimed.past
        if claimed.claims:
            break
    assert [claim.id for claim in claimed.claims] == mine[:10]
    before = keys_examined(mongo)
    claimed = mongo.store.claim(ask(mongo, 10, past))
    assert [claim.id for claim in claimed.claims] == mine[10:20]
    assert keys_examined(mongo) - before <= 2 * looking_ahead.WINDOW + 100  # the others are known by now


def test_a_window_is_found_and_read_in_the_index(mongo: MongoLab) -> None:
    put_others(mongo, 30)
    put_others(mongo, 30, priority=-1)
    first, last = Past(0, Timestamp(1, 1)), Past(-1, Timestamp(2**32 - 1, 1))
    wanted = queries.ready(ask(mongo, 10)) | queries.between(first, last)
    command = {"find": "tasks", "filter": wanted, "sort": dict(queries.CLAIM_ORDER), "limit": 10}
    said = mongo.database.command({"explain": command, "verbosity": "executionStats"})["executionStats"]
    assert "SORT'" not in str(said)
    assert said["totalDocsExamined"] == 0


@pytest.mark.usefixtures("small")
def test_a_call_that_finds_nothing_says_where_to_go_on_and_the_last_one_does_not(mongo: MongoLab) -> None:
    others = put_others(mongo, 9)
    first, second, third = calls(mongo, 1)
    places = [Past(0, mongo.stored(others[n])["seq"], "other") for n in (4, 8)]
    assert (first.past, first.more) == (places[0], True)
    assert (second.past, second.more) == (places[1], True)
    assert third == Claimed((), more=False)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 20])
def test_what_stands_behind_others_is_claimed_in_order_once_and_wholly(mongo: MongoLab, limit: int) -> None:
    """Whatever the windows' ends fall upon: between two priorities, behind the last task."""
    mine: list[ObjectId] = []
    for priority in (5, 2, 0, -3):
        for _ in range(3):
            put_others(mongo, 2, priority=priority)
            mine.append(mongo.put(task="mine", priority=priority))
        put_others(mongo, 3, priority=priority)
    claimed: list[ObjectId] = []
    while answers := [claim.id for claim in calls(mongo, limit)[-1].claims]:
        claimed += answers
    assert claimed == mine


@pytest.mark.usefixtures("small")
def test_the_next_call_begins_before_what_was_left_of_a_window(mongo: MongoLab) -> None:
    put_others(mongo, 3)
    mine = [mongo.put(task="mine") for _ in range(4)]
    first = calls(mongo, 1)[-1]
    assert [claim.id for claim in first.claims] == mine[:1]
    assert first.more
    second = mongo.store.claim(ask(mongo, 3, first.past))
    assert [claim.id for claim in second.claims] == mine[1:]


@pytest.mark.usefixtures("small")
def test_a_head_whose_place_somebody_broke_is_passed_over_all_the_same(mongo: MongoLab) -> None:
    for id in put_others(mongo, 4):
        mongo.edit(id, {"$set": {"priority": "high"}})
    put_others(mongo, 4)
    mine = mongo.put(task="mine")
    assert [claim.id for claim in mongo.claim(2, only=("mine",))] == [mine]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_what_shares_its_place_with_tasks_of_others_is_found(mongo: MongoLab, limit: int) -> None:
    """Another producer may have written one `seq` for many: no window may end in the midst of them for ever."""
    for _ in range(8):
        mongo.put(task="another")  # the index goes on by the handlers' names
    mine = [mongo.put(task="mine") for _ in range(2)]
    mongo.mongo._tasks.quick.update_many({}, {"$set": {"seq": Timestamp(7, 7)}})
    claimed: list[ObjectId] = []
    while answers := [claim.id for claim in calls(mongo, limit)[-1].claims]:
        claimed += answers
    assert sorted(claimed) == sorted(mine)
