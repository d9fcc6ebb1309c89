"""Where a handler runs: the worker around it, for what a handler may do with its own task.

Set once per slot, not once per task: what runs is in `runtime.current`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import msgspec

from streamq.core.handling import Handling
from streamq.core.outcome import Done
from streamq.errors import UsageError
from streamq.runtime.current import RUNNING
from streamq.runtime.runner import encoded
from streamq.runtime.services import Services
from streamq.runtime.transaction import Transaction
from streamq.runtime.transaction import run_in_transaction as run_again

T = TypeVar("T")


class Place(msgspec.Struct, frozen=True):
    """The services and handlers of a worker."""

    services: Services
    handlers: Mapping[str, Handling]


PLACE: ContextVar[Place] = ContextVar("streamq_place")


def transaction() -> Transaction:
    """Make a transaction in which the task of the handler that runs here succeeds:

        @app.task
        async def pay(order: ObjectId) -> None:
            async with streamq.transaction() as session:
                await trio.to_thread.run_sync(lambda: orders.update_one(..., session=session))

    What is written with `session` and the task's success are committed together, or neither. Leaving the block commits;
    an exception aborts both, and ends the attempt as it would have without the block. A handler that runs in a thread
    writes `with`. Set `result` of what this returns to store a result: what the handler returns afterwards is not kept.

    Raises `UsageError` outside of a handler, `LeaseLost` when the task was taken over (nothing is stored),
    `TransactionAborted` for a reason that passes (nothing is stored; the task is put back, uncounted), `OutcomeUnknown`
    when the server does not say whether it was committed. Trips: 1 to begin, 2 to commit.
    """
    try:
        place, held = PLACE.get(), RUNNING.get()
    except LookupError:
        raise UsageError(
            "transaction() was called outside of a handler; of a claimed task: task.transaction()"
        ) from None
    handling = place.handlers[held.claim.task or ""]

    def done(result: Any) -> Done:
        return encoded(result, handling) if result is not None else Done()

    return Transaction(held, place.services, done)


async def run_in_transaction(function: Callable[[Any], T]) -> T:
    """Run `function(session)` in a thread, in the transaction of the handler that runs here, and commit.

    Again as long as the transaction is given up for a reason that passes, up to two minutes. What it returns is stored
    as the task's result, and returned. Errors as of `transaction`.
    """
    return await run_again(transaction, function)
