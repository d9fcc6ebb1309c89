"""A unique key: what may be one, and the bytes by which the server tells two apart.

Pure. A key is text, a whole number, bytes, or a tuple of these. It is indexed as one string of bytes, never as an
array: a unique index over an array collides element by element. Equal keys have equal bytes, different ones different:

    "ab"       s2:ab            each piece is a tag, a length and the content, so that nothing that a piece
    b"ab"      b2:ab            contains can be taken for the border to the next
    12         i12;
    ("a", 1)   (s1:ai1;)

bool, float and None are refused: `True == 1`, `1.0 == 1`, and a None is mostly a value that somebody forgot to fill in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from streamq.core.codec import from_stored, to_stored
from streamq.errors import OptionInvalid

UniqueKey: TypeAlias = "str | int | bytes | tuple[UniqueKey, ...]"

MOST_BYTES: Final = 1_024
"""The longest canonical form. Chosen freely: an index entry, not a payload. Of a longer text take a hash."""

MOST_DEPTH: Final = 8
"""How deep tuples may be nested. Chosen freely."""

MOST_SHOWN: Final = 60

PREFIX: Final = b"u1:"
"""Before each lock: which kind and which version of the form it is, so that others can stand in the same index."""

FOREVER_S: Final = math.inf
"""As `unique_for_s`: the key is never free again."""

EXPECTED: Final = "a str, int, bytes or a tuple of these"


def require_unique(value: object) -> None:
    """Raise `OptionInvalid` if `value` cannot be a unique key."""
    size_bytes = len(_canonical(value, "unique", 0))
    if size_bytes > MOST_BYTES:
        raise OptionInvalid("unique", _shown(value), f"at most {MOST_BYTES:,} bytes, not {size_bytes:,}: take a hash")


def lock_of(key: UniqueKey) -> bytes:
    """Return the bytes that stand for `key` in the index: equal for equal keys only."""
    return PREFIX + _canonical(key, "unique", 0)


def stored_key(key: UniqueKey) -> Any:
    """Return the readable form, kept beside the lock: a tuple is an array, the rest as in a payload."""
    match key:
        case tuple():
            return [stored_key(one) for one in key]
        case str():
            return str.__str__(key)  # of an enum too
        case bytes():
            return bytes(key)
        case _:
            return to_stored(int(key), where="unique")


def loaded_key(stored: Any) -> UniqueKey:
    """Read a key that was stored. Raises `PayloadUndecodable`."""
    if isinstance(stored, list):
        return tuple(map(loaded_key, stored))
    key: UniqueKey = from_stored(stored, where="unique_key")
    return key


def held_id(queue: str, stored: Any) -> str:
    """Name the document by which a key of `queue` that outlives its task is held; `stored` is its readable form. In
    hexadecimal: a key may be any bytes, an id of the meta collection is text."""
    return f"unique:{queue}:{lock_of(loaded_key(stored)).hex()}"


def lock_again(document: Mapping[str, Any]) -> bytes | None:
    """Return the `unique_lock` that an ended task takes again when it is requeued; None when its key locks nothing
    (it has none, or one that holds for a period, which the requeue does not begin anew)."""
    if "unique_key" not in document or "unique_for_s" in document:
        return None
    return lock_of(loaded_key(document["unique_key"]))


def _canonical(value: object, name: str, depth: int) -> bytes:
    match value:
        case bool():
            raise OptionInvalid(name, value, f"{EXPECTED}, no bool (True == 1)")
        case str():
            return b"s" + _sized(_utf8(value, name))
        case bytes():
            return b"b" + _sized(bytes(value))
        case int():
            return b"i%s;" % _digits(value, name)
        case tuple() if depth < MOST_DEPTH:
            return b"(" + b"".join(_canonical(one, f"{name}[{n}]", depth + 1) for n, one in enumerate(value)) + b")"
        case tuple():
            raise OptionInvalid(name, _shown(value), f"tuples nested at most {MOST_DEPTH} deep")
    raise OptionInvalid(name, _shown(value), f"{EXPECTED}, no {type(value).__name__}")


def _sized(content: bytes) -> bytes:
    return b"%d:%s" % (len(content), content)


def _utf8(value: str, name: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise OptionInvalid(name, _shown(value), "text without lone surrogates") from None


def _digits(value: int, name: str) -> bytes:
    if value.bit_length() > MOST_BYTES * 3:  # Python refuses to write out very long ones; these are too long anyhow
        raise OptionInvalid(
            name, f"an int of {value.bit_length():,} bits", f"an int of at most {MOST_BYTES * 3:,} bits"
        )
    return b"%d" % value


def _shown(value: object) -> object:
    """A value of bounded length for an error's text."""
    match value:
        case str() if len(value) > MOST_SHOWN:
            return value[:MOST_SHOWN] + "…"
        case bytes() if len(value) > MOST_SHOWN:
            return value[:MOST_SHOWN]
        case tuple():
            return f"a tuple of {len(value)}"
    return value
