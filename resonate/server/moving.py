"""Connections that change their worker while they are open, in both directions.

What is before the cut, and what is after it, is resonate.shard.handover's. How they travel is in line.py, and what they
are packed into in luggage.py.
"""

from __future__ import annotations

from gevent.event import Event

from resonate.messages import HandedOver, Inherit
from resonate.server.context import Context
from resonate.server.luggage import Bag, Luggage, packed
from resonate.server.plugin_state import Left
from resonate.server.pusher_connection import PusherConnection
from resonate.server.transport import Silent
from resonate.shard.handover import Arrival, Arrivals, Departure, Heard, Holder

#: Seconds after which an heir gives up those of whom not everything has come.
OVERDUE_S = 15
#: For how many seconds a worker tells that connections have come or gone: until everybody's figures count them where
#: they are now.
RECENT_S = 3


class Passenger(Silent):
    """Stands in for a Pusher connection from when the shards are told that it goes until it has gone.

    It is still written to, and nothing else happens to it: what would have is noted, and happens at the heir's.
    """

    def __init__(self, connection: PusherConnection) -> None:
        self.connection = connection
        self.session = connection.session
        self.transport = connection.transport
        self.lost_ = self.overflowed_ = self.expelled = self.drained_ = False
        self.left: list[Left] = []  # what has not been packed
        self.transport.pause_reading()
        self.transport.reactor.wheel.cancel(self.transport)
        self.transport.protocol = self

    @property
    def holder(self) -> Holder:
        """What the shards count for it."""
        return Holder(self.session.app.app_id, self.session.holdings())

    def pack(self) -> tuple[Bag, int | None]:
        """What the heir needs, and the descriptor, None where there is no connection any more."""
        self.transport.flush()  # what has become of the last turn's output is told now
        bag: Bag = {"app": self.session.app.app_id, "pusher": self.connection.snapshot()}
        bag |= {"expelled": self.expelled, "overflowed": self.overflowed_}
        texts, self.left = self.connection.packed_state()
        if texts:
            bag["state"] = texts
        if self.lost_:
            return bag, None
        return packed(self.transport, bag)

    def unload(self) -> None:
        """It does not go after all."""
        self.transport.protocol = self.connection
        if self.lost_:
            self.connection.lost()
        else:
            self.connection.settle()
            if self.expelled:
                self.connection.expel()
            elif self.overflowed_:
                self.connection.overflowed()
            elif self.drained_:
                self.connection.drain()

    # --- what the hub and the transport tell -------------------------------------------------------------------------

    def expel(self) -> None:
        self.expelled = True

    def overflowed(self) -> None:
        self.overflowed_ = True

    def lost(self) -> None:
        self.lost_ = True

    def drain(self) -> None:
        self.drained_ = True

    def connected(self, answer: object) -> None:
        pass

    def subscribed(self, answer: object) -> bool:
        return False


class Group:
    """Passengers that go together, and the shards' answers about them."""

    def __init__(self, departure: Departure, passengers: list[Passenger]) -> None:
        self.departure = departure
        self.passengers = passengers
        self.decided = Event()


class Movers:
    """What the hub tells of connections that change their worker, in both directions. One for each worker."""

    def __init__(self, context: Context, shards: int) -> None:
        self._context = context
        self._shards = shards
        self._refs = 0
        self._moved = -RECENT_S  # the tick at which connections have come or gone
        self._groups: dict[int, Group] = {}
        self._arrivals: Arrivals[Luggage] = Arrivals(shards)
        self._since: dict[tuple[str, int], int] = {}  # the tick at which an arrival was first heard of
        self.origins: set[str] = set()  # the workers that have a line to this one

    @property
    def idle(self) -> bool:
        """Whether nobody is on the way, in either direction."""
        return not (self._groups or self._arrivals or self.origins)

    def reshard(self, shards: int) -> None:
        """There are so many shards from now on. To be called while idle."""
        self._shards, self._arrivals = shards, Arrivals(shards)

    @property
    def moving(self) -> bool:
        """Whether connections come or go, or have just now: then they may be counted twice, or nowhere."""
        recent = self._context.reactor.wheel.now - self._moved < RECENT_S
        return recent or bool(self._groups or self._arrivals)

    # --- to another worker -------------------------------------------------------------------------------------------

    def depart(self, heir: str, connections: list[PusherConnection]) -> Group:
        """Tell the shards that these go."""
        hub = self._context.hub
        passengers = [Passenger(connection) for connection in connections]
        for passenger in passengers:
            hub.add(passenger)  # in its place
        self._refs += 1
        departure = Departure(self._refs, heir, [passenger.holder for passenger in passengers], self._shards)
        group = self._groups[departure.ref] = Group(departure, passengers)
        for request in departure.requests():
            self._context.link.send(request)
        return group

    def handed_over(self, event: HandedOver) -> None:
        """A shard has said from where on it is the heir who serves them."""
        group = self._groups.get(event.ref)
        if group is None:
            return
        group.departure.answered(event)
        if event.done:
            self._off(group, group.departure.channels(event.shard))
        if group.departure.decided:
            del self._groups[event.ref]
            if not group.departure.refused:
                self._moved = self._context.reactor.wheel.now
                self._off(group, None)
                for passenger in group.passengers:
                    self._context.hub.remove(passenger)
            group.decided.set()

    def _off(self, group: Group, channels: set[tuple[str, str]] | None) -> None:
        """They hear no more of these, or of any (None)."""
        for passenger in group.passengers:
            app = passenger.session.app.app_id
            for channel in passenger.session.subscriptions:
                if channels is None or (app, channel) in channels:
                    self._context.hub.leave(app, channel, passenger.transport)

    # --- from another worker -----------------------------------------------------------------------------------------

    @property
    def expecting(self) -> bool:
        """Whether connections are on their way."""
        return bool(self._arrivals)

    @property
    def full(self) -> bool:
        """Whether too much is kept for them."""
        return self._arrivals.full

    def inherit(self, event: Inherit) -> None:
        """A shard says what will be this worker's."""
        self._since.setdefault((event.origin, event.ref), self._context.reactor.wheel.now)
        self._adopt(self._arrivals.inherit(event))
        if event.origin not in self.origins:
            self.abandoned(event.origin)

    def heard(self, event: Heard) -> None:
        """Something has happened that those may miss who are on their way."""
        for arrival in self._arrivals.heard(event):
            self._adopt(arrival)

    def brought(self, origin: str, luggage: Luggage) -> None:
        """They are here."""
        if not luggage.ref:
            luggage.settle(self._context, [])
            return
        self._since.setdefault((origin, luggage.ref), self._context.reactor.wheel.now)
        self._adopt(self._arrivals.brought(origin, luggage.ref, luggage))

    def abandoned(self, origin: str) -> None:
        """That worker has gone: those who have not come with it will not come any more."""
        for arrival in self._arrivals.abandoned(origin):
            self._give_up(arrival)

    def tick(self) -> None:
        """A second has passed: those of whom not all has come are given up in the end."""
        now = self._context.reactor.wheel.now
        for arrival in self._arrivals.expected:
            if now - self._since[arrival.origin, arrival.ref] > OVERDUE_S:
                self._context.log.error("gave up connections of %s: not all shards have spoken of them", arrival.origin)
                self._arrivals.forget(arrival)
                self._give_up(arrival)

    def _adopt(self, arrival: Arrival[Luggage] | None) -> None:
        if arrival is None or arrival.luggage is None:
            return
        self._since.pop((arrival.origin, arrival.ref), None)
        self._moved = self._context.reactor.wheel.now
        arrival.luggage.settle(self._context, list(arrival.missed(arrival.luggage.beliefs)))
        self._context.hub.receive(())  # it may have waited for that

    def _give_up(self, arrival: Arrival[Luggage]) -> None:
        self._since.pop((arrival.origin, arrival.ref), None)
        if arrival.luggage is not None:
            arrival.luggage.close()
        for request in arrival.given_up():
            self._context.link.send(request)
