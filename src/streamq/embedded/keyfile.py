"""The key file: by it the members of a set with access control know each other, and its owner is let in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from streamq.errors import OptionInvalid

KEY: Final = re.compile(r"[A-Za-z0-9+/=]{6,1024}")
OTHERS: Final = 0o077
EXPECTED: Final = "a file of 6 to 1,024 base64 characters that only its owner may read (chmod 600)"


def require_key_file(path: Path) -> Path:
    """Return `path`. Raises `OptionInvalid`, which never shows what is in it."""
    try:
        shared = path.stat().st_mode & OTHERS
        key = key_in(path)
    except (OSError, UnicodeDecodeError):
        raise OptionInvalid("key_file", str(path), EXPECTED) from None
    if shared or not KEY.fullmatch(key):
        raise OptionInvalid("key_file", str(path), EXPECTED)
    return path


def key_in(path: Path) -> str:
    """Return the key as mongod takes it: blanks and line ends do not count."""
    return "".join(path.read_text("ascii").split())


def login_by(path: Path) -> dict[str, Any]:
    """Return the options of a `MongoClient` that may do everything: to make the first user by, and for the server's own
    hands."""
    return {
        "username": "__system",
        "password": key_in(path),
        "authSource": "local",
        "authMechanism": "SCRAM-SHA-256",
    }
