"""What one worker has told one shard, and has heard of it: enough to tell it again to a successor.

A request is kept after it has been done, until its place is stable: what a shard said shortly before it was killed may
not have reached everybody. So a successor is told the state as it was before those requests, and the requests again.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, Final

from resonate.errors import ResonateError
from resonate.messages import (
    Answer,
    Attach,
    Batch,
    ChannelHolding,
    Connect,
    Connected,
    Declaration,
    Detach,
    Disconnect,
    Event,
    Member,
    MemberAdded,
    MemberRemoved,
    Parcel,
    Present,
    Publication,
    Publish,
    Request,
    Stamped,
    Subscribe,
    Subscribed,
    Unsubscribe,
    plain_ref,
    user_key,
)
from resonate.shard.cache import EventCache

#: Requests that are kept although they are done, at most. More only come together while a worker hangs.
KEEP_REQUESTS: Final = 20_000
#: Requests that are sent at once, although the shard is still at work on earlier ones.
TOGETHER: Final = 64
#: Requests under way from which on clients should not be listened to.
BEHIND: Final = 10_000
#: Payloads of cache channels that one worker remembers, in bytes.
CACHE_BYTES: Final = 8 * 1024 * 1024
#: Origins of which it is remembered what has been seen; they are workers, and shards that have died.
ORIGINS: Final = 4096

#: What says who is on a presence channel.
_PRESENCE: Final = frozenset((MemberAdded, MemberRemoved, Present, Subscribed))

#: What a worker without a past declares.
NOTHING: Final = Declaration([], [], [], [], 1, [])


class LostError(ResonateError):
    """A parcel has not come."""


class _Entry:
    """A request on its way. `place` is 0 until it is known to be done, `admitted` the outcome of a Connect."""

    __slots__ = ("admitted", "place", "request", "seq")

    def __init__(self, seq: int, request: Request) -> None:
        self.seq = seq
        self.request = request
        self.place = 0
        self.admitted: bool | None = None


class Ledger:
    """`worker` is the sender's name, `past` what it holds already. Times are seconds of a clock that goes forward."""

    def __init__(self, worker: str, past: Declaration = NOTHING) -> None:
        self._worker = worker
        self._under_way: deque[_Entry] = deque()  # sent or to be sent; in the order of their numbers, without gaps
        self._done: deque[_Entry] = deque()  # all before those
        self._next = past.first
        self._unsent: list[Request] = []
        self._seen: dict[str, int] = {}
        self._tail: deque[tuple[str, int, int]] = deque(maxlen=KEEP_REQUESTS)
        self._holdings = _Holdings(past)
        self._cached = EventCache(CACHE_BYTES)
        self._views = _Views(past)
        self._past_cached = past.cached
        self._stable = 0
        self.received = 0  # the number of the last parcel

    @property
    def few(self) -> bool:
        """Whether there are requests to be sent, and not so many that they should leave at once."""
        return 0 < len(self._unsent) < TOGETHER

    @property
    def waits(self) -> bool:
        """Whether they should wait until the shard has done earlier ones, to leave together."""
        return self.few and len(self._under_way) > len(self._unsent)

    @property
    def behind(self) -> bool:
        """Whether so much is under way that clients should not be listened to."""
        return len(self._under_way) > BEHIND

    # --- to the shard ------------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """A request is to be sent."""
        self._under_way.append(_Entry(self._next, request))
        self._unsent.append(request)
        self._next += 1
        kind = type(request)
        if kind is Subscribe or kind is Unsubscribe:
            self._views.asked(request)

    def prune(self, now: float) -> None:
        """Forget cached events whose time is over. To be called every now and then."""
        self._cached.prune(now)

    def batch(self) -> Batch | None:
        """The requests to send now."""
        if not self._unsent:
            return None
        requests, self._unsent = self._unsent, []
        return Batch(self._worker, self.received, self._next - len(requests), requests)

    def declaration(self, now: float) -> Declaration:
        """For a new shard: what was held before the requests that are kept, and all of those again."""
        self._under_way.extendleft(reversed(self._done))
        self._done.clear()
        self._unsent = []
        self.received = 0
        for entry in self._under_way:
            if isinstance(entry.request, Connect) and entry.admitted is not None:
                # It has been decided, and the client told: the successor is not asked again.
                entry.request = entry.request._replace(limit=None if entry.admitted else 0)
        seen = [*self._tail, *((self._worker, entry.seq, entry.place) for entry in self._under_way if entry.place)]
        past, self._past_cached = self._past_cached, []
        for app, channel, payload, left, place in past:
            self._cached.put((app, channel), payload, now, left, place)
        cached = past or [(*key, payload, left, place) for key, payload, left, place in self._cached.items(now)]
        first = self._next - len(self._under_way)
        requests = [entry.request for entry in self._under_way]
        holdings = self._holdings
        return Declaration(holdings.apps(), holdings.channels(), cached, seen, first, requests, self._stable)

    # --- from the shard ----------------------------------------------------------------------------------------------

    def receive(self, parcel: Parcel, now: float) -> list[Event]:
        """What of a shard's parcel is new, in order. Raises LostError: what this worker knows cannot be mended then."""
        if parcel.number != self.received + 1:
            raise LostError(f"parcel {self.received + 1} of the shard has been lost")
        self.received = parcel.number
        self._tail.extend(map(tuple, parcel.marks))  # type: ignore[arg-type]
        fresh: list[Event] = []
        for stamped in parcel.events:
            origin, seq, place, events = stamped
            if self._seen.get(origin, 0) >= seq:
                continue
            self._remember(origin, seq)
            self._tail.append((origin, seq, place))
            fresh += self._noted(stamped, events, now)
        for ack in parcel.acks:
            fresh += self._acknowledged(ack.seq, ack.place, now)
        self._stable = max(self._stable, parcel.stable)
        self._retire(self._stable)
        return fresh

    def _remember(self, origin: str, seq: int) -> None:
        self._seen.pop(origin, None)  # the one that was heard of the longest ago stands first
        self._seen[origin] = seq
        if len(self._seen) > ORIGINS:
            del self._seen[next(iter(self._seen))]

    def _noted(self, stamped: Stamped, events: list[Event], now: float) -> list[Event]:
        """Remember what a successor would need to be told; what clients are to hear of it."""
        heard: list[Event] = []
        for event in events:
            if type(event) in _PRESENCE:
                heard += self._views.told(event)
                continue
            if isinstance(event, Publication):
                if event.keep_s:
                    self._cached.put((event.app, event.channel), event.payload, now, event.keep_s, stamped.place)
            elif isinstance(event, Connected) and stamped.origin == self._worker:
                self._admitted(stamped.seq, event.admitted)
            heard.append(event)
        return heard

    def _admitted(self, seq: int, admitted: bool) -> None:
        first = self._under_way[0].seq
        if seq >= first:
            self._under_way[seq - first].admitted = admitted

    def _acknowledged(self, seq: int, place: int, now: float) -> list[Event]:
        """Requests up to `seq` are done; the answers of those that have no other."""
        waiting, done = self._under_way, self._done
        answers: list[Event] = []
        while waiting and waiting[0].seq <= seq:
            entry = waiting.popleft()
            request = entry.request
            ref = 0 if entry.place else plain_ref(request)
            if ref:
                answers.append(Answer(ref, None))
            entry.place = place - (seq - entry.seq)
            done.append(entry)
            if isinstance(request, Publish) and request.keep_s:
                self._cached.put((request.app, request.channel), request.payload, now, request.keep_s, entry.place)
        while len(done) > KEEP_REQUESTS:
            self._retire(done[0].place)
        return answers

    def _retire(self, stable: int) -> None:
        """Forget what everybody has heard of; the effect becomes part of what is held."""
        done, tail = self._done, self._tail
        while done and done[0].place <= stable:
            entry = done.popleft()
            if type(entry.request) is not Publish:  # holds nothing; and there are many
                self._holdings.apply(entry)
        while tail and tail[0][2] <= stable:
            tail.popleft()


class _Channel:
    __slots__ = ("members", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions = 0
        self.members: dict[str, tuple[dict[str, Any], int]] = {}


class _Holdings:
    """The sum of requests."""

    def __init__(self, past: Declaration) -> None:
        self._connected: Counter[str] = Counter()
        self._attached: Counter[str] = Counter()
        self._channels: dict[tuple[str, str], _Channel] = {}
        for app, connected, attached in past.apps:
            self._connected[app], self._attached[app] = connected, attached
        for app, name, subscriptions, members in past.channels:
            channel = self._channels[app, name] = _Channel()
            channel.subscriptions = subscriptions
            channel.members = {user: (data, connections) for user, data, connections in members}

    def apply(self, entry: _Entry) -> None:
        """Add a request's effect."""
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


class _Views:
    """Who is on each presence channel, as this worker's clients have been told: user ids by how they are compared."""

    def __init__(self, past: Declaration) -> None:
        self._users: dict[tuple[str, str], dict[str, Any]] = {
            (held.app, held.channel): {user: data["user_id"] for user, data, _ in held.members}
            for held in past.channels
            if held.members
        }
        self._members: Counter[tuple[str, str]] = Counter()  # connections of ours, from the asking on
        for held in past.channels:
            if held.members:
                self._members[held.app, held.channel] = held.subscriptions

    def asked(self, request: Request) -> None:
        """A member joins or leaves. While none of ours is on a channel nobody here is told of it."""
        match request:
            case Subscribe(app, channel, _, _, Member()):
                self._members[app, channel] += 1
            case Unsubscribe(app, channel, str()):
                self._members[app, channel] -= 1
                if not self._members[app, channel]:
                    del self._members[app, channel]
                    self._users.pop((app, channel), None)

    def told(self, event: Event) -> list[Event]:
        """What clients are to hear of an event: edges that are news to them, and before the list that a newcomer gets
        those by which it differs from what the others believe.
        """
        match event:
            case MemberAdded(app, channel, data):
                user, users = user_key(data["user_id"]), self._users.get((app, channel), {})
                if user in users:
                    return []
                users[user] = data["user_id"]
            case MemberRemoved(app, channel, id_):
                return [] if self._users.get((app, channel), {}).pop(user_key(id_), None) is None else [event]
            case Subscribed(app, channel, _, _, members) if members is not None:
                return [*self._corrected(app, channel, members), event]
            case Present(app, channel, members):
                return self._corrected(app, channel, members)
        return [event]

    def _corrected(self, app: str, channel: str, members: list[tuple[Any, Any]]) -> list[Event]:
        """Believe this from now on; the edges between what clients have been told and the truth."""
        if (app, channel) not in self._members:
            return []
        before = self._users.get((app, channel))
        now = self._users[app, channel] = {user_key(id_): id_ for id_, _ in members}
        if before is None or before.keys() == now.keys():
            return []
        edges: list[Event] = [MemberRemoved(app, channel, id_) for user, id_ in before.items() if user not in now]
        for id_, info in members:
            if user_key(id_) not in before:
                edges.append(MemberAdded(app, channel, {"user_id": id_, "user_info": info}, ""))
        return edges
