"""Out of the group: an error that came alone is raised as itself.

A nursery wraps what its body raises. Someone who writes `async with app: raise ValueError` expects a ValueError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from streamq.errors import StreamQError


@contextmanager
def sole_error(body: BaseException | None = None) -> Iterator[None]:
    """Raise the only error of a group as itself; of many that are all streamq's own, the first.

    `body` is what the user's code raised: a group of many comes out as it was, without one more group around it.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        errors = list(_leaves(group))
        if len(errors) > 1 and not all(isinstance(one, StreamQError) for one in errors):
            if body is not None and _same(group, body):
                raise body from body.__cause__
            raise
        raise errors[0] from errors[0].__cause__


def _same(group: BaseExceptionGroup[BaseException], body: BaseException) -> bool:
    # By their leaves: trio takes groups apart and builds them anew on the way.
    return [id(one) for one in _leaves(group)] == [id(one) for one in _leaves(body)]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error
