"""`streamq cancel`: tasks that have not ended are not to be done any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from bson import ObjectId
from cyclopts import Parameter

from streamq.cli.place import HERE, Place, opened
from streamq.cli.screen import answer, say
from streamq.cli.sought import ANY, Which, chosen
from streamq.core.cancelled import CancelReport
from streamq.core.moves.cancel import CancelReply
from streamq.errors import TaskError


def cancel(
    *ids: Annotated[str, Parameter(name="ID", help="Their ids; or say by options which tasks.")],
    all: Annotated[bool, Parameter(negative=(), show_default=False, help="Every task that has not ended.")] = False,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="One JSON object.")] = False,
    which: Which = ANY,
    place: Place = HERE,
) -> None:
    """Cancel tasks that have not ended; print how many are cancelled, and how many run and were asked to stop."""
    known = chosen(ids, which, all=all)
    sought = which.sought()
    with opened(place) as app:
        replies = app.blocking.cancel(known) if known else {}
        report = CancelReport().with_replies(replies.values()) if known else app.blocking.desk.cancel_found(**sought)
    if json:
        answer(report, tasks={str(id): reply for id, reply in replies.items()})
    else:
        say(f"cancelled {report.cancelled}" + (f", asked {report.asked} that run" if report.asked else ""))
    _complain(replies)


def _complain(replies: Mapping[ObjectId, CancelReply]) -> None:
    lines = [f"{id} {reply}" for id, reply in replies.items() if reply in ("ended", "gone")]
    if lines:
        raise TaskError("\n".join(["not cancelled:", *lines]))
