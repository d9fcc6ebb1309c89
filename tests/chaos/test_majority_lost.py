"""Two of three nodes are gone: nothing goes on, and nothing is told that is not so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import msgspec
import pytest
from bson import ObjectId

from streamq import PutUnknown, StoreError, StreamQ
from streamq.core.new_task import NewTask
from streamq.embedded import EmbeddedServer
from streamq.errors import StoreUnavailable
from tests.chaos.conftest import SHORT_OPTIONS
from tests.replication import followers

TIMEOUT_S: Final = 1.0
ROUNDING_S: Final = 5.0
"""How much later than its limit an error may come, on a machine that has other things to do. Without a limit a write
waits for a majority for ever."""

PUTS: Final = 3
"""The first waits for a majority that is gone; the last finds no primary: it sees after 2 s that it is none."""


class Lost(msgspec.Struct, frozen=True):
    """What the puts of the outage came to, and the app again after it."""

    app: StreamQ
    errors: list[StoreError]
    took_s: list[float]
    tasks: list[NewTask]

    def ids(self, kind: type[StoreError]) -> set[ObjectId]:
        """Return the tasks whose put ended so."""
        return {task.id for task, error in zip(self.tasks, self.errors, strict=True) if isinstance(error, kind)}


@pytest.fixture(scope="module")
def lost(three: EmbeddedServer) -> Iterator[Lost]:
    """Put while two of the three are away; then they are back."""
    for node in three.nodes:
        node.start()
    three.wait_healthy()
    place = f"lost_{time.monotonic_ns()}"
    patient = StreamQ(three.uri + SHORT_OPTIONS, database=place)
    app = StreamQ(client=patient.client, database=place, timeout_s=TIMEOUT_S)
    try:
        queue = app.queue("q")
        patient.blocking.put_many([queue.new(number) for number in range(3)])
        app.blocking.store()
        away = followers(three)
        for node in away:
            node.kill()
        tasks = [queue.new(number) for number in range(PUTS)]
        errors, took_s = [], []
        for task in tasks:
            began_at = time.monotonic()
            with pytest.raises(StoreError) as caught:
                app.blocking.put(task)
            errors.append(caught.value)
            took_s.append(time.monotonic() - began_at)
        for node in away:
            node.start()
        three.wait_healthy()
        yield Lost(patient, errors, took_s, tasks)
    finally:
        patient.close()


@pytest.mark.chaos
def test_put_without_a_majority_raises_in_time_what_is_known_of_it(lost: Lost) -> None:
    assert max(lost.took_s) < TIMEOUT_S + ROUNDING_S
    assert isinstance(lost.errors[0], PutUnknown)
    assert all(isinstance(error, PutUnknown | StoreUnavailable) for error in lost.errors), lost.errors


@pytest.mark.chaos
def test_what_was_put_without_a_majority_is_there_once_or_not_at_all(lost: Lost) -> None:
    """Asked twice over: as it is after the outage, and after all of it was put again by the same ids."""
    unknown, refused = lost.ids(PutUnknown), lost.ids(StoreUnavailable)
    stored = {document["_id"] for document in lost.app.blocking.find(queue="q", limit=100)}
    assert not stored & refused, "an error has said that nothing was stored"
    again = {reply.id for reply in lost.app.blocking.put_many(lost.tasks) if not reply.created}
    assert again == stored & unknown
    seen = [task.payload for task in lost.app.blocking.queue("q").claim_many(100)]
    assert sorted(seen) == sorted([*range(3), *range(PUTS)])
