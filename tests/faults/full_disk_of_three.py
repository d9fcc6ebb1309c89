"""The disk of a primary runs full while two others have room, and is freed: `python -m tests.faults.full_disk_of_three
DIRECTORY`, in which `node0` is a small file system of its own. Says what was seen as `full_disk` does."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from bson import ObjectId
from pymongo import MongoClient, ReadPreference
from pymongo.errors import AutoReconnect

from streamq import embedded
from streamq.embedded import EmbeddedServer
from tests.faults.full_disk import FEW, LONG_S, OPTIONS, Disk, Run, Seen
from tests.patience import eventually

NODES: Final = 3
ELECTION_MS: Final = 2_000


class SeenOfThree(Seen, kw_only=True):
    """What happened."""

    primary: int = 0
    """Which node was primary when puts went on."""

    stored_there: list[str] = msgspec.field(default_factory=list)
    """What the node had at the end whose disk had been full."""


class RunOfThree(Run):
    """The program's doing."""

    def __init__(self, server: EmbeddedServer, disk: Disk) -> None:
        super().__init__(server, disk)
        self._server = server
        self._seen: SeenOfThree = SeenOfThree()

    async def run(self) -> SeenOfThree:
        """Do it all."""
        seen = self._seen
        assert self._server.primary() is self._node
        async with self._app, trio.open_nursery() as nursery:
            await nursery.start(self._app.work, {"q": 4})
            await self._put_few()
            self._disk.fill()
            with trio.fail_after(LONG_S):
                while self._node.pid is not None:
                    await self._put(ObjectId())
            ended_at = time.monotonic()
            await self._put_until_stored(ObjectId())
            seen.resumed_s = time.monotonic() - ended_at
            await trio.to_thread.run_sync(self._look_at_the_server)
            await trio.to_thread.run_sync(self._look_who_is_primary)
            await self._put_few()
            self._disk.free()
            await trio.to_thread.run_sync(self._node.start)
            await trio.to_thread.run_sync(self._server.wait_healthy)
            for id in seen.unknown:
                await self._put_until_stored(ObjectId(id))
            await self._drain()
            await trio.to_thread.run_sync(self._look_at_the_disk)
            nursery.cancel_scope.cancel()
        seen.runs = dict(self._runs)
        return seen

    async def _put_few(self) -> None:
        for _ in range(FEW):
            assert await self._put(ObjectId())

    def _look_who_is_primary(self) -> None:
        primary = self._server.primary()
        assert primary is not None
        self._seen.primary = primary.number

    def _look_at_the_disk(self) -> None:
        """Read what the node has by itself, once it has as much as the others."""
        node = self._node
        with MongoClient[dict[str, Any]](node.host, node.port, directConnection=True) as client:
            tasks = client["shop"].get_collection("tasks", read_preference=ReadPreference.SECONDARY_PREFERRED)

            def has_all() -> bool:
                try:
                    succeeded = list(tasks.find({"queue": "q", "status": "succeeded"}, {"_id": 1}))
                except AutoReconnect:  # it is recovering still
                    return False
                self._seen.stored_there = [str(one["_id"]) for one in succeeded]
                return set(self._seen.stored_there) >= self._seen.stored.keys()

            eventually(has_all, LONG_S)


def main() -> None:
    """Run it."""
    directory = Path(sys.argv[1])
    with embedded.start(directory, nodes=NODES, election_timeout_ms=ELECTION_MS, extra_args=OPTIONS) as server:
        disk = Disk(server.nodes[0].data)
        print(msgspec.json.encode(trio.run(RunOfThree(server, disk).run)).decode())


if __name__ == "__main__":
    main()
