"""WebSocket routes of the hosted application: `environ["wsgi.websocket"]`, as users of gevent-websocket expect it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, Final

from geventwebsocket.exceptions import ProtocolError, WebSocketError
from geventwebsocket.websocket import Header, Stream, WebSocket

from resonate.server.hosting import HostedStream
from resonate.websocket import accept_upgrade
from resonate.websocket.frames import unmask
from resonate.websocket.protocol import TOO_BIG

#: The longest message that an application is given, in bytes.
MAX_MESSAGE: Final = 16 * 1024 * 1024

WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: What the WSGI callable returns once a WebSocket of the application has come to its end.
WEBSOCKET_DONE: Final[list[bytes]] = []


class WebSocketRoutes:
    """Gives the application `environ["wsgi.websocket"]` where a client asks for an upgrade (gevent-websocket)."""

    def __init__(self, application: WsgiApplication, log: Any) -> None:
        self._application = application
        self._log = log

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("HTTP_UPGRADE", "").lower() != "websocket" or "gunicorn.socket" not in environ:
            return self._application(environ, start_response)
        socket = environ["gunicorn.socket"]
        websocket = HostedWebSocket(environ, socket, self._log)
        environ["wsgi.websocket"] = websocket
        environ["wsgi.websocket_version"] = environ.get("HTTP_SEC_WEBSOCKET_VERSION")
        try:
            answer = self._application(environ, start_response)
            if not websocket.accepted:  # not a route of the application's: its answer is an ordinary one
                return answer
            for _ in answer:
                pass
        finally:
            if websocket.accepted:
                websocket.close()
        return WEBSOCKET_DONE


class HostedWebSocket(WebSocket):  # type: ignore[misc]
    """gevent-websocket's object; the handshake is answered when the application first uses it."""

    __slots__ = ("_size", "accepted")

    def __init__(self, environ: dict[str, Any], socket: HostedStream, log: Any) -> None:
        server = SimpleNamespace(application=None, clients={})
        handler = SimpleNamespace(server=server, logger=log, socket=socket, rfile=_Reader(socket))
        self.accepted = False
        self._size = 0  # of the message that is being received
        super().__init__(environ, Stream(handler), handler)

    def accept(self) -> None:
        """Answer the handshake. Raises HttpError when it is not a proper one."""
        if not self.accepted:
            headers = {
                key[5:].lower().replace("_", "-"): value
                for key, value in self.environ.items()
                if key.startswith("HTTP_")
            }
            version = self.environ["SERVER_PROTOCOL"].removeprefix("HTTP/")
            self.raw_write(accept_upgrade(self.environ["REQUEST_METHOD"], version, headers))
            self.accepted = self.handler.socket.upgraded = True

    def read_frame(self) -> tuple[Any, bytes]:
        """The next frame. gevent-websocket unmasks byte by byte in Python, and reads messages of any length."""
        header = Header.decode_header(self.stream)
        self._size = (
            header.length if header.opcode in (self.OPCODE_TEXT, self.OPCODE_BINARY) else self._size + header.length
        )
        if header.flags or not header.mask:
            raise ProtocolError("a reserved bit is set, or the frame is not masked")
        if self._size > MAX_MESSAGE:
            self.close(TOO_BIG, f"over {MAX_MESSAGE} bytes")
            raise WebSocketError(f"a message is longer than {MAX_MESSAGE} bytes")
        payload = self.raw_read(header.length)
        if len(payload) != header.length:
            raise WebSocketError("the connection has ended in the middle of a frame")
        return header, unmask(payload, header.mask)

    def validate_utf8(self, payload: bytes) -> None:
        """Whole messages are decoded, and closed with 1007 when that fails; no need to look at each byte before."""

    def receive(self) -> str | bytearray | None:
        """The next message; None when the client has closed."""
        self.accept()
        message: str | bytearray | None = super().receive()
        return message

    def send_frame(self, message: Any, opcode: int) -> None:
        """Send one frame; `send`, pings and the close frame all come through here."""
        self.accept()
        super().send_frame(message, opcode)

    def close(self, code: int = 1000, message: str | bytes = b"") -> None:
        """Close with this code and reason, which gevent-websocket 0.10.1 garbles."""
        if not self.closed:
            reason = message.encode() if isinstance(message, str) else bytes(message or b"")
            super().close(code, code.to_bytes(2, "big") + reason)

    def _encode_bytes(self, text: Any) -> bytes:
        return bytes(text) if isinstance(text, bytes | bytearray) else bytes(super()._encode_bytes(text))

    def __del__(self) -> None:
        """`close` has been called by whoever ran the application."""


class _Reader:
    """The file that gevent-websocket reads frames from."""

    def __init__(self, socket: HostedStream) -> None:
        self._socket = socket

    def read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            data = self._socket.recv(size - len(parts))
            if not data:
                break
            parts += data
        return bytes(parts)
