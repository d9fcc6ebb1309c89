"""Puts with the wake channel on three nodes: what is acknowledged survives the primary, and nothing else is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from streamq import PutUnknown, embedded
from streamq.core.new_task import NewTask
from streamq.core.options import Options
from streamq.store import covering, wake_channel
from streamq.store.mongo import MongoStore
from tests.replication import nothing_replicated

Mongo = MongoClient[dict[str, Any]]

IMPATIENT_S: Final = 1.0
LONG_S: Final = 60.0


@pytest.fixture(scope="module")
def three() -> Iterator[embedded.EmbeddedServer]:
    parameters = {"enableTestCommands": 1}
    with embedded.start(nodes=3, election_timeout_ms=1_500, parameters=parameters) as server:
        yield server


@pytest.fixture
def healthy(three: embedded.EmbeddedServer) -> embedded.EmbeddedServer:
    for node in three.nodes:
        node.start()
    three.wait_healthy()
    return three


@pytest.fixture
def store(healthy: embedded.EmbeddedServer) -> Iterator[MongoStore]:
    patient = MongoStore.connect(healthy.uri, "shop", wake="tailable", timeout_s=LONG_S)
    patient.prepare()
    yield patient
    patient.close()


def new_task(id: ObjectId | None = None) -> NewTask:
    return NewTask(id=id or ObjectId(), queue="q", task="t", payload=None, options=Options(), max_attempts=5)


def wait_for_another_primary(client: Mongo) -> None:
    """Wait until the store's own client knows it."""
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        with contextlib.suppress(PyMongoError):
            client.shop.elections.insert_one({})
            return
    raise AssertionError("no primary was elected")


@pytest.mark.parametrize("has_channel", [True, False], ids=["told", "channel dropped"])
def test_put_is_not_acknowledged_before_a_majority_has_the_task(
    healthy: embedded.EmbeddedServer, store: MongoStore, has_channel: bool
) -> None:
    """Neither by the notice nor, when that is refused, by the delete that finds nothing."""
    impatient = MongoStore(store.client, "shop", wake="tailable", timeout_s=IMPATIENT_S)
    impatient.prepare()
    if not has_channel:
        store.client.shop.drop_collection("tasks.wakes")
    new = new_task()
    with nothing_replicated(healthy), pytest.raises(PutUnknown) as caught:
        impatient.put([new])
    assert caught.value.ids == [new.id]
    assert store.put([new])[0].id == new.id
    assert store.get(new.id) is not None


def test_acknowledged_put_survives_a_primary_that_dies_between_its_two_writes(
    healthy: embedded.EmbeddedServer, store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other node has heard of the task; the notice is acknowledged by the majority of the next primary."""
    real = wake_channel.written
    old = healthy.primary()
    assert old is not None
    calls: list[str] = []

    with nothing_replicated(healthy) as let_replicate:

        def written(database: Any, command: Mapping[str, Any], concern: Mapping[str, Any]) -> Mapping[str, Any]:
            reply = real(database, command, concern)
            calls.append(next(iter(command.values())))
            if len(calls) == 1:
                old.kill()
                let_replicate()
                wait_for_another_primary(store.client)
            return reply

        monkeypatch.setattr(covering, "written", written)
        monkeypatch.setattr(wake_channel, "written", written)
        new = new_task()
        (reply,) = store.put([new])
    assert calls == ["tasks", "tasks.wakes"]  # the notice was acknowledged, in another election
    assert reply.created
    assert store.get(new.id) is not None
