"""A store behind a codec: what tasks carry is encoded on its way there and decoded on its way back.

    payload, result        {"~coded": codec.encode(BSON of the value)}
    errors                 message: "~coded:" + base64 of codec.encode(BSON of message and traceback); no traceback
    progress               note: "~coded:" + base64 of codec.encode(BSON of the note)

All else is as it was, and so is what was stored without the codec: both are told by their form, which no user's value
can have (`core.codec`). It runs where the store does, in threads. An app without a codec has none of this.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, cast

import bson
import msgspec
from bson import ObjectId

from streamq.core.claim import Ask, Claim
from streamq.core.coding import TAG, TEXT, Codec, CodecContext, CodedField
from streamq.core.document import TaskDocument
from streamq.core.new_task import NewTask, PutReply
from streamq.core.outcome import Raised
from streamq.core.report import Report, Reported
from streamq.core.schedule import Schedule
from streamq.core.search import Search
from streamq.core.settlement import Settlement, Verdict, uncoded
from streamq.errors import OptionInvalid, PayloadInvalid
from streamq.store.contract import Claimed, Firing, Purged, Store, Taking
from streamq.store.setup import CODEC

HIDDEN = "(the app's codec could not encode it)"


def behind(store: Store, codec: Codec | None) -> Store:
    """Return `store` behind `codec`; itself when there is none."""
    return store if codec is None else cast("Store", CodedStore(store, codec))


def uncovered(store: Store) -> Store:
    """Return the store itself, whether or not it is behind a codec."""
    inner: object = store
    return inner.inner if isinstance(inner, CodedStore) else store


class CodecFailed(Exception):
    """The user's codec raised, or returned no bytes. Never leaves this file."""


class CodedStore:
    """Keeps `contract.Store`: what is not named here the store itself does."""

    def __init__(self, inner: Store, codec: Codec) -> None:
        self.inner = inner
        self._codec = codec

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    # --- on the way there ---------------------------------------------------------------------------------------

    def put(self, tasks: Sequence[NewTask], session: Any = None) -> Sequence[PutReply]:
        """See `Store.put`. Raises `PayloadInvalid`, and nothing is stored, when the codec fails."""
        return self.inner.put([self._sealed(one) for one in tasks], session)

    def fire(self, schedules: Sequence[Schedule], by: str) -> Firing:
        """See `Store.fire`."""
        sealed = [msgspec.structs.replace(one, template=self._sealed(one.template)) for one in schedules]
        return self.inner.fire(sealed, by)

    def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        """See `Store.settle`. A result that the codec cannot encode fails its task."""
        return self.inner.settle([self._settled(one) for one in settlements])

    def commit(self, session: Any, settlement: Settlement) -> Verdict:
        """See `Store.commit`. Raises `PayloadInvalid`, and all is aborted, when the codec fails."""
        try:
            sealed = self._with_texts(self._with_result(settlement))
        except CodecFailed as failed:
            error = PayloadInvalid("result", str(failed))
            self.inner.abort(session, error)
            raise error from failed.__cause__
        return self.inner.commit(session, sealed)

    def report(self, reports: Sequence[Reported]) -> list[ObjectId]:
        """See `Store.report`."""
        return self.inner.report(
            [msgspec.structs.replace(one, report=self._noted(one.report, one.claim.queue)) for one in reports]
        )

    def _sealed(self, new: NewTask) -> NewTask:
        try:
            payload = self._value(new.payload, CodecContext("payload", new.queue))
        except CodecFailed as failed:
            raise PayloadInvalid("payload", str(failed)) from failed.__cause__
        return msgspec.structs.replace(new, payload=payload, size_bytes=len(payload[TAG]))

    def _settled(self, settlement: Settlement) -> Settlement:
        try:
            sealed = self._with_result(settlement)
        except CodecFailed as failed:
            sealed = uncoded(settlement, str(failed))
        return self._with_texts(sealed)

    def _with_result(self, settlement: Settlement) -> Settlement:
        if settlement.result is None:
            return settlement
        result = self._value(settlement.result, CodecContext("result", settlement.queue))
        return msgspec.structs.replace(settlement, result=result)

    def _with_texts(self, settlement: Settlement) -> Settlement:
        error, progress = settlement.error, settlement.progress
        if error is None and progress is None:
            return settlement
        return msgspec.structs.replace(
            settlement,
            error=None if error is None else self._told(error, settlement.queue),
            progress=None if progress is None else self._noted(progress, settlement.queue),
        )

    def _told(self, error: Raised, queue: str) -> Raised:
        texts = {"message": error.message, "traceback": error.traceback}
        return msgspec.structs.replace(error, message=self._text(texts, CodecContext("error", queue)), traceback="")

    def _noted(self, report: Report, queue: str) -> Report:
        if not report.note:
            return report
        note = self._text({"note": report.note}, CodecContext("progress", queue))
        return msgspec.structs.replace(report, note=note)

    def _value(self, stored: Any, context: CodecContext) -> dict[str, bytes]:
        return {TAG: self._encoded({"": stored}, context)}

    def _text(self, texts: Mapping[str, str], context: CodecContext) -> str:
        try:
            return TEXT + base64.b64encode(self._encoded(texts, context)).decode("ascii")
        except CodecFailed:
            return HIDDEN

    def _encoded(self, document: Mapping[str, Any], context: CodecContext) -> bytes:
        return _bytes_of(self._codec.encode, bson.encode(document), context)

    # --- on the way back ----------------------------------------------------------------------------------------

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        """See `Store.claim`. A payload that the codec cannot decode stays as it is stored: running it fails."""
        return self._all_claims(self.inner.claim(ask, taking))

    def claim_due(self, ask: Ask, found: Sequence[TaskDocument]) -> Claimed:
        """See `Store.claim_due`, and `claim`; `found` is as it is stored."""
        return self._all_claims(self.inner.claim_due(ask, found))

    def get(self, id: ObjectId) -> TaskDocument | None:
        """See `Store.get`."""
        return self._opened(self.inner.get(id))

    def wait_for(self, id: ObjectId, member_id: str) -> TaskDocument | None:
        """See `Store.wait_for`."""
        return self._opened(self.inner.wait_for(id, member_id))

    def find(self, search: Search, *, limit: int, after: ObjectId | None = None) -> list[TaskDocument]:
        """See `Store.find`."""
        return self._all(self.inner.find(_by_no_payload(search), limit=limit, after=after))

    def page(self, search: Search, after: ObjectId | None = None) -> list[TaskDocument]:
        """See `Store.page`."""
        return self._all(self.inner.page(_by_no_payload(search), after))

    def ids(self, search: Search, *, limit: int, after: ObjectId | None = None) -> list[ObjectId]:
        """See `Store.ids`."""
        return self.inner.ids(_by_no_payload(search), limit=limit, after=after)

    def purge(self, search: Search, older_than_s: float, after: ObjectId | None = None) -> Purged:
        """See `Store.purge`."""
        return self.inner.purge(_by_no_payload(search), older_than_s, after)

    def peek(self, queue: str, *, limit: int, tail: bool = False) -> list[TaskDocument]:
        """See `Store.peek`."""
        return self._all(self.inner.peek(queue, limit=limit, tail=tail))

    def dead_letters(self) -> Store:
        """See `Store.dead_letters`."""
        return behind(self.inner.dead_letters(), self._codec)

    def _all_claims(self, claimed: Claimed) -> Claimed:
        if not claimed.claims:
            return claimed
        return msgspec.structs.replace(claimed, claims=tuple(map(self._claim, claimed.claims)))

    def _claim(self, claim: Claim) -> Claim:
        return msgspec.structs.replace(claim, payload=self._value_of(claim.payload, "payload", claim.queue))

    def _all(self, documents: list[TaskDocument]) -> list[TaskDocument]:
        return [document for one in documents if (document := self._opened(one)) is not None]

    def _opened(self, document: TaskDocument | None) -> TaskDocument | None:
        if document is None:
            return None
        opened: dict[str, Any] = dict(document)
        queue = opened.get("queue")
        if not isinstance(queue, str):
            return document
        for field in ("payload", "result"):
            if field in opened:
                opened[field] = self._value_of(opened[field], field, queue)
        if isinstance(opened.get("errors"), list):
            opened["errors"] = [self._texts_of(one, "message", "error", queue) for one in opened["errors"]]
        if "progress" in opened:
            opened["progress"] = self._texts_of(opened["progress"], "note", "progress", queue)
        return cast("TaskDocument", opened)

    def _value_of(self, stored: Any, field: str, queue: str) -> Any:
        if not isinstance(stored, dict) or len(stored) != 1 or not isinstance(stored.get(TAG), bytes):
            return stored
        try:
            return self._decoded(stored[TAG], CodecContext(cast("CodedField", field), queue))[""]
        except (CodecFailed, KeyError):
            return stored

    def _texts_of(self, stored: Any, name: str, field: CodedField, queue: str) -> Any:
        text = stored.get(name) if isinstance(stored, dict) else None
        if not isinstance(text, str) or not text.startswith(TEXT):
            return stored
        try:
            data = base64.b64decode(text.removeprefix(TEXT), validate=True)
            texts = self._decoded(data, CodecContext(field, queue))
        except (CodecFailed, binascii.Error):
            return stored
        return {**stored, **texts}

    def _decoded(self, data: bytes, context: CodecContext) -> dict[str, Any]:
        document = _bytes_of(self._codec.decode, data, context)
        try:
            return bson.decode(document, CODEC)
        except bson.errors.BSONError as error:
            raise CodecFailed("what the codec decoded is not what was encoded") from error


def _bytes_of(turn: Any, data: bytes, context: CodecContext) -> bytes:
    try:
        turned = turn(data, context)
    except Exception as error:
        raise CodecFailed(f"the app's codec raised {type(error).__name__}") from error
    if not isinstance(turned, bytes):
        raise CodecFailed(f"the app's codec returned {type(turned).__name__}, not bytes")
    return turned


def _by_no_payload(search: Search) -> Search:
    if search.payload:
        path = ".".join(search.payload[0][0])
        raise OptionInvalid("payload", path, "no search by payload: the app's codec hides it from the server")
    return search
