"""What became of the tasks of a put, kept small: 13 bytes a task, so that the answer to a put of very many is small
too. Each reply is made when it is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, get_args, overload

from bson import ObjectId

from streamq.core.new_task import PutOutcome, PutReply

ID_BYTES: Final = 12
OUTCOMES: Final[tuple[PutOutcome, ...]] = get_args(PutOutcome)
CODES: Final = {outcome: code for code, outcome in enumerate(OUTCOMES)}


class Replies(Sequence[PutReply]):
    """A sequence of replies, in the order of the put. Equal to any other sequence of the same replies."""

    __slots__ = ("_ids", "_outcomes")
    __hash__ = None  # type: ignore[assignment] # it grows, like a list

    def __init__(self, replies: Iterable[PutReply] = ()) -> None:
        self._ids = bytearray()
        self._outcomes = bytearray()
        self.extend(replies)

    def extend(self, replies: Iterable[PutReply]) -> None:
        """Add the replies of a further chunk."""
        chunk = list(replies)
        self._ids += b"".join([one.id.binary for one in chunk])
        self._outcomes += bytes([CODES[one.outcome] for one in chunk])

    def __len__(self) -> int:
        return len(self._outcomes)

    @overload
    def __getitem__(self, place: int) -> PutReply: ...

    @overload
    def __getitem__(self, place: slice) -> list[PutReply]: ...

    def __getitem__(self, place: int | slice) -> PutReply | list[PutReply]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        outcome = OUTCOMES[self._outcomes[place]]  # raises IndexError
        begin = place % len(self) * ID_BYTES
        return PutReply(ObjectId(bytes(self._ids[begin : begin + ID_BYTES])), outcome)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"<Replies of {len(self):,} tasks>"
