"""The way from this worker to the shards: inside it while it is alone, over the bus when it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from resonate.bus.client import Receiver
from resonate.messages import Declaration, Event, Question, Request
from resonate.shard import Shard
from resonate.shard.homes import homes
from resonate.shard.ledger import BEHIND

#: How a worker that is alone is known to the shard inside it.
WORKER = "worker"


class Way(Protocol):
    """Where requests go. What the shards say in return goes to the hub."""

    def send(self, request: Request) -> None:
        """Take a request to the shards that it concerns."""

    def answers(self, request: Question) -> int:
        """How many answers a question will have: one from each shard that it concerns."""

    def beat(self, counters: dict[str, Any]) -> None:
        """A second has passed; what this worker has counted is told to the first shard."""

    @property
    def trouble(self) -> str:
        """Why requests are not being answered; empty when they are."""

    def close(self) -> None:
        """The worker ends."""


class LocalLink:
    """Requests to the shard inside this process; what it answers goes to `receive` before `send` returns."""

    trouble = ""

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

    def answers(self, request: Question) -> int:
        """There is one shard."""
        return 1

    def beat(self, counters: dict[str, Any]) -> None:
        """Keep the counters for who inspects, and forget cached events whose time is over."""
        self._shard.report(WORKER, counters)
        self._shard.prune(self._clock())

    def declaration(self) -> Declaration:
        """What this worker holds, for a shard that is to take this one's place."""
        return self._shard.declaration(WORKER, self._clock())

    def close(self) -> None:
        """The shard goes with the worker."""


class Waiting:
    """Requests wait until there are so many shards. Clients wait from where it is too many; see `Receiver`."""

    trouble = ""

    def __init__(self, shards: int, receiver: Receiver) -> None:
        self._shards = shards
        self._receiver = receiver
        self.requests: list[Request] = []

    def send(self, request: Request) -> None:
        """Keep it."""
        self.requests.append(request)
        if len(self.requests) > BEHIND:
            self._receiver.clogged = True

    def answers(self, request: Question) -> int:
        """As many as there will be."""
        return len(homes(request, self._shards))

    def beat(self, counters: dict[str, Any]) -> None:
        """Nobody is told."""

    def close(self) -> None:
        """Nobody is told of what was kept, either: the worker ends."""


class Link:
    """The way as it is at present; it may change between two requests."""

    def __init__(self, way: Way) -> None:
        self._way = way

    def change(self, way: Way) -> None:
        """From now on requests go this way."""
        self._way = way

    def send(self, request: Request) -> None:
        """See `Way`."""
        self._way.send(request)

    def answers(self, request: Question) -> int:
        """See `Way`."""
        return self._way.answers(request)

    def beat(self, counters: dict[str, Any]) -> None:
        """See `Way`."""
        self._way.beat(counters)

    @property
    def trouble(self) -> str:
        """See `Way`."""
        return self._way.trouble

    def close(self) -> None:
        """See `Way`."""
        self._way.close()


def _nobody(events: list[Event]) -> None:
    raise AssertionError("the link has not been connected")
