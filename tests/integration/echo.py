"""The handler of tests that care how a task comes to run, not what it does."""

from __future__ import annotations

from typing import Any

from streamq import Handler, StreamQ

Echo = Handler[[str], str, Any]


def echoing(app: StreamQ) -> Echo:
    @app.task
    async def echo(text: str) -> str:
        return text

    return echo
