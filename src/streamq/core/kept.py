"""Finds what a value would lose on its way through its annotation, before it is stored.

msgspec loads what the annotation asks for and drops the rest without a word: the fields that a subclass adds to the
annotated class, the keys that a dict has beyond a TypedDict. Here a given value is compared with what it loads as.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import functools
import uuid
from typing import Any, Final

import msgspec
from bson import ObjectId

from streamq.core.misfit import Misfit

WHOLE: Final = frozenset(
    {type(None), bool, int, float, str, bytes, bytearray, memoryview, ObjectId, uuid.UUID, decimal.Decimal}
    | {datetime.datetime, datetime.date, datetime.time, datetime.timedelta}
)
"""What has no parts, and so nothing to lose: most of what is ever put."""


_SCALARS: Final = (
    msgspec.inspect.AnyType,
    msgspec.inspect.BoolType,
    msgspec.inspect.BytesType,
    msgspec.inspect.FloatType,
    msgspec.inspect.IntType,
    msgspec.inspect.NoneType,
    msgspec.inspect.StrType,
)
_SEQUENCES: Final = (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)


def keeps_all(annotation: Any) -> bool:
    """Say whether nothing can be lost on the way through an annotation, whatever is given: it names no record, and no
    keys but text (two large integers may load as one float). Then there is nothing to compare."""
    return _keeps_all(msgspec.inspect.type_info(annotation))


def _keeps_all(info: msgspec.inspect.Type) -> bool:
    if isinstance(info, _SEQUENCES):
        return _keeps_all(info.item_type)
    if isinstance(info, msgspec.inspect.DictType):
        return isinstance(info.key_type, msgspec.inspect.StrType) and _keeps_all(info.value_type)
    if isinstance(info, msgspec.inspect.UnionType):
        return all(_keeps_all(one) for one in info.types)
    return isinstance(info, _SCALARS)


def require_kept(given: Any, loaded: Any) -> None:
    """Raise `Misfit` where `loaded` has lost a field or the class of `given`.

    Where the annotation is `Any` a Struct loads as a dict of its fields: nothing is lost, so nothing is said.
    """
    if type(given) in WHOLE:
        return
    kind: Any = type(loaded)
    names = _field_names(kind)
    if names is None:
        _compare_builtins(given, loaded)
    elif isinstance(given, dict):
        _require_no_more(given, names)
        for name, attribute in names.items():
            if attribute is not None and name in given:
                _compare(given, name, given[name], getattr(loaded, attribute, None))
    elif type(given) is not kind and _is_record(type(given)):
        raise Misfit(
            f"a {type(given).__name__} would be loaded as a {kind.__name__}: "
            f"annotate it with {type(given).__name__}, or with a union of tagged Structs"
        )
    else:
        for name, attribute in names.items():
            if attribute is not None:
                _compare(given, name, getattr(given, attribute, None), getattr(loaded, attribute, None))


def _compare_builtins(given: Any, loaded: Any) -> None:
    if isinstance(given, dict) and isinstance(loaded, dict):
        if len(loaded) < len(given):
            _require_no_more(given, loaded)
        for key in given.keys() & loaded.keys():
            _compare(given, key, given[key], loaded[key])
    elif isinstance(given, (list, tuple)) and isinstance(loaded, (list, tuple)):
        for index, (one, other) in enumerate(zip(given, loaded, strict=False)):
            _compare(given, index, one, other)


def _compare(container: Any, step: Any, given: Any, loaded: Any) -> None:
    try:
        require_kept(given, loaded)
    except Misfit as misfit:
        misfit.within(container, step)
        raise


def _require_no_more(given: dict[Any, Any], names: Any) -> None:
    unknown = next((key for key in given if key not in names), None)
    if unknown is not None:
        raise Misfit(f"unknown field {unknown!r}")


def _is_record(kind: Any) -> bool:
    return _field_names(kind) is not None


@functools.lru_cache(maxsize=1024)
def _field_names(kind: Any) -> dict[str, str | None] | None:
    """Return stored name → attribute of a record type (the tag of a Struct has no attribute), or None of another."""
    if issubclass(kind, msgspec.Struct):
        tag = kind.__struct_config__.tag_field
        names: dict[str, str | None] = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
        return names | {tag: None} if tag is not None else names
    if dataclasses.is_dataclass(kind):
        return {one.name: one.name for one in dataclasses.fields(kind)}
    if hasattr(kind, "__attrs_attrs__"):
        return {one.name: one.name for one in kind.__attrs_attrs__}
    return None
