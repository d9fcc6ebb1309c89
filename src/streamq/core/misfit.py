"""A value that does not fit, and the path to it. Raised within the codec and the schema, never seen by a caller.

The path is collected on the way out, so that a payload without a fault pays nothing for it. It is shown to people
only: no field path for the server is ever built from it.
"""

from __future__ import annotations

from types import EllipsisType
from typing import Final

_SHOWN_STEPS: Final = 12
_SHOWN_STEP_LENGTH: Final = 40


class Misfit(Exception):
    """A value does not fit; each container it is in adds its own step of the path on the way out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str | int | EllipsisType] = []  # innermost first; `...` stands for some key
        self.inside: list[int] = []  # id() of each container passed

    def within(self, container: object, step: object) -> None:
        """Note that the misfit lies in `container`, under this key or index."""
        self.inside.append(id(container))
        self.steps.append(step if isinstance(step, (str, int, EllipsisType)) else repr(step))

    def path(self, where: str) -> str:
        """Return the path from a root named `where`, or from its first key if that is empty: `items[3].name`."""
        steps = self.steps[::-1]
        rest = "…" if len(steps) > _SHOWN_STEPS else ""
        return (where + "".join(map(_shown_step, steps[:_SHOWN_STEPS])) + rest).removeprefix(".")

    def is_cycle(self) -> bool:
        """Tell whether one container lies in itself: all of them were alive at once, so an id stands for one."""
        return len(set(self.inside)) < len(self.inside)


def _shown_step(step: str | int | EllipsisType) -> str:
    if isinstance(step, str) and step.isidentifier():
        return f".{step}"
    text = "…" if step is ... else repr(step)
    return f"[{text}]" if len(text) <= _SHOWN_STEP_LENGTH else f"[{text[:_SHOWN_STEP_LENGTH]}…]"
