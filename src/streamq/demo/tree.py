"""Which files: the `.py` files of a tree, and what is left out."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import msgspec

MOST_FILES: Final = 20_000
"""So that pointing it at a whole disk still ends. Chosen freely."""

NOT_OURS: Final = frozenset({"site-packages", "dist-packages", "__pycache__"})


class File(msgspec.Struct, frozen=True):
    """One file, by its path within the tree; `size_bytes` is 0 when it cannot be told."""

    path: str
    size_bytes: int


class Tree(msgspec.Struct, frozen=True):
    """What will be put. `notes` says what was left out, for people."""

    root: str
    files: tuple[File, ...]
    notes: tuple[str, ...]


def read_tree(directory: Path) -> Tree:
    """List the files, in the order of their paths. A file that cannot be read is listed: its task will say why."""
    root = str(directory.absolute())
    closed: list[OSError] = []
    files: list[File] = []
    unnameable = 0
    for folder, folders, names in os.walk(root, onerror=closed.append):
        folders[:] = sorted(one for one in folders if one not in NOT_OURS)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not name.endswith(".py") or not _may_be_read(path):
                continue
            if not _is_unicode(path):
                unnameable += 1  # a payload is text; bytes that are none cannot name the file in it
                continue
            files.append(File(os.path.relpath(path, root), _size(path)))
    return Tree(root, tuple(files[:MOST_FILES]), tuple(_notes(len(files), closed, unnameable)))


def _notes(found: int, closed: list[OSError], unnameable: int) -> list[str]:
    notes = []
    if closed:
        notes.append(f"{len(closed)} directories could not be read (the first: {closed[0]}).")
    if unnameable:
        notes.append(f"{unnameable} files are left out: their names are not Unicode.")
    if found > MOST_FILES:
        notes.append(f"The first {MOST_FILES:,} of {found:,} files are taken.")
    return notes


def _may_be_read(path: str) -> bool:
    """Refuse pipes and devices, whose reading may never end."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True  # a dangling link and the like: its task will fail with the reason


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
