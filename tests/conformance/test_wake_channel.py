"""The wake channel of the real store: what it tells, what becomes of it, and that a put with it is as durable as one
without."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure, ServerSelectionTimeoutError

from streamq.core.notice import MOST_NAMED, SIZE_BYTES, wakes_of
from streamq.core.wake import Wake
from streamq.errors import FeedEnded, PutUnknown, StoreError, StoreUnavailable
from streamq.store import covering, inserting, wake_channel
from streamq.store.mongo import MongoStore
from streamq.store.wake_channel import TailFeed

if TYPE_CHECKING:
    from tests.conformance.conftest import MongoLab

APP = "faulty"


@pytest.fixture
def tailed(mongo: MongoLab, uri: str, database: str) -> Iterator[MongoLab]:
    """A lab on a store with a wake channel, whose client fail points can tell."""
    client = MongoClient[dict[str, Any]](uri, appname=APP)
    store = MongoStore(client, database, wake="tailable")
    store.prepare()
    yield mongo.on(store)
    client.close()


@pytest.fixture
def sent_again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tasks were inserted with majority, one entry an insert."""
    sent: list[int] = []
    insert = inserting.insert

    def noted(tasks: Any, documents: Any) -> Any:
        sent.append(len(documents))
        return insert(tasks, documents)

    monkeypatch.setattr(covering, "insert", noted)
    return sent


Instead = Callable[[str, Callable[[], Mapping[str, Any]]], Mapping[str, Any]]


def instead(monkeypatch: pytest.MonkeyPatch, how: Instead) -> None:
    """Let `how(collection, send)` stand between the store and each of its writes that want the whole reply."""
    real = wake_channel.written

    def written(database: Any, command: Mapping[str, Any], concern: Mapping[str, Any]) -> Mapping[str, Any]:
        return how(next(iter(command.values())), lambda: real(database, command, concern))

    monkeypatch.setattr(covering, "written", written)
    monkeypatch.setattr(wake_channel, "written", written)


def channel_of(lab: MongoLab) -> Any:
    return lab.database["tasks.wakes"]


def all_told(feed: TailFeed) -> list[Wake]:
    """What can be read without waiting for more than one await time."""
    wakes = []
    while (wake := feed.read()) is not None:
        wakes.append(wake)
    return wakes


# --- what it tells --------------------------------------------------------------------------------------------


def test_tail_tells_of_a_new_task_what_a_claim_needs(tailed: MongoLab) -> None:
    feed = tailed.mongo.tail(("q",), "bell", 0.1)
    first = tailed.put(task="job")
    second = tailed.put(task=None, max_attempts=1)
    assert feed.read() == Wake("ready", first, "q", "job", is_new=True)
    assert feed.read() == Wake("ready", second, "q", None, is_new=True, durable=True)
    feed.close()


def test_tail_tells_nothing_of_other_queues_of_tasks_that_cannot_start_and_of_what_was_before(tailed: MongoLab) -> None:
    tailed.put()
    feed = tailed.mongo.tail(("q",), "bell", 0.1)
    parent = tailed.put("other")
    tailed.put(options={"delay_s": 60})
    tailed.put(options={"after": [parent]})
    own = tailed.put()
    assert [wake.id for wake in all_told(feed)] == [own]
    feed.close()


def test_put_of_many_queues_names_the_first_tasks_and_each_reader_hears_of_its_own(tailed: MongoLab) -> None:
    feed = tailed.mongo.tail(("q",), "bell", 0.1)
    new = [tailed.new("q" if number % 2 else "other") for number in range(2 * MOST_NAMED)]
    tailed.store.put(new)
    assert [wake.id for wake in all_told(feed)] == [one.id for one in new[1:MOST_NAMED:2]]
    feed.close()


def test_bell_ends_the_reading_of_its_own_feed_only(tailed: MongoLab) -> None:
    feeds = [tailed.mongo.tail(("q",), bell, 0.1) for bell in ("mine", "yours")]
    tailed.mongo.ring_tail("mine")
    assert [feed.read() for feed in feeds] == [Wake("bell"), None]
    for feed in feeds:
        feed.close()


def test_notice_that_somebody_else_wrote_tells_of_what_is_a_task_only() -> None:
    id = ObjectId()
    odd: list[Any] = [
        None,
        3,
        {},
        {"id": 1, "queue": "q"},
        {"id": id, "queue": ["q"]},
        {"id": id, "queue": "q", "task": 5},
    ]
    assert wakes_of({"told": odd}, {"q"}) == [Wake("ready", id, "q", None, is_new=True)]
    assert wakes_of({"told": "q"}, {"q"}) == wakes_of({}, {"q"}) == []


# --- what becomes of it ---------------------------------------------------------------------------------------


def test_prepare_makes_a_small_capped_collection_that_can_be_followed_at_once(tailed: MongoLab) -> None:
    """A tailable cursor on an empty one is dead: it is seeded."""
    options = channel_of(tailed).options()
    assert (options["capped"], options["size"]) == (True, SIZE_BYTES)
    feed = tailed.mongo.tail(("q",), "bell", 0.01)
    assert feed.read() is None
    feed.close()
    tailed.mongo.prepare()


def test_prepare_refuses_another_collection_of_its_name(mongo: MongoLab, uri: str, database: str) -> None:
    channel_of(mongo).insert_one({"somebody": "else's"})
    with pytest.raises(StoreError, match=r"tasks\.wakes is no capped collection: drop or rename it"):
        MongoStore(mongo.mongo.client, database, wake="tailable").prepare()


def test_store_without_the_option_has_no_channel_and_writes_none(mongo: MongoLab) -> None:
    mongo.put()
    assert not mongo.store.has_tail
    assert "tasks.wakes" not in mongo.database.list_collection_names()


def test_put_after_the_channel_was_dropped_is_stored_once_and_makes_no_ordinary_collection(
    tailed: MongoLab, sent_again: list[int]
) -> None:
    feed = tailed.mongo.tail(("q",), "bell", 0.1)
    channel_of(tailed).drop()
    with pytest.raises(FeedEnded):
        all_told(feed)
    assert [one.id for one in tailed.claim(ids=(tailed.put(),))]
    assert sent_again == []  # an update that finds nothing waited for the majority
    assert [one.id for one in tailed.claim(ids=(tailed.put(),))]
    assert sent_again == [1]  # as without a channel
    assert "tasks.wakes" not in tailed.database.list_collection_names()


def test_nothing_is_written_by_one_that_does_not_know_whether_the_channel_is_there(tailed: MongoLab) -> None:
    """Another thread of it may have found out that it was dropped, between this one's look and its write."""
    channel_of(tailed).drop()
    assert tailed.mongo._tasks.wakes is not None
    tailed.mongo._tasks.wakes._uuid = None
    tailed.mongo.ring_tail("bell")
    assert "tasks.wakes" not in tailed.database.list_collection_names()


def test_reader_makes_a_dropped_channel_anew_and_puts_find_it(
    tailed: MongoLab, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake_channel, "LOOK_S", 0.0)
    channel_of(tailed).drop()
    tailed.put()
    reader = MongoStore(tailed.mongo.client, database, wake="tailable")
    feed = reader.tail(("q",), "bell", 0.1)
    id = tailed.put()
    assert [wake.id for wake in all_told(feed)] == [id]
    feed.close()


def test_feed_that_was_overtaken_by_a_full_turn_of_the_channel_ends(tailed: MongoLab) -> None:
    feed = tailed.mongo.tail(("q",), "bell", 0.1)
    tailed.put()
    assert len(all_told(feed)) == 1
    fat = [{"seq": 0, "queues": [], "fat": "x" * 16_000} for _ in range(2 * SIZE_BYTES // 16_000)]
    channel_of(tailed).insert_many(fat)
    with pytest.raises(FeedEnded):
        all_told(feed)


def test_feed_ends_when_its_cursor_dies(tailed: MongoLab) -> None:
    feed = tailed.mongo.tail(("q",), "bell", 0.1)
    assert feed.read() is None
    tailed.database.command("killCursors", "tasks.wakes", cursors=[feed._cursor.cursor_id])
    with pytest.raises(FeedEnded):
        all_told(feed)


# --- a put is as durable as without ---------------------------------------------------------------------------


def test_put_is_sent_again_with_majority_when_the_primary_changed_between_its_two_writes(
    tailed: MongoLab, sent_again: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The majority of another primary knows nothing of what only the old one had."""

    def how(collection: str, send: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        reply = send()
        return reply if collection == "tasks.wakes" else {**reply, "electionId": ObjectId()}

    instead(monkeypatch, how)
    (reply,) = tailed.store.put([tailed.new()])
    assert reply.created  # the one that is there is its own
    assert sent_again == [1]


def test_put_is_sent_again_with_majority_when_the_server_does_not_say_which_election_it_is(
    tailed: MongoLab, sent_again: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router does not. The notice need not wait for the majority then, nor anything else be written."""
    asked = []

    def how(collection: str, send: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        asked.append(collection)
        return {name: value for name, value in send().items() if name != "electionId"}

    instead(monkeypatch, how)
    tailed.put()
    assert asked == ["tasks", "tasks.wakes"]
    assert sent_again == [1]


@pytest.mark.parametrize("error", [AutoReconnect("line"), OperationFailure("no", 13)], ids=["line broke", "refused"])
def test_put_whose_notice_fails_waits_for_the_majority_by_a_write_of_nothing(
    tailed: MongoLab, sent_again: list[int], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Sent again, a task that was run and deleted meanwhile would run twice."""
    asked = []

    def how(collection: str, send: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        asked.append(collection)
        if collection == "tasks.wakes":
            raise error
        return send()

    instead(monkeypatch, how)
    tailed.put()
    assert asked == ["tasks", "tasks.wakes", "tasks"]
    assert sent_again == []


def test_put_is_sent_again_with_majority_when_nothing_else_could_be_written(
    tailed: MongoLab, sent_again: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def how(collection: str, send: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        asked.append(collection)
        if len(asked) > 1:
            raise AutoReconnect("line")
        return send()

    instead(monkeypatch, how)
    new = [tailed.new() for _ in range(3)]
    assert [reply.outcome for reply in tailed.store.put(new)] == ["created"] * 3
    assert sent_again == [3]
    assert len(tailed.claim()) == 3


@pytest.mark.parametrize("named", [False, True], ids=["made by this call", "chosen by the caller"])
def test_put_whose_insert_was_stored_and_its_reply_lost_is_sent_again(
    tailed: MongoLab, sent_again: list[int], monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """An id that the caller chose may have been stored by an earlier put."""

    def how(collection: str, send: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        send()
        raise AutoReconnect("line")

    instead(monkeypatch, how)
    id = ObjectId()
    (reply,) = tailed.store.put([tailed.new(id=id, options={"id": id} if named else {})])
    assert reply.outcome == ("existing" if named else "created")
    assert sent_again == [1]
    assert len(tailed.claim()) == 1


def test_put_is_unknown_when_its_insert_is_and_no_server_answers_any_more(
    tailed: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "Nothing was sent" would be true of the second insert alone."""

    def how(collection: str, send: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        send()
        raise AutoReconnect("line")

    def away(*_: Any) -> Any:
        raise ServerSelectionTimeoutError("away")

    instead(monkeypatch, how)
    monkeypatch.setattr(covering, "insert", away)
    id = ObjectId()
    with pytest.raises(PutUnknown) as caught:
        tailed.store.put([tailed.new(id=id)])
    assert caught.value.ids == [id]


def test_put_that_finds_no_server_says_that_nothing_was_sent(tailed: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    def how(collection: str, send: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        raise ServerSelectionTimeoutError("away")

    instead(monkeypatch, how)
    with pytest.raises(StoreUnavailable):
        tailed.put()


def test_put_whose_majority_does_not_answer_in_time_is_unknown(tailed: MongoLab, uri: str) -> None:
    data = {
        "failCommands": ["insert", "update"],
        "appName": APP,
        "writeConcernError": {
            "code": 64,
            "codeName": "WriteConcernFailed",
            "errmsg": "waiting for replication timed out",
        },
    }
    id = ObjectId()
    with MongoClient[dict[str, Any]](uri) as client:
        client.admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data})
        try:
            with pytest.raises(PutUnknown, match="timed out") as caught:
                tailed.store.put([tailed.new(id=id)])
        finally:
            client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert caught.value.ids == [id]


def test_put_of_tasks_that_are_stored_or_have_a_twin_is_answered_as_without_a_channel(
    tailed: MongoLab, sent_again: list[int]
) -> None:
    """What is turned away was there before the notice, whose majority covers it too."""
    before = tailed.put()
    twin = tailed.put(options={"unique": "key"})
    new = [tailed.new(id=before), tailed.new(options={"unique": "key"}), tailed.new()]
    feed = tailed.mongo.tail(("q",), "bell", 0.1)
    replies = tailed.store.put(new)
    assert [(reply.id, reply.outcome) for reply in replies] == [
        (before, "existing"),
        (twin, "existing"),
        (new[2].id, "created"),
    ]
    assert [wake.id for wake in all_told(feed)] == [new[2].id]
    assert sent_again == []
    feed.close()


def test_put_in_a_transaction_is_stored_with_it_and_not_told(tailed: MongoLab) -> None:
    """Capped collections refuse writes in transactions."""
    feed = tailed.mongo.tail(("q",), "bell", 0.1)
    with tailed.mongo.client.start_session() as session, session.start_transaction():
        tailed.store.put([tailed.new()], session)
    tailed.store.put([tailed.new(options={"unique": "key", "unique_for_s": 60})])
    assert len(tailed.claim()) == 2
    assert all_told(feed) == []
    feed.close()
