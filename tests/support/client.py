"""A plain, blocking Pusher client over a raw socket: what it sends and receives is visible byte by byte."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import socket
import ssl
from types import TracebackType
from typing import Any, NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Frame(NamedTuple):
    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """The close code of a close frame (1005 when it has none)."""
        return int.from_bytes(self.payload[:2], "big") if self.payload else 1005

    def json(self) -> Any:
        return json.loads(self.payload)


def frame(
    payload: bytes, opcode: int = TEXT, fin: bool = True, rsv: int = 0, mask: bytes | None = b"\x01\x02\x03\x04"
) -> bytes:
    """A client frame; `mask` None sends it unmasked, `rsv` is the three reserved bits as a number."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit, size = (0x80 if mask is not None else 0), len(payload)
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    stream = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


class Closed(Exception):  # noqa: N818 - a fact, not a fault
    """The server closed the TCP connection."""


class Client:
    """Connects at once; every read has a deadline of `timeout` seconds."""

    def __init__(
        self,
        host: str,
        port: int,
        path: str = "/app/key1?protocol=7&client=js&version=8.4.0&flash=false",
        headers: str = "",
        secret: str = "secret1",
        timeout: float = 20,
        tls: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self.secret = secret
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n".encode()
        )
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self._fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.head = head.decode("latin-1")
        self.status = int(self.head.split(" ", 2)[1])
        self.socket_id = ""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fill(self) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed(self.buffer)
        self.buffer += data

    def established(self) -> Client:
        """Read `pusher:connection_established` and keep the socket id."""
        event = self.event()
        assert event["event"] == "pusher:connection_established", event
        self.socket_id = json.loads(event["data"])["socket_id"]
        return self

    def frame(self) -> Frame:
        """The next frame of any kind. Raises Closed or TimeoutError."""
        while True:
            buffer = self.buffer
            if len(buffer) >= 2:
                size, start = buffer[1] & 127, 2
                if size == 126:
                    size, start = int.from_bytes(buffer[2:4], "big"), 4
                elif size == 127:
                    size, start = int.from_bytes(buffer[2:10], "big"), 10
                if len(buffer) >= start + size and len(buffer) >= start:
                    self.buffer = buffer[start + size :]
                    return Frame(buffer[0] & 15, buffer[start : start + size])
            self._fill()

    def text(self) -> bytes:
        """The payload of the next frame, which must be text."""
        got = self.frame()
        assert got.opcode == TEXT, got
        return got.payload

    def event(self) -> dict[str, Any]:
        """The next text frame, as JSON."""
        value: dict[str, Any] = json.loads(self.text())
        return value

    def send_raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_text(self, text: str | bytes) -> None:
        self.socket.sendall(frame(text.encode() if isinstance(text, str) else text))

    def send(self, event: str, data: Any = None, **more: Any) -> None:
        self.send_text(json.dumps({"event": event, **({} if data is None else {"data": data}), **more}))

    def auth(self, channel: str, channel_data: str | None = None, key: str = "key1") -> str:
        text = f"{self.socket_id}:{channel}" + (f":{channel_data}" if channel_data else "")
        return f"{key}:" + hmac.new(self.secret.encode(), text.encode(), hashlib.sha256).hexdigest()

    def subscribe(self, channel: str, channel_data: dict[str, Any] | None = None) -> None:
        """Send a subscription, signed where the kind of channel wants it; the answer is left to be read."""
        data: dict[str, Any] = {"channel": channel}
        text = None if channel_data is None else json.dumps(channel_data)
        if channel.startswith(("private", "presence")):
            data["auth"] = self.auth(channel, text)
        if text is not None:
            data["channel_data"] = text
        self.send("pusher:subscribe", data)

    def subscribed(self, channel: str, channel_data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Subscribe and return the data of the success that must follow."""
        self.subscribe(channel, channel_data)
        event = self.event()
        assert event["event"] == "pusher_internal:subscription_succeeded", event
        assert event["channel"] == channel
        data: dict[str, Any] = json.loads(event["data"])
        return data

    def barrier(self) -> list[dict[str, Any]]:
        """Ping, and return every event that came before the pong: nothing else was on its way."""
        self.send("pusher:ping")
        found: list[dict[str, Any]] = []
        while True:
            event = self.event()
            if event["event"] == "pusher:pong":
                return found
            found.append(event)

    def closed(self) -> int:
        """Read to the end of the connection; the close code (1006 when there was no close frame)."""
        code = 1006
        try:
            while True:
                got = self.frame()
                if got.opcode == CLOSE:
                    code = got.code
        except Closed:
            return code

    def close(self) -> None:
        self.socket.close()
