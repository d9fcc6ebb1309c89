"""The machine block: what the figures were measured on."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pymongo import MongoClient

PACKAGES = ("streamq", "pymongo", "trio", "msgspec")


def machine(uri: str) -> dict[str, Any]:
    """Describe the machine, the interpreter and the server. Call it first: the load average is that of before."""
    load = [round(one, 2) for one in os.getloadavg()]
    with MongoClient[dict[str, Any]](uri) as client:
        options = client.admin.command("getCmdLineOpts")["parsed"]
        hello = client.admin.command("hello")
        mongod = client.server_info()["version"]
    data = options.get("storage", {}).get("dbPath")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}{_without_gil()}",
        **{name: _version(name) for name in PACKAGES},
        "mongod": mongod,
        "nodes": len(hello.get("hosts", ())),
        "cache_gb": options.get("storage", {}).get("wiredTiger", {}).get("engineConfig", {}).get("cacheSizeGB"),
        "disk": None if data is None else _disk(Path(data)),
        "load": load,
    }


def _without_gil() -> str:
    enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    return "" if enabled else " without GIL"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            return round(int(line.split()[1]) / 2**20, 1)
    return None


def _disk(data: Path) -> str | None:
    """Name the file system and device that a directory is on."""
    mounted: tuple[str, str] | None = None
    longest = -1
    for line in _lines("/proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        if len(point) > longest and (data == Path(point) or Path(point) in data.parents):
            kind, device = right.split()[:2]
            mounted, longest = (kind, device), len(point)
    return None if mounted is None else f"{mounted[0]} on {mounted[1]}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []
