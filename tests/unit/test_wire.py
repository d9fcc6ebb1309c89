"""What a proxy reads of a message."""

from __future__ import annotations

import struct
from typing import Any

import bson
import pytest

from tests.wire import MORE_TO_COME, OP_MSG, OP_QUERY, Message, is_many, length_of


def message(
    command: dict[str, Any], *, flags: int = 0, lists: dict[str, list[dict[str, Any]]] | None = None
) -> Message:
    body = struct.pack("<I", flags) + b"\0" + bson.encode(command)
    for name, documents in (lists or {}).items():
        section = name.encode() + b"\0" + b"".join(map(bson.encode, documents))
        body += b"\1" + struct.pack("<i", len(section) + 4) + section
    return Message(struct.pack("<iiii", 16 + len(body), 7, 3, OP_MSG) + body)


def test_message_says_its_command_and_whom_it_answers() -> None:
    one = message({"update": "tasks", "$db": "shop"})
    assert (one.command, one.id, one.reply_to, one.is_followed) == ("update", 7, 3, False)
    assert length_of(one.data[:16]) == len(one.data)
    assert message({"ok": 1}, flags=MORE_TO_COME).is_followed


def test_hello_of_a_new_connection_is_known_by_its_kind() -> None:
    assert Message(struct.pack("<iiii", 16, 1, 0, OP_QUERY)).command == "hello"


def test_body_holds_the_lists_beside_the_command() -> None:
    updates = [{"q": {"a": 1}, "u": {"$set": {"b": 2}}, "multi": True}]
    one = message({"update": "tasks"}, lists={"updates": updates})
    assert one.body() == {"update": "tasks", "updates": updates}


@pytest.mark.parametrize(
    ("lists", "many"),
    [
        ({"updates": [{"q": {}, "u": {}, "multi": True}]}, True),
        ({"updates": [{"q": {}, "u": {}}]}, False),
        ({"deletes": [{"q": {}, "limit": 0}]}, True),
        ({"deletes": [{"q": {}, "limit": 1}]}, False),
    ],
)
def test_many_is_what_may_change_more_than_one_document(lists: dict[str, list[dict[str, Any]]], many: bool) -> None:
    assert is_many(message({"some": "tasks"}, lists=lists)) is many


def test_length_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes"):
        length_of(struct.pack("<iiii", 3, 0, 0, 0))
