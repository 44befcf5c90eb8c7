"""The shard among its workers: admits them, numbers what it does, and comes back from a death of its predecessor.

State is soft. A new shard begins *recovering*: each worker that is alive declares what it holds, and sends again the
requests whose outcome may not have reached everybody. Until all have declared, requests are held back; then they are
done, those that anybody has seen the outcome of first and in the order in which it was seen. Receivers drop what they
have seen before, by the number of the request. At the end each is told who is present, for a worker may have died
while there was no shard. So nobody misses an event or gets it twice, and presence has no edge that did not happen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from resonate.messages import Ack, Declaration, Event, HandOver, Inherit, Mark, Request, Stamped, plain_ref
from resonate.shard.shard import Outgoing, Shard

#: (origin, seq, request), or what the heir has of one whose origin does not ask any more.
Held = tuple[str, int, Request | Inherit]


class Delivery:
    """What is to be sent to one worker: stamped events, acknowledgements and marks, each in order."""

    __slots__ = ("acks", "events", "marks")

    def __init__(self) -> None:
        self.events: list[Stamped] = []
        self.acks: list[Ack] = []
        self.marks: list[Mark] = []


class Sequencer:
    """`expected` are the workers that were alive when this shard began; it recovers until each has declared or gone.

    `withheld`: and until `release` is called.

    `name` tells this shard process from those before it: it is the origin of what follows from no request. What is to
    be sent gathers until `take`. A request that cannot be handled is a defect: it is done without effect, and the
    exception is left in `failures` for the log.
    """

    def __init__(self, shard: Shard, name: str, expected: Iterable[str] = (), withheld: bool = False) -> None:
        self._shard = shard
        self._name = name
        self._expected = set(expected)
        self._withheld = withheld
        self._held: list[Held] = []
        self._seen: dict[tuple[str, int], int] = {}
        self._inherited: set[tuple[str, int]] = set()  # what has been handed over and is declared by the heir
        self._bequests: dict[tuple[str, int], tuple[str, Inherit]] = {}  # the same, with the heir, where it is not yet
        self._stable = 0  # the place up to which, as somebody knows, everybody has dealt with everything
        self._own = 0  # the number of the last thing that followed from no request
        self._next: dict[str, int] = {}  # the number of each worker's next request
        self._done: dict[str, tuple[int, Mark]] = {}  # the last request of each origin, by when: the latest at the end
        self._changes = 0  # of those
        self._told: dict[str, int] = {}  # after which change each worker has been told of them
        self._deliveries: dict[str, Delivery] = {}
        self.place = 0
        self.workers: set[str] = set()
        self.broken: set[str] = set()  # workers of which requests are missing
        self.failures: list[Exception] = []

    @property
    def missing(self) -> frozenset[str]:
        """The workers that have not declared yet; while there are any, requests are held back."""
        return frozenset(self._expected)

    @property
    def recovering(self) -> bool:
        """Whether requests are held back."""
        return bool(self._expected) or self._withheld

    def declare(self, worker: str, declaration: Declaration, now: float) -> None:
        """A worker is there, and says what it holds."""
        self.workers.add(worker)
        self._shard.join(worker)
        self._shard.declare(worker, declaration, now)
        self._seen |= {(mark.origin, mark.seq): mark.place for mark in declaration.seen}
        self._inherited.update(declaration.inherited)
        self._bequests |= {(origin, seq): (worker, event) for origin, seq, event in declaration.bequests}
        places = [mark.place for mark in declaration.seen] + [item[4] for item in declaration.cached]
        self.place = max(self.place, declaration.stable, *places)
        self._stable = max(self._stable, declaration.stable)
        self._next[worker] = declaration.first
        self.requests(worker, declaration.first, declaration.requests, now)
        self._settle(worker, now)

    def requests(self, worker: str, first: int, requests: Sequence[Request], now: float) -> None:
        """Requests of a worker, numbered from `first` on."""
        if not requests or worker not in self.workers:  # it has been given up, and has not noticed yet
            return
        if first != self._next[worker]:
            self.broken.add(worker)
        if worker in self.broken:
            return
        self._next[worker] = first + len(requests)
        if self.recovering:
            self._held += [(worker, seq, request) for seq, request in enumerate(requests, first)]
            return
        delivery = self._delivery(worker)  # who asks is told first: its back ends are at work while others broadcast
        for seq, request in enumerate(requests, first):
            self._stamp(worker, seq, self._handle(worker, seq, request, now))
        last = first + len(requests) - 1
        self._mark(worker, last, self.place)
        delivery.acks.append(Ack(last, self.place, len(requests)))

    def gone(self, worker: str, now: float) -> None:
        """A worker's process has ended: its subscriptions and members leave."""
        self._held = [held for held in self._held if held[0] != worker]
        self._bequests = {key: bequest for key, bequest in self._bequests.items() if bequest[0] != worker}
        if worker in self.workers:
            self.workers.discard(worker)
            left = self._shard.leave(worker)
            if not self.recovering:  # else not all have said who is there: `Present` will tell
                self.announce(left)
        self.broken.discard(worker)
        for known in (self._told, self._done, self._next, self._deliveries):
            known.pop(worker, None)
        self._settle(worker, now)

    def take(self) -> dict[str, Delivery]:
        """What is to be sent, by worker; with it each is told how far the others are, on which it may rest."""
        deliveries, self._deliveries = self._deliveries, {}
        found: dict[int, list[Mark]] = {}  # as a rule all have been told at the same time
        for worker, delivery in deliveries.items():
            since = self._told.get(worker, 0)
            if since not in found:
                found[since] = self._marks_after(since)
            delivery.marks = found[since]
            self._told[worker] = self._changes
        return deliveries

    def _marks_after(self, change: int) -> list[Mark]:
        marks = []
        for at, mark in reversed(self._done.values()):
            if at <= change:
                break
            marks.append(mark)
        return marks

    def _mark(self, origin: str, seq: int, place: int) -> None:
        """That request of an origin is its last that has been done."""
        self._changes += 1
        self._done.pop(origin, None)
        self._done[origin] = (self._changes, Mark(origin, seq, place))

    # --- recovery ----------------------------------------------------------------------------------------------------

    def _settle(self, worker: str, now: float) -> None:
        """One less to wait for."""
        if worker not in self._expected:
            return
        self._expected.discard(worker)
        if not self.recovering:
            self._recover(now)

    def release(self, now: float) -> None:
        """Nothing is withheld any more; to be called when nobody is missing."""
        self._withheld = False
        self._recover(now)

    def _recover(self, now: float) -> None:
        """Do what was held back."""
        self._held += self._kept()
        held, self._held = self._in_order(), []
        for place, (origin, seq, request) in held:
            if isinstance(request, Inherit):
                self._shard.hold(self._bequests[origin, seq][0], request.apps, request.channels)
                continue
            if isinstance(request, HandOver):
                outgoing = self._hand_over(origin, seq, request, now, place)
            else:
                outgoing = self._handle(origin, seq, request, now, place)
            if place and place <= self._stable:  # old news to all, also to who was not on the channel then
                outgoing = []
            done = self._stamp(origin, seq, outgoing, place)
            self._mark(origin, seq, done)
            self._delivery(origin).acks.append(Ack(seq, done, 1))
        self._seen, self._inherited, self._bequests = {}, set(), {}
        self.announce(self._shard.present())

    def _kept(self) -> list[Held]:
        """What has been handed over by those who do not ask for it again: they have gone, or know it to be stable."""
        asked = {(origin, seq) for origin, seq, _ in self._held}
        return [(*key, event) for key, (_, event) in self._bequests.items() if key not in asked]

    def _hand_over(self, origin: str, seq: int, request: HandOver, now: float, place: int) -> Outgoing:
        """The heir may have declared it already; and what clients believe of presence has to be looked at."""
        if (origin, seq) in self._inherited:
            request = replace(request, heir="", certain=True)
        outgoing: Outgoing = []
        for receiver, event in self._handle(origin, seq, request, now, place):
            if isinstance(event, Inherit):
                event = replace(event, recovered=True)
            outgoing.append((receiver, event))
        return outgoing

    def _in_order(self) -> list[tuple[int, Held]]:
        """The held requests with the places that they had under a shard before this one, 0 where nobody knows.

        A place that somebody has seen is for ever, however many shards die: so those come first, in their order. What
        an origin had asked before such a request was done before it too.
        """
        waiting: dict[str, deque[Held]] = {}
        for item in self._held:
            waiting.setdefault(item[0], deque()).append(item)
        known = sorted((place, origin, seq) for (origin, seq), place in self._seen.items() if origin in waiting)
        ordered: list[tuple[int, Held]] = []
        for place, origin, seq in known:
            queue = waiting[origin]
            while queue and queue[0][1] <= seq:
                ordered.append((place, queue.popleft()))
        done = {item[:2] for _, item in ordered}
        return ordered + [(0, item) for item in self._held if item[:2] not in done]

    # --- places ------------------------------------------------------------------------------------------------------

    def _handle(self, worker: str, seq: int, request: Request, now: float, place: int = 0) -> Outgoing:
        try:
            outgoing = self._shard.handle(worker, request, now, place, seq)
        except Exception as error:
            self.failures.append(error)
            return []
        if plain_ref(request):
            outgoing.pop()  # the Ack will do
        return outgoing

    def announce(self, outgoing: Outgoing) -> None:
        """Tell what follows from no request."""
        if outgoing:
            self._own += 1
            self._mark(self._name, self._own, self._stamp(self._name, self._own, outgoing))

    def _stamp(self, origin: str, seq: int, outgoing: Outgoing, place: int = 0) -> int:
        """Give what has been done its place, the next one unless it has one."""
        if not place:
            self.place += 1
            place = self.place
        if len(outgoing) == 1:
            ((receiver, event),) = outgoing
            self._delivery(receiver).events.append(Stamped(origin, seq, place, [event]))
            return place
        receivers: dict[str, list[Event]] = {}
        for receiver, event in outgoing:
            receivers.setdefault(receiver, []).append(event)
        for receiver, events in receivers.items():
            self._delivery(receiver).events.append(Stamped(origin, seq, place, events))
        return place

    def _delivery(self, worker: str) -> Delivery:
        delivery = self._deliveries.get(worker)
        if delivery is None:
            delivery = self._deliveries[worker] = Delivery()
        return delivery
