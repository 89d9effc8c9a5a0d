"""Structured logs: one JSON object a line, with what the message was about as fields of its own."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

__all__ = ["configure_logs"]

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class _JSONFormatter(logging.Formatter):
    def __init__(self, **always: Any) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
            **{key: value for key, value in vars(record).items() if key not in STANDARD},
        }
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row, default=str)


def configure_logs(json_lines: bool, **always: Any) -> None:
    """Log to stderr, as JSON lines or for people; requests themselves are logged as JSON only."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_JSONFormatter(**always) if json_lines else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    if not json_lines:
        logging.getLogger("agentrl.access").setLevel(logging.WARNING)
    for chatty in ("uvicorn.error", "mcp", "httpx2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
