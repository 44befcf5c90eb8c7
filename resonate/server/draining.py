"""Who has to go of those that cannot go on in another worker, and when.

A client comes back as soon as it is told to go. So they are told one after another, over all the time that there is:
else all would come back, and be authorised anew, in the same moment.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import gevent

from resonate.server.context import Context
from resonate.server.pusher_connection import PusherConnection
from resonate.server.transport import LINGER_S, Transport

#: Seconds between two looks for those whose time has come.
LOOK_S: Final = 0.1
#: Connections told to go in one turn of the loop.
BATCH: Final = 100
#: The part of the time that is kept for the last ones to close, if that is less than LINGER_S.
CLOSING: Final = 1 / 4

One = TypeVar("One")


class Pace:
    """From `now` until `until`: those who are left share the time that is left, and each goes in its share of it, at a
    moment that `random` chooses, which gives numbers from 0 to 1.
    """

    def __init__(self, now: float, until: float, random: Callable[[], float]) -> None:
        self._share_at = now  # when that of the next one begins
        self._until = until
        self._random = random
        self._waits = random()  # the part of its share that the next one lets pass

    def due(self, left: Sequence[One], now: float) -> Sequence[One]:
        """Those who go now: the first ones of all that are `left`."""
        if not left:  # who comes later has what is left then
            self._share_at = max(self._share_at, min(now, self._until))
        for count in range(len(left)):
            share_s = (self._until - self._share_at) / (len(left) - count)
            if now < min(self._share_at + self._waits * share_s, self._until):
                return left[:count]
            self._share_at += share_s
            self._waits = self._random()
        return left


class Draining:
    """Sends WebSockets away within `timeout_s`, the oldest first, so that the last ones have time left to close."""

    def __init__(self, context: Context, timeout_s: float) -> None:
        self._context = context
        self._told = 0
        self._began = time.monotonic()
        self._until = self._began + timeout_s
        self._pace_s = timeout_s - min(LINGER_S, timeout_s * CLOSING)
        self._pace = Pace(self._began, self._began + self._pace_s, random.random)
        self._look_at = 0.0
        self._said = False

    @property
    def over(self) -> bool:
        """Whether the time has passed."""
        return time.monotonic() >= self._until

    def step(self, goes: Callable[[Transport], bool]) -> None:
        """Tell those whose time has come, among those that have to go. To be called all the time."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        left = [transport for transport in self._context.reactor.transports if goes(transport)]
        if left and not self._said:
            self._said = True
            self._context.log.info("sending %d WebSockets away, over %.1f s", len(left), self._pace_s)
        for index, transport in enumerate(self._pace.due(left, now)):
            if index % BATCH == BATCH - 1:
                gevent.sleep(0)
            if goes(transport):  # still
                self._told += 1
                self._context.stats.drained += 1
                transport.protocol.drain()

    def end(self) -> None:
        """Say what has been done."""
        if self._said:
            took_s = time.monotonic() - self._began
            self._context.log.info("sent %d WebSockets away in %.1f s", self._told, took_s)


def stranded(transport: Transport) -> bool:
    """Whether it is a WebSocket that no other worker could take."""
    return transport.protocol.stranded


def lasting(transport: Transport) -> bool:
    """Whether it is a WebSocket: what else there is comes to an end by itself."""
    return isinstance(transport.protocol, PusherConnection) or transport.protocol.stranded
