"""Log lines as JSON objects, one a line, for those who collect them by machine."""

from __future__ import annotations

import logging
import time

import orjson


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
