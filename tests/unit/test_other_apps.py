"""A handler's task is put where the handler's app has its tasks: elsewhere no worker would look for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from pymongo import MongoClient

from streamq import StreamQ, UsageError

NOWHERE = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=1"


def declared_on(app: StreamQ) -> Any:
    @app.task
    async def charge(cents: int) -> None: ...

    return charge


def place(app: StreamQ) -> object:
    return declared_on(app).new(1).place


PUTS: dict[str, Callable[[StreamQ, Any], object]] = {
    "put": lambda app, charge: app.blocking.put(charge.new(1)),
    "put, with options": lambda app, charge: app.blocking.put(charge.options(priority=1).new(1)),
    "put_many": lambda app, charge: app.blocking.put_many([charge.new(1)]),
}


@pytest.mark.parametrize("name", PUTS)
@pytest.mark.parametrize("there", [{"database": "b"}, {"collection": "c"}])
def test_task_of_another_apps_handler_is_refused_before_anything_is_sent(name: str, there: dict[str, Any]) -> None:
    app, other = StreamQ(NOWHERE, database="a"), StreamQ(NOWHERE, **({"database": "a"} | there))
    with closing(app), pytest.raises(UsageError, match="charge is a handler of another app") as refused:
        PUTS[name](app, declared_on(other))
    assert str(other).removeprefix("<StreamQ ").removesuffix(">") in str(refused.value)


async def test_task_of_another_apps_handler_is_refused_in_trio_too() -> None:
    app, other = StreamQ(NOWHERE, database="a"), StreamQ(NOWHERE, database="b")
    with pytest.raises(UsageError, match="another app"):
        await app.put_many([declared_on(other).new(1)])


def test_apps_with_clients_of_their_own_are_told_apart() -> None:
    with MongoClient[dict[str, Any]](NOWHERE) as one, MongoClient[dict[str, Any]](NOWHERE) as two:
        here, other, same = (place(StreamQ(client=client)) for client in (one, two, one))
        assert here != other
        assert here == same == place(StreamQ(NOWHERE))
