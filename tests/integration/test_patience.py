"""What a command says while it waits for a server."""

from __future__ import annotations

import contextlib
import time

import pymongo
import pytest
from pymongo.errors import ServerSelectionTimeoutError

from streamq.cli.patience import patience

NOBODY = "mongodb://me:s3cret@127.0.0.1:9/?serverSelectionTimeoutMS=500"


def test_a_command_that_waits_says_for_what(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pymongo.MongoClient[dict[str, object]](NOBODY) as client,
        patience(client, silent_s=0.1),
        contextlib.suppress(ServerSelectionTimeoutError),
    ):
        client.admin.command("ping")
    said = capsys.readouterr().err
    assert said.startswith("streamq: still waiting for a primary (127.0.0.1:9: ")
    assert said.count("\n") == 1
    assert "s3cret" not in said


def test_a_command_that_is_through_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pymongo.MongoClient[dict[str, object]](NOBODY) as client:
        with patience(client, silent_s=0.1):
            pass
        time.sleep(0.3)
    assert not capsys.readouterr().err


def test_a_command_whose_server_answers_and_that_takes_long_says_nothing(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pymongo.MongoClient[dict[str, object]](uri) as client, patience(client, silent_s=0.1):
        client.admin.command("ping")
        time.sleep(0.3)
    assert not capsys.readouterr().err
