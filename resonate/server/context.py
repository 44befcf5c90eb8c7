"""What the connections of one worker share."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from logging import Logger
from typing import Protocol

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

    def claims(self, path: str) -> bool:
        """Whether a request path is served by us and not by the hosted application."""
        prefix = self.settings.server.path
        if prefix:
            if not path.startswith(prefix):
                return False
            path = path[len(prefix) :]
        return claims(path) or path == "/up" or app_key(path) is not None


class Health:
    """Whether this worker serves; `reason` says why not, empty when it does."""

    def __init__(self) -> None:
        self.reason = ""


def app_key(path: str) -> str | None:
    """The app key in `/app/{key}`; None for any other path."""
    head, _, key = path.rpartition("/")
    return key if head == "/app" and key else None


def new_socket_id() -> str:
    """Two random integers from 1 to 1,000,000,000, joined by a dot, from a secure source."""
    return f"{secrets.randbelow(10**9) + 1}.{secrets.randbelow(10**9) + 1}"
