"""`streamq pause` and `streamq resume`: stop and start the claiming of a queue, for all workers."""

from __future__ import annotations

from json import dumps
from typing import Annotated

from cyclopts import Parameter

from streamq.cli.place import HERE, Place, opened
from streamq.cli.screen import say
from streamq.core.options import require_queue

Name = Annotated[str, Parameter(help="The queue's name.")]
AsJson = Annotated[bool, Parameter(negative=(), show_default=False, help="One JSON object.")]


def pause(queue: Name, /, *, json: AsJson = False, place: Place = HERE) -> None:
    """Let no worker begin tasks of a queue until it is resumed; those that run go on."""
    _switch(queue, place, paused=True, json=json)


def resume(queue: Name, /, *, json: AsJson = False, place: Place = HERE) -> None:
    """Let workers begin tasks of a paused queue again."""
    _switch(queue, place, paused=False, json=json)


def _switch(queue: str, place: Place, *, paused: bool, json: bool) -> None:
    require_queue(queue)
    with opened(place) as app:
        app.store.pause(queue, paused)
    say(dumps({"queue": queue, "paused": paused}) if json else f"{queue} is {'paused' if paused else 'not paused'}")
