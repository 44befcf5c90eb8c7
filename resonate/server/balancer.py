"""Gives connections of this worker to others that have fewer. What is to be done is balance.py's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.event import AsyncResult

from resonate.bus.directory import pid_of
from resonate.counters import Snapshot
from resonate.server.balance import Balance, Transfer, figures
from resonate.server.context import Context
from resonate.server.line import Sender
from resonate.server.moving import Movers

#: Seconds between two looks. All workers of a host look at the same moments of its clock, and so at the same figures.
LOOK_EVERY_S: Final = 5.0
#: How long after the moment of a look a worker may begin to give, in seconds. With the second that figures may be old
#: and those for which `Movers.moving` holds, the next look finds figures that are true again.
GIVE_S: Final = 1.0


class Balancer:
    """`name` is this worker's, `sender` makes what takes connections to another one.

    `fit` says that this worker is one of several, and stays.
    """

    def __init__(
        self,
        context: Context,
        movers: Movers,
        name: str,
        sender: Callable[[str], Sender],
        fit: Callable[[], bool],
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._context = context
        self._movers = movers
        self._name = name
        self._sender = sender
        self._fit = fit
        self._every_s = every_s
        self._balance = Balance()
        self._greenlet: Any = None
        self.giving = False  # connections are on their way

    def start(self) -> None:
        """Look from now on."""
        self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        """The worker ends."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def _run(self) -> None:
        while True:
            due = (time.monotonic() // self._every_s + 1) * self._every_s
            while (left := due - time.monotonic()) > 0:  # a timer may come a little early
                gevent.sleep(left)
            try:
                self._look()
            except Exception:  # it must not be the last look
                self._context.log.exception("connections could not be balanced")

    def _look(self) -> None:
        until = time.monotonic() + GIVE_S
        if not self._fit() or self._movers.moving:
            return
        answer: AsyncResult[list[Snapshot] | None] = AsyncResult()
        self._context.collect(answer.set)
        snapshots = answer.get()  # it comes, though perhaps too late
        for transfer in self._balance.look(figures(snapshots or [])):
            if transfer.giver == self._name:
                self._give(transfer, lambda: self._fit() and time.monotonic() < until)

    def _give(self, transfer: Transfer, goes_on: Callable[[], bool]) -> None:
        sender = self._sender(transfer.taker)
        if sender.connect() != "ready":
            return  # the next look will tell whether it still has fewer
        self.giving, began = True, time.monotonic()
        try:
            given = sender.give(transfer.connections, goes_on)
        finally:
            self.giving = False
            sender.close()
        if given:
            self._context.log.info(
                "balance: handed %d of %d connections over to pid %d in %.2f s",
                given,
                transfer.connections,
                pid_of(transfer.taker),
                time.monotonic() - began,
            )
