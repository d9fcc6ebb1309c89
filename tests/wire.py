"""Messages of MongoDB's wire protocol, as far as a proxy must understand them. Pure.

    int32 length | int32 id | int32 responseTo | int32 opcode | body

An OP_MSG's body is flags and sections: of kind 0 the command itself, of kind 1 a list of documents that belongs to it
(the updates of an `update`). The first name in the command says which it is. A client's first message may be an
OP_QUERY, which only ever is a hello.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import bson
import msgspec

HEADER_BYTES: Final = 16
LONGEST_BYTES: Final = 48_000_000 + HEADER_BYTES

OP_REPLY: Final = 1
OP_QUERY: Final = 2004
OP_MSG: Final = 2013

MORE_TO_COME: Final = 2
"""The flag of a message that is followed by another without being asked."""


class Message(msgspec.Struct, frozen=True):
    """One message, whole."""

    data: bytes

    @property
    def id(self) -> int:
        """By which its reply names it."""
        return int(struct.unpack_from("<i", self.data, 4)[0])

    @property
    def reply_to(self) -> int:
        """The id of what it answers."""
        return int(struct.unpack_from("<i", self.data, 8)[0])

    @property
    def opcode(self) -> int:
        """Its kind."""
        return int(struct.unpack_from("<i", self.data, 12)[0])

    @property
    def is_followed(self) -> bool:
        """Say whether the sender will send another without being asked."""
        return self.opcode == OP_MSG and bool(struct.unpack_from("<I", self.data, HEADER_BYTES)[0] & MORE_TO_COME)

    @property
    def command(self) -> str:
        """The name of the command: "insert", "update", …; "" when it is none that is known here."""
        if self.opcode == OP_QUERY:
            return "hello"
        if self.opcode != OP_MSG or self.data[HEADER_BYTES + 4] != 0:
            return ""
        first = HEADER_BYTES + 4 + 1 + 4 + 1  # flags, kind, the document's length, the type of its first element
        return self.data[first : self.data.index(0, first)].decode()

    def body(self) -> dict[str, Any]:
        """Decode an OP_MSG: the command, with the lists beside it where they belong."""
        if self.opcode != OP_MSG:
            return {}
        found: dict[str, Any] = {}
        at, end = HEADER_BYTES + 4, len(self.data)
        while at < end:
            kind, size = self.data[at], int(struct.unpack_from("<i", self.data, at + 1)[0])
            section = self.data[at + 1 : at + 1 + size]
            if kind == 0:
                found = bson.decode(section) | found
            else:
                name, _, documents = section[4:].partition(b"\0")
                found[name.decode()] = bson.decode_all(documents)
            at += 1 + size
        return found


def length_of(header: bytes) -> int:
    """Read how long a message is, its header included. Raises ValueError when that cannot be."""
    length = int(struct.unpack_from("<i", header)[0])
    if not HEADER_BYTES <= length <= LONGEST_BYTES:
        raise ValueError(f"a message of {length} bytes")
    return length


def is_many(message: Message) -> bool:
    """Say whether it is an `update_many` or a `delete_many`: what the driver does not send again after an error."""
    body = message.body()
    return any(one.get("multi") for one in body.get("updates", ())) or any(
        one.get("limit") == 0 for one in body.get("deletes", ())
    )
