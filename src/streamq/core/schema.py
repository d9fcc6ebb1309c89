"""A handler's signature is the schema of its payload: what `put` takes, and what the handler is called with.

Both directions take the same road. `bind` writes the arguments as they will be stored and then loads them exactly as a
worker will, so that what is stored is known to load; `load` reads a stored payload and checks it again, because anybody
with access to the collection may have put it there. A default is applied by the function itself when it runs: an
argument that was not given is not stored.

msgspec does the checking, strictly: no text becomes a number or a date. A dict does become a Struct or a dataclass, and
a value an Enum, since that is how they are stored. Loading runs the application's own `__post_init__` and the like, and
nothing else.
"""

from __future__ import annotations

import datetime
import decimal
import difflib
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from streamq.core.codec import from_stored, loaded, to_stored
from streamq.core.kept import WHOLE, keeps_all, require_kept
from streamq.core.misfit import Misfit
from streamq.core.options import HandlerOptions
from streamq.core.plain import NONE, plain_kinds, scalars_bytes
from streamq.core.signature import Signature, shown, signature_of
from streamq.errors import PayloadInvalid, PayloadUndecodable

# Types that are stored as themselves: msgspec must not accept text in their place.
_NATIVE: Final = (
    bytes,
    bytearray,
    memoryview,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    uuid.UUID,
    decimal.Decimal,
)


class Schema:
    """What one handler takes and returns. Immutable; one per handler, made when it is declared."""

    __slots__ = (
        "_by_name",
        "_keeping",
        "_kinds",
        "_model",
        "_names",
        "_positional",
        "_positional_only",
        "_required",
        "_result",
        "name",
    )

    def __init__(self, signature: Signature) -> None:
        parameters = signature.parameters
        self.name = signature.name
        self._by_name: Final = {one.name: one for one in parameters}
        self._names: Final = tuple(self._by_name)
        self._positional: Final = tuple(one.name for one in parameters if one.takes_position)
        self._positional_only: Final = tuple(one.name for one in parameters if not one.takes_keyword)
        self._required: Final = frozenset(one.name for one in parameters if one.is_required)
        self._keeping: Final = frozenset(one.name for one in parameters if keeps_all(one.annotation))
        self._kinds: Final = {one.name: plain_kinds(one.annotation) for one in parameters}
        self._model: Final = _model_of(signature)
        self._result: Final = signature.result

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Schema:
        """Read the schema off a function, a bound method, a partial or a callable object.

        An unannotated parameter takes anything that can be stored. Raises `UsageError` naming the parameter for
        `*args`, `**kwargs` and types that could not be loaded again: mend the declaration.
        """
        return cls(signature_of(function))

    def __repr__(self) -> str:
        return f"<Schema of {self.name}({', '.join(self._names)})>"

    @property
    def required(self) -> tuple[str, ...]:
        """The parameters without a default, in order."""
        return tuple(name for name in self._names if name in self._required)

    def bind_plain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], int] | None:
        """Return what `bind` does, and its size in bytes, for arguments that are plain scalars of the types that the
        signature names; None for any other, and for a call that `bind` may refuse."""
        given = dict(zip(self._positional, args, strict=False))
        if kwargs:
            given.update(kwargs)
        if len(given) < len(args) + len(kwargs) or (kwargs and self._positional_only) or not self._fits(given):
            return None
        size_bytes = scalars_bytes(given)
        return None if size_bytes is None else (given, size_bytes)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the payload to store for a call with these arguments: one field per argument that was given.

        Raises `PayloadInvalid` naming the argument (`size.width`) for one that is missing, unknown, of a wrong type, or
        would not come back as it was given. Nothing is stored then; mend the call.
        """
        given = self._given(args, kwargs)
        stored: dict[str, Any] = to_stored(given, where="")
        try:
            self._require_kept(given, _reloaded(stored, self._model))
        except Misfit as misfit:
            field, reason = self._told(misfit, given)
            raise PayloadInvalid(field, reason) from misfit.__cause__
        return stored

    def load(self, stored: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the `(args, kwargs)` to call the function with; absent arguments are left to its defaults.

        Raises `PayloadUndecodable` naming the field, whatever is wrong with the payload. Repeating cannot help.
        """
        if self._is_plain(stored):
            return (), stored
        builtins = from_stored(stored, where="")
        if type(builtins) is not dict:
            raise PayloadUndecodable(f"payload: expected the arguments of {self.name}, got {type(builtins).__name__}")
        try:
            model = _converted(builtins, self._model)
        except Misfit as misfit:
            field, reason = self._told(misfit, builtins)
            raise PayloadUndecodable(f"{field}: {reason}" if field else reason) from misfit.__cause__
        return self._call(model, whole=len(builtins) == len(self._names))

    def _is_plain(self, stored: Any) -> bool:
        """Say whether a payload is the call's named arguments as it stands: scalars of the very types named."""
        return type(stored) is dict and not self._positional_only and self._fits(stored)

    def _fits(self, given: dict[str, Any]) -> bool:
        """Say whether all that is required is given, and each argument is a scalar of the very types named."""
        if not self._required <= given.keys():
            return False
        kinds = self._kinds
        for name, value in given.items():  # noqa: SIM110 - a generator costs as much as all the rest of it
            if type(value) not in kinds.get(name, NONE):
                return False
        return True

    @property
    def returns_none(self) -> bool:
        """Say whether None is a result that fits, and is stored as none."""
        return self._result is Any

    def dump_result(self, value: Any) -> Any:
        """Return what to store for a handler's result. Raises `PayloadInvalid` if it does not fit the annotation."""
        stored = to_stored(value, where="result")
        if self._result is not Any:
            try:
                require_kept(value, _reloaded(stored, self._result))
            except Misfit as misfit:
                raise PayloadInvalid(misfit.path("result"), self._told_of_result(misfit, value)) from misfit.__cause__
        return stored

    def load_result(self, stored: Any) -> Any:
        """Return a stored result as its annotation says, or as builtins when there is none.

        Raises `PayloadUndecodable` naming the field if it does not fit: it may be another version's result.
        """
        builtins = from_stored(stored, where="result")
        if self._result is Any:
            return builtins
        try:
            return _converted(builtins, self._result)
        except Misfit as misfit:
            reason = self._told_of_result(misfit, builtins)
            raise PayloadUndecodable(f"{misfit.path('result')}: {reason}") from misfit.__cause__

    # --- the call --------------------------------------------------------------------------------------------------

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) > len(self._positional):
            raise PayloadInvalid("", self._too_many(len(args)))
        given = dict(zip(self._positional, args, strict=False))
        for name, value in kwargs.items():
            if name in given or name not in self._by_name or name in self._positional_only:
                raise PayloadInvalid(name, self._refusal(name))
            given[name] = value
        if not self._required <= given.keys():
            name = self._first_missing(given)
            raise PayloadInvalid(name, f"missing, {self.name} expects {shown(self._by_name[name].annotation)}")
        return given

    def _refusal(self, name: str) -> str:
        if name in self._positional_only:
            return f"{self.name} takes it by position only"
        if name in self._by_name:
            return "given twice, by position and by name"
        if name in HandlerOptions.__annotations__:
            return f"{self.name} has no such argument; it is an option: options({name}=...).put(...)"
        near = difflib.get_close_matches(name, self._names, n=1)
        return f"{self.name} has no such argument" + (f", did you mean {near[0]}?" if near else "")

    def _too_many(self, given: int) -> str:
        takes = self._positional
        named = f" ({', '.join(takes)})" if takes else ""
        rest = ", ".join(name for name in self._names if name not in takes)
        by_name = f"; by name: {rest}" if rest else ""
        return (
            f"{self.name} takes {len(takes)} argument{'s'[: len(takes) != 1]} by position{named}, got {given}{by_name}"
        )

    def _first_missing(self, given: Mapping[str, Any]) -> str:
        return next(name for name in self._names if name in self._required and name not in given)

    def _call(self, model: Any, *, whole: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        pairs = zip(self._names, msgspec.structs.astuple(model), strict=True)
        kwargs = dict(pairs) if whole else {name: value for name, value in pairs if value is not msgspec.UNSET}
        if not self._positional_only:
            return (), kwargs
        args: list[Any] = []
        for name in self._positional_only:
            if name not in kwargs:
                break
            args.append(kwargs.pop(name))
        gap = next((name for name in self._positional_only if name in kwargs), None)
        if gap is not None:
            raise PayloadUndecodable(
                f"{gap}: taken by position only, and {self._positional_only[len(args)]} is missing"
            )
        return tuple(args), kwargs

    def _require_kept(self, given: dict[str, Any], model: Any) -> None:
        for name, value in given.items():
            if type(value) not in WHOLE and name not in self._keeping:
                try:
                    require_kept(value, getattr(model, _field_name(self._names.index(name))))
                except Misfit as misfit:
                    misfit.within(given, name)
                    raise

    def _told(self, misfit: Misfit, given: Mapping[Any, Any]) -> tuple[str, str]:
        """Return the field and the reason; about an argument as a whole, in the words of the signature."""
        if len(misfit.steps) == 1 and misfit.steps[0] in given and _MISMATCH.fullmatch(misfit.reason):
            name = misfit.steps[0]
            return misfit.path(""), _mismatch(self._by_name[str(name)].annotation, given[name])
        if misfit.steps:
            return misfit.path(""), misfit.reason
        for name in given:
            if name not in self._by_name:
                misfit.within(given, name)
                return misfit.path(""), self._refusal(str(name))
        if not self._required <= given.keys():
            return self._first_missing(given), f"missing, {self.name} expects it"
        return "", misfit.reason

    def _told_of_result(self, misfit: Misfit, value: Any) -> str:
        is_whole = not misfit.steps and _MISMATCH.fullmatch(misfit.reason)
        return _mismatch(self._result, value) if is_whole else misfit.reason


# --- the model -----------------------------------------------------------------------------------------------------


def _field_name(index: int) -> str:
    return f"p{index}"


def _model_of(signature: Signature) -> type[msgspec.Struct]:
    """Make the Struct of a payload. Its attributes are numbered, so that a parameter may have any name at all."""
    fields = [
        (_field_name(index), one.annotation, msgspec.field(name=one.name) if one.is_required else _optional(one.name))
        for index, one in enumerate(signature.parameters)
    ]
    return msgspec.defstruct(f"Payload of {signature.name}", fields, forbid_unknown_fields=True, kw_only=True)


def _optional(name: str) -> Any:
    return msgspec.field(name=name, default=msgspec.UNSET)


# --- msgspec's words -----------------------------------------------------------------------------------------------

_MISMATCH: Final = re.compile(r"expected .*, got .*")
_PLACE: Final = re.compile(r"(?s)(?P<reason>.*) - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`")
_STEP: Final = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]|(?P<some>\[\.\.\.\])")
_TYPE: Final = re.compile(r"`([^`]*)`")
_TYPE_WORD: Final = re.compile(r"\b(null|array|object|duration|decimal|uuid)\b")
_PYTHON_NAMES: Final = {
    "null": "None",
    "array": "list",
    "object": "dict",
    "duration": "timedelta",
    "decimal": "Decimal",
    "uuid": "UUID",
}


def _converted(value: Any, kind: Any) -> Any:
    """Return builtins as `kind`, or raise `Misfit`, whatever happens: it runs code of the application."""
    try:
        return msgspec.convert(value, kind, builtin_types=_NATIVE)
    except msgspec.ValidationError as error:
        raise _misfit_of(error) from None
    except Exception as error:
        # A `__post_init__` or an enum's `_missing_` may raise anything, and deep data a RecursionError. All of it says
        # that this payload does not load; let out, it would take the consumer down instead of the task.
        raise Misfit(f"{type(error).__name__}: {error}") from error


def _reloaded(stored: Any, kind: Any) -> Any:
    try:
        return _converted(loaded(stored), kind)
    except RecursionError:
        raise Misfit("nested deeper than the call stack has room for") from None


def _misfit_of(error: msgspec.ValidationError) -> Misfit:
    text = str(error)
    place = _PLACE.fullmatch(text)
    if place is None:
        return Misfit(_in_python_words(text))
    misfit = Misfit(("a key: " if place["key"] else "") + _in_python_words(place["reason"]))
    for step in reversed(list(_STEP.finditer(place["path"]))):
        misfit.within(error, ... if step["some"] else step["name"] or int(step["index"]))
    return misfit


def _in_python_words(reason: str) -> str:
    """`Expected `array`, got `null`` → `expected list, got None`."""
    plain = _TYPE.sub(lambda found: _TYPE_WORD.sub(lambda word: _PYTHON_NAMES[word[0]], found[1]), reason)
    return plain[:1].lower() + plain[1:]


def _mismatch(annotation: Any, given: Any) -> str:
    got = "None" if given is None else type(given).__name__
    return f"expected {shown(annotation)}, got {got}"
