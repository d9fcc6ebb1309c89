"""The machine block: what a figure was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from pymongo import MongoClient


def machine(uri: str) -> dict[str, object]:
    """Describe the machine, the interpreter and the server."""
    with MongoClient[dict[str, object]](uri) as client:
        server = client.server_info()["version"]
    return {
        "cpus": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pymongo": version("pymongo"),
        "trio": version("trio"),
        "msgspec": version("msgspec"),
        "mongod": server,
    }
