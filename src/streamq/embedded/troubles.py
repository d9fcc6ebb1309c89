"""What a failed start means and what to do about it: from mongod's own words to one `EmbeddedError`.

Pure: text in, message out. The first line says what happened, those after it what to do.
"""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from streamq.embedded.binary import COMPOSE_LINE

# Debian and Ubuntu names. Where a release calls one `…t64`, apt-get finds it by the old name.
PACKAGES = {
    "libcurl.so.4": "libcurl4",
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
    "libresolv.so.2": "libc6",
}
JOURNAL_FILE_BYTES = 100 << 20  # WiredTiger's; three of them are filled in advance
SHOWN_LINES = 8


@dataclass(frozen=True)
class FailedStart:
    """What is known of a mongod that did not come up. `exit_code` is None while it runs, negative for a signal."""

    mongod: Path
    data: Path
    log: str
    exit_code: int | None
    port: int
    free_bytes: int


def is_port_taken(failed: FailedStart) -> bool:
    """Say whether somebody else listens on the port: with a port of our choice, another one may be tried."""
    return "Address already in use" in failed.log


def explain(failed: FailedStart, otherwise: str = "") -> str:
    """Return the message of the `EmbeddedError` for a failed start.

    A cause that is not known is told as `otherwise`, or as how mongod ended, with its last words.
    """
    return (
        _library_missing(failed)
        or _system_too_old(failed)
        or _disk_full(failed)
        or _port_taken(failed)
        or _directory_in_use(failed)
        or _other_version(failed)
        or _not_permitted(failed)
        or _killed(failed)
        or _disk_probably_full(failed)
        or _unknown(failed, otherwise)
    )


def _library_missing(failed: FailedStart) -> str | None:
    found = re.search(r"error while loading shared libraries: ([^\s:]+)", failed.log)
    if not found:
        return None
    library = found[1]
    package = PACKAGES.get(library)
    advice = f"Install it: apt-get install {package}" if package else "Install the package that holds it"
    return f"mongod cannot run: the shared library {library} is missing\n{advice}\n({failed.mongod} needs it.)"


def _system_too_old(failed: FailedStart) -> str | None:
    found = re.search(r"version `(\S+)' not found \(required by", failed.log)
    if not found:
        return None
    return (
        f"mongod cannot run: this system's libraries lack {found[1]}\n"
        f"Let STREAMQ_MONGOD name a mongod built for this system, or use: {COMPOSE_LINE}"
    )


def _disk_full(failed: FailedStart) -> str | None:
    # 28 is ENOSPC, as WiredTiger writes it before its text, which may already find no room.
    return _make_room(failed) if re.search(r'No space left on device|"error":28\b', failed.log) else None


def _disk_probably_full(failed: FailedStart) -> str | None:
    """Judge by what is free: the disk that is full may be the one the log should be on."""
    return _make_room(failed) if failed.free_bytes < JOURNAL_FILE_BYTES else None


def _make_room(failed: FailedStart) -> str:
    return (
        f"mongod cannot run: the disk is full ({failed.free_bytes >> 20} MB free for {failed.data})\n"
        f"Make room (mongod needs about 400 MB at the start), or pass a directory on another disk."
    )


def _port_taken(failed: FailedStart) -> str | None:
    if not is_port_taken(failed):
        return None
    return port_taken(failed.port)


def port_taken(port: int) -> str:
    """Return the message for a port somebody else listens on."""
    return (
        f"port {port} on 127.0.0.1 is taken by another program\n"
        f"Stop that program, pass another port, or none for a free one."
    )


def _directory_in_use(failed: FailedStart) -> str | None:
    if "DBPathInUse" not in failed.log:
        return None
    return (
        f"the data directory {failed.data} is locked by another mongod\n"
        f"Stop that mongod (mongod.lock holds its pid), connect to it by URI, or use another directory."
    )


def _other_version(failed: FailedStart) -> str | None:
    said = re.search(
        r"Wrong mongod version|UPGRADE PROBLEM|[Ii]nvalid feature ?[Cc]ompatibility ?[Vv]ersion"
        r"|unsupported WiredTiger (source )?file version|IncompatibleServerVersion|MustUpgrade",
        failed.log,
    )
    if not said:
        return None
    return (
        f"the data directory {failed.data} was written by an incompatible version of mongod\n"
        f"Let STREAMQ_MONGOD name a mongod of that version, or use another directory. mongod's last words:\n"
        f"{_last_words(failed.log)}"
    )


def _not_permitted(failed: FailedStart) -> str | None:
    found = re.search(r"Permission denied|Read-only file system|Operation not permitted", failed.log)
    if not found:
        return None
    return (
        f"mongod may not use {failed.data}: {found[0]}\n"
        f"Make the directory and its files writable by this user, or use another directory.\n"
        f"{_last_words(failed.log)}"
    )


def _killed(failed: FailedStart) -> str | None:
    if failed.exit_code == -signal.SIGILL:
        return (
            f"mongod cannot run on this processor: {failed.mongod} uses instructions it lacks (AVX, from 5.0 on)\n"
            f"Use another machine, or connect to a server by URI."
        )
    if failed.exit_code == -signal.SIGKILL:
        return (
            "mongod was killed while it started, as happens when memory is short\n"
            "Look at the kernel's log (dmesg), free memory, or pass a smaller cache_gb."
        )
    return None


def _unknown(failed: FailedStart, otherwise: str) -> str:
    ended = "does not answer" if failed.exit_code is None else f"ended with exit code {failed.exit_code}"
    return f"{otherwise or f'mongod {ended} at its start'}\nThe last words of mongod:\n{_last_words(failed.log)}"


def _last_words(log: str) -> str:
    """Return what a person should read first: the errors and fatal messages, else the last lines."""
    lines = [line for line in log.splitlines() if line.strip()]
    grave = [said for line in lines if (said := _grave_message(line))]
    chosen = list(dict.fromkeys(grave)) or [line[:300] for line in lines]
    return "\n".join(f"  {line}" for line in chosen[-SHOWN_LINES:]) or "  (it said nothing)"


def _grave_message(line: str) -> str | None:
    """Return the message of a log line of severity F or E, shortened: None for any other line."""
    try:
        entry = json.loads(line)
        if entry["s"] not in ("F", "E"):
            return None
        details = entry.get("attr", {})
        # WiredTiger wraps its own message in one of mongod's.
        inner = details.get("message")
        if isinstance(inner, dict):
            return f"{inner['msg']}: {inner['error_str']}"[:400]
        return (str(entry["msg"]) + (f": {json.dumps(details)}" if details else "")).replace("\n", " ").strip()[:600]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
