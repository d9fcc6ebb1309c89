"""An idle worker of the floor: a process with an open change stream, and one that gets ready from nothing."""

from __future__ import annotations

import threading
import time
from typing import Final

from pymongo import ReturnDocument

from streamq.bench.actor import Stage
from streamq.bench.commands import Commands
from streamq.bench.floor.document import READY, claim_update, document, new_claim_id
from streamq.bench.floor.picking import STAGES
from streamq.bench.place import Client, Place, collection

AWAIT_MS: Final = 10_000
"""How long one getMore waits: as streamq's."""


def idle(stage: Stage, place: Place) -> dict[str, int]:
    """Wait for tasks that do not come; return the commands sent between ready and stop."""
    commands = Commands()
    with (
        Client(place.uri, event_listeners=[commands]) as client,
        collection(client, place, durable=True).watch(STAGES, max_await_time_ms=AWAIT_MS) as stream,
    ):
        stage.ready()
        stage.wait_go()
        commands.clear()
        sent: list[dict[str, int]] = []
        threading.Thread(target=_end_at_stop, args=(stage, place, commands, sent), daemon=True).start()
        while not stage.stopped.is_set() and time.monotonic() < stage.until:
            stream.try_next()
        return sent[0] if sent else commands.counts()


def _end_at_stop(stage: Stage, place: Place, commands: Commands, sent: list[dict[str, int]]) -> None:
    """Wake the stream, which may wait for seconds yet, by an event for it; by a client that is not counted."""
    stage.stopped.wait()
    sent.append(commands.counts())
    with Client(place.uri) as client:
        collection(client, place, durable=True).insert_one(document(0))


def first_claim(stage: Stage, place: Place) -> int:
    """Connect, open the stream and claim what waits; return the ns that took."""
    stage.ready()
    stage.wait_go()
    began_at = time.monotonic_ns()
    with Client(place.uri) as client, collection(client, place, durable=True).watch(STAGES):
        collection(client, place, durable=False).find_one_and_update(
            READY, claim_update(new_claim_id()), return_document=ReturnDocument.AFTER
        )
        return time.monotonic_ns() - began_at
