"""A handler without trio: `app.blocking.handler(send).put("ann@x")`, typed like the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, Unpack

from streamq.core.handling import Handling
from streamq.core.new_task import NewTask, PutReply
from streamq.core.options import NO_OPTIONS, HandlerOptions, Options
from streamq.drafting import HandlerDraft, chosen_for_handler, require_no_session

P = ParamSpec("P")

Store = Callable[[NewTask, Any], PutReply]
"""Puts one task, in the transaction of a session or in none."""


class BlockingHandler(Generic[P]):
    """A declared handler, with options chosen or none. Made by `app.blocking.handler`; costs nothing."""

    def __init__(self, handling: Handling, store: Store, options: Options = NO_OPTIONS, session: Any = None) -> None:
        self._handling = handling
        self._store = store
        self._options = options
        self._session = session
        self._draft: HandlerDraft | None = None

    def __repr__(self) -> str:
        return f"<BlockingHandler {self._handling.name!r} of queue {self._handling.queue!r}>"

    def put(self, *args: P.args, **kwargs: P.kwargs) -> PutReply:
        """Put a task that will call the function with these arguments; as `Blocking.put`. Raises `PayloadInvalid`
        (naming the field) or `PayloadTooLarge` before anything is sent."""
        return self._store(self._new(args, kwargs), self._session)

    def options(self, **options: Unpack[HandlerOptions]) -> BlockingHandler[P]:
        """Choose options for a put, in place of those chosen before; as `Handler.options`:

        app.blocking.handler(send).options(session=session, priority=9).put("ann@x")
        """
        chosen, session = chosen_for_handler(options)
        return BlockingHandler(self._handling, self._store, chosen, session)

    def new(self, *args: P.args, **kwargs: P.kwargs) -> NewTask:
        """Build a task with these options without putting it: for `put_many`. A session is not one of them. Raises
        `OptionInvalid`."""
        require_no_session(self._session)
        return self._new(args, kwargs)

    def _new(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NewTask:
        if self._draft is None:
            self._draft = HandlerDraft(self._handling, self._options)
        return self._draft.task(args, kwargs, None)
