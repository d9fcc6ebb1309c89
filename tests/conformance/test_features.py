"""Features, on the real server: announced by the first put that takes part, given their indexes by the next look."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from streamq.core import queries
from streamq.core.features import FEATURES, Feature
from streamq.core.indexes import INDEXES, needed
from streamq.core.limits import Limits
from streamq.core.new_task import NewTask
from streamq.core.options import Options, PutOptions
from streamq.core.recurrence import recurrence_of
from streamq.core.schedule import Schedule
from streamq.core.search import Search
from streamq.errors import AccessRefused, StoreError, StoreUnavailable
from streamq.store import features, ticking
from streamq.store.mongo import MongoStore
from tests.conformance.conftest import MongoLab

BASE = {index.name for index in needed(frozenset())}

PUTS: list[tuple[Feature, dict[str, Any]]] = [
    ("expiry", {"expires_in_s": 60.0}),
    ("expiry", {"options": PutOptions(expires_at=datetime.now(UTC) + timedelta(hours=1))}),
    ("lifetime", {"options": PutOptions(lifetime_s=60.0)}),
    ("followers", {"options": PutOptions(group="g")}),
    ("search", {"options": PutOptions(tag="t")}),
    ("search", {"options": PutOptions(unique="k")}),
]


@pytest.fixture
def fresh(uri: str, empty_database: str, admin: MongoClient[dict[str, Any]]) -> Iterator[MongoLab]:
    """A lab with a database that nobody has used before."""
    store = MongoStore.connect(uri, empty_database)
    store.prepare()
    yield MongoLab(store, admin)
    store.close()


def there(lab: MongoLab) -> set[str]:
    return {str(one["name"]) for one in lab.mongo._tasks.durable.list_indexes()} - {"_id_"}


def names_of(feature: Feature) -> set[str]:
    return {index.name for index in INDEXES if index.feature == feature}


def in_use(lab: MongoLab) -> set[str]:
    return {one["_id"] for one in lab.mongo._tasks.features.in_use.find()}


def test_a_queue_of_plain_tasks_has_the_indexes_that_these_need(fresh: MongoLab) -> None:
    fresh.settle(fresh.claimed(), "succeed")
    fresh.put(options=PutOptions(delay_s=1.0, headers={"a": "b"}))
    fresh.store.tick()
    fresh.store.sweep()
    assert there(fresh) == BASE
    assert in_use(fresh) == set()


@pytest.mark.parametrize(("feature", "more"), PUTS)
def test_the_first_task_that_takes_part_has_the_indexes_made_by_the_next_look(
    fresh: MongoLab, feature: Feature, more: dict[str, Any]
) -> None:
    fresh.store.tick()
    fresh.put(**more)
    assert there(fresh) == BASE  # a put waits for no index
    fresh.store.tick()
    assert there(fresh) == BASE | names_of(feature)


def test_each_kind_of_timer_is_heeded_from_its_first_task_on(fresh: MongoLab) -> None:
    assert fresh.store.tick().next_s is None
    fresh.put(expires_in_s=5.0)
    fresh.put(options=PutOptions(lifetime_s=3.0))
    assert fresh.store.tick().next_s == pytest.approx(3.0, abs=1.0)
    fresh.pass_time(6.0)
    done = fresh.store.tick()
    assert (done.expired, done.removed) == (1, 1)


def test_followers_are_seen_to_from_the_first_on(fresh: MongoLab) -> None:
    fresh.store.tick()
    parent = fresh.put()
    child = fresh.put(options=PutOptions(after=[parent]))
    fresh.store.tick()
    (claim,) = fresh.claim()
    fresh.settle(claim, "succeed")
    released: list[ObjectId] = []
    for _ in range(3):
        released += [id for id, _ in fresh.store.tick().released]
    assert released == [child]


def test_a_process_that_looked_before_learns_of_what_another_puts(fresh: MongoLab, uri: str) -> None:
    fresh.store.tick()
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        other = MongoStore(client, fresh.mongo._database.name)
        other.put([fresh.new(expires_in_s=5.0)])
    fresh.pass_time(6.0)
    assert fresh.store.tick().expired == 1


def test_nothing_is_asked_of_a_feature_without_indexes() -> None:
    """A look without an index would read every task."""
    asked = repr(queries.outlook("tasks", frozenset(), None, "tasks.features"))
    assert not any(field in asked for field in ("expires_at", "lifetime_until", "follow_up"))
    every = repr(queries.outlook("tasks", FEATURES, None, "tasks.features"))
    assert all(field in every for field in ("expires_at", "lifetime_until", "follow_up"))


def test_what_is_announced_costs_one_trip_a_process(fresh: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    inserted: list[str] = []
    insert_one = Collection.insert_one

    def counting(self: Any, document: Any, *args: Any, **more: Any) -> Any:
        if self.name == "tasks.features":
            inserted.append(document["_id"])
        return insert_one(self, document, *args, **more)

    monkeypatch.setattr(Collection, "insert_one", counting)
    for _ in range(3):
        fresh.put(options=PutOptions(tag="t"))
        fresh.put()
    assert inserted == ["search"]


def test_nothing_is_stored_when_it_cannot_be_announced(fresh: MongoLab) -> None:
    fault = {"failCommands": ["insert"], "errorCode": 11600, "namespace": fresh.mongo._tasks.features.in_use.full_name}
    admin = fresh.admin.admin
    impatient = MongoStore(fresh.mongo.client, fresh.mongo._database.name, timeout_s=0.5)
    admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": fault})
    try:
        with pytest.raises(StoreError):
            impatient.put([fresh.new(options=PutOptions(tag="t"))])
    finally:
        admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert fresh.store.counts() == {}
    fresh.put(options=PutOptions(tag="t"))
    assert in_use(fresh) == {"search"}


def test_a_put_in_a_callers_transaction_announces_outside_of_it(fresh: MongoLab) -> None:
    """Else a scheduler could miss it, and two first puts would cross."""
    with fresh.mongo.client.start_session() as session:
        session.start_transaction()
        fresh.mongo.put([fresh.new()], session)
        fresh.mongo.put([fresh.new(expires_in_s=5.0)], session)
        assert in_use(fresh) == {"expiry"}
        session.commit_transaction()
    fresh.pass_time(6.0)
    assert fresh.store.tick().expired == 1


def test_a_schedule_announces_before_its_first_slot(fresh: MongoLab) -> None:
    recurrence = recurrence_of(cron=None, tz=None, every_s=3600, missed=None, overlap=None)
    assert recurrence is not None
    template = NewTask(ObjectId(), "q", "report", {}, Options(tag="t"), max_attempts=3)
    schedule = Schedule(recurrence, template)
    fresh.store.declare([schedule], "w")
    now = datetime.now(UTC)
    fresh.mongo._tasks.meta.update_one({"_id": schedule.row_id}, {"$set": {"next_at": now - timedelta(seconds=1)}})
    assert len(fresh.store.fire([schedule], "w").fired) == 1
    assert in_use(fresh) == {"search"}


def test_slots_are_given_where_their_indexes_are(fresh: MongoLab) -> None:
    """They are what keeps two workers from giving one slot."""
    fresh.put()
    assert len(fresh.claim(limits=Limits(running=1))) == 1
    assert there(fresh) == BASE | names_of("limits")
    assert in_use(fresh) == {"limits"}


def test_indexes_of_what_is_in_use_are_made_again_at_a_start(fresh: MongoLab, uri: str) -> None:
    fresh.put(options=PutOptions(tag="t"))
    fresh.store.tick()
    fresh.database["tasks"].drop_indexes()
    fresh.store.prepare()
    assert there(fresh) == BASE | names_of("search")


def test_what_somebody_made_by_hand_is_looked_at(fresh: MongoLab) -> None:
    """Another program may store tasks that expire, and know nothing of features."""
    id = fresh.put()
    fresh.edit(id, {"$set": {"expires_at": datetime.now(UTC) - timedelta(seconds=1)}})
    assert fresh.store.tick().expired == 0
    MongoStore(fresh.mongo.client, fresh.mongo._database.name).use({"expiry"})
    assert fresh.store.tick().expired == 1


def test_a_user_who_may_make_no_index_sees_to_the_rest_and_is_told(
    fresh: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.put(options=PutOptions(tag="t"))
    fresh.put(options=PutOptions(delay_s=1.0))
    fresh.pass_time(2.0)

    def refuse(*_: Any, **more: Any) -> None:
        raise AccessRefused("not authorized to createIndexes")

    monkeypatch.setattr(features, "provide", refuse)
    done = fresh.store.tick()
    assert len(done.released) == 1
    ((told, said),) = [(one.id, one.said) for one in done.refused]
    assert told == "indexes of search"
    assert "createIndexes" in said
    again = fresh.store.tick()
    assert again.refused == ()
    assert again.next_s is None
    monkeypatch.undo()
    MongoStore(fresh.mongo.client, fresh.mongo._database.name).use({"search"})
    fresh.store.sweep()
    assert "search" in fresh.mongo._tasks.features.made()


def test_an_index_that_has_to_wait_for_a_transaction_holds_up_a_look_for_a_bounded_time(
    fresh: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.mongo._tasks.features._wait_s = 0.2
    delayed = fresh.put(options=PutOptions(delay_s=1.0))
    fresh.pass_time(2.0)
    with fresh.mongo.client.start_session() as session, session.start_transaction():
        fresh.mongo.put([fresh.new(options=PutOptions(tag="t"))], session)
        done = fresh.store.tick()
        assert [id for id, _ in done.released] == [delayed]
        assert done.next_s is not None
        assert done.next_s <= ticking.NOT_YET_S
        assert done.refused == ()
        with pytest.raises(StoreUnavailable, match="tried again"):
            fresh.mongo.use({"limits"})
    fresh.mongo._tasks.features._wait_s = 30.0
    fresh.store.tick()
    assert there(fresh) >= BASE | names_of("search")


def test_a_check_misses_the_indexes_of_what_is_in_use_and_no_others(fresh: MongoLab) -> None:
    fresh.put()
    assert not [one for one in fresh.mongo.check().findings if "misses" in one.said]
    fresh.put(options=PutOptions(tag="t"))
    assert fresh.mongo.check().valid
    (finding,) = [one for one in fresh.mongo.check(repair=True).findings if "misses" in one.said]
    assert finding.severity == "info"
    assert "streamq_tag" in finding.said
    assert there(fresh) == BASE | names_of("search")


def test_a_search_without_its_index_finds_the_same(fresh: MongoLab) -> None:
    id = fresh.put(options=PutOptions(tag="t"))
    fresh.put()
    assert [one["_id"] for one in fresh.store.find(Search(tag="t"), limit=5)] == [id]


def test_a_sweep_needs_no_index_where_no_task_waits_for_another(fresh: MongoLab) -> None:
    fresh.put()
    assert fresh.store.sweep().next_s is None
    with pytest.raises(OperationFailure):
        list(fresh.mongo._tasks.quick.find(queries.blocked()).hint(queries.SWEPT_BY))
