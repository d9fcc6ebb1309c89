"""Holding back what workers write, so that another's answer comes first."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from streamq.core.settlement import Settlement, Verdict
from streamq.store.mongo import MongoStore


@contextmanager
def settlements_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no task end before the body has: whoever runs one waits with its settlement."""
    through = threading.Event()
    settle = MongoStore.settle

    def settle_later(store: MongoStore, settlements: Sequence[Settlement]) -> list[Verdict]:
        through.wait()
        return settle(store, settlements)

    with monkeypatch.context() as patches:
        patches.setattr(MongoStore, "settle", settle_later)
        try:
            yield
        finally:
            through.set()
