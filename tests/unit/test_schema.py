"""The schema: a call is checked when it is put, and comes back to the handler as it was given."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import math
import pathlib
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, Literal, NamedTuple, Never, TypedDict

import bson
import msgspec
import pytest
from bson import ObjectId
from bson.codec_options import CodecOptions
from bson.int64 import Int64
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamq.core.codec import size_bytes
from streamq.core.schema import Schema
from streamq.errors import PayloadInvalid, PayloadUndecodable, UsageError

quick = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


def bson_trip(stored: Any) -> Any:
    return bson.decode(bson.encode({"p": stored}), CodecOptions(tz_aware=True))["p"]


def call_after_trip(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Put a call, take it through BSON, and make it as a worker would."""
    schema = Schema.of(function)
    stored = schema.bind(args, kwargs)
    # The short way says the same, or nothing.
    plain = schema.bind_plain(args, kwargs)
    assert plain is None or (bson.encode(plain[0]), plain[1]) == (bson.encode(stored), size_bytes(stored))
    loaded_args, loaded_kwargs = schema.load(bson_trip(stored))
    return function(*loaded_args, **loaded_kwargs)


def refusal(function: Callable[..., Any], *args: Any, **kwargs: Any) -> PayloadInvalid:
    schema = Schema.of(function)
    with pytest.raises(PayloadInvalid) as caught:
        schema.bind(args, kwargs)
    assert schema.bind_plain(args, kwargs) is None
    return caught.value


class Size(msgspec.Struct, frozen=True):
    width: int
    height: int = 1


class Cube(Size, frozen=True):
    depth: int = 1


class Circle(msgspec.Struct, tag=True, rename="camel"):
    outer_radius: float


class Square(msgspec.Struct, tag=True):
    side: int


class Tree(msgspec.Struct):
    name: str
    children: list[Tree] = []


@dataclasses.dataclass
class Row:
    name: str
    at: datetime.datetime


class Point(NamedTuple):
    x: int
    y: int = 0


class Options(TypedDict, total=False):
    size: Size


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


Count = Annotated[int, msgspec.Meta(ge=1, le=9)]


def resize(path: str, *, width: int = 100) -> Size:
    return Size(width, len(path))


def nested(size: Size, sizes: list[Size] | None = None, by_name: dict[str, Size] | None = None) -> None: ...


# --- what is given comes back --------------------------------------------------------------------------------------

NOW = datetime.datetime(2024, 5, 1, 12, 30, 0, 123456, datetime.timezone(datetime.timedelta(hours=2)))
# Constants, because a test's name holds them: processes that share out the tests must find the same names.
OBJECT_ID = ObjectId("65f0c0ffee65f0c0ffee65f0")
UUID = uuid.UUID("12345678-1234-4567-8123-456781234567")
GIVEN: list[tuple[Any, Any]] = [
    (int, 10**30),
    (float, -0.0),
    (bytes, b"\0"),
    (bytearray, bytearray(b"x")),
    (ObjectId, OBJECT_ID),
    (ObjectId | None, OBJECT_ID),
    (list[ObjectId], [OBJECT_ID]),
    (uuid.UUID, UUID),
    (decimal.Decimal, decimal.Decimal("1.10")),
    (datetime.datetime, NOW),
    (datetime.date, NOW.date()),
    (datetime.time, NOW.timetz()),
    (datetime.timedelta, datetime.timedelta(days=-1, microseconds=1)),
    (Color, Color.RED),
    (Level, Level.LOW),
    (dict[Color, Level], {Color.RED: Level.LOW}),
    (dict[int, str], {1: "a"}),
    (dict[uuid.UUID, int], {UUID: 1}),
    (dict[tuple[int, int], Size], {(1, 2): Size(1)}),
    (set[Size], {Size(1), Size(2)}),
    (frozenset[bytes], frozenset({b"a"})),
    (tuple[int, str], (1, "a")),
    (tuple[Size, ...], (Size(1),)),
    (Point, Point(1, 2)),
    (Options, {"size": Size(1)}),
    (Row, Row("a", NOW)),
    (list[Circle | Square], [Square(1), Circle(0.5)]),
    (Tree, Tree("a", [Tree("b")])),
    (Literal["a", 1], 1),
    (int | float, 1),
    (int | float, 1.0),
    (int | str | None, None),
    (Count, 9),
    (object, {"a": (1, {2})}),
    (Any, {"~int": 1, "$ref": "a", "$id": 2}),
]


@pytest.mark.parametrize(("kind", "value"), GIVEN, ids=[str(kind) for kind, _ in GIVEN])
def test_a_typed_argument_comes_back_equal_and_of_the_same_type(kind: Any, value: Any) -> None:
    def handler(argument: Any) -> Any:
        return argument

    handler.__annotations__ = {"argument": kind}
    back = call_after_trip(handler, value)
    assert (type(back), back) == (type(value), value)


@pytest.mark.parametrize(("kind", "value"), GIVEN, ids=[str(kind) for kind, _ in GIVEN])
def test_a_typed_result_comes_back_equal_and_of_the_same_type(kind: Any, value: Any) -> None:
    def handler() -> Any: ...

    handler.__annotations__ = {"return": kind}
    schema = Schema.of(handler)
    back = schema.load_result(bson_trip(schema.dump_result(value)))
    assert (type(back), back) == (type(value), value)


@quick
@given(
    st.builds(Row, st.text(), st.datetimes(timezones=st.just(datetime.UTC))),
    st.dictionaries(st.integers(), st.sets(st.decimals(allow_nan=False))),
    st.one_of(st.none(), st.lists(st.builds(Circle, st.floats(allow_nan=False)))),
)
def test_any_arguments_come_back_equal(row: Row, table: dict[int, set[decimal.Decimal]], shapes: Any) -> None:
    def handler(
        row: Row, table: dict[int, set[decimal.Decimal]], *, shapes: list[Circle | Square] | None = None
    ) -> tuple[Any, ...]:
        return row, table, shapes

    assert call_after_trip(handler, row, table, shapes=shapes) == (row, table, shapes)


def test_a_nan_comes_back() -> None:
    def handler(x: float) -> float:
        return x

    assert math.isnan(call_after_trip(handler, math.nan))


def test_an_argument_that_is_not_given_is_not_stored() -> None:
    assert Schema.of(resize).bind(("a.png",), {}) == {"path": "a.png"}


def test_a_mutable_default_is_the_functions_own() -> None:
    default: list[int] = []

    def handler(items: list[int] = default) -> list[int]:
        return items

    assert call_after_trip(handler) is default


def test_an_explicit_none_is_stored_and_is_not_the_default() -> None:
    def handler(x: int | None = 5) -> int | None:
        return x

    assert call_after_trip(handler, None) is None


def test_a_record_loads_as_a_dict_where_nothing_is_annotated() -> None:
    def handler(x):  # type: ignore[no-untyped-def]
        return x

    assert call_after_trip(handler, Size(1)) == {"width": 1, "height": 1}


def test_a_dict_is_taken_for_a_struct_since_that_is_how_it_is_stored() -> None:
    def handler(size: Size) -> Size:
        return size

    assert call_after_trip(handler, {"width": 3}) == Size(3)


# --- what may be declared ------------------------------------------------------------------------------------------


class Callee:
    factor = 2

    def method(self, x: int) -> int:
        return self.factor * x

    async def __call__(self, x: int, self_: int = 0) -> int:
        return x


def test_a_bound_method_takes_no_self() -> None:
    assert call_after_trip(Callee().method, 4) == 8


def test_a_plain_function_may_have_a_parameter_named_self() -> None:
    def handler(self: int, cls: int, p0: int, __struct_fields__: int) -> tuple[int, ...]:
        return self, cls, p0, __struct_fields__

    assert call_after_trip(handler, 1, 2, p0=3, __struct_fields__=4) == (1, 2, 3, 4)


def test_a_callable_object_is_read_by_its_call() -> None:
    assert Schema.of(Callee()).bind((1,), {"self_": 2}) == {"x": 1, "self_": 2}


def test_a_partial_leaves_the_bound_arguments_out() -> None:
    assert call_after_trip(functools.partial(resize, "abc"), width=7) == Size(7, 3)


def test_a_wrapped_function_keeps_its_signature() -> None:
    @functools.wraps(resize)
    def wrapper(*args: Any, **kwargs: Any) -> Size:
        return resize(*args, **kwargs)

    assert refusal(wrapper, 1).field == "path"


def test_parameters_by_position_only_and_by_keyword_only_are_called_as_declared() -> None:
    def handler(a: int, b: int = 2, /, c: int = 3, *, d: int = 4) -> tuple[int, ...]:
        return a, b, c, d

    assert call_after_trip(handler, 1, d=9) == (1, 2, 3, 9)


@pytest.mark.parametrize("named", ["*args", "**kwargs"])
def test_a_parameter_that_takes_anything_is_refused_at_declaration(named: str) -> None:
    def takes_args(x: int, *args): ...  # type: ignore[no-untyped-def]
    def takes_kwargs(x: int, **kwargs): ...  # type: ignore[no-untyped-def]

    with pytest.raises(UsageError) as caught:
        Schema.of(takes_args if named == "*args" else takes_kwargs)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (pathlib.Path, "a Path cannot be loaded from a stored payload: use str"),
        (dict[str, list[complex]], "a complex cannot be loaded from a stored payload: use tuple[float, float]"),
        (Iterable[int], "use list"),
        (Callable[[], int], "use the name of the function"),
        (Callee, "a Callee cannot be loaded from a stored payload: use builtins, a dataclass or a msgspec.Struct"),
        (str | datetime.datetime, "str | datetime cannot be loaded from a stored payload: Type unions may not"),
        (msgspec.Raw, "a Raw cannot be loaded"),
        (list["Nowhere"], "the annotation"),  # type: ignore[name-defined] # noqa: F821
    ],
    ids=str,
)
def test_a_type_that_could_not_be_loaded_is_refused_at_declaration(kind: Any, told: str) -> None:
    def handler(fine: int, wrong: Any) -> None: ...

    handler.__annotations__["wrong"] = kind
    with pytest.raises(UsageError) as caught:
        Schema.of(handler)
    assert str(caught.value).startswith("handler: parameter wrong: ")
    assert told in str(caught.value)


def test_an_annotation_that_does_not_resolve_is_named() -> None:
    def handler(fine: int, wrong: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(UsageError, match="parameter wrong: the annotation 'Nowhere' cannot be resolved"):
        Schema.of(handler)


def test_a_result_type_that_could_not_be_loaded_is_refused_at_declaration() -> None:
    def handler() -> complex: ...  # type: ignore[empty-body]

    with pytest.raises(UsageError, match="handler: the result: a complex"):
        Schema.of(handler)


@pytest.mark.parametrize("thing", [Size, 5])
def test_what_is_no_function_is_refused_at_declaration(thing: Any) -> None:
    with pytest.raises(UsageError, match="a handler is a function"):
        Schema.of(thing)


# --- bad arguments are refused at the put, by name -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "told"),
    [
        ((), {}, "path: missing, resize expects str"),
        (("a",), {"widht": 1}, "widht: resize has no such argument, did you mean width?"),
        (("a",), {"zzz": 1}, "zzz: resize has no such argument"),
        (("a", 1), {}, "resize takes 1 argument by position (path), got 2; by name: width"),
        (("a",), {"path": "b"}, "path: given twice, by position and by name"),
        (("a",), {"width": "1"}, "width: expected int, got str"),
        (("a",), {"width": True}, "width: expected int, got bool"),
        (("a",), {"width": 1.0}, "width: expected int, got float"),
        (("a",), {"width": None}, "width: expected int, got None"),
        ((b"a",), {}, "path: expected str, got bytes"),
    ],
)
def test_a_bad_call_is_refused_by_the_name_of_the_argument(args: Any, kwargs: Any, told: str) -> None:
    assert str(refusal(resize, *args, **kwargs)) == told


def test_a_positional_only_argument_is_refused_by_keyword() -> None:
    def handler(x: int, /) -> None: ...

    assert str(refusal(handler, x=1)) == "x: handler takes it by position only"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (datetime.datetime, "2024-01-01T00:00:00Z"),
        (datetime.date, NOW),
        (datetime.timedelta, 5),
        (decimal.Decimal, 0.5),
        (decimal.Decimal, "0.5"),
        (uuid.UUID, str(UUID)),
        (ObjectId, str(OBJECT_ID)),
        (bytes, "YQ=="),
        (float, "1"),
        (float, True),
    ],
    ids=str,
)
def test_nothing_is_converted_from_another_type(kind: Any, value: Any) -> None:
    def handler(x: Any) -> None: ...

    handler.__annotations__["x"] = kind
    assert str(refusal(handler, value)) == f"x: expected {kind.__name__}, got {type(value).__name__}"


def test_a_broken_constraint_is_refused() -> None:
    def handler(count: Count) -> None: ...

    assert str(refusal(handler, 10)) == "count: expected int <= 9"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((5,), "size: expected Size, got int"),
        (({},), "size: object missing required field width"),
        ((Size("x"),), "size.width: expected int, got str"),  # type: ignore[arg-type]
        ((Size(1), [Size(1), {"width": None}]), "sizes[1].width: expected int, got None"),
        ((Size(1), None, {"k": {"width": []}}), "by_name[…].width: expected int, got list"),
        ((Size(1), [5]), "sizes[0]: expected dict, got int"),
        ((Size(object()),), "size.width: a value of type object cannot be stored"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_value_inside_an_argument_is_refused_by_its_path(args: Any, told: str) -> None:
    assert str(refusal(nested, *args)).startswith(told)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((Cube(1),), "size: a Cube would be loaded as a Size"),
        ((Size(1), [Cube(1)]), "sizes[0]: a Cube would be loaded as a Size"),
        ((Size(1), None, {"k": Cube(1)}), "by_name.k: a Cube would be loaded as a Size"),
        (({"width": 1, "hieght": 2},), "size: unknown field 'hieght'"),
        ((Size(1), [{"width": 1}, {"wdith": 1, "width": 1}]), "sizes[1]: unknown field 'wdith'"),
    ],
)
def test_what_would_lose_a_field_on_loading_is_refused(args: Any, told: str) -> None:
    assert str(refusal(nested, *args)).startswith(told)


def test_a_misspelt_field_deep_in_dicts_is_refused() -> None:
    def handler(tree: Tree) -> None: ...

    error = refusal(handler, {"name": "a", "children": [{"name": "b", "chidlren": []}]})
    assert str(error) == "tree.children[0]: unknown field 'chidlren'"


def test_a_key_beyond_a_typed_dict_is_refused() -> None:
    def handler(options: Options) -> None: ...

    assert str(refusal(handler, {"size": Size(1), "sise": 1})) == "options: unknown field 'sise'"


class Picky(msgspec.Struct):
    x: int

    def __post_init__(self) -> None:
        if self.x == 1:
            raise ValueError("one is not enough")
        if self.x == 2:
            raise LookupError("two is odd")


@pytest.mark.parametrize(
    ("x", "told"), [(1, "picky: one is not enough"), (2, "LookupError: two is odd"), (3, "x: missing, handler")]
)
def test_a_record_that_refuses_itself_is_refused_whatever_it_raises(x: int, told: str) -> None:
    def handler(picky: Picky, x: int) -> None: ...

    assert str(refusal(handler, *([{"x": x}] if x == 3 else [{"x": x}, 1]))).startswith(told)


# --- a stored payload that does not fit fails with its reason ------------------------------------------------------


def scalars(a: int, b: float, c: str | None, d: Any, /, *, e: bool = True) -> None: ...
def named(a: int, b: float, c: str | None, d: Any, e: bool = True) -> None: ...


@pytest.mark.parametrize("function", [named, scalars])
@pytest.mark.parametrize(
    "more", [{}, {"b": 3}, {"a": Int64(3)}, {"a": "3"}, {"c": 1}, {"e": None}, {"d": [1]}, {"d": {"x": 1}}, {"z": 1}]
)
def test_a_payload_of_scalars_loads_by_the_short_way_as_by_the_long_one(
    monkeypatch: pytest.MonkeyPatch, function: Any, more: dict[str, Any]
) -> None:
    def answer() -> Any:
        try:
            args, kwargs = Schema.of(function).load({"a": 1, "b": 1.5, "c": "x", "d": b"y"} | more)
            return args, {name: (type(value), value) for name, value in kwargs.items()}
        except PayloadUndecodable as error:
            return str(error)

    short = answer()
    monkeypatch.setattr(Schema, "_is_plain", lambda self, stored: False)
    assert short == answer()


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (None, "payload: expected the arguments of resize, got NoneType"),
        ([], "payload: expected the arguments of resize, got list"),
        ({"~tuple": []}, "payload: expected the arguments of resize, got tuple"),
        ({}, "path: missing, resize expects it"),
        ({"path": 5}, "path: expected str, got int"),
        ({"path": {"~foo": 5}}, "path: unknown tag '~foo'"),
        ({"path": "a", "": 5}, "['']: resize has no such argument"),
        ({"path": "a", "x` - at `$.y`": 5}, "['x` - at `$.y`']: resize has no such argument"),
        ({"path": "a", "widht": 5}, "widht: resize has no such argument, did you mean width?"),
        ({"path": "a", "width": {"$gt": 1}}, "width: expected int, got dict"),
        ({"~dict": [[1, 2]]}, "[1]: resize has no such argument"),
    ],
)
def test_a_payload_that_does_not_fit_is_undecodable_by_the_name_of_the_field(stored: Any, told: str) -> None:
    with pytest.raises(PayloadUndecodable) as caught:
        Schema.of(resize).load(stored)
    assert str(caught.value) == told


def test_a_payload_nested_too_deep_is_undecodable() -> None:
    stored: Any = {"name": "a"}
    for _ in range(100_000):
        stored = {"name": "a", "children": [stored]}

    def handler(tree: Tree) -> None: ...

    with pytest.raises(PayloadUndecodable, match="nested deeper"):
        Schema.of(handler).load({"tree": stored})


def test_a_payload_that_its_record_refuses_is_undecodable_whatever_it_raises() -> None:
    def handler(picky: Picky) -> None: ...

    with pytest.raises(PayloadUndecodable, match="LookupError: two is odd"):
        Schema.of(handler).load({"picky": {"x": 2}})


def test_a_gap_before_a_positional_only_argument_is_undecodable() -> None:
    def handler(a: int = 1, b: int = 2, /) -> None: ...

    with pytest.raises(PayloadUndecodable, match="b: taken by position only, and a is missing"):
        Schema.of(handler).load({"b": 3})


# --- results -------------------------------------------------------------------------------------------------------


def test_a_result_of_another_type_is_refused() -> None:
    with pytest.raises(PayloadInvalid, match=r"^result: expected Size, got str$"):
        Schema.of(resize).dump_result("big")


def test_a_bad_field_of_a_result_is_refused_by_its_path() -> None:
    with pytest.raises(PayloadInvalid, match=r"^result\.width: expected int, got str$"):
        Schema.of(resize).dump_result(Size("big"))  # type: ignore[arg-type]


def test_a_result_that_cannot_be_stored_is_refused_by_its_path() -> None:
    def handler(): ...  # type: ignore[no-untyped-def]

    with pytest.raises(PayloadInvalid, match=r"^result\[0\]: a value of type object"):
        Schema.of(handler).dump_result([object()])


def test_a_stored_result_of_another_shape_is_undecodable() -> None:
    with pytest.raises(PayloadUndecodable, match=r"^result\.width: expected int, got str$"):
        Schema.of(resize).load_result({"width": "x"})


@pytest.mark.parametrize("kind", [None, Any, Never])
def test_a_result_without_a_type_comes_back_as_builtins(kind: Any) -> None:
    def handler() -> Any: ...

    handler.__annotations__ = {"return": kind}
    schema = Schema.of(handler)
    assert schema.load_result(bson_trip(schema.dump_result((Size(1), None)))) == ({"width": 1, "height": 1}, None)


def test_the_result_of_a_function_that_returns_an_awaitable_is_what_it_yields() -> None:
    def handler() -> Awaitable[Size]: ...  # type: ignore[empty-body]

    assert Schema.of(handler).load_result({"width": 1}) == Size(1)
