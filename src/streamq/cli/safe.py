"""Text of others, made safe to print: nothing in it may steer the terminal."""

from __future__ import annotations

import unicodedata
from typing import Final

STEERING: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that a terminal may act on: controls, directions of writing, surrogates, line separators."""


def plain(text: str, most: int | None = None) -> str:
    """Show what would steer the terminal by its escape (`\\x1b`), on one line; cut to `most` characters."""
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(one) if unicodedata.category(one) in STEERING else one for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
