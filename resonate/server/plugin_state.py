"""What plugins keep of a connection, by their names, and how it goes with that to another worker.

What is equal to itself after a turn through JSON goes, up to so much for each; a member of an IntEnum or a StrEnum
arrives as the number or the text that it equals. The rest stays behind: the connection is worth more than what is noted
about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

#: The name of the plugin -> a JSON value.
PluginState: TypeAlias = dict[str, Any]

#: Bytes of JSON that go for one plugin and one connection.
MOST: Final = 16 * 1024
#: What orjson knows and JSON does not: it would come back as something else.
_STRICT: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


class Left(NamedTuple):
    """What does not go: whose it is, and why. The value itself is not named."""

    plugin: str
    reason: str


def packed(state: dict[Any, Any]) -> tuple[list[str], list[Left]]:
    """One text for each plugin whose state goes, and what does not. Nothing keeps plugins to `PluginState`."""
    texts, left = [], []
    for plugin, kept in state.items():
        if not isinstance(plugin, str):
            left.append(Left(f"<{type(plugin).__name__}>", "its name is no text"))
            continue
        text, reason = _text(plugin, kept)
        if reason:
            left.append(Left(plugin, reason))
        else:
            texts.append(text)
    return texts, left


def unpacked(texts: Iterable[str]) -> PluginState:
    """The state again. Raises `UNFIT` for what `packed` does not make."""
    state = {}
    for text in texts:
        plugin, kept = orjson.loads(text)
        if not isinstance(plugin, str):
            raise TypeError("state of nobody")
        state[plugin] = kept
    return state


def _text(plugin: str, kept: Any) -> tuple[str, str]:
    """The JSON of it; or nothing, and the reason."""
    try:
        text = orjson.dumps([plugin, kept], option=_STRICT)
    except TypeError as error:  # it names types at most
        return "", f"it is no JSON: {error}"
    if len(text) > MOST:
        return "", f"it is more than {MOST} bytes of JSON"
    if orjson.loads(text) != [plugin, kept]:  # such as NaN, or a tuple
        return "", "it is no JSON: it would come back as something else"
    return text.decode(), ""
