"""The short way for plain scalars: it says what the long way says, or nothing."""

from __future__ import annotations

from typing import Annotated, Any

import bson
import msgspec
import pytest
from bson import ObjectId

from streamq.core.codec import to_stored
from streamq.core.plain import plain_kinds, scalars_bytes
from streamq.core.schema import Schema
from streamq.errors import PayloadInvalid

SCALARS: list[Any] = [None, True, 0, -(2**31), 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63), 0.5, float("nan")]
SCALARS += ["", "text", "nul \0 inside", b"", b"\0\xff", ObjectId("65f0c0ffee65f0c0ffee65f0")]


@pytest.mark.parametrize("value", SCALARS, ids=repr)
def test_a_plain_document_has_the_size_that_it_takes_when_it_is_stored(value: Any) -> None:
    document = {"some_name": value, "": value}
    assert scalars_bytes(document) == len(bson.encode(to_stored(document)))
    assert bson.encode(to_stored(document)) == bson.encode(document)


@pytest.mark.parametrize(
    "document",
    [
        {"a": 2**63},
        {"a": "\udc80"},
        {"a": "\u00e9"},
        {"a": [1]},
        {"a": {}},
        {"a": bytearray(b"x")},
        {"\u00e9": 1},
        {"nul\0": 1},
        {1: 1},
        {"~int": "0x1"},
        {"$ref": 1, "$id": 2},
    ],
    ids=ascii,
)
def test_what_is_not_plain_goes_the_long_way(document: Any) -> None:
    assert scalars_bytes(document) is None


def test_a_type_with_a_limit_takes_more_than_a_look_at_the_type() -> None:
    assert plain_kinds(int | None) == {int, type(None)}
    assert plain_kinds(Annotated[int, msgspec.Meta(ge=0)]) == set()
    assert plain_kinds(Annotated[str, msgspec.Meta(max_length=3)] | None) == set()


def handler(first: int, /, second: str = "", *, third: float | None = None) -> None: ...


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, "a", 0.5), {}),
        ((1,), {"first": 1}),
        ((1, "a"), {"second": "b"}),
        ((1,), {"fourth": 1}),
        (("1",), {}),
        ((True,), {}),
        ((1,), {"third": "0.5"}),
        ((None,), {}),
        ((), {"first": 1}),
    ],
)
def test_what_is_refused_is_left_to_the_long_way(args: Any, kwargs: Any) -> None:
    schema = Schema.of(handler)
    assert schema.bind_plain(args, kwargs) is None
    with pytest.raises(PayloadInvalid):
        schema.bind(args, kwargs)


def test_a_plain_call_is_bound_the_short_way() -> None:
    def plain(first: int, second: str = "", *, third: float | None = None) -> None: ...

    schema = Schema.of(plain)
    calls: list[tuple[Any, Any]] = [((1,), {}), ((1, "a"), {"third": 0.5}), ((), {"first": 1, "third": None})]
    for args, kwargs in calls:
        bound = schema.bind_plain(args, kwargs)
        assert bound is not None
        assert bound[0] == schema.bind(args, kwargs)
