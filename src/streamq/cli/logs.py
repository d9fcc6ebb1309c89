"""Logs of a worker: on stderr, one line an event, in colour on a terminal."""

from __future__ import annotations

import logging
import sys

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

from streamq.cli.safe import plain
from streamq.secret import redacted


class OneLine(logging.Formatter):
    """Formats a record on one line that cannot steer the terminal; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record; see `logging.Formatter`. A stored traceback comes as text."""
        if record.exc_text:
            record.exc_text = "\n".join(plain(redacted(line)) for line in record.exc_text.splitlines())
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Format the line; see `logging.Formatter`."""
        record.message = plain(redacted(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802
        """Format the traceback; see `logging.Formatter`."""
        lines = super().formatException(ei).splitlines()  # type: ignore[arg-type]
        return "\n".join(plain(redacted(line)) for line in lines)


def log_to_stderr(level: str) -> None:
    """Log to stderr from `level` up, unless the application has set up logging itself."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(
            console=Console(stderr=True),
            show_path=False,
            markup=False,
            highlighter=NullHighlighter(),
            log_time_format="%X",
        )
        handler.setFormatter(OneLine("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(OneLine("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(max(level_number := logging.getLevelName(level.upper()), logging.INFO))
    logging.getLogger("streamq").setLevel(level_number)  # debug: streamq's own, not the driver's every heartbeat
