"""Nothing that is stored can name code to run: what would load or run it is nowhere in the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

SOURCE: Final = Path(__file__).parents[2] / "src" / "streamq"

LOADERS: Final = frozenset(
    {
        *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle", "yaml"),
        *("importlib", "pkgutil", "runpy", "imp", "code", "codeop"),
    }
)
"""Modules that make code, or objects of any class, of bytes or names."""

RUNNERS: Final = frozenset({"eval", "exec", "compile", "__import__", "execfile", "globals", "breakpoint"})

ALLOWED: Final = {
    "cli/locate.py": {"importlib"},  # MODULE:APP, as whoever runs the command types it
    "cli/commands.py": {"importlib.metadata"},
    "embedded/binary.py": {"importlib.metadata"},
    "bench/actor.py": {"importlib"},  # what a bench plays in its own processes, named by itself
    "bench/machine.py": {"importlib.metadata"},
}

FILES: Final = sorted(SOURCE.rglob("*.py"))


def used(source: str) -> Iterator[str]:
    """Name each loader and runner that a source uses."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                yield from (one.name for one in names if one.name.partition(".")[0] in LOADERS)
            case ast.ImportFrom(module=str(module), names=names) if module.partition(".")[0] in LOADERS:
                yield from (f"{module}.{one.name}" if module == "importlib" else module for one in names)
            case ast.Name(id) if id in RUNNERS:
                yield id
            case ast.Attribute(attr=attr) if attr in {"__import__", "import_string", "find_class"}:
                yield attr


def test_sources_load_no_code_from_data_and_what_is_allowed_is_still_needed() -> None:
    found = {str(path.relative_to(SOURCE)): set(used(path.read_text())) for path in FILES}
    assert {name: what for name, what in found.items() if what} == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from yaml import load",
        "def f():\n    import marshal as m",
        "from importlib import import_module",
        "import importlib.util",
        "x = eval(y)",
        "builtins.__import__(name)",
        "run = exec",
    ],
)
def test_the_check_bites(source: str) -> None:
    assert list(used(source))
