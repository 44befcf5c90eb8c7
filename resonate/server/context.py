"""What the connections of one worker share."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from logging import Logger
from typing import NamedTuple, Protocol

from resonate.api import Api, claims
from resonate.server.calls import Calls
from resonate.server.hub import Hub
from resonate.server.link import LocalLink
from resonate.server.trace import Tracer
from resonate.server.transport import Reactor, Transport
from resonate.settings import Settings


class Hosting(Protocol):
    """Serves what is not ours: the hosted WSGI application."""

    def serve(self, transport: Transport, data: bytes, resume: Callable[[bytes], None]) -> None:
        """Take the connection over, with what was read of it; give it back after one request, with what is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Made once when the worker boots. `tracer` is None unless each message is to be logged."""

    settings: Settings
    log: Logger
    reactor: Reactor
    link: LocalLink
    hub: Hub
    calls: Calls
    api: Api
    hosting: Hosting
    health: Health
    tracer: Tracer | None
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


Route = Rest | Upgrade | Up


class Health:
    """Whether this worker serves: `reason` says why not, empty when it does. `stopping` once it will serve no more."""

    def __init__(self) -> None:
        self.reason = ""
        self.stopping = False

    def stop(self) -> None:
        """The worker has been told to go."""
        self.reason, self.stopping = "the worker is stopping", True


def new_socket_id() -> str:
    """Two random integers from 1 to 1,000,000,000, joined by a dot, from a secure source."""
    return f"{secrets.randbelow(10**9) + 1}.{secrets.randbelow(10**9) + 1}"
