"""A client of the Pusher endpoint: puts the WebSocket codec, the session and the transport together."""

from __future__ import annotations

from typing import Final

from resonate.messages import Connected, Request, Subscribed, Unsubscribe
from resonate.pusher import Close, Effect, Session
from resonate.pusher import events as wire
from resonate.pusher.session import COME_BACK_LATER, NO_PONG
from resonate.server.context import Context
from resonate.server.transport import Transport
from resonate.settings import App
from resonate.websocket import WebSocket, encode_close, encode_ping, encode_pong, encode_text
from resonate.websocket import protocol as websocket

#: The close code of a user whose connections the back end has terminated. pusher-js does not come back: giving up is
#: what was asked for.
TERMINATED: Final = 4009


class PusherConnection:
    """Speaks on `transport` from the upgrade on."""

    __slots__ = ("_context", "_controls", "_heard", "_pinged", "_postponed", "_websocket", "session", "transport")

    def __init__(self, context: Context, transport: Transport, app: App, socket_id: str) -> None:
        self._context = context
        self.transport = transport
        self.session = Session(app, socket_id, context.settings.server)
        self._websocket = WebSocket(app.max_message_size)
        self._heard = context.reactor.wheel.now  # the tick of the client's last sign of life
        self._pinged = False
        self._postponed: list[websocket.Event] | None = None  # what has been parsed and has to wait
        self._controls = False  # whether the client has sent control frames, and is pinged with one

    def open(self) -> None:
        """The upgrade has been answered."""
        self._context.hub.add(self)
        self.transport.eager = False
        self.transport.check_after(self.session.app.ping_interval)
        self._apply(self.session.open())

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
        """Act upon what the client has sent, unless it does not read, or the hub is behind: then it has to wait."""
        context, transport = self._context, self.transport
        for index, event in enumerate(events):
            if transport.closed:
                return
            if transport.congested or context.hub.behind:
                self._postponed = events[index:]
                transport.pause_reading()
                if not transport.congested:
                    context.hub.hold(self.drained)
                return
            if type(event) is websocket.Message:
                if context.tracer is not None:
                    context.tracer.received(self.session.id, event.data)
                self._apply(self.session.receive(event.data, self._heard))
            else:
                self._control(event)

    def drained(self) -> None:
        """The client has read, or the hub has caught up: go on where it had to wait."""
        events, self._postponed = self._postponed, None
        if events is not None:
            self._act(events)
        if self._postponed is None:
            self.transport.resume_reading()

    def _control(self, event: websocket.Event) -> None:
        match event:
            case websocket.Ping(payload):
                self._controls = True
                self.transport.write(encode_pong(payload))
            case websocket.Pong():
                self._controls = True
            case websocket.Oversized():
                self._apply(self.session.oversized())
            case websocket.Close(code, reason):
                # Echoed; where there was no code Reverb answers 1000.
                self._finish(1000 if code is None else code, reason)
            case websocket.Fail(code, reason):
                self._finish(code, reason)

    def ended(self) -> None:
        """The client has closed its side without a close frame."""
        self.transport.close()

    # --- from the shard ----------------------------------------------------------------------------------------------

    def connected(self, answer: Connected) -> None:
        """The shard has given this connection a place, or not."""
        self._apply(self.session.connected(answer))

    def subscribed(self, answer: Subscribed) -> bool:
        """The shard has put this connection on a channel; False when it is not there any more."""
        effects = self.session.subscribed(answer)
        if effects is None:
            return False
        self._apply(effects)
        return not self.transport.closed

    def expel(self) -> None:
        """The back end wants this user's connections closed."""
        self._finish(TERMINATED, "Terminated by the application")

    # --- the end and the clock ---------------------------------------------------------------------------------------

    def drain(self) -> None:
        """The server goes: tell the client to come back at once."""
        self._finish(4200, "Server is restarting")

    def overflowed(self) -> None:
        """The client does not read what it is sent."""
        waiting = self.transport.waiting
        self._context.log.warning("closed a slow consumer: %d bytes were waiting for %s", waiting, self.session.id)
        self.transport.cut(encode_close(COME_BACK_LATER, "Slow consumer"))

    def lost(self) -> None:
        """The connection is gone, or about to."""
        self._context.hub.remove(self)
        self._postponed = None
        self._apply(self.session.close())

    def check(self, now: int) -> int:
        """Ping who has been silent for `ping_interval`; close who has not answered by the following check."""
        interval = self.session.app.ping_interval
        due = self._heard + interval
        if now < due:
            return due
        if self._pinged:
            self._send(wire.error(NO_PONG))
            self._finish(NO_PONG.code, NO_PONG.message)
            return 0
        self._pinged = True
        if self._controls:
            self.transport.write(encode_ping())
        else:
            self._send(wire.PING)
        return now + interval

    # --- effects -----------------------------------------------------------------------------------------------------

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, bytes):
                self._send(effect)
            elif isinstance(effect, Close):
                self._finish(effect.code, effect.reason)
            else:
                self._request(effect)

    def _request(self, request: Request) -> None:
        if type(request) is Unsubscribe:
            self._context.hub.leave(request.app, request.channel, self.transport)
        self._context.link.send(request)

    def _send(self, payload: bytes) -> None:
        if self._context.tracer is not None:
            self._context.tracer.sent(self.session.id, payload)
        self.transport.write(encode_text(payload))

    def _finish(self, code: int, reason: str) -> None:
        self.transport.write(encode_close(code, reason))
        self.transport.close()
