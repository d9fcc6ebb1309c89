"""The short way for values that are stored as they are: scalars, known by their exact types.

Most of what is ever put is a few of them. Of these it is known at a glance that BSON holds them exactly, that they load
as they are, and how many bytes they take, so that nothing needs to be written, loaded again, compared and encoded to
find out. The long way (`codec`, `schema`, `kept`) says the same, in five times the time; whatever is not plain goes
there, and all that is refused is refused there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from bson import ObjectId

from streamq.core.tags import PREFIX

NONE: Final = frozenset[type]()

_DOCUMENT_BYTES: Final = 5  # its length and its end
_KEY_BYTES: Final = 2  # the type before it, the NUL behind it

# How many bytes a value takes besides its text, by its exact type. Source: bsonspec.org.
_VALUE_BYTES: Final[Mapping[type, int]] = {
    type(None): 0,
    bool: 1,
    int: 4,
    float: 8,
    str: 5,
    bytes: 5,
    ObjectId: 12,
}
_LONG_BYTES: Final = 4  # more, of an integer beyond 32 bits
_INT32: Final = 2**31
_INT64: Final = 2**63

_INFOS: Final[Mapping[type, type]] = {
    msgspec.inspect.NoneType: type(None),
    msgspec.inspect.BoolType: bool,
    msgspec.inspect.IntType: int,
    msgspec.inspect.FloatType: float,
    msgspec.inspect.StrType: str,
    msgspec.inspect.BytesType: bytes,
}


def scalars_bytes(document: Mapping[Any, Any]) -> int | None:
    """Return the size of a document of plain scalars as BSON; None for one that must go the long way.

    Text that is not ASCII goes there too: it may hold a lone surrogate, and its length is not that of its bytes.
    """
    size_bytes = _DOCUMENT_BYTES
    for key, value in document.items():
        if type(key) is not str or not key.isascii() or "\0" in key or key[:1] in _ODD:
            return None
        kind = type(value)
        value_bytes = _VALUE_BYTES.get(kind)
        if value_bytes is None:
            return None
        size_bytes += _KEY_BYTES + len(key) + value_bytes
        if kind is int:
            if not -_INT32 <= value < _INT32:
                if not -_INT64 <= value < _INT64:
                    return None
                size_bytes += _LONG_BYTES
        elif kind is str:
            if not value.isascii():
                return None
            size_bytes += len(value)
        elif kind is bytes:
            size_bytes += len(value)
    return size_bytes


_ODD: Final = ("$", PREFIX)
"""What keys begin with that may be told from others by the codec: `$ref`, and tags."""


def plain_kinds(annotation: Any) -> frozenset[type]:
    """Return the exact types of which every value fits the annotation and loads as it is; empty if there are none, or
    if that takes more than a look at the type."""
    return _kinds(msgspec.inspect.type_info(annotation))


def _kinds(info: msgspec.inspect.Type) -> frozenset[type]:
    if isinstance(info, msgspec.inspect.AnyType):
        return frozenset(_VALUE_BYTES)
    if isinstance(info, msgspec.inspect.CustomType):
        return frozenset({ObjectId}) if info.cls is ObjectId else NONE
    if isinstance(info, msgspec.inspect.UnionType):
        members = [_kinds(one) for one in info.types]
        return NONE.union(*members) if all(members) else NONE
    kind = _INFOS.get(type(info))
    if kind is None or any(getattr(info, name) is not None for name in info.__struct_fields__):
        return NONE  # a container or a record; or one with a limit, a length, a pattern
    return frozenset({kind})
