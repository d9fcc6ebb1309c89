"""What only some tasks take part in. The indexes for it are made once the first of them is put.

Each index costs the server 2 to 3 µs at every claim and every settlement of every task, also of those that never enter
it (docs/measurements.md). A queue whose tasks have no parents, tags or limits does not pay for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

from streamq.core.new_task import NewTask
from streamq.core.options import NO_OPTIONS

Feature = Literal["expiry", "followers", "lifetime", "limits", "search"]

FEATURES: Final[frozenset[Feature]] = frozenset(get_args(Feature))

SUFFIX: Final = ".features"
"""What is behind the name of a tasks collection in that of the collection that holds a document for each feature in use
(`_id`: its name). A collection of its own: whoever may put may insert there, and could write nothing else in it."""


def named(ids: Iterable[str]) -> frozenset[Feature]:
    """Return the features of these names; those of a newer streamq are left out."""
    there = set(ids)
    return frozenset(feature for feature in FEATURES if feature in there)


def features_of(new: Iterable[NewTask]) -> frozenset[Feature]:
    """Return what tasks that are about to be put take part in.

    Not of `limits`: those are a matter of the queue, and of who claims from it.
    """
    found: set[Feature] = set()
    for one in new:
        if one.expires_in_s is not None:
            found.add("expiry")
        options = one.options
        if options is NO_OPTIONS:
            continue
        if options.expires_at is not None:
            found.add("expiry")
        if options.lifetime_s is not None:
            found.add("lifetime")
        if options.has_parents or options.group is not None:
            found.add("followers")
        if options.tag is not None or options.unique is not None:
            found.add("search")
    return frozenset(found)
