"""The command line of one mongod. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamq.errors import OptionInvalid

SET_NAME = "rs0"
HOST = "127.0.0.1"
SETTINGS: Mapping[str, str | int | bool] = {
    # Up to 200 MB of figures and a wake-up a second, which nobody reads here.
    "diagnosticDataCollectionEnabled": False,
    # How long a primary that is stopped looks for a successor: 15 s by default (16 s for a stop of three nodes), in
    # vain when all are stopped at once.
    "shutdownTimeoutMillisForSignaledShutdown": 100,
    # Files of what was dropped stay open while a snapshot of before may be asked for, 300 s by default: a test suite
    # that drops a database a test ran into the limit of 20,000 open files, at which mongod aborts. Nobody asks here.
    "minSnapshotHistoryWindowInSeconds": 1,
}
# What makes it ours: its place, its address, its set.
RESERVED = (
    "--dbpath",
    "--port",
    "--bind_ip",
    "--bind_ip_all",
    "--replSet",
    "--fork",
    "--logpath",
    "--syslog",
    "--config",
)


def mongod_command(
    mongod: Path,
    *,
    data: Path,
    port: int,
    cache_gb: float,
    temporary: bool,
    parameters: Mapping[str, str | int | bool],
    extra_args: Sequence[str],
) -> list[str]:
    """Return the argv of a small mongod on 127.0.0.1. An option named in `extra_args` replaces the one chosen here."""
    check_parameters(parameters)
    check_extra_args(extra_args)
    options = {
        "--oplogSize": "64",  # MB; a change stream's memory while nobody reads it
        "--wiredTigerCacheSizeGB": f"{cache_gb:g}",
    }
    if temporary:
        # 100 MB on disk instead of 300: measured on 6.0.5. A user's directory gets mongod's own default.
        options["--wiredTigerEngineConfigString"] = "log=(prealloc=false)"
    replaced = {arg.partition("=")[0] for arg in extra_args}
    argv = [str(mongod), "--dbpath", str(data), "--port", str(port), "--bind_ip", HOST, "--replSet", SET_NAME]
    argv += ["--nounixsocket", "--quiet"]
    for option, value in options.items():
        if option not in replaced:
            argv += [option, value]
    chosen = {**SETTINGS, **parameters}
    for name, setting in chosen.items():
        argv += ["--setParameter", f"{name}={_parameter_text(setting)}"]
    return argv + list(extra_args)


def check_parameters(parameters: Mapping[str, str | int | bool]) -> None:
    """Refuse what is not the name of a server parameter. Its value is mongod's to judge."""
    for name in parameters:
        if not re.fullmatch(r"[A-Za-z]\w*", name):
            raise OptionInvalid("parameters", name, "names of server parameters, e.g. {'enableTestCommands': 1}")


def check_extra_args(extra_args: Sequence[str]) -> None:
    """Refuse the arguments that are not the caller's to choose."""
    if isinstance(extra_args, str):
        raise OptionInvalid("extra_args", extra_args, "a sequence of arguments, e.g. ['--oplogSize', '2']")
    for arg in extra_args:
        if arg.partition("=")[0] in RESERVED:
            raise OptionInvalid("extra_args", arg, f"arguments other than {', '.join(RESERVED)}")


def _parameter_text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
