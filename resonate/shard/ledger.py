"""What one worker has told one shard, and has heard of it: enough to tell it again to a successor.

Requests are kept for a while after they have been answered. What a shard said shortly before it was killed may not have
reached everybody; so a successor is told the state as it was before those requests, and the requests again.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, Final

from resonate.messages import (
    Attach,
    ChannelHolding,
    Connect,
    Connected,
    Declaration,
    Detach,
    Disconnect,
    Event,
    Member,
    Publication,
    Request,
    Subscribe,
    Unsubscribe,
)
from resonate.shard.cache import EventCache
from resonate.shard.sequencer import Parcel

#: How long a request is kept after its answer, in seconds; and how many are at most.
KEEP_S: Final = 2.0
KEEP_REQUESTS: Final = 10_000
#: Payloads of cache channels that one worker remembers, in bytes.
CACHE_BYTES: Final = 8 * 1024 * 1024


class _Entry:
    """A request on its way. `place` is 0 until it is known to be done, `admitted` the outcome of a Connect."""

    __slots__ = ("admitted", "at", "place", "request", "seq")

    def __init__(self, seq: int, request: Request, at: float) -> None:
        self.seq = seq
        self.request = request
        self.at = at
        self.place = 0
        self.admitted: bool | None = None


class Ledger:
    """`worker` is the sender's name. Times are seconds of any clock that only goes forward."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._entries: deque[_Entry] = deque()  # in the order of their numbers, without gaps
        self._next = 1
        self._unsent = 1  # the number of the first request that has not been sent to this shard
        self._holdings = _Holdings()
        self._seen: dict[str, int] = {}
        self._settled = False  # whether the present shard has begun to answer: until then nothing may be forgotten
        self._cached = EventCache(CACHE_BYTES)
        self._tail: deque[tuple[float, str, int, int]] = deque(maxlen=KEEP_REQUESTS)

    def add(self, request: Request, now: float) -> None:
        """A request is to be sent."""
        self._entries.append(_Entry(self._next, request, now))
        self._next += 1

    def unsent(self) -> tuple[int, list[Request]]:
        """The requests to send now, and the number of the first."""
        first, self._unsent = self._unsent, self._next
        if first == self._next:
            return first, []
        start = first - self._entries[0].seq
        return first, [entry.request for entry in list(self._entries)[start:]]

    def receive(self, parcel: Parcel, now: float) -> list[Event]:
        """What of a shard's parcel is new, in order."""
        self._settled = True
        fresh: list[Event] = []
        self._tail.extend((now, *mark) for mark in parcel.marks)
        for origin, seq, place, events in parcel.events:
            if self._seen.get(origin, 0) >= seq:
                continue
            self._seen[origin] = seq
            self._tail.append((now, origin, seq, place))
            self._note(origin, seq, events, now)
            fresh += events
        for seq, place, size in parcel.acks:
            for offset in range(size):
                entry = self._entry(seq - offset)
                if entry is not None:
                    entry.place, entry.at = place - offset, now
        return fresh

    def lost(self) -> None:
        """The shard has gone; nothing is forgotten until its successor has begun to answer."""
        self._settled = False

    def retire(self, now: float) -> None:
        """Forget what has been done long enough ago; its effect becomes part of what is held."""
        entries = self._entries
        if not self._settled:
            return
        while entries and entries[0].place and (now - entries[0].at > KEEP_S or len(entries) > KEEP_REQUESTS):
            self._holdings.apply(entries.popleft())
        while self._tail and now - self._tail[0][0] > KEEP_S:
            self._tail.popleft()

    def declaration(self, now: float) -> Declaration:
        """For a new shard: what was held before the requests that are kept, and all of those again."""
        for entry in self._entries:
            if isinstance(entry.request, Connect) and entry.admitted is not None:
                # It has been decided, and the client told: the successor is not asked again.
                entry.request = entry.request._replace(limit=None if entry.admitted else 0)
        seen = [(origin, seq, place) for _, origin, seq, place in self._tail]
        seen += [(self._worker, entry.seq, entry.place) for entry in self._entries if entry.place]
        cached = [(app, name, payload, left) for (app, name), payload, left in self._cached.items(now)]
        first = self._entries[0].seq if self._entries else self._next
        self._unsent = self._next
        requests = [entry.request for entry in self._entries]
        return Declaration(self._holdings.apps(), self._holdings.channels(), cached, seen, first, requests)

    def _entry(self, seq: int) -> _Entry | None:
        if not self._entries:
            return None
        index = seq - self._entries[0].seq
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def _note(self, origin: str, seq: int, events: list[Event], now: float) -> None:
        for event in events:
            if type(event) is Connected:
                entry = self._entry(seq) if origin == self._worker else None
                if entry is not None:
                    entry.admitted = event.admitted
            elif type(event) is Publication and event.keep_s:
                self._cached.put((event.app, event.channel), event.payload, now, event.keep_s)


class _Channel:
    __slots__ = ("members", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions = 0
        self.members: dict[str, tuple[dict[str, Any], int]] = {}


class _Holdings:
    """The sum of requests."""

    def __init__(self) -> None:
        self._connected: Counter[str] = Counter()
        self._attached: Counter[str] = Counter()
        self._channels: dict[tuple[str, str], _Channel] = {}

    def apply(self, entry: _Entry) -> None:
        request, app = entry.request, entry.request.app
        match request:
            case Connect():
                self._connected[app] += 1 if entry.admitted else 0
            case Disconnect():
                self._connected[app] -= 1
            case Attach():
                self._attached[app] += 1
            case Detach():
                self._attached[app] -= 1
            case Subscribe(channel=name, member=member):
                self._join(app, name, member)
            case Unsubscribe(channel=name, user=user):
                self._leave(app, name, user)

    def apps(self) -> list[tuple[str, int, int]]:
        """Connections by app: connected, attached."""
        return [(app, self._connected[app], self._attached[app]) for app in {*self._connected, *self._attached}]

    def channels(self) -> list[ChannelHolding]:
        """Each channel."""
        return [
            ChannelHolding(app, name, held.subscriptions, [(user, *member) for user, member in held.members.items()])
            for (app, name), held in self._channels.items()
        ]

    def _join(self, app: str, name: str, member: Member | None) -> None:
        channel = self._channels.setdefault((app, name), _Channel())
        channel.subscriptions += 1
        if member is not None:
            data, connections = channel.members.get(member.user, (member.data, 0))
            channel.members[member.user] = (data, connections + 1)

    def _leave(self, app: str, name: str, user: str | None) -> None:
        channel = self._channels[app, name]
        channel.subscriptions -= 1
        if user is not None:
            data, connections = channel.members.pop(user)
            if connections > 1:
                channel.members[user] = (data, connections - 1)
        if not channel.subscriptions:
            del self._channels[app, name]
