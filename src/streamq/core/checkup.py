"""What a check found, as values."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

IDS_SHOWN: Final = 20
"""How many tasks one finding names."""

CLOCK_S: Final = 1.0
"""A client's clock that is off by more is worth a word. Chosen freely: nothing of streamq depends on it."""

OPLOG_HOURS: Final = 1.0
"""An oplog that reaches back less is worth a word: a node or a stream that was away for longer must begin anew."""

Severity = Literal["error", "warning", "info"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be.

    `error`: something does not work; `warning`: it works, and something is lost or will be; `info`: worth knowing.
    `ids` are some of the tasks it is about, `count` is how many there are at least. `advice` says what to do,
    `repaired` what was done about it by this check ("": nothing).
    """

    severity: Severity
    what: str
    said: str
    advice: str
    ids: tuple[Any, ...] = ()
    count: int = 0
    repaired: str = ""


class Checkup(msgspec.Struct, frozen=True):
    """The result of a check. What could not be learnt is None, and a finding says why.

    `oplog_hours`: how far back the oplog reaches; `clock_ahead_s`: how much the server's clock is ahead of this
    program's (streamq goes by the server's).
    """

    findings: tuple[Finding, ...]
    server_version: str | None = None
    replica_set: str | None = None
    oplog_hours: float | None = None
    clock_ahead_s: float | None = None

    @property
    def valid(self) -> bool:
        """Say whether the collection can be used as it is: nothing of severity `error` is left unrepaired."""
        return all(one.severity != "error" or one.repaired for one in self.findings)
