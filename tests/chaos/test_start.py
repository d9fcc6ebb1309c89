"""A program that finds no server is started again; one that was at work is not."""

from __future__ import annotations

import pytest

from streamq.errors import StoreUnavailable
from tests.chaos import start
from tests.chaos.start import Start


def test_program_that_finds_no_server_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "PAUSE_S", 0.0)
    outcomes = [StoreUnavailable("away"), StoreUnavailable("away"), None]

    def program() -> None:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    Start().run(program)
    assert outcomes == []


def test_program_that_was_at_work_ends_by_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    one = Start()

    def program() -> None:
        one.ready()
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        one.run(program)
    assert capsys.readouterr().out == "ready\n"
