"""Log lines as JSON objects, one a line, for those who collect them by machine."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import orjson
from gunicorn.glogging import Logger

NAME: Final = "gunicorn.error"


class JsonFormatter(logging.Formatter):
    """time (ISO 8601, UTC), level, pid, message; error with the traceback when there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ"),
            "level": record.levelname.lower(),
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return orjson.dumps(entry).decode()


def use_json() -> None:
    """Have gunicorn's error log write JSON lines from now on."""
    for handler in logging.getLogger(NAME).handlers:
        handler.setFormatter(JsonFormatter())


class JsonLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger with JSON lines from the first one on (`--logger-class resonate.server.logs.JsonLogger`)."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        use_json()
