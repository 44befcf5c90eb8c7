"""The names of logs. A name tells its app and channel again, and may stand between braces in a key of Redis."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

#: What stands for itself. `{` and `}` would end Redis's hash tag, `/` parts app from channel.
_PLAIN: Final = "-_.~=@,;#!*+:()"


def log_name(app: str, channel: str) -> str:
    """The log of a channel; with an empty channel that of the app as a whole."""
    return f"{quote(app, _PLAIN, errors='surrogatepass')}/{quote(channel, _PLAIN, errors='surrogatepass')}"


def app_and_channel(log: str) -> tuple[str, str]:
    """The opposite. Raises ValueError for what is no name of a log."""
    app, channel = log.split("/")
    return unquote(app, errors="surrogatepass"), unquote(channel, errors="surrogatepass")
