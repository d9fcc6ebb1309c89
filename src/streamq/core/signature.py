"""Reads what a handler declares: its parameters, their types and its result. Refuses what could not be loaded again.

Everything here happens once, when a handler is declared. Every refusal is a `UsageError` that names the parameter.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec
from bson import ObjectId

from streamq.errors import UsageError

PASSED_TYPES: Final = (ObjectId, object)
"""Custom types to msgspec, which it passes through after an isinstance check: stored natively, they load so."""

_INSTEAD: Final = {
    "Callable": "the name of the function, as str",
    "Decimal128": "decimal.Decimal",
    "Int64": "int",
    "Iterable": "list",
    "Iterator": "list",
    "Path": "str",
    "PurePath": "str",
    "complex": "tuple[float, float]",
    "ndarray": "list",
}
_AWAITABLES: Final = (collections.abc.Awaitable, collections.abc.Coroutine)


class Parameter(msgspec.Struct, frozen=True):
    name: str
    annotation: Any
    is_required: bool
    takes_position: bool
    takes_keyword: bool


class Signature(msgspec.Struct, frozen=True):
    """What a handler declares. `result` is `Any` when nothing, or only None, is declared."""

    name: str
    parameters: tuple[Parameter, ...]
    result: Any


def signature_of(function: Callable[..., Any]) -> Signature:
    """Read a function, a bound method, a partial or a callable object.

    Raises `UsageError` for a class, `*args`, `**kwargs`, and an annotation that cannot be resolved or loaded.
    """
    name = _name_of(function)
    if inspect.isclass(function) or not callable(function):
        raise UsageError(f"{name}: a handler is a function, this is {_kind_of(function)}")
    try:
        found = inspect.signature(function)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{name}: its signature cannot be read ({error}): wrap it in a def") from error
    hints = _hints_of(function, name)
    parameters = tuple(_parameter(name, one, hints) for one in found.parameters.values())
    return Signature(name, parameters, _result_type(name, hints))


def shown(annotation: Any) -> str:
    """Return a type as a person would write it: `int | None`, `list[Size]`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return "None" if annotation is type(None) else annotation.__name__
    if typing.get_origin(annotation) is typing.Annotated:
        return shown(typing.get_args(annotation)[0])
    return re.sub(r"(?:\w+\.|<locals>\.)+(?=\w)", "", str(annotation)).replace("NoneType", "None")


# --- parts ---------------------------------------------------------------------------------------------------------


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name: str = getattr(function, "__name__", type(function).__name__)
    return name


def _kind_of(thing: object) -> str:
    return "a class" if inspect.isclass(thing) else f"a {type(thing).__name__}"


def _parameter(function: str, found: inspect.Parameter, hints: dict[str, Any]) -> Parameter:
    if found.kind in (found.VAR_POSITIONAL, found.VAR_KEYWORD):
        raise UsageError(f"{function}: {found} cannot be checked when a task is put: name each parameter")
    annotation = hints.get(found.name, Any)
    _require_loadable(annotation, f"{function}: parameter {found.name}")
    return Parameter(
        name=found.name,
        annotation=annotation,
        is_required=found.default is found.empty,
        takes_position=found.kind in (found.POSITIONAL_ONLY, found.POSITIONAL_OR_KEYWORD),
        takes_keyword=found.kind is not found.POSITIONAL_ONLY,
    )


def _result_type(function: str, hints: dict[str, Any]) -> Any:
    result = hints.get("return", Any)
    if typing.get_origin(result) in _AWAITABLES:  # a plain def that returns what an async def would
        result = typing.get_args(result)[-1]
    if result in (None, type(None), typing.Never, typing.NoReturn):
        return Any
    _require_loadable(result, f"{function}: the result")
    return result


def _hints_of(function: Any, name: str) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    if not (inspect.isroutine(function) or hasattr(function, "__annotations__")):
        function = type(function).__call__
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError):
        raise _unresolved(function, name) from None


def _unresolved(function: Any, name: str) -> UsageError:
    """Find which annotation it was that did not resolve: `get_type_hints` does not say."""
    home = getattr(inspect.unwrap(function), "__globals__", {})
    for parameter, annotation in function.__annotations__.items():
        try:
            typing.get_type_hints(types.SimpleNamespace(__annotations__={parameter: annotation}), home)
        except (NameError, AttributeError, TypeError, SyntaxError) as error:
            what = "the result" if parameter == "return" else f"parameter {parameter}"
            return UsageError(
                f"{name}: {what}: the annotation {annotation!r} cannot be resolved ({error}): import or define it "
                f"at module level, not under TYPE_CHECKING or inside a function"
            )
    return UsageError(f"{name}: its annotations cannot be resolved")


def _require_loadable(annotation: Any, what: str) -> None:
    try:
        foreign = _foreign(msgspec.inspect.type_info(annotation), set())
    except (TypeError, NameError, AttributeError, NotImplementedError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{what}: {shown(annotation)} cannot be loaded from a stored payload: {reason}") from error
    if foreign is not None:
        instead = _INSTEAD.get(
            foreign.__name__, "builtins, a dataclass or a msgspec.Struct, or the id of what it names"
        )
        raise UsageError(f"{what}: a {foreign.__name__} cannot be loaded from a stored payload: use {instead}")


def _foreign(info: Any, seen: set[int]) -> type | None:
    """Return the first class in a described type that only the application would know how to load."""
    if id(info) in seen:
        return None
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.CustomType):
        return None if info.cls in PASSED_TYPES else info.cls
    if isinstance(info, (msgspec.inspect.RawType, msgspec.inspect.ExtType)):
        return msgspec.Raw if isinstance(info, msgspec.inspect.RawType) else msgspec.msgpack.Ext
    found = (_foreign(part, seen) for part in _parts(info))
    return next((one for one in found if one is not None), None)


def _parts(info: Any) -> list[Any]:
    parts: list[Any] = []
    for name in info.__struct_fields__:
        value = getattr(info, name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, msgspec.inspect.Field):
                parts.append(one.type)
            elif isinstance(one, msgspec.inspect.Type):
                parts.append(one)
    return parts
