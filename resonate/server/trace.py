"""What `--debug` shows of the traffic: each message on a line, without secrets and without who is present."""

from __future__ import annotations

from logging import Logger
from typing import Any, Final

import orjson

_SECRET: Final = frozenset(("auth", "channel_data", "user_data", "shared_secret"))
_HIDDEN: Final = "[redacted]"
_LONGEST: Final = 500
#: Events whose data tells who is present or who signed in.
_PRIVATE: Final = ("pusher_internal:", "pusher:signin")


class Tracer:
    """Writes to the log at debug level."""

    def __init__(self, log: Logger) -> None:
        self._log = log

    def received(self, socket_id: str, text: bytes) -> None:
        """A client has said this."""
        self._log.debug("%s > %s", socket_id, redact(text))

    def sent(self, socket_id: str, text: bytes) -> None:
        """A client has been told this."""
        self._log.debug("%s < %s", socket_id, redact(text))

    def broadcast(self, channel: str, subscribers: int, text: bytes) -> None:
        """The subscribers of a channel in this worker have been told this."""
        self._log.debug("%d subscribers of %r < %s", subscribers, channel, redact(text))


def redact(text: bytes) -> str:
    """A message on one line, its secrets and presence data replaced; control characters are escaped."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return f"{len(text)} bytes that are not JSON"
    if isinstance(value, dict):
        name = value.get("event")
        if "data" in value:
            private = isinstance(name, str) and name.startswith(_PRIVATE)
            value["data"] = _HIDDEN if private else _without_secrets(value["data"])
        if "user_id" in value:
            value["user_id"] = _HIDDEN
    shown = orjson.dumps(value).decode()
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}... ({len(shown)} characters)"


def _without_secrets(data: Any) -> Any:
    if isinstance(data, str):
        try:
            inner = orjson.loads(data)
        except orjson.JSONDecodeError:
            return data
        return orjson.dumps(_without_secrets(inner)).decode() if isinstance(inner, dict) else data
    if isinstance(data, dict):
        return {key: _HIDDEN if key in _SECRET else value for key, value in data.items()}
    return data
