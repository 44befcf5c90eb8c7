"""The way from this worker to the shards. With one worker the shard is in the same process, and called directly."""

from __future__ import annotations

from collections.abc import Callable

from resonate.messages import Event, Request
from resonate.shard import Shard

#: How the only worker is known to the shard in its process.
WORKER = "worker"


class LocalLink:
    """Requests to the shard inside this process; what it answers goes to `receive` before `send` returns."""

    def __init__(self, shard: Shard, clock: Callable[[], float]) -> None:
        self._shard = shard
        self._clock = clock
        self._receive: Callable[[list[Event]], None] = _nobody
        shard.join(WORKER)

    def connect(self, receive: Callable[[list[Event]], None]) -> None:
        """From now on the shard's events go to `receive`."""
        self._receive = receive

    def send(self, request: Request) -> None:
        """Take a request to the shard."""
        self._receive([event for _, event in self._shard.handle(WORKER, request, self._clock())])

    def prune(self) -> None:
        """Housekeeping, once in a while."""
        self._shard.prune(self._clock())


def _nobody(events: list[Event]) -> None:
    raise AssertionError("the link has not been connected")
