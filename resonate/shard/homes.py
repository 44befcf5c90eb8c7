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
        return (crc32(request.app.encode()) % shards,)
    return (crc32(f"{request.app}\n{request.channel}".encode("utf-8", "surrogatepass")) % shards,)  # type: ignore[union-attr]
