"""The shard among its workers: admits them, numbers what it does, and comes back from a death of its predecessor.

State is soft. A new shard begins *recovering*: each worker that is alive declares what it holds, and sends again the
requests that it sent lately or that were never answered. Until all have declared, requests are held back; then they
are done, those that anybody has seen the outcome of first and in the order in which it was seen. Receivers drop what
they have seen before, by the number of the request. So nobody misses an event or gets it twice, and presence has no
edge that did not happen.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from resonate.messages import Declaration, Event, Request
from resonate.shard.shard import Outgoing, Shard


class Stamped(NamedTuple):
    """What one request (or death) means for one receiver. `place` is its position in the shard's order.

    `origin` and `seq` name the request: its sender, and the sender's number for it.
    """

    origin: str
    seq: int
    place: int
    events: list[Event]


class Ack(NamedTuple):
    """Tells a worker that `size` of its requests are done: the last is `seq`, at `place`, the others before it."""

    seq: int
    place: int
    size: int


class Mark(NamedTuple):
    """Tells a worker how far the shard has come with another: the request `seq` of `origin` was done at `place`."""

    origin: str
    seq: int
    place: int


class Parcel:
    """What is to be sent to one receiver: stamped events, acknowledgements and marks, each in order."""

    __slots__ = ("acks", "events", "marks")

    def __init__(self) -> None:
        self.events: list[Stamped] = []
        self.acks: list[Ack] = []
        self.marks: list[Mark] = []


class Deliveries(defaultdict[str, Parcel]):
    """Parcels by receiver."""

    def __init__(self) -> None:
        super().__init__(Parcel)


class Sequencer:
    """`expected` are the workers that were alive when this shard began; it recovers until each has declared or gone.

    `name` tells this shard process from those before it: it is the origin of the edges that follow a worker's death.
    """

    def __init__(self, shard: Shard, name: str, expected: Iterable[str] = ()) -> None:
        self._shard = shard
        self._name = name
        self._expected = set(expected)
        self._held: list[tuple[str, int, Request]] = []
        self._seen: dict[tuple[str, int], int] = {}
        self._place = 0
        self._deaths = 0
        self._done: dict[str, Mark] = {}  # the last request of each origin
        self._told: dict[str, dict[str, int]] = {}  # which of those each receiver has been told of
        self.workers: set[str] = set()

    @property
    def recovering(self) -> bool:
        """Whether requests are held back."""
        return bool(self._expected)

    def declare(self, worker: str, declaration: Declaration, now: float) -> Deliveries:
        """A worker is there, and says what it holds."""
        self.workers.add(worker)
        self._shard.join(worker)
        self._shard.declare(worker, declaration, now)
        for origin, seq, place in declaration.seen:
            self._seen[origin, seq] = place
            self._place = max(self._place, place)
        deliveries = self.requests(worker, declaration.first, declaration.requests, now)
        self._settle(deliveries, worker, now)
        return self._marked(deliveries)

    def requests(self, worker: str, first: int, requests: Sequence[Request], now: float) -> Deliveries:
        """Requests of a worker, numbered from `first` on."""
        deliveries = Deliveries()
        if worker not in self.workers:  # evicted: it has not noticed yet
            return deliveries
        numbered = list(enumerate(requests, first))
        if self.recovering:
            self._held += [(worker, seq, request) for seq, request in numbered]
            return deliveries
        for seq, request in numbered:
            self._do(deliveries, worker, seq, request, now)
        if numbered:
            deliveries[worker].acks.append(Ack(first + len(requests) - 1, self._place, len(requests)))
        return self._marked(deliveries)

    def gone(self, worker: str, now: float) -> Deliveries:
        """A worker's process has ended, or it has been given up: its subscriptions and members leave."""
        deliveries = Deliveries()
        self._held = [held for held in self._held if held[0] != worker]
        self._told.pop(worker, None)
        if worker in self.workers:
            self.workers.discard(worker)
            self._deaths += 1
            self._stamp(deliveries, self._name, self._deaths, self._shard.leave(worker))
        self._settle(deliveries, worker, now)
        return self._marked(deliveries)

    def give_up_waiting(self, now: float) -> Deliveries:
        """Whoever has not declared by now does not hold the others up any longer."""
        deliveries = Deliveries()
        for worker in tuple(self._expected):
            self._settle(deliveries, worker, now)
        return self._marked(deliveries)

    def _settle(self, deliveries: Deliveries, worker: str, now: float) -> None:
        """One less to wait for; after the last, do what was held back."""
        if worker not in self._expected:
            return
        self._expected.discard(worker)
        if self._expected:
            return
        held, self._held = self._in_order(), []
        for place, (origin, seq, request) in held:
            done = self._stamp(deliveries, origin, seq, self._shard.handle(origin, request, now), place)
            deliveries[origin].acks.append(Ack(seq, done, 1))
        self._seen = {}

    def _marked(self, deliveries: Deliveries) -> Deliveries:
        """Tell each receiver how far the others are: what it is told now may rest upon what they did."""
        for receiver, parcel in deliveries.items():
            told = self._told.setdefault(receiver, {})
            for origin, mark in self._done.items():
                if told.get(origin) != mark.seq:
                    told[origin] = mark.seq
                    if origin != receiver:
                        parcel.marks.append(mark)
        return deliveries

    def _in_order(self) -> list[tuple[int, tuple[str, int, Request]]]:
        """The held requests with the places that they had under a shard before this one, 0 where nobody knows.

        A place that somebody has seen is for ever, however many shards die: so those come first, in their order. What
        an origin had asked before such a request was done before it too.
        """
        waiting: dict[str, deque[tuple[str, int, Request]]] = {}
        for item in self._held:
            waiting.setdefault(item[0], deque()).append(item)
        known = sorted((place, origin, seq) for (origin, seq), place in self._seen.items() if origin in waiting)
        ordered: list[tuple[int, tuple[str, int, Request]]] = []
        for place, origin, seq in known:
            queue = waiting[origin]
            while queue and queue[0][1] <= seq:
                ordered.append((place, queue.popleft()))
        done = {item[:2] for _, item in ordered}
        return ordered + [(0, item) for item in self._held if item[:2] not in done]

    def _do(self, deliveries: Deliveries, origin: str, seq: int, request: Request, now: float) -> None:
        self._stamp(deliveries, origin, seq, self._shard.handle(origin, request, now))

    def _stamp(self, deliveries: Deliveries, origin: str, seq: int, outgoing: Outgoing, place: int = 0) -> int:
        """Give what has been done its place, the next one unless it has one."""
        if not place:
            self._place += 1
            place = self._place
        self._done[origin] = Mark(origin, seq, place)
        receivers: dict[str, list[Event]] = {}
        for receiver, event in outgoing:
            receivers.setdefault(receiver, []).append(event)
        for receiver, events in receivers.items():
            deliveries[receiver].events.append(Stamped(origin, seq, place, events))
        return place
