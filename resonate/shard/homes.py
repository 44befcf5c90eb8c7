"""Which shard is home to what. Every process must come to the same answer, on every host and in every version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from zlib import crc32

from resonate.messages import (
    Attach,
    Connect,
    CountConnections,
    Detach,
    Disconnect,
    HandOver,
    Inspect,
    ListChannels,
    Request,
    Terminate,
)

#: What concerns an app as a whole: its home is one shard too.
_OF_APPS: Final = frozenset((Attach, Connect, CountConnections, Detach, Disconnect, Terminate))
#: What every shard is asked.
_OF_ALL: Final = frozenset((Inspect, ListChannels))
_FIRST: Final = (0,)


def homes(request: Request, shards: int) -> Sequence[int]:
    """The numbers of the shards that a request goes to, when there are so many."""
    if shards == 1:
        return _FIRST
    kind = type(request)
    if kind in _OF_ALL:
        return range(shards)
    if kind in _OF_APPS:
        return (home_of_app(request.app, shards),)  # type: ignore[union-attr]
    if isinstance(request, HandOver):
        return (request.shard,)
    return (home_of_channel(request.app, request.channel, shards),)  # type: ignore[union-attr]


def home_of_app(app: str, shards: int) -> int:
    """The shard that counts an app's connections."""
    return crc32(app.encode()) % shards


def home_of_channel(app: str, channel: str, shards: int) -> int:
    """The shard that puts what happens on a channel into order."""
    return crc32(f"{app}\n{channel}".encode("utf-8", "surrogatepass")) % shards
