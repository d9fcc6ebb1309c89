"""Out of the group: an error that came alone is raised as itself.

A nursery wraps what its body raises. Someone who writes `async with app: raise ValueError` expects a ValueError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from streamq.errors import StreamQError


@contextmanager
def sole_error() -> Iterator[None]:
    """Raise the only error of a group as itself; of many that are all streamq's own, the first."""
    try:
        yield
    except BaseExceptionGroup as group:
        errors = list(_leaves(group))
        if len(errors) > 1 and not all(isinstance(one, StreamQError) for one in errors):
            raise
        raise errors[0] from errors[0].__cause__


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error
