"""A payload as it is typed: JSON, read strictly, every error with its place."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, NoReturn

from streamq.errors import PayloadInvalid

STDIN = "-"


def read_payload(given: str) -> Any:
    """Return the value of a JSON text, `-` for stdin's. Raises `PayloadInvalid` naming the place."""
    return loads(_stdin() if given == STDIN else given)


def loads(text: str, what: str = "payload") -> Any:
    """Read JSON as its standard has it: no NaN, no key twice, nothing that would come out as another value. Raises
    `PayloadInvalid` for `what`."""
    try:
        return _loads(text)
    except PayloadInvalid as error:
        raise PayloadInvalid(what, error.reason) from None


def _loads(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_constant, parse_float=_float, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        near = text[max(error.pos - 10, 0) : error.pos + 10]
        where = f"line {error.lineno} column {error.colno}"
        raise PayloadInvalid("payload", f"not JSON, {where}: {error.msg.lower()} (near {near!r})") from None
    except RecursionError:
        raise PayloadInvalid("payload", "nested too deeply") from None
    except ValueError as error:  # e.g. an integer of thousands of digits
        raise PayloadInvalid("payload", f"not JSON that can be stored: {error}") from None


def _stdin() -> str:
    data = sys.stdin.buffer.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PayloadInvalid("payload", f"stdin is not UTF-8, byte {error.start}: {error.reason}") from None


def _constant(name: str) -> NoReturn:
    raise PayloadInvalid("payload", f"not JSON: {name} is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise PayloadInvalid("payload", f"the number {text} is too large")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise PayloadInvalid("payload", f"the key {twice!r} stands twice in one object")
    return made
