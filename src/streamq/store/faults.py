"""From the driver's errors to ours: what of them is caught, and what it means.

A write that failed on the wire, timed out or got no majority may have been applied: it becomes `OutcomeUnknown`.
Only when no server could be selected for the first try is it known that nothing was sent (the driver raises the
first try's own error when the selection for a retry fails). An answer that cannot be decoded is an answer lost.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

from bson.errors import BSONError, InvalidBSON
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidName,
    InvalidOperation,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WriteError,
)

from streamq.errors import (
    AccessRefused,
    NotAReplicaSet,
    OutcomeUnknown,
    ReadStopped,
    StoreError,
    StoreUnavailable,
    UsageError,
)

P = ParamSpec("P")
T = TypeVar("T")

DriverError = PyMongoError | BSONError
DRIVER_ERRORS: Final = (PyMongoError, BSONError)
"""What the driver raises: errors of encoding and decoding stand in a tree of their own."""

ACCESS: Final = frozenset({11, 13, 18, 33, 8000})
"""UserNotFound (of a client certificate), Unauthorized, AuthenticationFailed, UnsupportedMechanism, AtlasError (wrong
credentials)."""

UNAUTHORIZED: Final = 13
NOT_LOGGED_IN: Final = "requires authentication"
"""In the message of an `UNAUTHORIZED` that no role would mend."""

MAYBE_APPLIED: Final = frozenset({6, 7, 50, 64, 89, 91, 100, 189, 262, 9001, 10107, 11600, 11601, 11602, 13435, 13436})
"""Host unreachable or not found, MaxTimeMSExpired, WriteConcernFailed, NetworkTimeout, ShutdownInProgress,
CannotSatisfyWriteConcern, PrimarySteppedDown, ExceededTimeLimit, SocketException, NotWritablePrimary and the
Interrupted… family: the write may have been applied."""

TOO_LARGE: Final = frozenset({10334, 17280, 17419, 17420})
"""BSONObjectTooLarge, KeyTooLong, and the two for a document that an update would make too large."""

PASSING: Final = frozenset(
    {1, 8, 13, 24, 26, 39, 46, 63, 112, 133, 134, 146, 150, 175, 202, 246, 279, 365, 371, 384, 462, 13388, 14031}
)
"""InternalError, UnknownError, Unauthorized, busy locks, killed plans, stale shards and snapshots, no memory, no space
left, writes blocked by an operator, too many requests: what a statement of a batch may fail with because of the
server's state. It may pass; other codes tell of the document."""

STOPPED_READS: Final = frozenset({43, 175, 237})
"""CursorNotFound, QueryPlanKilled, CursorKilled."""

MOST_READS: Final = 3
"""How often one read is sent that the server stops. A collection is not dropped three times in a row."""

VALIDATION_FAILED: Final = 121
DUPLICATE_KEY: Final = 11000

MAKE_A_SET: Final = (
    "Make a one-node replica set of it: stop mongod, start it with --replSet rs0, run once in mongosh: rs.initiate(), "
    "and connect with ?replicaSet=rs0 (or, to try things out, `streamq dev` runs one)"
)

STANDALONE_HINT: Final = f"the server is a standalone, which has no change streams. {MAKE_A_SET}"

TLS_HINTS: Final = {
    "certificate has expired": "the server's certificate has expired: renew it, or mend this machine's clock",
    "certificate is not valid for": "the server's certificate is of another host: connect by a name that it holds",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is of no authority that is trusted here: name yours by "
    "tlsCAFile= in the connection string",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS there: tls=true is wrong, or the port is",
    "connection closed": "the server ended the connection: if it wants TLS, say tls=true; if it wants a certificate, "
    "name a valid one by tlsCertificateKeyFile=",
}
"""What is behind the words of a handshake that failed; the first that fits. Source: OpenSSL's, as Python tells them."""

SHOWN: Final = 300
"""Characters of a driver's message that are shown: its topology descriptions run to thousands."""


TIMEOUTS_OF_DRIVER: Final = re.compile(r" \(configured timeouts: [^)]*\)")
"""Said behind each host's failure; they name parts of the driver, not the limit that ran out."""


REFUSED_COMMAND: Final = re.compile(r"(to execute command )\{ (\w+): (\"[^\"]*\"|\S+?),.*", re.DOTALL)
"""What the server says of a command that it refuses: the whole of it, with the tasks of a put."""


def short(error: BaseException) -> str:
    """Return the driver's message without its own timeouts and the topology description that follows it, and without
    the command that was refused: payloads may be in it."""
    text = str(error).split(", Timeout:")[0].split(", full error:")[0]
    text = REFUSED_COMMAND.sub(r"\1\2 \3", text)
    text = TIMEOUTS_OF_DRIVER.sub("", text)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def is_unknown(error: DriverError) -> bool:
    """Say whether a write that raised `error` may have been applied."""
    if isinstance(error, BSONError):
        return isinstance(error, InvalidBSON)
    if isinstance(error, ServerSelectionTimeoutError):
        return False
    if isinstance(error, AutoReconnect | NetworkTimeout | ConnectionFailure | ExecutionTimeout | WriteConcernError):
        return True
    if getattr(error, "timeout", False):
        return True
    return getattr(error, "code", None) in MAYBE_APPLIED


def may_pass(error: DriverError) -> bool:
    """Say whether the server refused because of its own state: the same may be taken a moment later."""
    return getattr(error, "code", None) in PASSING - ACCESS


def lacks_right(error: BaseException | None) -> bool:
    """Say whether a user who is known was refused for want of a privilege."""
    return isinstance(error, OperationFailure) and error.code == UNAUTHORIZED and NOT_LOGGED_IN not in str(error)


def is_refusal(error: DriverError) -> bool:
    """Say whether a write failed because of one document, which cannot take what would be written, whatever the time:
    it has no room left, or a validator of the user's own forbids it. Others of the same statement could be written."""
    code = getattr(error, "code", None)
    if isinstance(error, WriteError):
        return code not in MAYBE_APPLIED | PASSING | ACCESS
    return code in TOO_LARGE or code == VALIDATION_FAILED


def translated(error: DriverError, what: str, *, writing: bool) -> StoreError | UsageError:
    """Choose our error for the driver's; `what` names the action for people ("claim tasks")."""
    said = short(error)
    if isinstance(error, BSONError):
        return _of_bson(error, what, said, writing=writing)
    if isinstance(error, OperationFailure) and error.code in ACCESS:
        return AccessRefused(f"the server refused to {what}: {said} (check user, password, authSource and roles)")
    if "No replica set members available for replica set name" in said:
        return NotAReplicaSet(
            f"cannot {what}: {said}. The set has another name, or the server is a standalone. {MAKE_A_SET}"
        )
    if "belongs to a set named 'None'" in said:
        return NotAReplicaSet(f"cannot {what}: {STANDALONE_HINT}")
    if isinstance(error, ServerSelectionTimeoutError):
        return StoreUnavailable(f"cannot {what}: no server could be reached in time: {said}{_tls_hint(said)}")
    if writing and is_unknown(error):
        return OutcomeUnknown(f"{what}: the outcome is unknown, it may have been applied: {said}")
    if not writing and getattr(error, "code", None) in STOPPED_READS:
        return ReadStopped(f"cannot {what}: {said}")
    if isinstance(error, ConnectionFailure) or getattr(error, "timeout", False) or is_unknown(error):
        return StoreUnavailable(f"cannot {what}: {said}")
    if isinstance(error, ConfigurationError | InvalidName):
        return UsageError(f"cannot {what}: {said}")
    if isinstance(error, InvalidOperation) and "close" in said.lower():
        return StoreUnavailable(f"cannot {what}: the client has been closed")
    return StoreError(f"cannot {what}: {said}")


def _tls_hint(said: str) -> str:
    return next((f" ({hint})" for words, hint in TLS_HINTS.items() if words in said), "")


def _of_bson(error: BSONError, what: str, said: str, *, writing: bool) -> StoreError:
    if not isinstance(error, InvalidBSON):
        return StoreError(f"cannot {what}: it cannot be encoded: {said}")
    if writing:
        return OutcomeUnknown(f"{what}: the outcome is unknown, the server's answer cannot be decoded: {said}")
    return StoreError(f"cannot {what}: the server's answer cannot be decoded: {said}")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Translate the errors of a read, or of a write whose repetition is harmless to its caller."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translated(error, what, writing=False) from error


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Translate the errors of a write: what may have been applied becomes `OutcomeUnknown`."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translated(error, what, writing=True) from error


def rereading(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function that may be called again read anew when the server stops one of its reads."""

    @functools.wraps(function)
    def read(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(MOST_READS - 1):
            with contextlib.suppress(ReadStopped):
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    return read
