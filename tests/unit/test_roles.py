"""The roles, as values."""

from __future__ import annotations

import json

import pytest

from streamq import OptionInvalid, StreamQ
from streamq.core.roles import KINDS, role_of


def test_roles_hold_nothing_beyond_their_database_and_inherit_nothing() -> None:
    for kind in KINDS:
        command = role_of(kind, database="shop", dead_letter_collection="dead", wake="tailable").command()
        assert command["roles"] == []
        assert {one["resource"]["db"] for one in command["privileges"]} == {"shop"}
        assert all(set(one["resource"]) == {"db", "collection"} for one in command["privileges"])


def test_producer_may_insert_tasks_and_nothing_else() -> None:
    granted = StreamQ(database="shop", collection="jobs").role("producer").command()["privileges"]
    assert granted == [
        {"resource": {"db": "shop", "collection": name}, "actions": ["insert"]} for name in ("jobs", "jobs.features")
    ]


def test_role_of_an_app_names_its_own_collections() -> None:
    app = StreamQ(collection="jobs", dead_letter_collection="dead", wake="tailable")
    names = [one.collection for one in app.role("worker").privileges]
    assert names == ["jobs", "jobs.meta", "jobs.features", "dead", "jobs.wakes", ""]


def test_unknown_kind_of_role_is_refused_by_name() -> None:
    with pytest.raises(OptionInvalid, match=r"role='boss'.*producer, client, worker"):
        role_of("boss")  # type: ignore[arg-type]


def test_role_for_mongosh_is_quoted_whatever_the_names_are() -> None:
    name = 'x"); db.dropDatabase(); ("\u2028'
    printed = role_of("reader", database=name, collection=name).mongosh()
    assert json.dumps(name) in printed
    assert name not in printed
