"""MODULE:APP: from a name on the command line to the application's `StreamQ`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from types import ModuleType

from streamq.app import StreamQ
from streamq.errors import UsageError


def located(name: str) -> StreamQ:
    """Import the app that `name` names (`shop:app`, `shop.jobs:queue.app`), the current directory included.

    Raises `UsageError` saying what was found instead: no such module, a module that fails, no such attribute, or
    something that is no `StreamQ`.
    """
    module_name, colon, path = name.partition(":")
    if not module_name or (colon and not path):
        raise UsageError(f"{name!r} does not name an app: expected MODULE:APP, e.g. shop:app")
    if "/" in module_name or module_name.endswith(".py"):
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise UsageError(f"{name!r} names a file: name its module, e.g. {dotted}:{path or 'app'}")
    module = _imported(module_name)
    if not colon:
        raise UsageError(f"{name!r} names a module, not an app in it: {_choices(module)}")
    found: object = module
    for step in path.split("."):
        if not hasattr(found, step):
            raise UsageError(f"module {module_name!r} has no {path!r}: {_choices(module)}")
        found = getattr(found, step)
    if not isinstance(found, StreamQ):
        raise UsageError(f"{name!r} is a {type(found).__name__}, not a StreamQ: {_choices(module)}")
    return found


def _imported(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(f"there is no module {error.name!r} (looked in {here} and on the Python path)") from error
        raise UsageError(_failure(name, error)) from error
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise UsageError(_failure(name, error)) from error


def _failure(name: str, error: BaseException) -> str:
    """Say what a module's import raised, and on which line of whose file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    last = frames[-1] if frames else None
    where = f" ({last.filename}, line {last.lineno})" if last is not None and last.filename != __file__ else ""
    return f"importing {name!r} failed: {type(error).__name__}: {error}{where}"


def _choices(module: ModuleType) -> str:
    apps = [name for name, value in vars(module).items() if isinstance(value, StreamQ)]
    if not apps:
        return f"{module.__name__} has no StreamQ at all"
    return "there is " + " and ".join(f"{module.__name__}:{name}" for name in apps)
