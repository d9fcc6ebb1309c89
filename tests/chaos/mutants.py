"""Planted bugs, which the checker must find: tests of the tests. The product knows nothing of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from bson import ObjectId

from streamq.core.document import RUNNING
from streamq.core.moves import claim as claim_move
from streamq.runtime.intake import Intake
from streamq.runtime.watcher import Watcher
from streamq.store import claiming, reporting, settling
from streamq.store.succession import Succession


def fence_by_status() -> None:
    """The fence asks whether the task is running, not under whose claim."""

    def fence(queue: str, claim_id: bytes, ids: Iterable[ObjectId]) -> dict[str, Any]:
        return {"_id": {"$in": list(ids)}, "queue": queue, "status": RUNNING}

    for module in (settling, claiming, reporting):
        module.fence = fence  # type: ignore[attr-defined]


def keep_by_status() -> None:
    """The same of extensions and progress alone: the settlement of a holder that came too late is refused."""

    def fence(queue: str, claim_id: bytes, ids: Iterable[ObjectId]) -> dict[str, Any]:
        return {"_id": {"$in": list(ids)}, "queue": queue, "status": RUNNING}

    claiming.fence = reporting.fence = fence  # type: ignore[attr-defined]


def hasty_claims() -> None:
    """What may start once is claimed as anything else: begun before a majority knows of it."""
    claim_move.is_delicate = lambda document: False


def scan_before_stream() -> None:
    """A worker looks at the queue before its stream is open, and then trusts the stream alone."""
    subscribe = Watcher.subscribe

    async def subscribe_too_late(self: Watcher, intakes: Sequence[Intake]) -> None:
        await subscribe(self, intakes)
        for intake in intakes:
            intake._behind = False  # as if the look that is due now had been made before

    Watcher.subscribe = subscribe_too_late  # type: ignore[method-assign]
    Intake.scan = lambda self: None  # type: ignore[method-assign]


def no_succession() -> None:
    """Calls to a frozen primary wait for the driver's monitor of it, though another was elected."""
    Succession.dismiss = lambda self, address: None  # type: ignore[method-assign]


MUTANTS: Final[Mapping[str, Callable[[], None]]] = {
    "fence_by_status": fence_by_status,
    "keep_by_status": keep_by_status,
    "hasty_claims": hasty_claims,
    "scan_before_stream": scan_before_stream,
    "no_succession": no_succession,
}


def become(names: Iterable[str]) -> None:
    """Plant the bugs of these names in this process."""
    for name in names:
        MUTANTS[name]()
