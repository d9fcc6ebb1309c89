"""Where the data lies: a directory of the user's, or a temporary one that is removed, swept if nobody could.

A directory belongs to one server at a time: its lock file is held by flock, by the minder in the end. A lock dies with
its holder whatever the way, so a free lock on a temporary directory means that nobody is left to remove it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from streamq.errors import EmbeddedError

LOCK_NAME = "streamq.lock"
PORTS_NAME = "streamq.ports"
LOG_NAME = "streamq-mongod.log"
TEMPORARY_PREFIX = "set-"
# A mongod whose program has just died needs about 1 s for its clean stop, up to the minder's grace when busy.
HANDOVER_S = 25.0
# A killed program counts as alive until its parent reaps it; its minder knows better within milliseconds.
NOTICE_S = 0.3
LOG_KEPT_BYTES = 16 << 20  # chosen freely; a longer log is set aside at the next start


class Directory:
    """A locked data directory for a set of `nodes` mongods."""

    def __init__(self, path: Path, lock_fd: int, nodes: int, *, temporary: bool) -> None:
        self.path = path
        self.lock_fd = lock_fd
        self.temporary = temporary
        self.nodes = nodes

    def release(self) -> None:
        """Close this process's hold on the lock. The minder, if it was given the descriptor, still holds it."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def discard(self) -> None:
        """Give the directory up before any minder had it."""
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def data_path(self, node: int) -> Path:
        """The dbpath of one node: the directory itself for a single one, so that any mongod's data can be opened."""
        path = self.path if self.nodes == 1 else self.path / f"node{node}"
        # mongod refuses no neighbours in its directory, but a temporary set keeps them apart all the same.
        path = path / "data" if self.temporary else path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def log_path(self, node: int) -> Path:
        """The log of one node; a long one of earlier runs is set aside."""
        data = self.data_path(node)
        log = (data.parent if self.temporary else data) / LOG_NAME
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > LOG_KEPT_BYTES:
                log.replace(log.with_suffix(".log.1"))
        return log

    def last_ports(self) -> list[int]:
        """The ports of the last run, or none. Taking them again spares the set a reconfiguration."""
        try:
            ports = json.loads((self.path / PORTS_NAME).read_text())
        except (OSError, ValueError):
            return []
        good = isinstance(ports, list) and len(ports) == self.nodes and all(isinstance(port, int) for port in ports)
        return ports if good else []

    def remember_ports(self, ports: list[int]) -> None:
        """Note the ports for the next run of a kept directory."""
        if not self.temporary:
            with contextlib.suppress(OSError):
                (self.path / PORTS_NAME).write_text(json.dumps(ports))


def open_directory(path: Path, nodes: int) -> Directory:
    """Lock a directory of the user's, made if it is not there.

    Raises `EmbeddedError` when another program uses it, when it cannot be made or written, or when it holds a set of
    another size. Waits only for a mongod whose program is gone and that is just being stopped.
    """
    path = path.expanduser().absolute()
    with _translated(path, "Pass a directory that this user may write to, or none for a temporary one."):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_size(path, nodes)
        lock_fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _take_over(lock_fd, path)
            _write_owner(lock_fd)
        except BaseException:
            os.close(lock_fd)
            raise
    return Directory(path, lock_fd, nodes, temporary=False)


def make_temporary_directory(nodes: int) -> Directory:
    """Make and lock a new directory under the system's temporary one, after sweeping those that crashes left."""
    base = Path(tempfile.gettempdir()) / f"streamq-embedded-{os.geteuid()}"
    with _translated(base, "Make room or remove it, or set TMPDIR to a directory of this user."), _held(base):
        _sweep(base)
        path = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=base))
        lock_fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        _write_owner(lock_fd)
    return Directory(path, lock_fd, nodes, temporary=True)


@contextlib.contextmanager
def _translated(path: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbeddedError(f"the directory {path} cannot be used: {error.strerror}\n{advice}") from error


@contextlib.contextmanager
def _held(base: Path) -> Iterator[None]:
    """Hold the directory that holds all temporary ones of this user.

    It is held because a directory is made first and locked a moment later: a sweep in between would take it for dead.
    """
    base.mkdir(mode=0o700, exist_ok=True)
    state = base.lstat()
    # In a directory that all may write to, somebody else may have been there first.
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "it belongs to somebody else, or others may write to it")
    base_fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(base_fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(base_fd)


def _sweep(base: Path) -> None:
    """Remove the directories whose lock is free: their program and minder are gone."""
    for path in base.glob(TEMPORARY_PREFIX + "*"):
        if _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: Path) -> bool:
    try:
        lock_fd = os.open(path / LOCK_NAME, os.O_RDWR)
    except OSError:
        return True  # its maker died before it made the lock: no other can be at it, we hold the base
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock_fd)
    return True


def _take_over(lock_fd: int, path: Path) -> None:
    """Lock a directory, waiting as long as its last user is gone or going."""
    started = time.monotonic()
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _read_owner(lock_fd)
            patience_s = NOTICE_S if owner is not None and _is_alive(owner) else HANDOVER_S
            if time.monotonic() - started > patience_s:
                raise EmbeddedError(_in_use_message(path, owner)) from None
            time.sleep(0.01)
        else:
            return


def _in_use_message(path: Path, owner: int | None) -> str:
    who = f" (pid {owner})" if owner else ""
    return (
        f"the data directory {path} is in use by the embedded server of another program{who}\n"
        f"Stop that program, connect to its server by URI, or use another directory."
    )


def _write_owner(lock_fd: int) -> None:
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)


def _read_owner(lock_fd: int) -> int | None:
    """Return the pid of the program that holds the lock, or None when its minder says that it is stopping."""
    first = os.pread(lock_fd, 64, 0).split(b"\n")[0]
    return int(first) if first.isdigit() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _check_size(path: Path, nodes: int) -> None:
    stored = sum(1 for _ in path.glob("node[0-9]*/WiredTiger")) or (1 if (path / "WiredTiger").exists() else nodes)
    if stored != nodes:
        raise EmbeddedError(
            f"the data directory {path} holds a set of {stored} node(s), not of {nodes}\n"
            f"Open it with nodes={stored}, or use another directory."
        )
