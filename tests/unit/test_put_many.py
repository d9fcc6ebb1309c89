"""A put of many, cut into chunks: what is drawn, what is told when it stops half way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import OperationFailure

from streamq.core.new_task import NewTask, PutReply
from streamq.core.options import Options
from streamq.core.put_many import MOST_BYTES_A_CHUNK, PutMany
from streamq.core.replies import OUTCOMES, Replies
from streamq.errors import (
    OptionInvalid,
    PayloadTooLarge,
    PutStopped,
    PutUnknown,
    StoreError,
    StoreUnavailable,
    StreamQError,
)

NO_OPTIONS = Options()


def tasks(count: int, size_bytes: int = 0) -> list[NewTask]:
    return [NewTask(ObjectId(), "q", None, n, NO_OPTIONS, 1, size_bytes=size_bytes) for n in range(count)]


def fail(many: PutMany, error: BaseException) -> None:
    with many.storing():
        raise error


def store(many: PutMany) -> list[NewTask]:
    """Store the next chunk."""
    chunk = next(many)
    many.add([PutReply(one.id) for one in chunk])
    return chunk


# --- replies -------------------------------------------------------------------------------------------------------


def test_replies_are_what_was_told_whatever_the_outcome() -> None:
    told = [PutReply(ObjectId(), outcome) for outcome in OUTCOMES]
    replies = Replies(told)
    assert (list(replies), len(replies), replies[-1], replies[1:3]) == (told, len(told), told[-1], told[1:3])
    assert replies == told
    assert told == replies
    assert replies != told[:-1]
    assert replies != [*told[:-1], PutReply(ObjectId())]


@pytest.mark.parametrize("place", [1, -2])
def test_replies_have_no_more_than_was_told(place: int) -> None:
    with pytest.raises(IndexError):
        Replies([PutReply(ObjectId())])[place]


# --- chunks --------------------------------------------------------------------------------------------------------


def test_put_of_many_goes_in_chunks_in_order() -> None:
    new = tasks(2_500)
    chunks = list(PutMany(new))
    assert [len(one) for one in chunks] == [1_000, 1_000, 500]
    assert [one for chunk in chunks for one in chunk] == new
    assert list(PutMany([])) == []


def test_chunk_of_large_payloads_is_shorter() -> None:
    assert [len(one) for one in PutMany(tasks(5, MOST_BYTES_A_CHUNK // 2))] == [2, 2, 1]


def test_no_more_is_drawn_than_is_stored_next() -> None:
    coming = iter(tasks(2_500))
    store(PutMany(coming))
    assert len(list(coming)) == 1_500


# --- what is told --------------------------------------------------------------------------------------------------


def test_an_error_of_drawing_is_raised_as_it_is_while_nothing_is_stored() -> None:
    def drawn() -> Iterator[NewTask]:
        yield from tasks(999)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(PutMany(drawn()))


@pytest.mark.parametrize("in_transaction", [False, True])
def test_an_error_of_drawing_tells_what_is_stored_before_it(in_transaction: bool) -> None:
    def drawn() -> Iterator[NewTask]:
        yield from tasks(1_999)
        raise ZeroDivisionError("n")

    many = PutMany(drawn(), in_transaction=in_transaction)
    first = store(many)
    with pytest.raises(PutStopped, match="first 1,000 tasks are stored, no other: n") as caught:
        next(many)
    assert [one.id for one in caught.value.stored] == [one.id for one in first]
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    "error", [StoreUnavailable("no primary"), StoreError("refused"), OptionInvalid("after", 1, "a task")]
)
def test_first_chunk_that_fails_is_told_as_it_is(error: StreamQError) -> None:
    many = PutMany(tasks(1_500))
    next(many)
    with pytest.raises(type(error)) as caught:
        fail(many, error)
    assert caught.value is error


@pytest.mark.parametrize(
    "error", [StoreUnavailable("away"), StoreError("away"), PutUnknown([], "away"), PayloadTooLarge("a task", 2, 1)]
)
@pytest.mark.parametrize("all_there", [False, True])
def test_later_chunk_that_fails_may_be_stored_and_what_is_before_it_is(error: Any, all_there: bool) -> None:
    """Of a collection all that is not known to be stored is named; what a generator would yield is not known."""
    new = tasks(2_500)
    many = PutMany(iter(new), all_there=all_there)
    store(many)
    next(many)
    with pytest.raises(PutUnknown, match=r"away|a task is 2 bytes") as caught:
        fail(many, error)
    assert caught.value.ids == [one.id for one in (new[1_000:] if all_there else new[1_000:2_000])]
    assert caught.value.stored == [PutReply(one.id) for one in new[:1_000]]


def test_part_of_a_chunk_that_is_known_to_be_stored_is_told_so() -> None:
    new = tasks(2_500)
    many = PutMany(new, whole=True)
    assert next(many) == new
    with pytest.raises(PutUnknown) as caught:
        fail(many, PutUnknown([one.id for one in new[1_000:]], "away", [PutReply(one.id) for one in new[:1_000]]))
    assert caught.value.ids == [one.id for one in new[1_000:]]
    assert len(caught.value.stored) == 1_000


def test_later_chunk_that_is_refused_is_not_stored() -> None:
    many = PutMany(tasks(1_500))
    store(many)
    next(many)
    refused = OptionInvalid("after", 1, "a task that is stored")
    with pytest.raises(PutStopped, match="first 1,000 tasks are stored, no other: after=1") as caught:
        fail(many, refused)
    assert caught.value.__cause__ is refused


@pytest.mark.parametrize("error", [StoreUnavailable("away"), PutUnknown([], "away"), OptionInvalid("after", 1, "x")])
def test_in_a_transaction_errors_come_through_as_they_are(error: StreamQError) -> None:
    many = PutMany(tasks(1_500), in_transaction=True)
    store(many)
    next(many)
    with pytest.raises(type(error)) as caught:
        fail(many, error)
    assert caught.value is error


def test_error_of_the_driver_while_drawing_comes_through_in_a_transaction() -> None:
    """Whoever draws the tasks may read them in the transaction: the label tells `with_transaction` to run again."""

    def drawn() -> Iterator[NewTask]:
        yield from tasks(1_999)
        raise OperationFailure("write conflict", 112, {"errorLabels": ["TransientTransactionError"]})

    many = PutMany(drawn(), in_transaction=True)
    store(many)
    with pytest.raises(OperationFailure, match="write conflict"):
        next(many)
