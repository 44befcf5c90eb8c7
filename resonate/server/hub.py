"""Who listens to what in this worker; takes the shard's events, in order, to whom they concern.

The events form one ordered stream. A broadcast to many is sliced: the rest of it, and everything behind it, waits for
the next turn of the loop, so that order holds for each connection and no turn is long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from logging import Logger
from time import perf_counter
from typing import Any, Final, Protocol

from resonate.messages import (
    Answer,
    Connected,
    Described,
    Disconnect,
    Event,
    Expel,
    HandedOver,
    Inherit,
    Listed,
    MemberAdded,
    MemberRemoved,
    Present,
    Publication,
    Reply,
    Request,
    Standing,
    Subscribed,
)
from resonate.pusher import Session
from resonate.pusher import events as wire
from resonate.server.stats import Stats
from resonate.server.transport import Transport
from resonate.websocket import encode_text

#: Subscribers between two looks at the clock, and how long a turn may queue, in seconds.
STRIDE: Final = 256
SLICE_S: Final = 0.005
#: Events in the inbox from which on clients have to wait with what they want to say.
BEHIND: Final = 1000


#: Told of each broadcast in debug: the channel, the number of its subscribers here, the payload.
Trace = Callable[[str, int, bytes], None]


class Client(Protocol):
    """What the hub needs of a connection."""

    session: Session
    transport: Transport

    def connected(self, answer: Connected) -> None: ...
    def subscribed(self, answer: Subscribed) -> bool: ...
    def expel(self) -> None: ...


class Movers(Protocol):
    """What the hub needs of those who see to connections that change their worker."""

    @property
    def expecting(self) -> bool:
        """Whether connections are on their way to this worker, and miss what is heard."""

    @property
    def full(self) -> bool:
        """Whether so much is kept for those that no more should be taken in."""

    def handed_over(self, event: HandedOver) -> None: ...
    def inherit(self, event: Inherit) -> None: ...
    def heard(self, event: Publication | MemberAdded | MemberRemoved | Present | Expel) -> None: ...


class _Nobody:
    """Nobody moves."""

    expecting = full = False

    def handed_over(self, event: HandedOver) -> None:
        pass

    def inherit(self, event: Inherit) -> None:
        pass

    def heard(self, event: Publication | MemberAdded | MemberRemoved | Present | Expel) -> None:
        pass


class Hub:
    """`send` takes a request to its shard, `answer` what REST calls wait for; `trace` is told of each broadcast.

    `stats` counts what is queued for subscribers.
    """

    def __init__(
        self,
        loop: Any,
        log: Logger,
        send: Callable[[Request], None],
        answer: Callable[[Reply], None],
        trace: Trace | None,
        stats: Stats,
    ) -> None:
        self.clients: dict[str, Client] = {}
        self.movers: Movers = _Nobody()
        self.cut_off: dict[int, str] = {}  # the shards that cannot reach the other hosts, and why
        self._channels: dict[tuple[str, str], dict[Transport, None]] = {}
        self._inbox: deque[Event] = deque()
        self._again = loop.timer(0)
        self._held: list[Callable[[], None]] = []
        self._source: Callable[[], None] | None = None  # has paused until the stream has been caught up with
        self.clogged = False  # set by the link: too many requests are under way
        self._busy = False
        self._frame = b""
        self._targets: Iterator[Transport] | None = None  # of the broadcast under way
        self._log = log
        self._send = send
        self._trace = trace
        self._stats = stats
        self._handlers: dict[type, Callable[[Any], None]] = {
            Answer: answer,
            Connected: self._connected,
            Described: answer,
            Expel: self._expel,
            HandedOver: lambda event: self.movers.handed_over(event),
            Inherit: lambda event: self.movers.inherit(event),
            Listed: answer,
            MemberAdded: self._member_added,
            MemberRemoved: self._member_removed,
            Present: self._heard,
            Publication: self._publication,
            Standing: self._standing,
            Subscribed: self._subscribed,
        }

    # --- connections and their subscriptions -------------------------------------------------------------------------

    def add(self, client: Client) -> None:
        """A WebSocket has been opened."""
        self.clients[client.session.id] = client

    def remove(self, client: Client) -> None:
        """It has gone; its subscriptions have been given up with `leave`."""
        self.clients.pop(client.session.id, None)

    def join(self, app: str, channel: str, transport: Transport) -> None:
        """A connection is on a channel, and hears what comes from now on."""
        self._channels.setdefault((app, channel), {})[transport] = None

    def leave(self, app: str, channel: str, transport: Transport) -> None:
        """A connection is off a channel."""
        subscribers = self._channels.get((app, channel))
        if subscribers is not None:
            subscribers.pop(transport, None)
            if not subscribers:
                del self._channels[app, channel]

    # --- the shard's stream ------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether so much waits to be delivered that no more should be taken from the shards; see `pause`."""
        return len(self._inbox) > BEHIND or self.movers.full

    @property
    def behind(self) -> bool:
        """Whether clients should not be listened to: that, or their requests are not being answered; see `hold`."""
        return self.clogged or len(self._inbox) > BEHIND

    def hold(self, resume: Callable[[], None]) -> None:
        """Call a client's `resume` when it may be listened to again."""
        self._held.append(resume)

    def pause(self, resume: Callable[[], None]) -> None:
        """Call the link's `resume` when the stream has been caught up with."""
        self._source = resume

    def receive(self, events: Iterable[Event]) -> None:
        """What follows from one request, or came in one frame. Handled before this returns, unless a broadcast is long
        or this is called in the middle of one: then it waits its turn, for the order is the shard's.
        """
        self._inbox.extend(events)
        if not self._busy:
            self._busy = True
            self._run()

    def _run(self) -> None:
        inbox, handlers = self._inbox, self._handlers
        until = perf_counter() + SLICE_S
        while inbox or self._targets is not None:
            if self._source is not None and not self.full:
                self._resume_source()
            try:
                if self._targets is None:
                    event = inbox.popleft()
                    handlers[type(event)](event)
                    late = len(inbox) > STRIDE and perf_counter() > until
                else:
                    late = not self._spread(until)
            except Exception:  # a defect of ours must not stop the stream
                self._targets = None
                self._log.exception("an event of the shard could not be handled")
                continue
            if late:
                self._again.start(self._run)
                return
        self._busy = False
        if self._source is not None:
            self._resume_source()
        if self._held and not self.behind:
            held, self._held = self._held, []
            for resume in held:
                try:
                    resume()
                except Exception:  # one client's defect must not hold the others for ever
                    self._log.exception("a client could not be listened to again")

    def _resume_source(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source()

    def _broadcast(self, app: str, channel: str, payload: bytes, except_: str | None) -> None:
        subscribers = self._channels.get((app, channel))
        if subscribers is None:
            return
        if self._trace is not None:
            self._trace(channel, len(subscribers), payload)
        excluded = self.clients.get(except_) if except_ else None
        self._frame = encode_text(payload)
        targets = list(subscribers)  # whoever joins or leaves meanwhile does not disturb it
        if excluded is not None and excluded.transport in subscribers:
            targets.remove(excluded.transport)
        self._targets = iter(targets)

    def _spread(self, until: float) -> bool:
        """Queue the frame for the next subscribers; False when time is up before all have it."""
        frame, targets = self._frame, self._targets
        assert targets is not None
        while stride := list(islice(targets, STRIDE)):
            for transport in stride:
                transport.write(frame)
            self._stats.deliveries += len(stride)
            if len(stride) == STRIDE and perf_counter() > until:
                return False
        self._targets = None
        return True

    def _heard(self, event: Publication | MemberAdded | MemberRemoved | Present | Expel) -> None:
        if self.movers.expecting:
            self.movers.heard(event)

    def _publication(self, event: Publication) -> None:
        self._heard(event)
        self._broadcast(event.app, event.channel, event.payload, event.except_)

    def _member_added(self, event: MemberAdded) -> None:
        self._heard(event)
        self._broadcast(event.app, event.channel, wire.member_added(event.channel, event.data), event.except_)

    def _member_removed(self, event: MemberRemoved) -> None:
        self._heard(event)
        self._broadcast(event.app, event.channel, wire.member_removed(event.channel, event.id), None)

    def _connected(self, answer: Connected) -> None:
        client = self.clients.get(answer.socket)
        if client is not None:
            client.connected(answer)
        elif answer.admitted:  # it has not waited: give the place back
            self._send(Disconnect(answer.app))

    def _subscribed(self, answer: Subscribed) -> None:
        client = self.clients.get(answer.socket)
        if client is not None and client.subscribed(answer):
            self.join(answer.app, answer.channel, client.transport)

    def _standing(self, event: Standing) -> None:
        if event.trouble:
            self.cut_off[event.shard] = event.trouble
        else:
            self.cut_off.pop(event.shard, None)

    def _expel(self, event: Expel) -> None:
        self._heard(event)
        for client in list(self.clients.values()):
            if client.session.app.app_id == event.app and client.session.is_user(event.user):
                client.expel()
