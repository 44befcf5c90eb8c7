"""Programs that are no hosts of this cluster, and speak on the store's open channel. How they speak others know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from resonate.messages import Publish, Terminate


class Outside(Protocol):
    """Puts what is said there into requests, and the opposite. `refused` counts what could not be understood."""

    refused: int

    def heard(self, data: bytes) -> Iterator[Publish | Terminate]:
        """What is asked for; nothing where a host has said it. Raises nothing, whatever has come."""

    def said(self, request: Publish | Terminate) -> bytes:
        """What is said of a request that is in the log."""

    def complaints(self) -> list[str]:
        """What the operator should be told, since this was last asked."""
