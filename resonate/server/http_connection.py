"""A connection that speaks HTTP: answers REST requests in order, upgrades to WebSocket, passes the rest on."""

from __future__ import annotations

import re
from time import time
from typing import Final

from resonate.errors import Fault, HttpError
from resonate.http import (
    Continue,
    Foreign,
    Refused,
    Request,
    RequestReader,
    Response,
    encode,
    error_response,
    json_response,
)
from resonate.pusher import events as wire
from resonate.server.context import Context, Rest, Upgrade, new_socket_id
from resonate.server.pusher_connection import PusherConnection
from resonate.server.transport import Transport
from resonate.settings import App
from resonate.websocket import accept_upgrade, encode_close, encode_text

#: How long the body of a request may take to come, in seconds.
BODY_TIMEOUT_S: Final = 30

#: How long the rest of a request may take to come once the server is stopping, in seconds.
STOP_PATIENCE_S: Final = 2

_HEALTHY: Final = Response(200, b'{"health":"OK"}')
_NO_APP: Final = Fault(4001, "Application does not exist")
_WRONG_ORIGIN: Final = Fault(4009, "Origin not allowed")


class HttpConnection:
    """Speaks on `transport`; one request at a time, while the next ones wait in the reader or the kernel."""

    __slots__ = ("_busy", "_context", "_patience", "_reader", "_since", "_transport")

    def __init__(self, context: Context, transport: Transport) -> None:
        self._context = context
        self._transport = transport
        self._reader = RequestReader(context.route, context.settings.server.max_request_size)
        self._busy: Request | None = None  # the request that is being answered
        self._patience = context.settings.server.handshake_timeout  # seconds to wait for the beginning of a request
        self._since = (
            context.reactor.wheel.now
        )  # the tick at which the present wait began: for a head, a body, a request

    def open(self) -> None:
        """A fresh connection: the first request must come in time."""
        self._transport.check_after(self._context.settings.server.handshake_timeout)

    # --- input -------------------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes from the transport."""
        reader = self._reader
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
        transport = self._transport
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
        if transport.protocol is not self:
            return
        if self._busy is not None or transport.congested:
            transport.pause_reading()
        elif transport.ended or (self._context.health.stopping and not self._reader.in_request):
            transport.close()

    def drained(self) -> None:
        """The client has read its answers: on to its next request."""
        self._transport.resume_reading()
        self._advance()

    # --- requests ----------------------------------------------------------------------------------------------------

    def _serve(self, request: Request) -> None:
        self._busy = request
        route = request.route
        try:
            if type(route) is Rest:
                self._call(request, route.path)
            elif type(route) is Upgrade:
                self._upgrade(request, route.key)
            else:
                self._respond(self._health(request))
        except HttpError as error:
            self._respond(error_response(error))

    def _call(self, request: Request, path: str) -> None:
        answer = self._context.api.open(request, path, time())
        if isinstance(answer, Response):
            self._respond(answer)
        else:
            self._context.calls.start(answer, self._respond)

    def _health(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise HttpError(405, "Method not allowed.", headers=(("Allow", "GET"),))
        reason = self._context.health.reason
        return json_response({"health": reason}, 503) if reason else _HEALTHY

    def _respond(self, response: Response) -> None:
        request = self._busy
        transport = self._transport
        if request is None or transport.closed:
            return
        self._busy = None
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
        if not transport.reading:  # the answer came later than the call that asked for it
            transport.resume_reading()
            self._advance()

    def _refuse(self, error: HttpError) -> None:
        self._transport.write(encode(error_response(error), keep_alive=False))
        self._transport.close()

    def _pass_on(self, data: bytes) -> None:
        transport = self._transport
        transport.reactor.wheel.cancel(transport)
        self._context.hosting.serve(transport, data, self._resume)

    def _resume(self, data: bytes) -> None:
        """The hosted application has answered its request, and the connection lives on."""
        transport = self._transport
        transport.protocol = self
        self._since = self._context.reactor.wheel.now
        self._patience = self._context.keep_alive
        self.open()
        transport.resume_reading()
        self.received(data)

    # --- WebSocket ---------------------------------------------------------------------------------------------------

    def _upgrade(self, request: Request, key: str) -> None:
        """Answer the handshake. Refusals of the app come after it: clients read their codes, not HTTP's."""
        answer = accept_upgrade(request.method, request.version, request.headers)
        transport, context = self._transport, self._context
        self._busy = None
        transport.write(answer)
        app = context.api.app(key)
        if app is None:
            self._turn_away(_NO_APP)
        elif not app.allows_origin(_origin_host(request.headers.get("origin"))):
            self._turn_away(_WRONG_ORIGIN)
        else:
            self._become_websocket(app)

    def _become_websocket(self, app: App) -> None:
        transport, context = self._transport, self._context
        connection = PusherConnection(context, transport, app, new_socket_id())
        transport.protocol = connection
        connection.open()
        rest = self._reader.rest()
        if rest and not transport.closed:
            connection.received(rest)

    def _turn_away(self, fault: Fault) -> None:
        self._transport.write(encode_text(wire.error(fault)))
        self._transport.write(encode_close(fault.code, fault.message))
        self._transport.close()

    # --- the end and the clock ---------------------------------------------------------------------------------------

    def drain(self) -> None:
        """The server goes: idle connections are closed, others after their answer; half a request is not waited for."""
        if self._busy is not None:
            return
        if self._reader.in_request:
            self._transport.check_after(STOP_PATIENCE_S)
        else:
            self._transport.close()

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
            self._transport.close()
        return 0

    def _waiting_for(self, handshake_timeout: int) -> tuple[str, int]:
        """What must come next, and within how many seconds; nothing is said where it is the client's turn to read."""
        if self._transport.congested:
            return "", self._context.keep_alive
        if self._reader.in_body:
            return "body", BODY_TIMEOUT_S
        if self._reader.in_request:
            return "head", handshake_timeout
        return "", self._patience


def _origin_host(origin: str | None) -> str | None:
    """The host of an Origin header, without scheme and port; None when there is none."""
    if origin is None or "://" not in origin:
        return None
    authority = re.split(r"[/?#\\]", origin.partition("://")[2], maxsplit=1)[0]
    if authority.startswith("["):
        return authority.partition("]")[0] + "]"
    return authority.partition(":")[0] or None
