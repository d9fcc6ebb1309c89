"""Servers that cannot carry a queue, refuse us, step down or lose their majority: a clear word in bounded time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from bson import ObjectId

from streamq import AccessRefused, NewTask, NotAReplicaSet, PutUnknown, StoreUnavailable, StreamQ, embedded
from streamq.embedded.binary import find_mongod
from streamq.embedded.ports import free_port
from streamq.runtime import services, settler
from tests.integration.conftest import MakeApp, Mongo


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a mongod without --replSet listens."""
    path: Path = tmp_path_factory.mktemp("standalone")
    port = free_port()
    argv = [str(find_mongod()), "--dbpath", str(path), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket"]
    argv += ["--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            address = f"127.0.0.1:{port}"
            with Mongo(f"mongodb://{address}/", serverSelectionTimeoutMS=20_000) as client:
                client.admin.command("ping")
            yield address
        finally:
            process.kill()


async def enter(app: StreamQ) -> None:
    async with app:
        raise AssertionError("it was let in")


@pytest.mark.parametrize(
    "query", ["", "?replicaSet=rs0", "?directConnection=true", "?directConnection=true&replicaSet=rs0"]
)
async def test_standalone_server_is_refused_saying_how_to_make_a_set_of_it(
    make_app: MakeApp, standalone: str, query: str
) -> None:
    app = make_app(f"mongodb://{standalone}/{query}", timeout_s=3)
    began_at = time.monotonic()
    with pytest.raises(NotAReplicaSet, match=r"--replSet rs0.*rs\.initiate\(\)"):
        await enter(app)
    assert time.monotonic() - began_at < 5


async def test_standalone_server_is_refused_by_the_blocking_door_too(make_app: MakeApp, standalone: str) -> None:
    app = make_app(f"mongodb://{standalone}/", timeout_s=3)
    with pytest.raises(NotAReplicaSet, match="--replSet"):
        app.blocking.queue("q").put(1)


async def test_wrong_password_is_refused_by_name_and_shows_no_secret(
    make_app: MakeApp, server: embedded.EmbeddedServer, mongo: Mongo
) -> None:
    mongo.admin.command("createUser", "somebody", pwd="right", roles=["readWrite"])
    try:
        secret = server.uri.replace("mongodb://", "mongodb://somebody:canary-secret@")
        app = make_app(f"{secret}&authSource=admin", timeout_s=5)
        began_at = time.monotonic()
        with pytest.raises(AccessRefused, match="password") as caught:
            await enter(app)
        assert time.monotonic() - began_at < 5
        assert "canary" not in f"{caught.value} {app!r} {caught.value.__cause__}"
    finally:
        mongo.admin.command("dropUser", "somebody")


async def test_unreachable_server_is_told_within_the_timeout(make_app: MakeApp) -> None:
    app = make_app(f"mongodb://127.0.0.1:{free_port()}/?replicaSet=rs0", timeout_s=1)
    began_at = time.monotonic()
    with pytest.raises(StoreUnavailable, match="no server could be reached"):
        await enter(app)
    assert time.monotonic() - began_at < 2.5


async def test_app_that_starts_while_the_primary_steps_down_comes_up_and_works(
    make_app: MakeApp, mongo: Mongo, server: embedded.EmbeddedServer
) -> None:
    for turn in range(3):
        app = make_app()

        @app.task
        async def echo(text: str) -> str:
            return text

        mongo.admin.command("replSetStepDown", 1, secondaryCatchUpPeriodSecs=0, force=True)
        with trio.fail_after(30):
            async with app, trio.open_nursery() as nursery:
                await nursery.start(app.work)
                assert await (await echo.put(f"turn {turn}")).result(timeout_s=20) == f"turn {turn}"
                nursery.cancel_scope.cancel()
    server.wait_healthy()


async def test_worker_goes_on_after_its_primary_stepped_down(
    make_app: MakeApp, mongo: Mongo, server: embedded.EmbeddedServer
) -> None:
    app = make_app(safety_scan_s=None)

    @app.task
    async def echo(text: str) -> str:
        return text

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        assert await (await echo.put("before")).result(timeout_s=10) == "before"
        mongo.admin.command("replSetStepDown", 1, secondaryCatchUpPeriodSecs=0, force=True)
        new = echo.new("after")
        with trio.fail_after(30):
            await _put_until_stored(app, new)
            assert await app.handle(new.id).result() == "after"
        nursery.cancel_scope.cancel()
    server.wait_healthy()


async def test_put_without_a_majority_is_unknown_in_time_and_stored_once_when_repeated_after_healing() -> None:
    with embedded.start(nodes=3, election_timeout_ms=2_000) as trio_of_nodes:
        app = StreamQ(trio_of_nodes.uri, timeout_s=2)
        try:
            id = ObjectId()
            async with app:
                await app.queue("q").put("while all is well")
                primary = trio_of_nodes.primary()
                others = [node for node in trio_of_nodes.nodes if node is not primary]
                for node in others:
                    node.kill()
                began_at = time.monotonic()
                with pytest.raises(PutUnknown, match="same id is safe") as caught:
                    await app.queue("q").put("unknown", id=id)
                assert time.monotonic() - began_at < 4
                assert caught.value.ids == [id]
                for node in others:
                    node.start()
                await trio.to_thread.run_sync(trio_of_nodes.wait_healthy)
                await _put_until_stored(app, app.queue("q").new("unknown", id=id))
                assert await app.counts() == {"q": {"ready": 2}}
        finally:
            app.close()


async def test_worker_is_stopped_in_bounded_time_when_its_server_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By three bounds that are short here: of giving back, of a call, and of the driver's look for a server, which is
    what the thread that reads the stream is in."""
    for module in (settler, services):
        monkeypatch.setattr(module, "GIVE_BACK_S", 1.0)
    with embedded.start() as server:
        app = StreamQ(f"{server.uri}&serverSelectionTimeoutMS=1000&connectTimeoutMS=1000", timeout_s=1)
        runs = trio.Event()

        @app.task
        async def long() -> None:
            runs.set()
            await trio.sleep_forever()

        try:
            async with app:
                async with trio.open_nursery() as nursery:
                    await nursery.start(app.work)
                    await long.put()
                    await runs.wait()
                    server.nodes[0].kill()
                    began_at = time.monotonic()
                    nursery.cancel_scope.cancel()
                # Its claims could not be given back, nor its row removed: their leases end by themselves.
                assert time.monotonic() - began_at < 10
                left_at = time.monotonic()
            assert time.monotonic() - left_at < 10
        finally:
            app.close()


async def _put_until_stored(app: StreamQ, new: NewTask) -> None:
    """Repeat a put as its errors say one may."""
    with trio.fail_after(30):
        while True:
            try:
                await app.put_many([new])
            except (PutUnknown, StoreUnavailable):
                await trio.sleep(0.1)
            else:
                return
