"""Programs that are no hosts of this cluster, and speak on the store's open channel. How they speak others know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from resonate.messages import Publish, Terminate
from resonate.shard.channel import User


class Survey(NamedTuple):
    """Somebody asks each host what it has `about` something; the answer has the `key`."""

    app: str
    key: str
    about: str
    options: dict[str, Any]


class Here(Protocol):
    """What this shard has of an app, on this host."""

    def connections(self, app_id: str) -> tuple[int, int]:
        """Connections, and those with a subscription."""

    def occupied(self, app_id: str) -> Mapping[str, int]:
        """Subscriptions by channel."""

    def held_users(self, app_id: str, name: str) -> list[tuple[str, User]]:
        """The users of a presence channel, by their ids as they are compared."""

    def last(self, app_id: str, name: str, now: float) -> bytes | None:
        """The event that is kept for a cache channel."""


class Outside(Protocol):
    """Puts what is said there into requests, and the opposite. `refused` counts what could not be understood."""

    refused: int

    def heard(self, data: bytes) -> Iterator[Publish | Terminate | Survey]:
        """What is asked for; nothing where a host has said it. Raises nothing, whatever has come."""

    def said(self, request: Publish | Terminate) -> bytes:
        """What is said of a request that is in the log."""

    def answer(self, survey: Survey, here: Here, now: float) -> bytes | None:
        """What is said to who has asked; None where that is refused."""

    def complaints(self) -> list[str]:
        """What the operator should be told, since this was last asked."""
