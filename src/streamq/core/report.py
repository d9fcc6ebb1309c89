"""A report: what a holder says of how far its task is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from streamq.core.claim import Claim, is_number
from streamq.errors import OptionInvalid

MOST_NOTED: Final = 1_000
"""Characters of a note: a line for people, written over and over on a document that travels whole."""


class Report(msgspec.Struct, frozen=True):
    """What is said: `value` as the holder counts (0.4, 12_000), `note` for people."""

    value: float
    note: str = ""


class Progress(msgspec.Struct, frozen=True):
    """How far a task is, as its holder last said; `at` is the server's time of it."""

    value: float
    note: str
    at: datetime


class Reported(msgspec.Struct, frozen=True):
    """A report with the claim under which it is made."""

    claim: Claim
    report: Report


def report_of(value: object, note: object) -> Report:
    """Check what a holder says. Raises `OptionInvalid`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_storable(value):
        raise OptionInvalid("value", value, "a finite number, whole ones within 64 bits")
    if not isinstance(note, str) or len(note) > MOST_NOTED or not _is_unicode(note):
        raise OptionInvalid("note", note, f"a str of at most {MOST_NOTED:,} characters, without lone surrogates")
    return Report(value, note)


def progress_of(document: Mapping[str, Any]) -> Progress | None:
    """Read what is stored; None when nothing was said, or what stands there is none (others may store anything)."""
    stored = document.get("progress")
    if not isinstance(stored, Mapping):
        return None
    value, note, at = stored.get("value"), stored.get("note"), stored.get("at")
    if not is_number(value) or not isinstance(note, str) or not isinstance(at, datetime):
        return None
    return Progress(value, note, at)  # type: ignore[arg-type]


def _is_storable(value: float) -> bool:
    return math.isfinite(value) if isinstance(value, float) else -(2**63) <= value < 2**63


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
