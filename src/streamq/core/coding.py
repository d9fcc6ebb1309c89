"""The codec of an app: what encrypts or compresses what its tasks carry, before it is sent. Values only."""

from __future__ import annotations

from typing import Any, Final, Literal, Protocol, TypeGuard

import msgspec

from streamq.core.tags import PREFIX
from streamq.errors import OptionInvalid

CodedField = Literal["payload", "result", "error", "progress"]

TAG: Final = PREFIX + "coded"
"""A payload or result is stored as `{TAG: bytes}`; to an app without a codec that is a tag which it does not know."""

TEXT: Final = TAG + ":"
"""Before the base64 of a text of an error or of progress."""

EXPECTED: Final = "an object with encode(data, context) and decode(data, context)"


class CodecContext(msgspec.Struct, frozen=True):
    """Where the bytes belong. It is the same at the encoding and at the decoding, so it may be authenticated with them
    (the associated data of an AEAD): then nobody moves them elsewhere. `field` is "payload", "result", "error" (message
    and traceback) or "progress" (the note)."""

    field: CodedField
    queue: str

    def associated(self) -> bytes:
        """Return the context as bytes, different ones for different contexts."""
        return f"{self.field}:{self.queue}".encode()


class Codec(Protocol):
    """What `StreamQ(codec=...)` takes. Both are called from threads, from several at once, and must not wait.

    Whatever `encode` raises refuses the put (`PayloadInvalid`), or fails the task whose result it is. Whatever `decode`
    raises fails the task for good (`PayloadUndecodable`): requeue it once the key is there.
    """

    def encode(self, data: bytes, context: CodecContext, /) -> bytes:
        """Return what is stored in the place of `data`."""

    def decode(self, data: bytes, context: CodecContext, /) -> bytes:
        """Return what `encode` was given, or raise."""


def require_codec(value: object) -> Codec | None:
    """Return `value` if it can be a codec, or None. Raises `OptionInvalid`."""
    if value is None or is_codec(value):
        return value
    raise OptionInvalid("codec", type(value).__name__, EXPECTED)


def is_codec(value: Any) -> TypeGuard[Codec]:
    """Say whether `value` can be a codec."""
    return callable(getattr(value, "encode", None)) and callable(getattr(value, "decode", None))
