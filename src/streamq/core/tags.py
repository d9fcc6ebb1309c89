"""The tagged forms: how a scalar that BSON cannot hold exactly is written, and how it is read back.

A tag is a document of one key, `~` and a name: `{"~int": "0x1f"}`. It is not spelt with a `$`, because a field path
with a `$` in it cannot be queried, and `payload.price.~decimal` can. The table of what is native and what is
tagged stands in `codec.py`, which also walks containers and keeps user documents apart from tags.

Only scalars here: nothing in this file calls itself, and nothing knows where in a payload it is.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable
from typing import Any, Final

from bson.binary import UUID_SUBTYPE, Binary
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128

from streamq.core.misfit import Misfit
from streamq.errors import shown

PREFIX: Final = "~"

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
# IEEE 754 decimal128. A higher exponent can be reached by padding the digits with zeros: equal, but not the same.
_DECIMAL128_DIGITS: Final = 34
_DECIMAL128_EXPONENT_MIN: Final = -6176
_DECIMAL128_EXPONENT_MAX: Final = 6111


# --- writing: each returns what BSON holds exactly -----------------------------------------------------------------


def tagged(name: str, content: Any) -> dict[str, Any]:
    return {PREFIX + name: content}


def stored_int(value: int) -> Any:
    if _INT64_MIN <= value <= _INT64_MAX:
        return value
    return tagged("int", hex(value))  # hexadecimal: decimal digits are quadratic and Python refuses over 4,300 of them


def stored_str(value: str) -> str:
    """Return the text itself; lone surrogates (a half of a UTF-16 pair, as in undecodable file names) have no UTF-8."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Misfit(f"a lone surrogate {value[error.start]!r} at index {error.start} is no text") from None
    return value


def stored_bytes(value: bytes | bytearray | memoryview) -> bytes:
    return bytes(memoryview(value))


def stored_binary(value: Binary) -> Any:
    if value.subtype == 0:
        return bytes(value)
    if value.subtype == UUID_SUBTYPE and len(value) == 16:
        return value
    raise Misfit(f"a bson.Binary of subtype {value.subtype} is not supported: pass bytes")


def stored_uuid(value: uuid.UUID) -> Binary:
    return Binary(value.bytes, UUID_SUBTYPE)  # as Binary: any uuid_representation of the client writes it alike


def stored_decimal(value: decimal.Decimal) -> Any:
    _, digits, exponent = value.as_tuple()
    if (
        isinstance(exponent, int)  # a letter for infinities and NaNs
        and len(digits) <= _DECIMAL128_DIGITS
        and _DECIMAL128_EXPONENT_MIN <= exponent <= _DECIMAL128_EXPONENT_MAX
    ):
        return Decimal128(value)
    return tagged("decimal", str(value))


def stored_datetime(value: datetime.datetime) -> Any:
    """Keep the instant to the microsecond and the UTC offset; the name of the time zone is not kept."""
    offset = value.utcoffset()
    if offset is None:
        raise Misfit("a datetime without tzinfo names no instant: give it a tzinfo, e.g. datetime.now(UTC)")
    if not offset and value.microsecond % 1000 == 0:
        return value.replace(tzinfo=datetime.UTC, fold=0)
    _check_offset(offset)
    return tagged("datetime", datetime.datetime.isoformat(value))


def stored_date(value: datetime.date) -> Any:
    return tagged("date", datetime.date.isoformat(value))


def stored_time(value: datetime.time) -> Any:
    offset = value.utcoffset()
    if offset is not None:
        _check_offset(offset)
    elif value.tzinfo is not None:
        raise Misfit("a time in a zone whose offset depends on the date: use a fixed offset, or a datetime")
    return tagged("time", datetime.time.isoformat(value))


def _check_offset(offset: datetime.timedelta) -> None:
    if offset.microseconds:  # CPython reads +00:00:00.000001 back as UTC
        raise Misfit("a UTC offset with a fraction of a second cannot be stored")


def stored_timedelta(value: datetime.timedelta) -> Any:
    return tagged("timedelta", [value.days, value.seconds, value.microseconds])


# --- reading: each raises ValueError, TypeError or the like when the content is not what the tag says --------------


def loaded_datetime(value: datetime.datetime) -> datetime.datetime:
    """A BSON date is an instant: UTC, whether or not the client's codec options made it aware."""
    return value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value.astimezone(datetime.UTC)


def refuse_date(value: DatetimeMS) -> Any:
    """The driver gives a BSON date that no `datetime` can hold as milliseconds: another producer stored it."""
    raise Misfit(f"a date outside of the years 1 to 9999 ({int(value)} ms since 1970)")


def loaded_binary(value: Binary) -> Any:
    if value.subtype == UUID_SUBTYPE and len(value) == 16:
        return uuid.UUID(bytes=bytes(value))
    return value


def _loaded_int(content: str) -> int:
    return int(content, 16)


def _loaded_timedelta(content: list[int]) -> datetime.timedelta:
    days, seconds, microseconds = content
    return datetime.timedelta(days, seconds, microseconds)


SCALAR_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "int": _loaded_int,
    "decimal": decimal.Decimal,
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": _loaded_timedelta,
}


def loaded_scalar(name: str, content: Any) -> Any:
    """Read one tagged scalar; the caller has seen to it that `name` is in `SCALAR_READERS`."""
    try:
        return SCALAR_READERS[name](content)
    except (ValueError, TypeError, ArithmeticError):
        raise Misfit(f"malformed {PREFIX}{name}: {shown(content, 60)}") from None
