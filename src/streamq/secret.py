"""Connection strings hold passwords: what is never shown of them. Pure."""

from __future__ import annotations

import re
from typing import Final

CREDENTIALS: Final = re.compile(r"(?i)\b(mongodb(?:\+srv)?://)\S*@")
"""Up to the last `@`: a password that was not escaped may hold one itself."""

OPTIONS: Final = re.compile(r"(?i)\b(tlsCertificateKeyFilePassword|authMechanismProperties|proxyPassword)=[^&\s'\"]+")
"""Options of a connection string that are, or may hold, secrets."""

LEAST: Final = 2
"""Characters in a row that tell something of a password."""


class Secret(str):
    """A connection string that shows no password where it is printed as a value, as tracebacks with locals do."""

    __slots__ = ()

    def __repr__(self) -> str:
        before, at, host = str.__str__(self).rpartition("@")
        scheme = "".join(before.partition("://")[:2]) if "://" in before else ""
        return repr(redacted(f"{scheme}***@{host}" if at else host))


def secret(uri: str | None) -> Secret | None:
    """Return `uri` as a value that may be shown."""
    return None if uri is None else Secret(uri)


def redacted(text: str) -> str:
    """Take user, password and other secrets out of the connection strings in a text."""
    return OPTIONS.sub(r"\1=***", CREDENTIALS.sub(r"\1***@", text)) if "://" in text or "=" in text else text


def tells(text: str, uri: str) -> bool:
    """Say whether `text`, what somebody said of `uri`, has something of its user, password or secret options in it.

    Of a string that is wrong nobody knows where its password ends: all before the last `@` is taken for one.
    """
    kept = uri.rpartition("@")[0].partition("://")[2] + "".join(one.group() for one in OPTIONS.finditer(uri))
    return any(run in kept for run in re.findall(rf"\w{{{LEAST},}}", text))
