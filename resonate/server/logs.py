"""gunicorn's log in JSON lines."""

from __future__ import annotations

import logging
from typing import Any, Final

from gunicorn.glogging import Logger

from resonate.jsonlog import JsonFormatter

NAME: Final = "gunicorn.error"


def use_json() -> None:
    """Have gunicorn's error log write JSON lines from now on."""
    for handler in logging.getLogger(NAME).handlers:
        handler.setFormatter(JsonFormatter())


class JsonLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger with JSON lines from the first one on (`--logger-class resonate.server.logs.JsonLogger`)."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        use_json()
