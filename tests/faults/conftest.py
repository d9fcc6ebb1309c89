"""Apps on the session's server, each with a client of its own; and which sweeps go the whole way."""

from __future__ import annotations

from tests.integration.conftest import make_app, mongo

__all__ = ["make_app", "mongo"]
