"""`streamq requeue`: tasks that have ended begin again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from cyclopts import Parameter

from streamq.cli.place import HERE, Place, opened
from streamq.cli.safe import plain
from streamq.cli.screen import answer, say
from streamq.cli.sought import ANY, Which, chosen
from streamq.core.jsonable import jsonable
from streamq.core.requeued import Requeued, RequeueReport
from streamq.errors import TaskError


def requeue(
    *ids: Annotated[str, Parameter(name="ID", help="Their ids; or say by options which tasks.")],
    delay: Annotated[float, Parameter(help="Start no sooner than so many seconds from now.")] = 0.0,
    keep_attempts: Annotated[
        bool,
        Parameter(
            negative=(), show_default=False, help="Go on counting attempts; one more is allowed if none is left."
        ),
    ] = False,
    all: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Every task that has ended, the succeeded ones too.")
    ] = False,
    dead_letters: Annotated[str | None, Parameter(help="From this collection: where failed tasks are.")] = None,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="One JSON object.")] = False,
    which: Which = ANY,
    place: Place = HERE,
) -> None:
    """Let tasks that have ended begin again; print how many did, and each that did not."""
    known = chosen(ids, which, all=all)
    sought = which.sought()
    with opened(place, dead_letters) as app:
        desk = app.blocking.desk if dead_letters is None else app.blocking.dead_letters
        if known:
            items = desk.requeue(known, delay_s=delay, reset_attempts=not keep_attempts)
            report = RequeueReport().with_items(items)
        else:
            report = desk.requeue_found(delay_s=delay, reset_attempts=not keep_attempts, **sought)
    if json:
        others = [{name: jsonable(getattr(one, name)) for name in one.__struct_fields__} for one in report.others]
        answer(report, others=others)
    else:
        say(f"requeued {report.requeued}")
    _complain(report.others)


def _complain(others: Iterable[Requeued]) -> None:
    lines = [f"{one.id} {one.verdict}" + (f": {one.said}" if one.said else "") for one in others]
    if lines:
        raise TaskError("\n".join(["not requeued:", *map(plain, lines)]))
