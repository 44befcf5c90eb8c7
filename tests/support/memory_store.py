"""The store of `resonate.shard.cluster.store` in memory: no I/O, no time, no threads. The test says what happens when.

`store = MemoryStore()` is what hosts share, `end = store.end()` one shard's connection to it. `end.order([...])` waits
until `end.take(now)` does it and reports; `step` and the limits of `take` do it piece by piece.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from resonate.shard.cluster.store import (
    PAGE,
    Admit,
    Append,
    Arrive,
    Arrived,
    Bury,
    Channels,
    Count,
    Entry,
    Follow,
    Followed,
    Index,
    Join,
    Keep,
    Leave,
    Listen,
    ListParties,
    Logs,
    Look,
    Lost,
    Order,
    Page,
    Read,
    Ready,
    Renew,
    Reply,
    Report,
    Said,
    Say,
    Subscriptions,
    Sum,
    Tally,
    Unfollow,
    Unindex,
)


@dataclass
class _Log:
    entries: deque[tuple[int, bytes]]
    ends_at: float = math.inf
    members: dict[str, bytes] = field(default_factory=dict)
    cached: bytes = b""
    cached_until: float = -math.inf

    @property
    def last(self) -> int:
        return self.entries[-1][0] if self.entries else 0


@dataclass
class _Held:
    """What one party holds of one app."""

    connected: int = 0
    attached: int = 0
    channels: dict[str, int] = field(default_factory=dict)


class MemoryStore:
    """What all hosts share. `now` is the latest time that any end has been given, in seconds.

    A log keeps `log_length` entries, for `log_s` seconds after the last. Positions grow over all logs: those of one log
    have gaps.
    """

    def __init__(self, log_length: int = 10_000, log_s: float = math.inf) -> None:
        self.now = 0.0
        self._log_length = log_length
        self._log_s = log_s
        self._position = 0
        self._ends: list[MemoryEnd] = []
        self._clear()

    def _clear(self) -> None:
        self._logs: dict[str, _Log] = {}
        self._counts: dict[str, dict[str, _Held]] = {}  # by app and party
        self._leases: dict[str, float] = {}
        self._since: int | None = None  # when the first party has arrived
        self._indexes: dict[str, set[str]] = {}

    def end(self) -> MemoryEnd:
        """A new connection, which is ready."""
        self._ends.append(MemoryEnd(self))
        return self._ends[-1]

    def wipe(self) -> None:
        """All is forgotten; positions grow on. Connections stay: a test that restarts Redis loses them, too."""
        self._clear()

    def log(self, name: str) -> _Log:
        """A log as it stands now; made where there is none."""
        log = self._logs.setdefault(name, _Log(deque(maxlen=self._log_length)))
        if self.now >= log.ends_at:
            log.entries.clear()
        return log

    def do(self, order: Order) -> Any:
        """The answer to an order that is none to follow."""
        return _DEEDS[type(order)](self, order)

    # --- one log -----------------------------------------------------------------------------------------------------

    def _add(self, name: str, entry: bytes) -> int:
        log = self.log(name)
        self._position = max(self._position + 1, int(self.now * 1000) << 16)
        log.entries.append((self._position, entry))
        log.ends_at = self.now + self._log_s
        for end in self._ends:
            if name in end.follows:
                end.heard.append(Entry(name, self._position, entry))
        return self._position

    def _append(self, order: Append) -> int:
        if order.keep_s:
            self._keep(Keep(order.log, order.cached, order.keep_s))
        return self._add(order.log, order.entry)

    def _keep(self, order: Keep) -> None:
        log = self.log(order.log)
        log.cached, log.cached_until = order.cached, self.now + order.keep_s

    def _say(self, order: Say) -> None:
        for end in self._ends:
            if end.listens:
                end.heard.append(Said(order.data))

    def _join(self, order: Join) -> int:
        log = self.log(order.log)
        known = order.field in log.members
        log.members[order.field] = order.value
        return log.last if known else self._add(order.log, order.entry)

    def _leave(self, order: Leave) -> int:
        log = self.log(order.log)
        return log.last if log.members.pop(order.field, None) is None else self._add(order.log, order.entry)

    def _read(self, order: Read) -> Page:
        after = math.inf if order.after is None else order.after
        return self._page(order.log, after, order.members)

    def _look(self, order: Look) -> Page:
        return self._page(order.log, math.inf, True)

    def _page(self, name: str, after: float, members: bool) -> Page:
        log = self.log(name)
        left = log.cached_until - self.now
        return Page(
            [entry for entry in log.entries if entry[0] > after][:PAGE],
            log.last,
            list(log.members.items()) if members else None,
            (log.cached, math.ceil(left)) if left > 0 else None,
        )

    # --- one app -----------------------------------------------------------------------------------------------------

    def _held(self, app: str, party: str) -> _Held:
        return self._counts.setdefault(app, {}).setdefault(party, _Held())

    def _count(self, order: Count) -> None:
        self._leases.setdefault(order.party, -math.inf)
        held = self._held(order.app, order.party)
        held.connected, held.attached = order.connected, order.attached
        held.channels |= order.channels
        held.channels = {channel: count for channel, count in held.channels.items() if count}

    def _admit(self, order: Admit) -> tuple[int, int]:
        self._leases.setdefault(order.party, -math.inf)
        parties = self._counts.get(order.app, {})
        others = sum(held.connected for party, held in parties.items() if party != order.party)
        granted = max(0, min(order.wanted, order.limit - others - order.held))
        self._held(order.app, order.party).connected = order.held + granted
        return granted, others

    def _by_channel(self, app: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for held in self._counts.get(app, {}).values():
            found.update(held.channels)
        return found

    def _tally(self, order: Tally) -> Sum:
        parties = self._counts.get(order.app, {}).values()
        channels = self._by_channel(order.app)
        connected, attached = sum(held.connected for held in parties), sum(held.attached for held in parties)
        return Sum(connected, attached, channels.total(), len(channels))

    def _subscriptions(self, order: Subscriptions) -> int:
        return self._by_channel(order.app)[order.channel]

    def _channels(self, order: Channels) -> dict[str, int]:
        found = self._by_channel(order.app)
        return {channel: count for channel, count in found.items() if channel.startswith(order.prefix)}

    # --- parties -----------------------------------------------------------------------------------------------------

    def _arrive(self, order: Arrive) -> Arrived:
        self._leases[order.party] = self.now + order.lease_s
        now = max(self._position, int(self.now * 1000) << 16)
        self._since = now if self._since is None else self._since
        return Arrived(now, self._since)

    def _renew(self, order: Renew) -> bool:
        lives = self._leases.get(order.party, -math.inf) > self.now
        if lives:
            self._leases[order.party] = self.now + order.lease_s
        return lives

    def _index(self, order: Index) -> None:
        self._indexes.setdefault(order.party, set()).add(order.log)

    def _unindex(self, order: Unindex) -> None:
        self._indexes.get(order.party, set()).discard(order.log)

    def _parties(self, order: ListParties) -> dict[str, bool]:
        return {party: until > self.now for party, until in self._leases.items()}

    def _logs_of(self, order: Logs) -> list[str]:
        return sorted(self._indexes.get(order.party, ()))

    def _bury(self, order: Bury) -> None:
        self._leases.pop(order.party, None)
        self._indexes.pop(order.party, None)
        for parties in self._counts.values():
            parties.pop(order.party, None)


_DEEDS: dict[type[Any], Callable[[MemoryStore, Any], Any]] = {
    Append: MemoryStore._append,
    Keep: MemoryStore._keep,
    Say: MemoryStore._say,
    Read: MemoryStore._read,
    Join: MemoryStore._join,
    Leave: MemoryStore._leave,
    Look: MemoryStore._look,
    Count: MemoryStore._count,
    Admit: MemoryStore._admit,
    Tally: MemoryStore._tally,
    Subscriptions: MemoryStore._subscriptions,
    Channels: MemoryStore._channels,
    Arrive: MemoryStore._arrive,
    Renew: MemoryStore._renew,
    Index: MemoryStore._index,
    Unindex: MemoryStore._unindex,
    ListParties: MemoryStore._parties,
    Logs: MemoryStore._logs_of,
    Bury: MemoryStore._bury,
}


class MemoryEnd:
    """One shard's connection.

    What it has heard (`Followed`, `Entry`, `Said`) and what it has been answered (`Reply`) come on two ways, as in
    Redis: each is in order, and which of the two is faster is for the test.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._turns: list[Report] = [Ready()]  # `Ready` and `Lost` that have not been taken
        self._connected = True
        self._ready = False  # as far as the shard has been told
        self._told_lost = False
        self.follows: set[str] = set()
        self.listens = False
        self.waiting: deque[Order] = deque()
        self.heard: deque[Report] = deque()
        self.replies: deque[Report] = deque()

    @property
    def connected(self) -> bool:
        """Between `mend`, or the beginning, and `lose`."""
        return self._connected

    def order(self, orders: Sequence[Order]) -> None:
        """They wait; what is ordered before `Ready` has been taken is dropped."""
        if self._ready and self._connected:
            self.waiting.extend(orders)

    def step(self, now: float) -> bool:
        """Do the next order; whether there was one. What it leads to is heard and answered, not taken yet."""
        self._store.now = max(self._store.now, now)
        if not self.waiting:
            return False
        order = self.waiting.popleft()
        if isinstance(order, Follow):
            self.follows.add(order.log)
            self.heard.append(Followed(order.log))
        elif isinstance(order, Unfollow):
            self.follows.discard(order.log)
        elif isinstance(order, Listen):
            self.listens = True
        else:
            answer = self._store.do(order)
            if not isinstance(order, Unindex | Keep | Say):
                self.replies.append(Reply(order.ref, answer))
        return True

    def take(
        self, now: float, orders: int | None = None, heard: int | None = None, replies: int | None = None
    ) -> list[Report]:
        """Do so many of the orders that wait, then report so many of what was heard and of what was answered.

        None: all. What remains is kept back until the next time.
        """
        for _ in range(len(self.waiting) if orders is None else orders):
            self.step(now)
        reports, self._turns = self._turns, []
        for report in reports:
            self._ready = isinstance(report, Ready)
            self._told_lost = not self._ready
        return reports + _first(self.heard, heard) + _first(self.replies, replies)

    def lose(self, done: int = 0, reason: str = "the test says so") -> None:
        """The connection breaks when the first `done` of the orders that wait have been done.

        All reports that have not been taken are dropped, but for `Lost`, which is said once.
        """
        if not self._connected:
            return
        for _ in range(done):
            self.step(self._store.now)
        self._connected = self._ready = self.listens = False
        self._turns = [] if self._told_lost else [Lost(reason)]
        for waiting in (self.waiting, self.heard, self.replies, self.follows):
            waiting.clear()

    def mend(self) -> None:
        """The connection is there again: `Ready`, and nothing is followed."""
        if not self._connected:
            self._connected = True
            self._turns.append(Ready())


def _first(reports: deque[Report], count: int | None) -> list[Report]:
    return [reports.popleft() for _ in range(len(reports) if count is None else min(count, len(reports)))]
