"""The codec: whatever goes in comes out, through real BSON; what cannot is refused by its path."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import struct
import sys
import uuid
from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import attrs
import bson
import msgspec
import pytest
from bson import Binary, Int64, ObjectId, Regex
from bson.codec_options import CodecOptions
from bson.decimal128 import Decimal128
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamq.core.codec import MAX_DEPTH, from_stored, require_size, size_bytes, to_stored
from streamq.errors import PayloadInvalid, PayloadTooLarge, PayloadUndecodable

OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
quick = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def trip(value: Any, options: CodecOptions[dict[str, Any]] = OPTIONS) -> Any:
    return from_stored(bson.decode(bson.encode({"p": to_stored(value)}, codec_options=options), options)["p"])


def is_same(left: Any, right: Any) -> bool:
    """Equality that sees types, the order of keys, signs of zero, the digits of a Decimal and NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right) or (math.isnan(left) and math.isnan(right))
    if isinstance(left, decimal.Decimal):
        return bool(left.as_tuple() == right.as_tuple())
    if isinstance(left, datetime.datetime):
        return left.isoformat() == str(right.isoformat())
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, dict):
        return is_same(list(left), list(right)) and is_same(list(left.values()), list(right.values()))
    if isinstance(left, (set, frozenset)):
        return sorted(map(canonical, left)) == sorted(map(canonical, right))
    return bool(left == right)


def canonical(one: Any) -> tuple[str, str]:
    """A text that is the same for the same value: `repr` tells a zone's name and fold, and a set's chance order."""
    if isinstance(one, (datetime.datetime, datetime.time)):
        return type(one).__name__, one.isoformat()
    return type(one).__name__, repr(sorted(one)) if isinstance(one, frozenset) else repr(one)


def refusal(value: Any, **options: Any) -> PayloadInvalid:
    with pytest.raises(PayloadInvalid) as caught:
        to_stored(value, **options)
    return caught.value


# --- what goes in comes out ----------------------------------------------------------------------------------------

offsets = st.integers(-86_399, 86_399).map(lambda seconds: datetime.timedelta(seconds=seconds))
zones = st.one_of(
    st.just(datetime.UTC), st.sampled_from([ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")]), offsets.map(datetime.timezone)
)
instants = st.one_of(
    st.datetimes(timezones=zones),
    st.datetimes(timezones=st.just(datetime.UTC)).map(lambda one: one.replace(microsecond=0)),
)
texts = st.text(max_size=6)
hashables = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**80), 2**80),
    st.floats(allow_nan=False),
    texts,
    st.binary(max_size=6),
    st.uuids(),
    st.decimals(allow_nan=False),
    instants,
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.tuples(st.integers(), texts),
    st.frozensets(st.integers(), max_size=2),
)
keys = st.one_of(
    texts, st.sampled_from(["", "$", "$ref", "$id", "$set", ".", "a.b", "~", "~~", "~int", "~~int", "~dict"])
)
values = st.recursive(
    st.one_of(hashables, st.floats(), st.decimals(allow_nan=True)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys.filter(lambda key: "\0" not in key), inner, max_size=3),
        st.dictionaries(hashables, inner, max_size=2).filter(
            lambda one: not any(isinstance(key, str) and "\0" in key for key in one)
        ),
        st.sets(hashables, max_size=2),
    ),
    max_leaves=6,
)


@settings(quick, max_examples=15)
@given(values)
@example({"~int": "0x1"})
@example({"~~int": "0x1"})
@example({"~": {"~dict": []}})
@example({"$ref": "orders", "$id": 1})  # the driver makes a DBRef of it
@example({"$ref": "orders", "$id": {"~int": 1}, "$db": "shop"})
@example({1: {"$ref": 1}, "1": 2})
@example({(): {frozenset({1}): b""}})
@example({frozenset({-66, 54}), datetime.time(fold=1)})  # two false alarms of this test's own comparison
def test_any_value_comes_back_the_same_through_bson(value: Any) -> None:
    assert is_same(trip(value), value)


@quick
@given(instants)
@example(datetime.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")))
@example(datetime.datetime(1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=5))))
@example(datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(-datetime.timedelta(seconds=1))))
def test_a_datetime_keeps_its_wall_time_and_offset_to_the_microsecond(value: datetime.datetime) -> None:
    assert trip(value).isoformat() == value.isoformat()


@pytest.mark.parametrize(
    "text",
    ["sNaN", "-NaN12", "-Infinity", "-0E-6176", "1E+6111", "1E+6112", "0E+6112", "1E-6177", "1.10", "9" * 34, "9" * 35],
)
def test_a_decimal_keeps_sign_digits_and_exponent(text: str) -> None:
    value = decimal.Decimal(text)
    assert trip(value).as_tuple() == value.as_tuple()


@pytest.mark.parametrize(
    "value", [2**31, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 1 << 20_000], ids=lambda one: f"{one.bit_length()} bits"
)
def test_an_int_of_any_size_comes_back_as_int(value: int) -> None:
    assert type(trip(value)) is int
    assert trip(value) == value


def test_a_key_may_be_anything_but_hold_a_nul() -> None:
    value = {"$where": 1, "a.b": {"": {"$": 1}}, "é\u202e": 2}
    assert to_stored(value) == value


@pytest.mark.parametrize("representation", [0, 3, 4, 5, 6])
def test_a_uuid_comes_back_whatever_the_clients_uuid_representation(representation: int) -> None:
    value = uuid.uuid4()
    options: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, uuid_representation=representation)
    assert is_same(trip(value, options), value)


def test_a_datetime_comes_back_aware_when_the_client_decodes_naive_dates() -> None:
    value = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    assert is_same(trip(value, CodecOptions(tz_aware=False)), value)


def test_a_datetime_comes_back_in_utc_when_the_client_decodes_to_another_zone() -> None:
    value = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    options: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=ZoneInfo("Asia/Tokyo"))
    assert is_same(trip(value, options), value)


@pytest.mark.parametrize("make", [bytearray, memoryview, bytes, Binary])
def test_bytes_of_any_kind_come_back_as_bytes(make: Any) -> None:
    assert is_same(trip(make(b"\0\xff")), b"\0\xff")


def test_numbers_of_bson_come_back_as_the_numbers_they_stand_for() -> None:
    assert is_same(trip([Int64(5), Decimal128("1.10")]), [5, decimal.Decimal("1.10")])


# --- records lose their class, to get it back from the annotation --------------------------------------------------


class Shape(msgspec.Struct, tag_field="kind", tag="shape", rename={"width": "w"}):
    width: int
    note: str | msgspec.UnsetType = msgspec.UNSET


class Pair(msgspec.Struct, array_like=True):
    left: int
    right: int


@dataclasses.dataclass
class Row:
    name: str
    seen: int = dataclasses.field(init=False, default=3)


@attrs.define
class Cell:
    name: str


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: int


class Word(str):
    pass


def test_a_struct_is_stored_with_its_tag_its_renamed_fields_and_without_unset_ones() -> None:
    assert trip(Shape(3)) == {"kind": "shape", "w": 3}


def test_an_array_like_struct_is_stored_as_a_list() -> None:
    assert trip(Pair(1, 2)) == [1, 2]


@pytest.mark.parametrize(("record", "fields"), [(Row("a"), {"name": "a", "seen": 3}), (Cell("a"), {"name": "a"})])
def test_a_record_is_stored_as_a_dict_of_its_fields(record: Any, fields: dict[str, Any]) -> None:
    assert trip(record) == fields


def test_a_set_of_records_comes_back_as_a_list_because_dicts_fit_in_no_set() -> None:
    class Frozen(msgspec.Struct, frozen=True):
        name: str

    assert trip({Frozen("a")}) == [{"name": "a"}]


def test_an_enum_is_stored_as_its_value_also_as_a_key() -> None:
    assert to_stored({Color.RED: Color.RED}) == {"red": "red"}


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Word("a"), "a"),
        ({Word("a"): 1}, {"a": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (Point(1, 2), (1, 2)),
        (Level.LOW, 1),
        (type("Real", (float,), {})("nan"), math.nan),
    ],
)
def test_an_instance_of_a_subclass_comes_back_as_what_it_extends(value: Any, base: Any) -> None:
    assert is_same(trip(value), base)


def test_a_subclass_is_stored_as_its_base_before_it_meets_bson() -> None:
    assert is_same(to_stored(Word("a")), "a")


def test_a_date_is_stored_in_plain_utc_without_fold() -> None:
    stored = to_stored(datetime.datetime(2024, 10, 27, 1, 30, fold=1, tzinfo=ZoneInfo("Europe/London")))
    assert (stored.tzinfo, stored.fold) == (datetime.UTC, 0)


def test_what_is_stored_shares_nothing_with_what_was_given() -> None:
    given = {"a": [1]}
    stored = to_stored(given)
    given["a"].append(2)
    assert stored == {"a": [1]}


# --- refused, by name ----------------------------------------------------------------------------------------------


def test_the_path_names_the_value_in_its_containers() -> None:
    error = refusal({"items": [0, {"name": ({"x y": {7: object()}},)}]})
    assert error.field == "payload.items[1].name[0]['x y'][7]"


def test_the_path_begins_with_the_first_key_when_the_root_has_no_name() -> None:
    assert refusal({"a": {"b": object()}}, where="").field == "a.b"


def test_a_nul_in_a_key_is_refused() -> None:
    assert str(refusal({"a": {"b\0": 1}})) == "payload.a['b\\x00']: a key with a NUL character cannot be stored"


@pytest.mark.parametrize(("value", "field"), [({"a": "\ud800"}, "payload.a"), ({"\ud800": 1}, "payload['\\ud800']")])
def test_a_lone_surrogate_is_refused(value: Any, field: str) -> None:
    error = refusal(value)
    assert (error.field, "a lone surrogate" in error.reason) == (field, True)


def test_a_naive_datetime_is_refused_and_told_to_take_a_tzinfo() -> None:
    error = refusal({"at": datetime.datetime(2024, 1, 1)})
    assert str(error).startswith("payload.at: a datetime without tzinfo names no instant: give it a tzinfo")


@pytest.mark.parametrize("kind", [datetime.time(), datetime.datetime(2024, 1, 1)])
def test_an_offset_with_a_fraction_of_a_second_is_refused_because_it_reads_back_as_utc(kind: Any) -> None:
    odd = datetime.timezone(datetime.timedelta(microseconds=1))
    assert "fraction of a second" in refusal({"at": kind.replace(tzinfo=odd)}).reason


def test_a_time_whose_offset_depends_on_the_date_is_refused() -> None:
    assert refusal({"at": datetime.time(1, tzinfo=ZoneInfo("Europe/Berlin"))}).field == "payload.at"


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "a value of type object "),
        (1j, "a value of type complex "),
        (Regex("a"), "a value of type bson.regex.Regex "),
        (len, "a value of type builtin_function_or_method "),
        (int, "a value of type type "),
        (msgspec.UNSET, "a value of type msgspec.UnsetType "),
        (Binary(b"x", 128), "a bson.Binary of subtype 128"),
        (Binary(b"x", 4), "a bson.Binary of subtype 4"),
    ],
)
def test_an_unsupported_type_is_refused_by_its_name(value: Any, named: str) -> None:
    error = refusal([value])
    assert (error.field, error.reason[: len(named)]) == ("payload[0]", named)


def test_a_subclass_that_holds_more_than_its_base_is_refused() -> None:
    class Nanos(datetime.datetime):
        def __eq__(self, other: object) -> bool:
            return type(other) is Nanos

        __hash__ = None  # type: ignore[assignment]

    assert "is more, or less, than a datetime" in refusal({"a": Nanos(2024, 1, 1, tzinfo=datetime.UTC)}).reason


def test_two_keys_that_would_be_stored_alike_are_refused() -> None:
    assert str(refusal({"a": {Color.RED: 1, "red": 2}})) == "payload.a: two of its keys are stored alike"


def test_a_key_that_could_not_be_a_key_again_is_refused() -> None:
    class Frozen(msgspec.Struct, frozen=True):
        name: str

    error = refusal({"a": {Frozen("a"): 1}})
    assert (error.field, "cannot be a key again" in error.reason) == ("payload.a", True)


@pytest.mark.parametrize("kind", ["list", "dict", "tuple", "pairs"])
def test_nesting_up_to_the_limit_is_stored_and_beyond_is_refused(kind: str) -> None:
    wrap: dict[str, tuple[int, Any]] = {
        "list": (1, lambda inner: [inner]),
        "dict": (1, lambda inner: {"a": inner}),
        "tuple": (2, lambda inner: (inner,)),
        "pairs": (3, lambda inner: {1: inner}),
    }
    levels, around = wrap[kind]
    value: Any = 0
    for _ in range(MAX_DEPTH // levels):
        value = around(value)
    assert is_same(trip(value), value)
    for _ in range(levels):
        value = around(value)
    assert refusal(value).reason == f"nested deeper than {MAX_DEPTH} levels"


def test_any_depth_is_refused_without_a_recursion_error() -> None:
    value: Any = 0
    for _ in range(100_000):
        value = [value]
    assert refusal(value).field.startswith("payload[0][0]")


def test_a_call_stack_with_no_room_left_is_a_refusal_too() -> None:
    def down(levels: int) -> PayloadInvalid:
        return down(levels - 1) if levels else refusal([[[[[[[[[[[[[[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]]]]]]]]]]]]]])

    depth = len_of_stack()
    error = down(sys.getrecursionlimit() - depth - 25)
    assert error.reason == "nested deeper than the call stack has room for"


def len_of_stack() -> int:
    frame, count = sys._getframe(), 0
    while frame.f_back is not None:
        frame, count = frame.f_back, count + 1
    return count


class Node(msgspec.Struct):
    next: Any


def cyclic(kind: str) -> Any:
    if kind == "struct":
        node = Node(None)
        node.next = node
        return node
    if kind == "list":
        items: list[Any] = []
        items.append((items,))
        return items
    table: dict[Any, Any] = {}
    table["a" if kind == "dict" else 1] = [table]
    return table


@pytest.mark.parametrize("kind", ["list", "dict", "pairs", "struct"])
def test_a_value_that_contains_itself_is_refused(kind: str) -> None:
    assert refusal({"a": cyclic(kind)}).reason == "it contains itself"


# --- reading what somebody else stored -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stored",
    [
        {"~foo": 1},
        {"~": 1},
        {"~int": 5},
        {"~int": "x"},
        {"~int": None},
        {"~decimal": "x"},
        {"~decimal": ["x"]},
        {"~datetime": "yesterday"},
        {"~datetime": 5},
        {"~date": "2024-13-01"},
        {"~time": b""},
        {"~timedelta": [1, 2]},
        {"~timedelta": [10**12, 0, 0]},
        {"~timedelta": ["1", 0, 0]},
        {"~tuple": 1},
        {"~set": {"a": 1}},
        {"~dict": [1]},
        {"~dict": ["ab"]},
        {"~dict": [[1, 2, 3]]},
        {"~dict": [[[], 2]]},
        {"~dict": [[1, 2], [1, 3]]},
    ],
)
def test_a_malformed_tag_is_undecodable_and_named_with_its_path(stored: Any) -> None:
    (tag,) = stored
    with pytest.raises(PayloadUndecodable, match=rf"^payload\.a\[1\]: .*{tag}"):
        from_stored({"a": [0, stored]})


def test_an_unknown_bson_type_put_in_by_hand_passes_through() -> None:
    assert from_stored({"a": Regex("a")}) == {"a": Regex("a")}


def test_a_stored_value_too_deep_for_the_stack_is_undecodable() -> None:
    stored: Any = 0
    for _ in range(100_000):
        stored = [stored]
    with pytest.raises(PayloadUndecodable, match="nested deeper"):
        from_stored(stored)


@quick
@given(
    st.recursive(st.one_of(st.integers(), texts), lambda one: st.dictionaries(keys, one, max_size=2) | st.lists(one))
)
def test_any_stored_document_is_read_or_undecodable_and_nothing_else(stored: Any) -> None:
    try:
        from_stored(stored)
    except PayloadUndecodable as error:
        assert "~" in str(error)  # noqa: PT017 - only if it is raised at all


# --- size ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [None, 1, "é", {"a": 1}, [1, {"b": b"xx"}]])
def test_the_size_is_what_the_value_adds_to_a_document(stored: Any) -> None:
    assert size_bytes(stored) == len(bson.encode({"payload": stored})) - len(bson.encode({"payload": None}))


def test_a_size_at_the_limit_passes_and_is_returned() -> None:
    assert require_size({"a": 1}, 12, "payload") == 12


def test_a_size_over_the_limit_is_refused_with_both_figures() -> None:
    with pytest.raises(PayloadTooLarge, match="result is 12 bytes, the limit is 11") as caught:
        require_size({"a": 1}, 11, "result")
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (12, 11)
