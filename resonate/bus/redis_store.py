"""The store of `resonate.shard.cluster.store` in Redis: orders go in, reports come out, and nobody waits for it.

Everything happens in the caller's thread, in `order` and `take`, over sockets that do not block; only connections are
made in another one.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Final

from resonate.bus.redis_address import described
from resonate.bus.redis_connect import Keeper
from resonate.bus.redis_link import Link, Made
from resonate.bus.redis_wire import LinkError
from resonate.scaling import Scaling
from resonate.shard.cluster.store import Lost, Order, Ready, Report

#: Seconds to wait for the thread when closing. It may be waiting for Redis, and ends by itself after that.
CLOSE_S: Final = 1.0
#: Ticks within the patience.
TICKS: Final = 4


class RedisStore:
    """One shard's connection to what hosts share. It never gives up: `Lost` is followed by `Ready`, sooner or later.

    `counters`: how often the store was `ready` and `lost`; `dropped_orders` that found it lost; `dropped_messages` that
    were none of ours; `refused`, orders that Redis would not do, or whose answer was none of ours.
    """

    def __init__(self, scaling: Scaling, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self.counters = dict.fromkeys(("ready", "lost", "dropped_orders", "dropped_messages", "refused"), 0)
        self._scaling = scaling
        self._where = described(scaling.redis)
        self._log = log
        self._clock = clock
        self._poll = select.epoll()
        self._signal = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._signal, select.EPOLLIN)
        self._closing = threading.Lock()  # while the thread tells something, nobody closes what it tells by
        self._closed = False
        self._link: Link | None = None
        self._reports: list[Report] = []  # that the store is lost
        self._reason: str | None = None  # why it is not there, as far as that has been said
        self._keeper = Keeper(scaling, scaling.patience / TICKS, self._tell)
        self._keeper.start()

    def fileno(self) -> int:
        """Readable when `take` has something to do."""
        return self._poll.fileno()

    def order(self, orders: Sequence[Order]) -> None:
        """Have these done. What is ordered before `Ready` has been taken, or after the store was lost, is dropped."""
        if self._link is None:
            self.counters["dropped_orders"] += len(orders)
            return
        try:
            self._link.order(orders)
        except LinkError as error:
            self._lose(str(error))

    def take(self) -> list[Report]:
        """What there is to report: not more than a few MiB at a time, then `fileno` stays readable."""
        if self._closed:
            return []
        ready = {descriptor for descriptor, _ in self._poll.poll(0)}
        if self._signal in ready:
            os.eventfd_read(self._signal)
        now = self._clock()
        reports: list[Report] = []
        if self._link is not None:
            try:
                reports = self._link.read(ready, now)
            except LinkError as error:
                self._lose(str(error))
        lost, self._reports = self._reports, []
        return reports + lost + self._outcomes(now)

    def close(self) -> None:
        """Let go of everything; may be called again."""
        if self._closed:
            return
        self._keeper.close(CLOSE_S)
        self._keeper.forget()
        with self._closing:
            self._closed = True
            if self._link is not None:
                self._link.close()
                self._link = None
            os.close(self._signal)
            self._poll.close()

    def _tell(self) -> None:
        """Have `take` called."""
        with self._closing:
            if not self._closed:
                os.eventfd_write(self._signal, 1)

    def _outcomes(self, now: float) -> list[Report]:
        """What has become of the attempts to connect."""
        reports: list[Report] = []
        while True:
            try:
                outcome = self._keeper.outcomes.get_nowait()
            except Empty:
                return reports
            if isinstance(outcome, Made):
                self._link = Link(outcome, self._scaling, self._poll, self._log, self.counters, now)
                self.counters["ready"] += 1
                self._log.info("%s is there", self._where)
                self._reason = None
                reports.append(Ready())
            else:
                if self._reason is None:
                    reports.append(Lost(outcome))
                self._say(outcome)

    def _lose(self, reason: str) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        self.counters["lost"] += 1
        self._reports.append(Lost(reason))
        self._say(reason)
        self._keeper.again()
        self._tell()

    def _say(self, reason: str) -> None:
        """Once for each reason, until it changes."""
        if reason != self._reason:
            self._log.warning("%s cannot be used, and is tried again all the time: %s", self._where, reason)
        self._reason = reason
