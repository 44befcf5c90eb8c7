"""A connection that speaks HTTP: answers REST requests in order, upgrades to WebSocket, passes the rest on."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import perf_counter, time
from typing import Any, Final

from resonate.api.routes import NOT_FOUND
from resonate.counters import Snapshot
from resonate.errors import UNFIT, Fault, HttpError, SnapshotError
from resonate.http import Continue, Foreign, Refused, Request, RequestReader, Response, encode, error_response
from resonate.pusher import events as wire
from resonate.server import metrics, outage
from resonate.server.calls import AWAY
from resonate.server.context import Context, Metrics, Nowhere, Rest, Route, Up, Upgrade, new_socket_id
from resonate.server.pusher_connection import UNHEARD_S, PusherConnection
from resonate.server.transport import Transport
from resonate.settings import App
from resonate.websocket import accept_upgrade, encode_close, encode_text

#: How long the body of a request may take to come, in seconds.
BODY_TIMEOUT_S: Final = 30

#: How long the rest of a request may take to come once the server is stopping, in seconds.
STOP_PATIENCE_S: Final = 2

_NO_APP: Final = Fault(4001, "Application does not exist")
_WRONG_ORIGIN: Final = Fault(4009, "Origin not allowed")

#: Routes that count, besides REST. Who reads the metrics does not: that would change what is read.
_COUNTED: Final = frozenset((Up, Upgrade))


class HttpConnection:
    """Speaks on `transport`; one request at a time, while the next ones wait in the reader or the kernel.

    `route` says what a path means, where that is not `Context.route`.
    """

    __slots__ = (
        "_advancing",
        "_began",
        "_busy",
        "_context",
        "_fresh",
        "_patience",
        "_reader",
        "_since",
        "public",
        "transport",
    )

    def __init__(
        self, context: Context, transport: Transport, route: Callable[[str], Route | None] | None = None
    ) -> None:
        self._context = context
        self.transport = transport
        self._reader = RequestReader(route or context.route, context.settings.server.max_request_size)
        self.public = route is None  # else another process may have no such listener
        self._busy: Request | None = None  # the request that is being answered
        self._advancing = False
        self._fresh = True  # whether nothing has been asked yet
        self._began = 0.0  # when that was, where it is one of REST
        self._patience = context.settings.server.handshake_timeout  # seconds to wait for the beginning of a request
        self._since = context.reactor.wheel.now  # the tick at which the present wait began: for a head, a body, ...

    def open(self) -> None:
        """A fresh connection: the first request must come in time."""
        self.transport.check_after(self._context.settings.server.handshake_timeout)

    # --- from one worker to another ----------------------------------------------------------------------------------

    @property
    def movable(self) -> bool:
        """Whether it could go on in another worker just now: no request is under way, nor its body."""
        idle = self._busy is None and not self._advancing and not self._reader.in_body
        return idle and self.public and self.transport.movable and not self.transport.congested

    stranded = False  # it comes to an end by itself

    def snapshot(self) -> dict[str, Any]:
        """All of it but the transport, as JSON can carry it, for `restore`."""
        return {
            "unread": self._reader.unread.decode("latin-1"),
            "fresh": self._fresh,
            "patience": self._patience,
            "waited_s": self._context.reactor.wheel.now - self._since,
        }

    @classmethod
    def restore(cls, context: Context, transport: Transport, snapshot: dict[str, Any]) -> HttpConnection:
        """Go on where another worker has stopped. Raises SnapshotError."""
        made = cls(context, transport)
        try:
            made._fresh = bool(snapshot.get("fresh"))
            made._patience = int(snapshot.get("patience", context.keep_alive))
            made._since -= int(snapshot["waited_s"])
            made._reader.feed(snapshot["unread"].encode("latin-1"))
        except UNFIT as error:
            raise SnapshotError(f"no connection can be made of what another worker has sent: {error!r}") from None
        return made

    def settle(self) -> None:
        """It lives here from now on: it is listened to, and its clock goes on."""
        transport = self.transport
        if transport.closed:  # it has broken on the way
            return
        transport.protocol = self
        transport.check_after(UNHEARD_S)  # that says when the next check is due
        self.drained()

    # --- input -------------------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes from the transport."""
        reader = self._reader
        if self._busy is not None:  # it has asked once more: from here on it waits in the kernel
            reader.feed(data)
            self.transport.pause_reading()
            return
        before = (reader.in_request, reader.in_body)
        reader.feed(data)
        self._advance()
        after = (reader.in_request, reader.in_body)
        if after > before:  # a head has begun, or a body; empty lines are neither
            self._since = self._context.reactor.wheel.now

    def ended(self) -> None:
        """The client will send no more; what it has asked is still answered."""
        self._advance()

    def _advance(self) -> None:
        """Serve what has been read, until a request is under way or bytes are missing."""
        transport = self.transport
        self._advancing = True
        while self._busy is None and transport.protocol is self and not transport.congested:
            item = self._reader.next()
            if item is None:
                break
            if type(item) is Request:
                self._serve(item)
            elif type(item) is Refused:
                self._refuse(item.error)
            elif type(item) is Continue:
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            elif type(item) is Foreign:
                self._pass_on(item.data)
        self._advancing = False
        if transport.protocol is not self:
            return
        if transport.congested:
            transport.pause_reading()
        elif self._busy is not None:
            return
        elif transport.ended or (self._context.health.stopping and not self._reader.in_request):
            transport.close()

    def drained(self) -> None:
        """The client has read its answers: on to its next request."""
        self.transport.resume_reading()
        self._advance()

    # --- requests ----------------------------------------------------------------------------------------------------

    def _serve(self, request: Request) -> None:
        self._busy, self._fresh = request, False
        try:
            if type(request.route) is Rest:
                self._call(request, request.route.path)
            else:
                _SERVICES[type(request.route)](self, request)
        except HttpError as error:
            self._respond(error_response(error))

    def _call(self, request: Request, path: str) -> None:
        self._began = perf_counter()
        if self._context.hub.clogged:
            self._respond(AWAY)
            return
        answer = self._context.api.open(request, path, time())
        if isinstance(answer, Response):
            self._respond(answer)
            return
        scaling = self._context.settings.server.scaling
        if scaling.enabled and request.method == "POST":
            answer = outage.writing(answer, self._context.health, scaling)
        self._context.calls.start(answer, self._respond)

    def _health(self, request: Request) -> None:
        if request.method not in ("GET", "HEAD"):
            raise HttpError(405, "Method not allowed.", headers=(("Allow", "GET"),))
        self._respond(outage.health(self._context.health, self._context.settings.server.scaling))

    def _metrics(self, request: Request) -> None:
        if request.method not in ("GET", "HEAD"):
            self._respond(NOT_FOUND)
        else:
            self._context.collect(self._collected)

    def _collected(self, snapshots: list[Snapshot] | None) -> None:
        try:
            self._respond(AWAY if snapshots is None else metrics.response(snapshots))
        except Exception:  # they come from other processes: whoever hands them on is not to suffer
            self.transport.fail()

    def _nowhere(self, request: Request) -> None:
        self._respond(NOT_FOUND)

    def _respond(self, response: Response) -> None:
        request = self._busy
        transport = self.transport
        if request is None or transport.closed:
            return
        self._busy = None
        if type(request.route) is Rest:
            self._context.stats.answered(response.status, perf_counter() - self._began)
        elif type(request.route) in _COUNTED:
            self._context.stats.responses[response.status] += 1
        upgrade_ignored = "upgrade" in request.headers
        keep = request.keep_alive and not upgrade_ignored and not self._context.health.stopping
        head_only = request.method == "HEAD"
        transport.write(encode(response, keep_alive=keep, version=request.version, head_only=head_only))
        if not keep or response.close:
            transport.close()
            return
        self._since = self._context.reactor.wheel.now
        self._patience = self._context.keep_alive
        if self._patience < self._context.settings.server.handshake_timeout:  # nearer than the next look
            transport.check_after(self._patience)
        if not self._advancing:  # the answer came later than the call that asked for it
            if not transport.congested:
                transport.resume_reading()
            self._advance()

    def _refuse(self, error: HttpError) -> None:
        self._context.stats.responses[error.status] += 1
        self.transport.write(encode(error_response(error), keep_alive=False))
        self.transport.close()

    def _pass_on(self, data: bytes) -> None:
        transport = self.transport
        transport.reactor.wheel.cancel(transport)
        self._context.hosting.serve(transport, data, self._resume)

    def _resume(self, data: bytes) -> None:
        """The hosted application has answered its request, and the connection lives on."""
        transport = self.transport
        transport.protocol = self
        self._since = self._context.reactor.wheel.now
        self._patience = self._context.keep_alive
        self.open()
        transport.resume_reading()
        self.received(data)

    # --- WebSocket ---------------------------------------------------------------------------------------------------

    def _upgrade(self, request: Request) -> None:
        """Answer the handshake. Refusals of the app come after it: clients read their codes, not HTTP's."""
        answer = accept_upgrade(request.method, request.version, request.headers)
        transport, context = self.transport, self._context
        self._busy = None
        context.stats.responses[101] += 1
        transport.write(answer)
        app = context.api.app(request.route.key)
        if app is None:
            self._turn_away(_NO_APP)
        elif not app.allows_origin(_origin_host(request.headers.get("origin"))):
            self._turn_away(_WRONG_ORIGIN)
        else:
            self._become_websocket(app)

    def _become_websocket(self, app: App) -> None:
        transport, context = self.transport, self._context
        connection = PusherConnection(context, transport, app, new_socket_id())
        transport.protocol = connection
        connection.open()
        rest = self._reader.rest()
        if rest and not transport.closed:
            connection.received(rest)
        if context.health.stopping and not transport.closed:  # the others have been told already
            connection.drain()

    def _turn_away(self, fault: Fault) -> None:
        stats = self._context.stats
        stats.errors[fault.code] += 1
        stats.messages_sent += 1
        self.transport.write(encode_text(wire.error(fault)))
        self.transport.write(encode_close(fault.code, fault.message))
        self.transport.close()

    # --- the end and the clock ---------------------------------------------------------------------------------------

    def drain(self) -> None:
        """The server goes: idle connections are closed, others after their answer.

        Half a request, or the first of a new connection, has a moment more to come.
        """
        if self._busy is None:
            self.transport.poll()
        if self._busy is not None or self.transport.closed:
            return
        if self._reader.in_request or self._fresh:
            self.transport.check_after(STOP_PATIENCE_S)
        else:
            self.transport.close()

    def lost(self) -> None:
        """Nobody waits for an answer any more."""
        self._busy = None

    def overflowed(self) -> None:
        """One answer may be long; it is sent whole, and the next one waits for that."""

    def check(self, now: int) -> int:
        """Close when a head, a body or the next request has not come in time. Seen to every `handshake_timeout`."""
        every = self._context.settings.server.handshake_timeout
        if self._busy is not None:
            return now + every
        part, patience = self._waiting_for(every)
        due = self._since + patience
        if now < due and not self._context.health.stopping:
            return min(due, now + every)
        if part:
            self._refuse(HttpError(408, f"The {part} of the request did not come within {patience} s.", close=True))
        else:
            self.transport.close()
        return 0

    def _waiting_for(self, handshake_timeout: int) -> tuple[str, int]:
        """What must come next, and within how many seconds; nothing is said where it is the client's turn to read."""
        if self.transport.congested:
            return "", self._context.keep_alive
        if self._reader.in_body:
            return "body", BODY_TIMEOUT_S
        if self._reader.in_request:
            return "head", handshake_timeout
        return "", self._patience


#: What serves a route that is not REST's.
_SERVICES: Final[dict[type, Callable[[HttpConnection, Request], None]]] = {
    Upgrade: HttpConnection._upgrade,
    Up: HttpConnection._health,
    Metrics: HttpConnection._metrics,
    Nowhere: HttpConnection._nowhere,
}


def _origin_host(origin: str | None) -> str | None:
    """The host of an Origin header, without scheme and port; None when there is none."""
    if origin is None or "://" not in origin:
        return None
    authority = re.split(r"[/?#\\]", origin.partition("://")[2], maxsplit=1)[0]
    if authority.startswith("["):
        return authority.partition("]")[0] + "]"
    return authority.partition(":")[0] or None
