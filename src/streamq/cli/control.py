"""`streamq pause` and `streamq resume`: stop and start the claiming of a queue, for all workers."""

from __future__ import annotations

from streamq.cli.place import HERE, Place, opened
from streamq.cli.screen import say
from streamq.core.options import require_queue


def pause(queue: str, /, *, place: Place = HERE) -> None:
    """Let no worker begin tasks of a queue until it is resumed; those that run go on."""
    _switch(queue, place, paused=True)
    say(f"{queue} is paused")


def resume(queue: str, /, *, place: Place = HERE) -> None:
    """Let workers begin tasks of a paused queue again."""
    _switch(queue, place, paused=False)
    say(f"{queue} is not paused")


def _switch(queue: str, place: Place, *, paused: bool) -> None:
    require_queue(queue)
    with opened(place) as app:
        app.store.pause(queue, paused)
