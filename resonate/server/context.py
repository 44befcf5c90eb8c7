"""What the connections of one worker share."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from logging import Logger
from typing import NamedTuple, Protocol

from resonate.api import Api, claims
from resonate.counters import Snapshot
from resonate.server.calls import Calls
from resonate.server.hub import Hub
from resonate.server.link import Way
from resonate.server.stats import Stats
from resonate.server.trace import Tracer
from resonate.server.transport import Reactor, Transport
from resonate.settings import Settings


class Hosting(Protocol):
    """Serves what is not ours: the hosted WSGI application."""

    def serve(self, transport: Transport, data: bytes, resume: Callable[[bytes], None]) -> None:
        """Take the connection over, with what was read of it; give it back after one request, with what is left."""


#: Calls its argument once, now or later, with the snapshots of all workers and shards; None when they cannot be had.
Collect = Callable[[Callable[[list[Snapshot] | None], None]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Made once when the worker boots. `tracer` is None unless each message is to be logged."""

    settings: Settings
    log: Logger
    reactor: Reactor
    link: Way
    hub: Hub
    calls: Calls
    api: Api
    hosting: Hosting
    health: Health
    tracer: Tracer | None
    stats: Stats
    collect: Collect
    keep_alive: int

    def route(self, path: str) -> Route | None:
        """What a request path means; None when it is the hosted application's."""
        prefix = self.settings.server.path
        if not path.startswith(prefix + "/"):
            return None
        path = path[len(prefix) :]
        if claims(path):
            return Rest(path)
        head, _, key = path.rpartition("/")
        if head == "/app" and key:
            return Upgrade(key)
        return Up() if path == "/up" else None


class Rest(NamedTuple):
    """The REST API; `path` is without the prefix."""

    path: str


class Upgrade(NamedTuple):
    """The Pusher endpoint of the app with this key."""

    key: str


class Up(NamedTuple):
    """The health check."""


class Metrics(NamedTuple):
    """What Prometheus reads."""


class Nowhere(NamedTuple):
    """There is nothing, and no hosted application is asked."""


Route = Rest | Upgrade | Up | Metrics | Nowhere


def metrics_route(path: str) -> Route:
    """What a path means on the listener of the metrics."""
    return Metrics() if path == "/metrics" else Nowhere()


class Health:
    """Whether this worker serves. `stopping` once it will serve no more; `trouble` says why shards do not answer.

    `cut_off` has the shards that cannot reach the other hosts: then this host serves its own clients alone.
    """

    def __init__(self, trouble: Callable[[], str] = str, cut_off: Collection[int] = ()) -> None:
        self._trouble = trouble
        self._cut_off = cut_off
        self.stopping = False

    @property
    def degraded(self) -> bool:
        """Whether there are other hosts, and a shard cannot reach them."""
        return bool(self._cut_off)

    @property
    def reason(self) -> str:
        """Why it does not serve, empty when it does."""
        return "the worker is stopping" if self.stopping else self._trouble()

    def stop(self) -> None:
        """The worker has been told to go."""
        self.stopping = True


def new_socket_id() -> str:
    """Two random integers from 1 to 1,000,000,000, joined by a dot, from a secure source."""
    return f"{secrets.randbelow(10**9) + 1}.{secrets.randbelow(10**9) + 1}"
