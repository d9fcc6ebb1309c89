"""Databases that tests use one after the other: none finds what another left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from tests.databases import FEW, Databases

Base = Database[dict[str, Any]]


@pytest.fixture
def client(admin: MongoClient[dict[str, Any]]) -> MongoClient[dict[str, Any]]:
    return admin


def test_what_a_test_leaves_is_gone_for_the_next_and_the_indexes_are_not(client: MongoClient[dict[str, Any]]) -> None:
    lent = Databases(client)
    with lent.lend() as name:
        before = {one: client[name][one].index_information() for one in ("tasks", "tasks.meta")}
        for collection in before:
            client[name][collection].insert_many({"n": n} for n in range(FEW // 2))
    with lent.lend() as again:
        assert again == name
        assert {one: client[name][one].index_information() for one in before} == before
        assert [client[name][one].count_documents({}) for one in before] == [0, 0]
    for collection in before:
        client[name].drop_collection(collection)


@pytest.mark.parametrize(
    "change",
    [
        lambda base: base["tasks"].drop_index("streamq_claim"),
        lambda base: base["tasks"].create_index("more"),
        lambda base: base["more"].insert_one({}),
        lambda base: base.create_collection("more", viewOn="tasks"),
        lambda base: base.drop_collection("tasks.meta"),
        lambda base: base.command("collMod", "tasks", validator={"n": 1}),
        lambda base: base["tasks"].insert_many({"n": n} for n in range(FEW + 1)),
    ],
)
def test_a_database_that_a_test_changed_ends_with_it(
    client: MongoClient[dict[str, Any]], change: Callable[[Base], object]
) -> None:
    lent = Databases(client)
    with lent.lend() as name:
        change(client[name])
    assert client[name].list_collection_names() == []
    with lent.lend() as other:
        assert other != name
    for collection in ("tasks", "tasks.meta"):
        client[other].drop_collection(collection)
