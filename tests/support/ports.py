"""Ports for servers of the tests."""

from __future__ import annotations

import random
import socket
from typing import Final

#: Ports that the kernel gives to nobody by itself: another test's client would take one before a server has it.
PORTS: Final = range(10_000, 32_000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
