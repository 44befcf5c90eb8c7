"""Where orders for the store are written, and its answers come in."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from resonate.shard.cluster.store import Order
from resonate.shard.cluster.waiting import AwayError, Signal, Steps


class Store(Enum):
    """UNKNOWN: it has not been reached yet, and may be. AWAY: it cannot be reached."""

    UNKNOWN = auto()
    READY = auto()
    AWAY = auto()


class Desk:
    """Orders gather in `orders`, and are to be taken."""

    def __init__(self) -> None:
        self.store = Store.UNKNOWN
        self.trouble = "Redis has not been reached yet"
        self.refs = itertools.count(1)
        self.orders: list[Order] = []
        self._answers: dict[int, Signal] = {}
        self._known = Signal()

    def ready(self) -> None:
        """The store can be used."""
        self.store, self.trouble = Store.READY, ""
        self._known.fire()

    def lost(self, reason: str) -> None:
        """It cannot. Who waits has to be told otherwise."""
        self.store, self.trouble = Store.AWAY, reason
        self.orders.clear()
        self.forget()
        self._known.fire()

    def forget(self) -> None:
        """No answer to what has been asked so far matters any more."""
        self._answers.clear()

    def available(self) -> Steps[None]:
        """Steps to be taken first: raise AwayError while there is no store."""
        yield self._known
        if self.store is Store.AWAY:
            raise AwayError

    def order(self, *orders: Order) -> None:
        """Write orders, whose answers are nobody's concern."""
        if self.store is Store.READY:
            self.orders += orders

    def ask(self, order: Callable[..., Order], *fields: Any) -> Signal:
        """Write an order of that kind; what happens when it is answered. Nothing does, if the store is away."""
        ref, signal = next(self.refs), Signal()
        self._answers[ref] = signal
        self.order(order(ref, *fields))
        return signal

    def answered(self, ref: int, value: Any) -> None:
        """The answer to one of them, or to one that nobody waits for."""
        signal = self._answers.pop(ref, None)
        if signal is not None:
            signal.fire(value)
