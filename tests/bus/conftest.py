"""A run directory of its own for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import zmq

from tests.bus.support import Place


@pytest.fixture
def place() -> Iterator[Place]:
    """A run directory with a living master."""
    with Place() as found:
        yield found


@pytest.fixture
def libzmq() -> Iterator[Callable[[int], zmq.Socket[bytes]]]:
    """Makes sockets of a kind. They hold as much as is sent, and are closed after the test."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make(kind: int) -> zmq.Socket[bytes]:
        made.append(context.socket(kind))
        made[-1].sndhwm = 0
        made[-1].rcvtimeo = 20_000
        return made[-1]

    yield make
    for found in made:
        found.close(linger=0)
    context.term()
