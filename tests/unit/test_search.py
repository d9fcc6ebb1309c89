"""What tasks are looked for by is checked at the door."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from streamq.core.document import TERMINAL
from streamq.core.options import require_id
from streamq.core.search import Search, ended, search_of
from streamq.errors import OptionInvalid, PayloadInvalid


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"queue": "a b"}, "queue"),
        ({"queue": {"$ne": "a"}}, "queue"),
        ({"status": "done"}, "status"),
        ({"status": []}, "status"),
        ({"status": 3}, "status"),
        ({"status": [{"$ne": "ready"}]}, "status"),
        ({"handler": {"$gt": ""}}, "handler"),
        ({"tag": 1}, "tag"),
        ({"error_type": "\ud800"}, "error_type"),
        ({"unique": 1.5}, "unique"),
        ({"unique": {"$gt": ""}}, "unique"),
        ({"payload": "a"}, "payload"),
        ({"payload": {"": 1}}, "payload"),
        ({"payload": {"a..b": 1}}, "payload"),
        ({"payload": {"$where": "1"}}, "payload"),
        ({"payload": {"a.$[]": 1}}, "payload"),
        ({"payload": {"a\0b": 1}}, "payload"),
        ({"payload": {".".join("a" * 51): 1}}, "payload"),
        ({"payload": {7: 1}}, "payload"),
        ({"created_from": datetime(2026, 1, 1)}, "created_from"),
        ({"finished_until": "yesterday"}, "finished_until"),
        ({"handlr": "t"}, "handlr"),
    ],
)
def test_what_cannot_be_looked_for_is_refused_by_name(given: Any, named: str) -> None:
    with pytest.raises(OptionInvalid, match=rf"^{re.escape(named)}="):
        search_of(given)


def test_a_value_that_could_not_be_stored_is_refused_with_its_path() -> None:
    with pytest.raises(PayloadInvalid, match="user"):
        search_of({"payload": {"user": object()}})


def test_values_of_users_stand_in_a_filter_under_eq_only() -> None:
    search = search_of({"handler": "$a", "tag": "$b", "payload": {"x.y": {"$gt": 1}}, "error_type": "E"})
    assert search.filter() == {
        "status": {"$exists": True},
        "task": {"$eq": "$a"},
        "tag": {"$eq": "$b"},
        "errors.type": {"$eq": "E"},
        "payload.x.y": {"$eq": {"$gt": 1}},
    }


def test_nothing_given_finds_every_task_and_no_other_row() -> None:
    assert search_of({"queue": None, "status": None}) == Search()
    assert Search().filter() == {"status": {"$exists": True}}


def test_only_what_has_ended_is_looked_for_where_nothing_else_makes_sense() -> None:
    assert ended({}).statuses == TERMINAL
    assert ended({"status": "failed"}).statuses == ("failed",)
    with pytest.raises(OptionInvalid, match="status='ready'"):
        ended({"status": "ready"})


def test_an_instant_is_compared_in_utc() -> None:
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert search_of({"created_from": at}).filter()["created_at"] == {"$gte": at}


@pytest.mark.parametrize("value", ["", "xyz", 7, None, b"twelve bytes"])
def test_what_is_no_id_is_refused(value: object) -> None:
    with pytest.raises(OptionInvalid, match="id="):
        require_id(value)
