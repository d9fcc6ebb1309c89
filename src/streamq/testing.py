"""An app in memory, for tests: no server, no threads, and trio's autojump clock makes an hour pass at once.

    async def test_mail_is_sent(autojump_clock):
        app = streamq.testing.memory_app()
        ...

Its store keeps the contract that the real one keeps (one suite tests both), transactions excepted.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import trio

from streamq.app import StreamQ
from streamq.bridge import InlineBridge
from streamq.store.memory import MemoryStore

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


def trio_time() -> datetime:
    """Return trio's clock as a server's time, from 2026-01-01 on."""
    return EPOCH + timedelta(seconds=trio.current_time())


def memory_app(**options: Any) -> StreamQ:
    """Make an app on an in-memory store and the running trio clock. `options` are those of `StreamQ`."""
    store = MemoryStore(trio_time, dead_letters=options.get("dead_letter_collection") is not None)
    return StreamQ.on(store, InlineBridge(), **options)
