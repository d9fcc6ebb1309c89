"""How the tasks of one handler are put and run: everything that was declared, as one value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from streamq.core.claim import Claim
from streamq.core.document import TaskDocument
from streamq.core.recurrence import Recurrence
from streamq.core.retry import Retry
from streamq.core.schema import Schema

PAYLOAD_LIMIT_BYTES: Final = 1024 * 1024
LARGEST_LIMIT_BYTES: Final = 15 * 1024 * 1024
"""The server's own limit is 16 MB a document; the rest is for the fields around the payload and for errors."""


class BareSettings(msgspec.Struct, frozen=True):
    """How an app treats tasks without a handler: those put with a bare payload, and those in the user's own loop. Of
    `handlers`, the app's own by name, whose task it is that the loop has, is tried again by the handler's rule."""

    retry: Retry
    lease_s: float
    priority: int = 0
    keep_s: float | None = None
    keep_failed_s: float | None = None
    expires_in_s: float | None = None
    total_timeout_s: float | None = None
    limit_bytes: int = PAYLOAD_LIMIT_BYTES
    handlers: Mapping[str, Handling] = {}

    def retry_of(self, claim: Claim) -> Retry:
        """Return the rule by which a claimed task is tried again."""
        handling = self.handlers.get(claim.task) if claim.task is not None else None
        return handling.retry if handling is not None and handling.queue == claim.queue else self.retry


class Handling(msgspec.Struct, frozen=True):
    """One declared handler. What is None is left to the default; `lease_s` None: that of the queue."""

    name: str
    queue: str
    function: Callable[..., Any]
    schema: Schema
    is_async: bool
    retry: Retry
    timeout_s: float | None = None
    priority: int = 0
    keep_s: float | None = None
    keep_failed_s: float | None = None
    lease_s: float | None = None
    expires_in_s: float | None = None
    total_timeout_s: float | None = None
    limit_bytes: int = PAYLOAD_LIMIT_BYTES
    recurrence: Recurrence | None = None
    place: object = None  # where the tasks of its app are: see `NewTask`

    def result_of(self, document: TaskDocument) -> Any:
        """Read the result of a task, as the function's annotation says. Raises `PayloadUndecodable`."""
        return self.schema.load_result(document.get("result"))


def leases_of(handlings: Iterable[Handling], lease_s: float) -> Mapping[str, float]:
    """Return the leases of those that have one of their own, by name: other than `lease_s`, which all else has."""
    return {one.name: one.lease_s for one in handlings if one.lease_s is not None and one.lease_s != lease_s}
