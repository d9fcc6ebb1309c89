"""`streamq init`: make the collections and indexes; or print the role that a kind of program needs."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from cyclopts import Parameter

from streamq.cli.place import HERE, Place, opened, placed
from streamq.cli.screen import say
from streamq.core.features import FEATURES, Feature, named
from streamq.core.notice import WakeBy
from streamq.core.roles import Role, RoleKind
from streamq.desk import served

FeatureName = Feature | Literal["all"]


def init(
    *,
    print_role: Annotated[
        RoleKind | None,
        Parameter(help="Print the least-privilege role of such a program, for mongosh, and do nothing else."),
    ] = None,
    json: Annotated[
        bool, Parameter(negative=(), show_default=False, help="The role as a createRole command, in JSON.")
    ] = False,
    dead_letters: Annotated[str | None, Parameter(help="The collection where failed tasks are moved to.")] = None,
    wake_channel: Annotated[
        bool, Parameter(negative=(), show_default=False, help='With what wake="tailable" needs.')
    ] = False,
    feature: Annotated[
        list[FeatureName] | None,
        Parameter(
            negative=(),
            help="Also the indexes for tasks that take part in it, before the first is put; repeatable.",
        ),
    ] = None,
    place: Place = HERE,
) -> None:
    """Make the collections and indexes, by a user who may: then workers need not be allowed to.

    Of the indexes that only some tasks need (features), those are made that are in use already, and those named here.
    With --print-role no server is asked.
    """
    wake: WakeBy | None = "tailable" if wake_channel else None
    wanted = set(feature or ())
    features = FEATURES if "all" in wanted else named(wanted)
    if print_role is not None:
        with placed(place, dead_letters, wake) as app:
            _print(app.role(print_role), as_json=json)
        return
    with opened(place, dead_letters, wake) as app:
        store = served(app.store)
        store.prepare(strictly=True)
        store.use(features)
    say("the collections and indexes are there")


def _print(role: Role, *, as_json: bool) -> None:
    say(json.dumps(role.command()) if as_json else role.mongosh())
