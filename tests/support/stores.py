"""Ends of a store, in memory or in Redis, as a test uses them: it orders, and waits for what is reported."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any, Protocol

from resonate.bus.redis_store import RedisStore
from resonate.scaling import Scaling
from resonate.shard.cluster.store import Entry, Follow, Followed, Lost, Order, Ready, Reply, Report
from tests.support.eventually import eventually
from tests.support.memory_store import MemoryEnd, MemoryStore

#: What the clock of a store in memory goes on by each time that somebody takes, in seconds.
TICK = 0.05


class Taking(Protocol):
    """What both stores are."""

    def order(self, orders: list[Order]) -> None: ...

    def take(self) -> list[Report]: ...


class End:
    """Keeps all that is reported. References are numbers of its own: `ask` waits for the answer."""

    def __init__(self, store: Taking) -> None:
        self._store = store
        self._references = itertools.count(1)
        self.reports: list[Report] = []

    def order(self, *orders: Order) -> None:
        """Have these done."""
        self._store.order(list(orders))

    def take(self) -> list[Report]:
        """All that has been reported, also now."""
        self.reports += self._store.take()
        return self.reports

    def until(self, condition: Callable[[list[Report]], Any], within: float = 20) -> Any:
        """Wait until it holds of all reports."""
        return eventually(lambda: condition(self.take()), within=within, every=0.005)

    def ask(self, kind: Callable[..., Any], *words: Any) -> Any:
        """Have one order done, and wait for its answer."""
        reference = next(self._references)
        self.order(kind(reference, *words))
        return self.answer(reference)

    def answer(self, reference: int) -> Any:
        """The value of that reply."""
        found = self.until(lambda reports: [r for r in reports if isinstance(r, Reply) and r.ref == reference])
        return found[0].value

    def follow(self, log: str) -> None:
        """Follow a log, and wait until it is."""
        before = self.followed(log)
        self.order(Follow(log))
        self.until(lambda _: self.followed(log) > before)

    def followed(self, log: str) -> int:
        """How often it was said to be."""
        return self.reports.count(Followed(log))

    def heard(self, log: str) -> list[Entry]:
        """The entries that have come."""
        return [report for report in self.reports if isinstance(report, Entry) and report.log == log]

    def until_heard(self, log: str, count: int) -> list[Entry]:
        """Wait for so many."""
        self.until(lambda _: len(self.heard(log)) >= count)
        return self.heard(log)

    def until_ready(self, times: int = 1, within: float = 20) -> End:
        """Wait until it is, for the so-manieth time."""
        self.until(lambda reports: reports.count(Ready()) >= times, within)
        return self

    def until_lost(self, times: int = 1, within: float = 20) -> str:
        """Wait until it is, for the so-manieth time; why."""
        return str(self.until(lambda reports: self.losses[times - 1 : times], within)[0])

    def until_mended(self, within: float = 20) -> None:
        """Wait until it is there again, however often it is lost before."""
        self.until(lambda _: self.turns[-1:] == [Ready()], within)

    @property
    def turns(self) -> list[Report]:
        """Each `Ready` and `Lost`."""
        return [report for report in self.reports if isinstance(report, Ready | Lost)]

    @property
    def losses(self) -> list[str]:
        """Why it was lost, each time."""
        return [report.reason for report in self.reports if isinstance(report, Lost)]


class _Ticking:
    """An end in memory whose time goes by as it is used."""

    def __init__(self, store: MemoryStore, end: MemoryEnd) -> None:
        self._store = store
        self._end = end

    def order(self, orders: list[Order]) -> None:
        self._end.order(orders)

    def take(self) -> list[Report]:
        return self._end.take(self._store.now + TICK)


class MemoryHosts:
    """Hosts that share a store in memory."""

    def __init__(self, log_length: int = 10_000) -> None:
        self._store = MemoryStore(log_length)

    def end(self) -> End:
        """One more shard, which is ready."""
        return End(_Ticking(self._store, self._store.end())).until_ready()

    def close(self) -> None:
        """There is nothing to close."""


class RedisHosts:
    """Hosts that share a Redis."""

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
        self.stores: list[RedisStore] = []

    def unready(self, scaling: Scaling | None = None, log: logging.Logger | None = None) -> End:
        """One more shard, whatever becomes of it."""
        self.stores.append(RedisStore(scaling or self._scaling, log or logging.getLogger("tests.store")))
        return End(self.stores[-1])

    def end(self) -> End:
        """One more shard, which is ready."""
        return self.unready().until_ready()

    def close(self) -> None:
        """Let go of all."""
        for store in self.stores:
            store.close()
