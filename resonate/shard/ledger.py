"""What one worker has told one shard, and has heard of it: enough to tell it again to a successor.

A request is kept after it has been done, until its place is stable: what a shard said shortly before it was killed may
not have reached everybody. So a successor is told the state as it was before those requests, and the requests again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import ItemsView
from typing import Any, Final

from msgspec.structs import replace

from resonate.errors import ResonateError
from resonate.messages import (
    Answer,
    Batch,
    Connect,
    Connected,
    Declaration,
    Event,
    HandedOver,
    HandOver,
    Inherit,
    Mark,
    MemberAdded,
    MemberRemoved,
    Parcel,
    Present,
    Publication,
    Publish,
    Reached,
    Request,
    Stamped,
    Subscribe,
    Subscribed,
    Superseded,
    Unsubscribe,
    plain_ref,
)
from resonate.shard.cache import EventCache
from resonate.shard.holdings import Holdings, Views

#: Requests that are kept although they are done, before clients have to wait. So many only come together while a worker
#: hangs, and the shard ends that one.
KEEP_REQUESTS: Final = 100_000
#: Requests under way from which on clients should not be listened to.
BEHIND: Final = 10_000
#: Payloads of cache channels that one worker remembers, in bytes.
CACHE_BYTES: Final = 8 * 1024 * 1024
#: Channels of which it may be remembered how far they were, although nobody here is on them any more.
SPARE_POSITIONS: Final = 1000
#: Origins of which it is remembered what has been seen; they are workers, and shards that have died.
ORIGINS: Final = 4096

#: What says who is on a presence channel.
_PRESENCE: Final = frozenset((Inherit, MemberAdded, MemberRemoved, Present, Subscribed))

#: What a worker without a past declares.
NOTHING: Final = Declaration([], [], [], [], 1, [])


class LostError(ResonateError):
    """A parcel has not come."""


class _Entry:
    """A request on its way. `place` is 0 until it is known to be done, `granted` the outcome, where one may refuse."""

    __slots__ = ("granted", "place", "request", "seq")

    def __init__(self, seq: int, request: Request) -> None:
        self.seq = seq
        self.request = request
        self.place = 0
        self.granted: bool | None = None


class Ledger:
    """`worker` is the sender's name, `past` what it holds already. Times are seconds of a clock that goes forward."""

    def __init__(self, worker: str, past: Declaration = NOTHING) -> None:
        self._worker = worker
        self._under_way: deque[_Entry] = deque()  # sent or to be sent; in the order of their numbers, without gaps
        self._done: deque[_Entry] = deque()  # all before those
        self._next = past.first
        self._unsent: list[Request] = []
        self._seen: dict[str, int] = {}
        self._tail: deque[Mark] = deque(maxlen=KEEP_REQUESTS)
        self._holdings = Holdings(past)
        self._cached = EventCache(CACHE_BYTES)
        self._views = Views(past)
        self._past_cached = past.cached
        self._bequests: deque[tuple[int, str, int, Inherit]] = deque()  # (place, origin, seq, what): to be held
        self._inherited: deque[tuple[str, int]] = deque(maxlen=ORIGINS)  # the same of what is held already
        self._stable = 0
        #: How far in each channel's log this worker has heard.
        self._positions = {(app, channel): position for app, channel, position in past.positions}
        self.received = 0  # the number of the last parcel

    @property
    def next(self) -> int:
        """The number of the next request."""
        return self._next

    @property
    def kept(self) -> bool:
        """Whether there are requests of which not everybody has heard."""
        return bool(self._under_way or self._done)

    @property
    def settled(self) -> bool:
        """Whether a successor would have to be told of what is held, and of nothing else."""
        return not self.kept and not self._bequests

    @property
    def behind(self) -> bool:
        """Whether so much is under way that clients should not be listened to."""
        return len(self._under_way) > BEHIND or len(self._done) > KEEP_REQUESTS

    # --- what clients have been told of presence ---------------------------------------------------------------------

    def beliefs(self) -> ItemsView[tuple[str, str], dict[str, Any]]:
        """By (app, channel), the ids of users by how they are compared."""
        return self._views.items()

    def believe(self, app: str, channel: str, users: dict[str, Any]) -> None:
        """That is what they have been told of one channel."""
        self._views.believe(app, channel, users)

    # --- to the shard ------------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """A request is to be sent."""
        self._under_way.append(_Entry(self._next, request))
        self._unsent.append(request)
        self._next += 1
        if type(request) is Subscribe:
            self._views.asked(request)

    def prune(self, now: float) -> None:
        """Forget cached events whose time is over, and where channels were that have been left. To be called often."""
        self._cached.prune(now)
        if len(self._positions) > 2 * len(self._holdings) + SPARE_POSITIONS:
            requests = [entry.request for entry in (*self._under_way, *self._done)]
            asked = {(request.app, request.channel) for request in requests if isinstance(request, Subscribe)}
            asked |= {(held.app, held.channel) for *_, event in self._bequests for held in event.channels}
            kept = ((key, at) for key, at in self._positions.items() if key in self._holdings or key in asked)
            self._positions = dict(kept)

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
            if entry.granted is not None:  # it has been acted upon: the successor is told, and not asked again
                entry.request = _decided(entry.request, entry.granted)
        seen = [*self._tail, *(Mark(self._worker, entry.seq, entry.place) for entry in self._under_way if entry.place)]
        past, self._past_cached = self._past_cached, []
        for app, channel, payload, left, place in past:
            self._cached.put((app, channel), payload, now, left, place)
        cached = past or [(*key, payload, left, place) for key, payload, left, place in self._cached.items(now)]
        first = self._next - len(self._under_way)
        requests = [entry.request for entry in self._under_way]
        holdings = self._holdings
        return Declaration(
            holdings.apps(),
            holdings.channels(),
            cached,
            seen,
            first,
            requests,
            self._stable,
            tuple(self._inherited),
            tuple(bequest[1:] for bequest in self._bequests),
            tuple((*key, position) for key, position in self._positions.items()),
        )

    # --- from the shard ----------------------------------------------------------------------------------------------

    def receive(self, parcel: Parcel, now: float) -> list[Event]:
        """What of a shard's parcel is new, in order. Raises LostError: what this worker knows cannot be mended then."""
        if parcel.number != self.received + 1:
            raise LostError(f"parcel {self.received + 1} of the shard has been lost")
        self.received = parcel.number
        self._tail.extend(parcel.marks)
        fresh: list[Event] = []
        for stamped in parcel.events:
            origin, seq = stamped.origin, stamped.seq
            if self._seen.get(origin, 0) >= seq:
                continue
            self._remember(origin, seq)
            self._tail.append(Mark(origin, seq, stamped.place))
            fresh += self._noted(stamped, now)
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

    def _noted(self, stamped: Stamped, now: float) -> list[Event]:
        """Remember what a successor would need to be told; what clients are to hear of it."""
        heard: list[Event] = []
        for event in stamped.events:
            if type(event) in _PRESENCE:
                if isinstance(event, Inherit):
                    self._bequeathed(stamped, event)
                elif isinstance(event, Subscribed) and event.position:
                    self._positions[event.app, event.channel] = event.position
                heard += self._views.told(event)
                continue
            if isinstance(event, Publication):
                if event.position:
                    self._positions[event.app, event.channel] = event.position
                if event.keep_s:
                    self._cached.put((event.app, event.channel), event.payload, now, event.keep_s, stamped.place)
            elif isinstance(event, Connected) and stamped.origin == self._worker:
                self._decided(stamped.seq, event.admitted)
            elif isinstance(event, Superseded):
                self._cached.forget((event.app, event.channel))
                continue
            elif isinstance(event, Reached):
                self._positions[event.app, event.channel] = event.position
                continue
            elif isinstance(event, HandedOver):
                event = self._handed_over(stamped.seq, event)
            heard.append(event)
        return heard

    def _bequeathed(self, stamped: Stamped, event: Inherit) -> None:
        self._bequests.append((stamped.place, stamped.origin, stamped.seq, event))
        for held in event.channels:
            if held.position:
                self._positions[held.app, held.channel] = held.position

    def _decided(self, seq: int, granted: bool) -> None:
        first = self._under_way[0].seq
        if seq >= first:
            self._under_way[seq - first].granted = granted

    def _handed_over(self, seq: int, event: HandedOver) -> HandedOver:
        """The request is still under way: its acknowledgement follows."""
        request = self._under_way[seq - self._under_way[0].seq].request
        self._decided(seq, event.done)
        if not event.done or not isinstance(request, HandOver):
            return event
        self._under_way[seq - self._under_way[0].seq].request = self._cut(request)
        return replace(event, beliefs=self._views.handed_over(request))

    def _cut(self, request: HandOver) -> HandOver:
        """The same, with how far the channels' logs had come there: a successor could not know."""
        at = self._positions
        channels = [replace(held, position=at.get((held.app, held.channel), 0)) for held in request.channels]
        return replace(request, channels=channels)

    def _acknowledged(self, seq: int, place: int, now: float) -> list[Event]:
        """Requests up to `seq` are done; the answers of those that have no other."""
        waiting, done = self._under_way, self._done
        answers: list[Event] = []
        while waiting and waiting[0].seq <= seq:
            entry = waiting.popleft()
            request = entry.request
            if not entry.place:  # else a shard that has died has said so before
                ref = plain_ref(request)
                if ref:
                    answers.append(Answer(ref, None))
                if type(request) is Unsubscribe:
                    self._views.left(request)
            entry.place = place - (seq - entry.seq)
            done.append(entry)
            if isinstance(request, Publish) and request.keep_s:
                self._cached.put((request.app, request.channel), request.payload, now, request.keep_s, entry.place)
        return answers

    def _retire(self, stable: int) -> None:
        """Forget what everybody has heard of; the effect becomes part of what is held."""
        done, tail, bequests = self._done, self._tail, self._bequests
        while bequests and bequests[0][0] <= stable:
            _, origin, seq, event = bequests.popleft()
            self._holdings.inherit(event)
            self._inherited.append((origin, seq))
        while done and done[0].place <= stable:
            entry = done.popleft()
            if type(entry.request) is not Publish:  # holds nothing; and there are many
                self._holdings.apply(entry.request, entry.granted)
        while tail and tail[0].place <= stable:
            tail.popleft()


def _decided(request: Request, granted: bool) -> Request:
    """The same request, with an outcome that is certain."""
    if isinstance(request, Connect):
        return replace(request, limit=None if granted else 0)
    if isinstance(request, HandOver):
        return replace(request, certain=True) if granted else replace(request, heir="")
    return request
