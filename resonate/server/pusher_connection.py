"""A client of the Pusher endpoint: puts the WebSocket codec, the session and the transport together."""

from __future__ import annotations

from typing import Any, Final

from resonate.errors import UNFIT, Fault, SnapshotError
from resonate.messages import Connected, Publish, Refresh, Request, Subscribe, Subscribed, Unsubscribe
from resonate.pusher import Close, Effect, Session
from resonate.pusher import events as wire
from resonate.pusher.session import COME_BACK_LATER, NO_PONG, State
from resonate.server.context import Context
from resonate.server.plugin_state import Left, PluginState, packed
from resonate.server.transport import Transport
from resonate.settings import App
from resonate.websocket import WebSocket, encode_close, encode_ping, encode_pong, encode_text
from resonate.websocket import protocol as websocket

#: The close code of a user whose connections the back end has terminated. pusher-js does not come back: giving up is
#: what was asked for.
TERMINATED: Final = 4009
#: Replies that may wait for the shard; then the client has to wait too.
MOST_REPLIES: Final = 100
#: No deadline strikes sooner after a move, in seconds: what has come on the way has to be heard first.
UNHEARD_S: Final = 2


class PusherConnection:
    """Speaks on `transport` from the upgrade on."""

    __slots__ = (
        "_asked",
        "_context",
        "_controls",
        "_heard",
        "_pinged",
        "_postponed",
        "_replies",
        "_state",
        "_websocket",
        "session",
        "transport",
    )

    def __init__(self, context: Context, transport: Transport, app: App, socket_id: str) -> None:
        self._context = context
        self.transport = transport
        self.session = Session(app, socket_id, context.settings.server)
        self._websocket = WebSocket(app.max_message_size)
        self._heard = context.reactor.wheel.now  # the tick of the client's last sign of life
        self._pinged = False
        self._postponed: list[websocket.Event] | None = None  # what has been parsed and has to wait
        self._asked = 0  # subscriptions that the shard has not answered
        self._replies: list[bytes | Close] | None = None  # wait for those: replies come in the order of messages
        self._controls = False  # whether the client has sent control frames, and is pinged with one
        self._state: PluginState | None = None

    def open(self) -> None:
        """The upgrade has been answered."""
        self._context.hub.add(self)
        self.transport.eager = False
        self.transport.check_after(self.session.app.ping_interval)
        self._apply(self.session.open())

    @property
    def state(self) -> PluginState:
        """What plugins keep of it, by their names. It goes with it to another worker, as far as it is JSON.

        The dict is made when it is asked for: most connections have none.
        """
        if self._state is None:
            self._state = {}
        return self._state

    def packed_state(self) -> tuple[list[str], list[Left]]:
        """What of `state` goes to another worker, and what does not."""
        return packed(self._state or {})

    # --- from one worker to another ----------------------------------------------------------------------------------

    @property
    def movable(self) -> bool:
        """Whether it could go on in another worker just now: nothing that it has asked for is unanswered."""
        answered = not self._asked and self._replies is None
        return answered and self.session.state is State.OPEN and self.transport.movable

    @property
    def stranded(self) -> bool:
        """Whether no other worker could ever take it, or not as long as so much waits for the client."""
        return not self.transport.portable

    def snapshot(self) -> dict[str, Any]:
        """All of it but the transport and `state`, as JSON can carry it, for `restore`."""
        now = self._context.reactor.wheel.now
        return {
            "session": self.session.snapshot(now),
            "websocket": self._websocket.snapshot(),
            "postponed": None if self._postponed is None else websocket.to_json(self._postponed),
            "silent_s": now - self._heard,
            "pinged": self._pinged,
            "controls": self._controls,
        }

    @classmethod
    def restore(cls, context: Context, transport: Transport, app: App, snapshot: dict[str, Any]) -> PusherConnection:
        """Go on where another worker has stopped; nothing is said or asked. Raises SnapshotError."""
        made = cls(context, transport, app, "")
        now, interval = context.reactor.wheel.now, app.ping_interval
        try:
            made.session = Session.restore(app, context.settings.server, snapshot["session"], now)
            made._websocket = WebSocket.restore(app.max_message_size, snapshot["websocket"])
            postponed = snapshot.get("postponed")
            made._postponed = None if postponed is None else websocket.from_json(postponed)
            silent_s = int(snapshot["silent_s"])
            made._heard = now - silent_s
            # Where the interval has become shorter there would be no time left for the answer: then it is asked again.
            made._pinged = bool(snapshot.get("pinged")) and silent_s < 2 * interval
            made._controls = bool(snapshot.get("controls"))
        except UNFIT as error:
            raise SnapshotError(f"no connection can be made of what another worker has sent: {error!r}") from None
        return made

    def settle(self) -> None:
        """It lives here from now on: hears what is said on its channels, is listened to, and its clock goes on."""
        hub, session, transport = self._context.hub, self.session, self.transport
        if transport.closed:  # it has broken on the way
            self.lost()
            return
        transport.protocol = self
        transport.eager = False
        hub.add(self)
        for channel in session.subscriptions:
            hub.join(session.app.app_id, channel, transport)
        due = self._heard + session.app.ping_interval * (2 if self._pinged else 1)
        transport.check_after(max(UNHEARD_S, due - self._context.reactor.wheel.now))
        if transport.ended:
            self.ended()
        elif not transport.congested:
            self.drained()

    # --- from the client ---------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes from the transport."""
        self._heard = self._context.reactor.wheel.now
        self._pinged = False
        events = self._websocket.receive(data)
        if self._postponed is None:
            self._act(events)
        else:  # TLS may hold more than the pause could stop
            self._postponed += events

    def _act(self, events: list[websocket.Event]) -> None:
        """Act upon what the client has sent, unless it has to wait."""
        context, transport = self._context, self.transport
        for index, event in enumerate(events):
            if transport.closed:
                return
            if transport.congested or context.hub.behind or self._unanswered():
                self._postponed = events[index:]
                transport.pause_reading()
                if context.hub.behind and not transport.congested:
                    context.hub.hold(self.drained)
                return
            if type(event) is websocket.Message:
                context.stats.messages_received += 1
                if context.tracer is not None:
                    context.tracer.received(self.session.id, event.data)
                self._apply(self.session.receive(event.data, self._heard))
            else:
                self._control(event)

    def _unanswered(self) -> bool:
        """Whether the client has no place yet, or more replies wait for the shard than should."""
        replies = self._replies
        return self.session.state is State.CONNECTING or (replies is not None and len(replies) > MOST_REPLIES)

    def drained(self) -> None:
        """The client has read, or the hub has caught up, or a shard has answered: go on where it had to wait."""
        if self.transport.protocol is not self:  # the hub has called back too late: it is on its way elsewhere
            return
        events, self._postponed = self._postponed, None
        if events is not None:
            self._act(events)
        if self._postponed is None:
            self.transport.resume_reading()

    def _control(self, event: websocket.Event) -> None:
        match event:
            case websocket.Ping(payload):
                self._controls = True
                self._reply(encode_pong(payload))
            case websocket.Pong():
                self._controls = True
            case websocket.Oversized():
                self._context.stats.messages_received += 1
                self._apply(self.session.oversized())
            case websocket.Close(code, reason):
                # Echoed; where there was no code Reverb answers 1000.
                self._reply(Close(1000 if code is None else code, reason))
            case websocket.Fail(code, reason):
                self._reply(Close(code, reason))

    def ended(self) -> None:
        """The client has closed its side without a close frame."""
        self.transport.close()

    # --- from the shard ----------------------------------------------------------------------------------------------

    def connected(self, answer: Connected) -> None:
        """The shard has given this connection a place, or not."""
        self._apply(self.session.connected(answer))
        self._go_on()

    def subscribed(self, answer: Subscribed) -> bool:
        """The shard has put this connection on a channel; False when it is not there any more."""
        self._asked -= 1
        payloads = self.session.subscribed(answer)
        for payload in payloads or ():
            self.transport.write(self._encoded(payload))
        if not self._asked and self._replies is not None:
            replies, self._replies = self._replies, None
            for reply in replies:
                self._reply(reply)
            self._go_on()
        return payloads is not None and not self.transport.closed

    def _go_on(self) -> None:
        """The client had to wait for an answer."""
        if self._postponed is not None and not self.transport.congested and not self._context.hub.behind:
            self.drained()

    def expel(self) -> None:
        """The back end wants this user's connections closed."""
        self._finish(TERMINATED, "Terminated by the application")

    # --- the end and the clock ---------------------------------------------------------------------------------------

    def drain(self) -> None:
        """The server goes: tell the client to come back at once."""
        self._finish(4200, "Server is restarting")

    def overflowed(self) -> None:
        """The client does not read what it is sent."""
        self._context.stats.slow_consumers += 1
        waiting = self.transport.waiting
        self._context.log.warning("closed a slow consumer: %d bytes were waiting for %s", waiting, self.session.id)
        self.transport.cut(encode_close(COME_BACK_LATER, "Slow consumer"))

    def lost(self) -> None:
        """The connection is gone, or about to."""
        self._context.hub.remove(self)
        self._postponed = self._replies = None
        self._apply(self.session.close())

    def check(self, now: int) -> int:
        """Ping who has been silent for `ping_interval`; close who has not answered by the following check."""
        interval = self.session.app.ping_interval
        due = self._heard + interval
        if now < due:
            return due
        if self._pinged:
            self.transport.write(self._error(NO_PONG))
            self._finish(NO_PONG.code, NO_PONG.message)
            return 0
        self._pinged = True
        if self._controls:
            self.transport.write(encode_ping())
        else:
            self.transport.write(self._encoded(wire.PING))
        return now + interval

    # --- effects -----------------------------------------------------------------------------------------------------

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, bytes):
                self._reply(self._encoded(effect))
            elif isinstance(effect, Close):
                self._reply(effect)
            elif isinstance(effect, Fault):
                self._reply(self._error(effect))
            else:
                self._request(effect)

    def _reply(self, reply: bytes | Close) -> None:
        """Answer the client with a frame, or with the end; not before what it has asked for earlier is answered."""
        if self._asked and not self.transport.closed:
            self._replies = self._replies or []
            self._replies.append(reply)
        elif isinstance(reply, bytes):
            self.transport.write(reply)
        else:
            self._finish(reply.code, reply.reason)

    def _request(self, request: Request) -> None:
        if type(request) is Unsubscribe:
            self._context.hub.leave(request.app, request.channel, self.transport)
        elif type(request) is Publish:
            self._context.stats.client_publishes += 1
        elif type(request) is Subscribe or type(request) is Refresh:
            self._asked += 1
        self._context.link.send(request)

    def _error(self, fault: Fault) -> bytes:
        self._context.stats.errors[fault.code] += 1
        return self._encoded(wire.error(fault))

    def _encoded(self, payload: bytes) -> bytes:
        """The frame of a message to this client alone."""
        self._context.stats.messages_sent += 1
        if self._context.tracer is not None:
            self._context.tracer.sent(self.session.id, payload)
        return encode_text(payload)

    def _finish(self, code: int, reason: str) -> None:
        self.transport.write(encode_close(code, reason))
        self.transport.close()
