"""A disk runs full under a server with a producer and a worker, and is freed: `python -m tests.faults.full_disk
DIRECTORY`, which is a small file system of its own. Says on standard output, as one line of JSON, what was seen."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec
import trio
from bson import ObjectId

from streamq import StoreError, StreamQ, current_task, embedded
from streamq.embedded import EmbeddedServer, Node
from streamq.errors import EmbeddedError
from tests.patience import eventually

MB: Final = 1 << 20
PAGE: Final = 1 << 12
TIMEOUT_S: Final = 2.0
LONG_S: Final = 60.0
FEW: Final = 20
SIZE: Final = 300
"""Random bytes in a payload, which do not compress: so few that the journal's buffer holds those of some puts."""

ENGINE: Final = "log=(prealloc=false,file_max=128KB)"
"""Journals of 128 KB instead of 100 MB: what was reserved before the disk was full would carry many puts more."""

OPTIONS: Final = ("--wiredTigerEngineConfigString", ENGINE, "--syncdelay", "1", "--oplogSize", "16")


class Seen(msgspec.Struct):
    """What happened. Ids are of tasks."""

    acked: list[str] = []
    unknown: list[str] = []
    refused: list[str] = []
    errors: list[str] = []
    exit_code: int | None = None
    start_refused: str = ""
    stored: dict[str, str] = {}
    runs: dict[str, int] = {}
    resumed_s: float = 0.0


class Disk:
    """The file system, which a file of ballast fills."""

    def __init__(self, directory: Path) -> None:
        self._ballast = directory / "ballast"

    def fill(self) -> None:
        """Leave nothing free, whatever others take or give back meanwhile."""
        with self._ballast.open("wb") as file:
            size = 0
            for step in (MB, PAGE):
                with contextlib.suppress(OSError):  # no space left
                    while True:
                        os.posix_fallocate(file.fileno(), size, step)
                        size += step

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink()


def make_ready(uri: str) -> None:
    """Have the indexes made, for which a busy machine may take longer than the run's timeout."""
    app = StreamQ(uri, database="shop")
    app.blocking.store()
    app.close()


class Run:
    """The program's doing."""

    def __init__(self, server: EmbeddedServer, disk: Disk) -> None:
        self._disk = disk
        self._node = server.nodes[0]
        self._seen = Seen()
        self._runs: Counter[str] = Counter()
        make_ready(server.uri)
        self._app = StreamQ(server.uri, database="shop", timeout_s=TIMEOUT_S, safety_scan_s=None)
        self._handler = self._app.task(queue="q", name="note")(self._note)

    async def _note(self, text: str) -> None:
        self._runs[str(current_task().id)] += 1

    async def run(self) -> Seen:
        """Do it all."""
        async with self._app, trio.open_nursery() as nursery:
            await nursery.start(self._app.work, {"q": 4})
            for _ in range(FEW):
                assert await self._put(ObjectId())
            self._disk.fill()
            with trio.fail_after(LONG_S):
                while await self._put(ObjectId()):
                    pass
            for _ in range(3):
                await self._put(ObjectId())
            await trio.to_thread.run_sync(self._look_at_the_server)
            self._disk.free()
            freed_at = time.monotonic()
            await trio.to_thread.run_sync(self._node.start)
            await self._put_until_stored(ObjectId())
            self._seen.resumed_s = time.monotonic() - freed_at
            for id in self._seen.unknown:
                await self._put_until_stored(ObjectId(id))
            await self._drain()
            nursery.cancel_scope.cancel()
        self._seen.runs = dict(self._runs)
        return self._seen

    async def _put(self, id: ObjectId) -> bool:
        seen = self._seen
        try:
            await self._handler.options(id=id).put(os.urandom(SIZE).hex())
        except StoreError as error:
            seen.errors.append(f"{type(error).__name__}: {error}")
            (seen.unknown if type(error).__name__ == "PutUnknown" else seen.refused).append(str(id))
            return False
        seen.acked.append(str(id))
        return True

    async def _put_until_stored(self, id: ObjectId) -> None:
        with trio.fail_after(LONG_S):
            while True:
                try:
                    await self._handler.options(id=id).put(os.urandom(SIZE).hex())
                except StoreError:
                    await trio.sleep(0.1)
                else:
                    return self._seen.acked.append(str(id))

    def _look_at_the_server(self) -> None:
        """See how it ended, and what a start says as long as the disk is full."""
        assert eventually(lambda: self._node.pid is None, LONG_S), "mongod goes on with a full disk"
        self._seen.exit_code = _exit_code(self._node)
        try:
            self._node.start()
        except EmbeddedError as error:
            self._seen.start_refused = str(error)

    async def _drain(self) -> None:
        """Wait until all that is stored has ended."""
        with trio.fail_after(LONG_S):
            while True:
                documents = await self._app.find(queue="q", limit=1_000)
                if all(one["status"] == "succeeded" for one in documents):
                    break
                await trio.sleep(0.05)
        self._seen.stored = {str(one["_id"]): one["status"] for one in documents}


def _exit_code(node: Node) -> int | None:
    _, code = node._guard.status(node.number)
    return code


def main() -> None:
    """Run it."""
    directory = Path(sys.argv[1])
    with embedded.start(directory, extra_args=OPTIONS) as server:
        print(msgspec.json.encode(trio.run(Run(server, Disk(directory)).run)).decode())


if __name__ == "__main__":
    main()
