"""A proxy of HTTP/1.1 that forwards one request of each connection, with headers changed, then whatever comes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TypeAlias

#: What becomes of the lines of a head.
Change: TypeAlias = Callable[[list[str]], list[str]]


def forwarding(lines: list[str]) -> list[str]:
    """A good proxy."""
    return [*lines, "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https"]


def transparent(lines: list[str]) -> list[str]:
    """One that says nothing of itself."""
    return lines


def without_upgrade(lines: list[str]) -> list[str]:
    """nginx as it is when nobody has told it of WebSockets."""
    kept = [line for line in lines[1:] if not line.lower().startswith(("upgrade:", "connection:"))]
    return [lines[0].replace("HTTP/1.1", "HTTP/1.0"), *kept, "Connection: close"]


class Proxy:
    """A context manager. Listens on a free port of 127.0.0.1 and leads to `port` there."""

    def __init__(self, port: int, change: Change) -> None:
        self._to = port
        self._change = change
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.port: int = self._listening.getsockname()[1]

    def __enter__(self) -> Proxy:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in [self._listening, *self._sockets]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    @staticmethod
    def _spawn(run: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=run, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self._sockets.append(sock)
                self._spawn(self._forward, sock)

    def _forward(self, client: socket.socket) -> None:
        with suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                data += client.recv(65536) or b"\r\n\r\n"
            head, _, rest = data.partition(b"\r\n\r\n")
            try:
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nServer: proxy\r\nContent-Length: 0\r\n\r\n")
                client.close()
                return
            self._sockets.append(server)
            lines = self._change(head.decode("latin-1").split("\r\n"))
            server.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + rest)
            self._spawn(self._pump, client, server)
            self._pump(server, client)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
