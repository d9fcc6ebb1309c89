"""Turns Python values into what BSON holds exactly, and back. No I/O, no clock, no imports by name.

What is stored for what, and what comes back:

    None, bool, str, bytes, ObjectId   native                         the same
    float                              native, NaN, inf, -0.0 too     the same
    int                                native to 64 bits, `~int`      the same
    aware datetime                     native in UTC to the ms, else  the same instant (to the us) and UTC offset;
                                       `~datetime`                    the zone's name is not kept
    date, time, timedelta              `~date` `~time` `~timedelta`   the same (a `fold` is not kept)
    UUID                               native, Binary subtype 4       the same
    Decimal                            native to 34 digits, else      the same sign, digits and exponent
                                       `~decimal`
    list                               native                         the same
    tuple, set, frozenset              `~tuple` `~set` `~frozenset`   the same
    dict, str keys                     native, whatever the keys      the same, keys in order
    dict, other keys                   `~dict`, a list of pairs       the same
    bytearray, memoryview              as bytes                       bytes
    Enum                               as its value                   its value
    msgspec.Struct, dataclass, attrs   as a dict of its fields        dict
    bson.Int64, bson.Decimal128        as the number it stands for    int, Decimal
    a subclass of one of these         as what it extends             what it extends

What loses its type here (the last five rows) gets it back from the handler's annotation, in `schema.py`. A set of
Structs comes back as a list, since dicts do not fit in a set: the annotation makes it a set again.

Tags and user data are kept apart by one rule: a document of one key that starts with `~` is a tag. A user's own
document of that shape is stored with one more `~`, and loses it again. A user's document with a key `$ref` is stored as
pairs: the driver would decode `{"$ref": …, "$id": …}` to a DBRef.

What is returned shares no list or dict with what was given, so a later change by the caller changes nothing stored.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final

import bson
import msgspec
from bson import Binary, DatetimeMS, Int64, ObjectId
from bson.decimal128 import Decimal128
from bson.son import SON

from streamq.core import tags
from streamq.core.coding import TAG as CODED
from streamq.core.misfit import Misfit
from streamq.core.tags import PREFIX
from streamq.errors import PayloadInvalid, PayloadTooLarge, PayloadUndecodable

MAX_DEPTH: Final = 100
"""Levels of documents and arrays in one stored value. Chosen: the server takes 180 for the whole task document, and
a walk of 100 levels stays far from Python's recursion limit."""

_TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"
_DBREF_KEY: Final = "$ref"
_OVERHEAD_BYTES: Final = len(bson.encode({"": None}))

_Writer = Callable[[Any, int], Any]
_Reader = Callable[[Any], Any]


def to_stored(value: Any, *, where: str = "payload") -> Any:
    """Return `value` as what BSON holds exactly (see the table above).

    `where` is the name of the root in error paths: `payload.items[3].name`; empty to begin with the first key.

    Raises `PayloadInvalid` with the path of the first value that cannot be stored: a NUL in a key, a lone surrogate,
    a naive datetime, an unsupported type, a cycle, or more than `MAX_DEPTH` levels. Convert it and call again.
    """
    try:
        return _stored(value, 0)
    except Misfit as misfit:
        is_cycle = misfit.reason is _TOO_DEEP and misfit.is_cycle()
        raise PayloadInvalid(misfit.path(where), "it contains itself" if is_cycle else misfit.reason) from None
    except RecursionError:
        raise PayloadInvalid(where, "nested deeper than the call stack has room for") from None


def from_stored(stored: Any, *, where: str = "payload") -> Any:
    """Return the value that `to_stored` was given, as builtins; `stored` may have been through BSON or not.

    BSON types that streamq never writes (put in by hand: Regex, Timestamp, …) are passed through as they are.

    Raises `PayloadUndecodable`, naming the path, for a tag that is unknown or malformed. Repeating cannot help.
    """
    try:
        return loaded(stored)
    except Misfit as misfit:
        raise PayloadUndecodable(f"{misfit.path(where) or 'payload'}: {misfit.reason}") from None
    except RecursionError:
        raise PayloadUndecodable(f"{where or 'payload'}: nested deeper than the call stack has room for") from None


def size_bytes(stored: Any) -> int:
    """Return how many bytes `stored` takes as BSON, without the name of its field. It is encoded to find out."""
    return len(bson.encode({"": stored})) - _OVERHEAD_BYTES


def require_size(stored: Any, limit_bytes: int, what: str) -> int:
    """Return the size of `stored` in bytes, or raise `PayloadTooLarge` naming `what` if it is over the limit."""
    size = size_bytes(stored)
    if size > limit_bytes:
        raise PayloadTooLarge(what, size, limit_bytes)
    return size


# --- writing -------------------------------------------------------------------------------------------------------


def _stored(value: Any, depth: int) -> Any:
    return _WRITERS.get(type(value), _write_other)(value, depth)


def _write_same(value: Any, depth: int) -> Any:
    return value


def _write_dict(value: dict[Any, Any], depth: int) -> Any:
    """Write a document, checking keys in line: this is the hot path of every put."""
    if depth >= MAX_DEPTH:
        raise Misfit(_TOO_DEEP)
    stored: dict[str, Any] = {}
    key: Any = None
    try:
        for key, item in value.items():
            if type(key) is not str:
                break
            if not key.isascii() or "\0" in key:
                _check_key(key)
            stored[key] = _WRITERS.get(type(item), _write_other)(item, depth + 1)
    except Misfit as misfit:
        misfit.within(value, key)
        raise
    if type(key) is not str and value:
        return _write_odd_keys(value, depth)
    if _DBREF_KEY in stored:
        return _write_pairs(value, depth)
    if len(stored) == 1 and key.startswith(PREFIX):
        return {PREFIX + key: stored[key]}
    return stored


def _check_key(key: str) -> None:
    if "\0" in key:
        raise Misfit("a key with a NUL character cannot be stored")
    try:
        tags.stored_str(key)
    except Misfit as misfit:
        raise Misfit(f"the key holds {misfit.reason}") from None


def _write_odd_keys(value: dict[Any, Any], depth: int) -> Any:
    """Write a dict with keys that are not plain `str`: natively if they stand for one, else as pairs."""
    plain = {_plain_key(key): item for key, item in value.items()}
    if len(plain) < len(value):
        raise Misfit("two of its keys are stored alike")
    write = _write_dict if all(type(key) is str for key in plain) else _write_pairs
    return _write_as(write, plain, value, depth)


def _plain_key(key: Any) -> Any:
    if isinstance(key, enum.Enum):
        return _plain_key(key.value)
    return str.__str__(key) if isinstance(key, str) else key


def _write_pairs(value: dict[Any, Any], depth: int) -> Any:
    # Three levels down: the tag, the list of pairs, the pair.
    keys = _write_items(value, depth + 2)
    try:
        distinct = len({loaded(key) for key in keys})
    except TypeError:
        raise Misfit("one of its keys is stored as a document or list, which cannot be a key again") from None
    if distinct < len(keys):
        raise Misfit("two of its keys are stored alike")
    pairs = []
    for stored_key, (key, item) in zip(keys, value.items(), strict=True):
        try:
            pairs.append([stored_key, _stored(item, depth + 3)])
        except Misfit as misfit:
            misfit.within(value, key)
            raise
    return tags.tagged("dict", pairs)


def _write_list(value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
    return _write_items(value, depth)


def _write_items(value: Iterable[Any], depth: int) -> list[Any]:
    if depth >= MAX_DEPTH:
        raise Misfit(_TOO_DEEP)
    stored: list[Any] = []
    try:
        for item in value:
            stored.append(_WRITERS.get(type(item), _write_other)(item, depth + 1))
    except Misfit as misfit:
        misfit.within(value, len(stored))
        raise
    return stored


def _write_tuple(value: tuple[Any, ...], depth: int) -> Any:
    return tags.tagged("tuple", _write_items(value, depth + 1))


def _write_set(value: set[Any], depth: int) -> Any:
    return tags.tagged("set", _write_items(value, depth + 1))


def _write_frozenset(value: frozenset[Any], depth: int) -> Any:
    return tags.tagged("frozenset", _write_items(value, depth + 1))


def _write_enum(value: enum.Enum, depth: int) -> Any:
    return _stored(value.value, depth)


def _write_struct(value: msgspec.Struct, depth: int) -> Any:
    """Write a Struct as msgspec would: renamed fields, its tag, a list if it is array-like, no UNSET fields."""
    kind = type(value)
    names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
    fields: dict[str, Any] = {stored_name: getattr(value, name) for stored_name, name in names}
    config = kind.__struct_config__
    if config.tag_field is not None:
        fields = {config.tag_field: config.tag} | fields
    if config.array_like:
        return _write_items(fields.values(), depth)
    return _write_fields(value, fields, depth)


def _write_dataclass(value: Any, depth: int) -> Any:
    fields = {one.name: getattr(value, one.name, msgspec.UNSET) for one in dataclasses.fields(value)}
    return _write_fields(value, fields, depth)


def _write_attrs(value: Any, depth: int) -> Any:
    fields = {one.name: getattr(value, one.name, msgspec.UNSET) for one in type(value).__attrs_attrs__}
    return _write_fields(value, fields, depth)


def _write_fields(value: object, fields: dict[str, Any], depth: int) -> Any:
    present = {name: item for name, item in fields.items() if item is not msgspec.UNSET}
    return _write_as(_write_dict, present, value, depth)


def _write_as(write: _Writer, stand_in: dict[Any, Any], value: object, depth: int) -> Any:
    """Write a dict made here in place of `value`; to see a cycle it is `value` that was passed through."""
    try:
        return write(stand_in, depth)
    except Misfit as misfit:
        misfit.inside[-1:] = [id(value)]
        raise


def _scalar(write: Callable[[Any], Any]) -> _Writer:
    return lambda value, depth: write(value)


def _write_other(value: Any, depth: int) -> Any:
    kind: Any = type(value)
    return _writer_of(kind)(value, depth)


@functools.lru_cache(maxsize=1024)
def _writer_of(kind: type) -> _Writer:
    """Find the writer of a type that is not in the table: a record, an enum, or a subclass. Types are few; kept."""
    if issubclass(kind, enum.Enum):
        return _write_enum
    if issubclass(kind, msgspec.Struct):
        return _write_struct
    if dataclasses.is_dataclass(kind):
        return _write_dataclass
    if hasattr(kind, "__attrs_attrs__"):
        return _write_attrs
    for base in kind.__mro__[1:]:
        if base in _WRITERS:
            return _subclass_writer(base)
    return _refuse


def _subclass_writer(base: type) -> _Writer:
    """Write an instance of a subclass as its base, if it still equals itself then (a pandas.Timestamp may not)."""
    if base not in _BASE_COPIES:
        return _WRITERS[base]

    def write(value: Any, depth: int) -> Any:
        try:
            copy = _BASE_COPIES[base](value)
            is_same = bool(copy == value or copy != copy)  # a NaN is not equal to itself
        except (ValueError, TypeError, AttributeError):  # a pandas.NaT is a datetime without a date
            is_same = False
        if not is_same:
            raise Misfit(f"a {_named(type(value))} is more, or less, than a {base.__name__}: pass a {base.__name__}")
        return _WRITERS[base](copy, depth)

    return write


def _refuse(value: Any, depth: int) -> Any:
    raise Misfit(
        f"a value of type {_named(type(value))} cannot be stored: pass builtins, dataclasses or msgspec Structs, "
        f"or the id of what is kept elsewhere"
    )


def _named(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


_WRITERS: Final[dict[type, _Writer]] = {
    type(None): _write_same,
    bool: _write_same,
    float: _write_same,
    bytes: _write_same,
    ObjectId: _write_same,
    Decimal128: _write_same,
    str: _scalar(tags.stored_str),
    int: _scalar(tags.stored_int),
    bytearray: _scalar(tags.stored_bytes),
    memoryview: _scalar(tags.stored_bytes),
    Binary: _scalar(tags.stored_binary),
    uuid.UUID: _scalar(tags.stored_uuid),
    decimal.Decimal: _scalar(tags.stored_decimal),
    datetime.datetime: _scalar(tags.stored_datetime),
    datetime.date: _scalar(tags.stored_date),
    datetime.time: _scalar(tags.stored_time),
    datetime.timedelta: _scalar(tags.stored_timedelta),
    list: _write_list,
    tuple: _write_tuple,
    set: _write_set,
    frozenset: _write_frozenset,
    dict: _write_dict,
}

# A plain copy of an instance of a subclass, without asking the subclass how.
_BASE_COPIES: Final[dict[type, Callable[[Any], Any]]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: tags.stored_bytes,
    datetime.datetime: lambda value: datetime.datetime.combine(value.date(), value.timetz()),
}


# --- reading -------------------------------------------------------------------------------------------------------


def loaded(stored: Any) -> Any:
    """Return the value as builtins, or raise `Misfit`: `from_stored` for those who tell it in their own words."""
    reader = _READERS.get(type(stored))
    return stored if reader is None else reader(stored)


def _read_dict(stored: dict[str, Any]) -> Any:
    if len(stored) == 1:
        (key,) = stored
        if type(key) is str and key.startswith(PREFIX):
            return _read_tagged(key, stored[key])
    result: dict[str, Any] = {}
    try:
        for key, item in stored.items():
            reader = _READERS.get(type(item))
            result[key] = item if reader is None else reader(item)
    except Misfit as misfit:
        misfit.within(stored, key)
        raise
    return result


def _read_list(stored: list[Any]) -> list[Any]:
    result: list[Any] = []
    try:
        for item in stored:
            reader = _READERS.get(type(item))
            result.append(item if reader is None else reader(item))
    except Misfit as misfit:
        misfit.within(stored, len(result))
        raise
    return result


def _read_tagged(key: str, content: Any) -> Any:
    name = key.removeprefix(PREFIX)
    if name.startswith(PREFIX):  # a user's own document, see the module's docstring
        return {name: loaded(content)}
    if name in tags.SCALAR_READERS:
        return tags.loaded_scalar(name, content)
    make = _CONTAINER_READERS.get(name)
    if key == CODED:
        raise Misfit("it was encoded by a codec (StreamQ(codec=...)) that this app lacks, or that cannot decode it")
    if make is None:
        raise Misfit(f"unknown tag {key[:40]!r}")
    if type(content) is not list:
        raise Misfit(f"malformed {key}: a {type(content).__name__} instead of a list")
    return make(_read_list(content))


def _read_set(items: list[Any]) -> Any:
    try:
        return set(items)
    except TypeError:
        return items


def _read_frozenset(items: list[Any]) -> Any:
    try:
        return frozenset(items)
    except TypeError:
        return items


def _read_pairs(pairs: list[Any]) -> dict[Any, Any]:
    if not all(type(pair) is list and len(pair) == 2 for pair in pairs):
        raise Misfit("malformed ~dict: not a list of pairs of a key and a value")
    try:
        result = dict(pairs)
    except TypeError:
        raise Misfit("malformed ~dict: a key is a document or a list") from None
    if len(result) < len(pairs):
        raise Misfit("malformed ~dict: a key is there twice")
    return result


_CONTAINER_READERS: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "tuple": tuple,
    "set": _read_set,
    "frozenset": _read_frozenset,
    "dict": _read_pairs,
}

# What is not in the table is passed through as it is.
_READERS: Final[dict[type, _Reader]] = {
    dict: _read_dict,
    SON: _read_dict,
    list: _read_list,
    Int64: int,
    datetime.datetime: tags.loaded_datetime,
    DatetimeMS: tags.refuse_date,
    Decimal128: Decimal128.to_decimal,
    Binary: tags.loaded_binary,
}
