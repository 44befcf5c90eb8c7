"""What `--debug` shows of the traffic: each message on a line, without secrets and without who is present."""

from __future__ import annotations

from logging import Logger
from typing import Any, Final

import orjson

from resonate.pusher.channels import USER_PREFIX

_SECRET: Final = frozenset(("auth", "channel_data", "user_data", "user_id", "shared_secret"))
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
        shown = _without_secrets(channel)
        self._log.debug("%d subscribers of %r < %s", subscribers, shown, redact(text))


def redact(text: bytes) -> str:
    """A message on one line, its secrets and presence data replaced; control characters are escaped."""
    try:
        shown = orjson.dumps(_redacted(orjson.loads(text))).decode()
    except orjson.JSONDecodeError:
        return f"{len(text)} bytes that are not JSON"
    except (orjson.JSONEncodeError, RecursionError):
        return f"{len(text)} bytes of JSON that nests too deep to be shown"
    shown = "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in shown)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}... ({len(shown)} characters)"


def _redacted(message: Any) -> Any:
    if isinstance(message, dict) and str(message.get("event")).startswith(_PRIVATE) and "data" in message:
        message["data"] = _HIDDEN
    return _without_secrets(message)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _HIDDEN if key in _SECRET else _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    if isinstance(value, str) and value.startswith(USER_PREFIX):
        return USER_PREFIX + _HIDDEN
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return orjson.dumps(_without_secrets(orjson.loads(value))).decode()
        except orjson.JSONDecodeError:
            return value
    return value
