"""Log lines: an event name and fields, one JSON object a line, on standard error.

A log is for the people who run the process; it stays on their machine. What auditors read is
the ledger and the server's log, which are something else.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from typing_extensions import override

FIELDS = frozenset(
    {"stage", "round", "site", "sites", "seconds", "code", "what", "reason", "note", "cases"}
)
"""Extra fields that are printed; anything else attached to a record is dropped."""


class JsonLines(logging.Formatter):
    """One JSON object per record: time (UTC), level, logger, event, and the fields above."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **{k: v for k, v in vars(record).items() if k in FIELDS and v is not None},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


MOST_BYTES, KEPT = 4 << 20, 3
"""Of a log file, and how many older ones are kept beside it."""


class BoundedFile(RotatingFileHandler):
    """A file that never grows beyond a bound. A disk that fails costs the line and no more."""

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        """Standard error has the line, too; nobody wants a traceback about it there."""


def also_to(path: Path, level: int = logging.INFO) -> None:
    """Write our own log lines into ``path`` as well, for ``stillroom-client logs``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        handler = BoundedFile(path, maxBytes=MOST_BYTES, backupCount=KEPT, encoding="utf-8")
    except OSError:
        return  # the folder's own user says what is wrong with it
    handler.setFormatter(JsonLines())
    handler.setLevel(level)
    logging.getLogger("stillroom").addHandler(handler)


def to_stderr(level: int = logging.INFO) -> None:
    """Send our own log lines to standard error; other libraries keep their handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    ours = logging.getLogger("stillroom")
    ours.handlers[:] = [handler]
    ours.setLevel(level)
    ours.propagate = False
