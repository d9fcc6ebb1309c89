"""The lifeline of a worker process that a parent started."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from streamq.cli import lifeline


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the process does to itself, instead of doing it."""
    done: list[object] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: done.append(number))
    real_sleep = time.sleep

    def sleep(seconds: float) -> None:
        """Threads of others, such as those of the session's database clients, sleep as ever."""
        (done.append if threading.current_thread().name == "lifeline" else real_sleep)(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    return done


def test_process_whose_parent_is_gone_is_told_to_stop_and_again_after_its_grace(
    done: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    monkeypatch.setenv(lifeline.VARIABLE, str(read))
    lifeline.hold(8.0)
    assert lifeline.VARIABLE not in os.environ, "programs that handlers start have another parent"
    (watching,) = [one for one in threading.enumerate() if one.name == "lifeline"]
    assert done == []
    os.close(write)
    watching.join(timeout=10)
    os.close(read)
    assert done == [signal.SIGTERM, 8.0 + lifeline.MARGIN_S, signal.SIGTERM]


def test_process_that_nobody_minds_holds_no_lifeline(done: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lifeline.VARIABLE, raising=False)
    lifeline.hold(8.0)
    assert [one for one in threading.enumerate() if one.name == "lifeline"] == []
    assert done == []
