"""A WebSocket handshake, as a client makes it; and one who stands in for the server, to see what arrives of it."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from resonate.errors import HttpError
from resonate.websocket.handshake import accept_upgrade

#: For each step: to connect, to hear an answer, to be reached. In seconds.
PATIENCE_S: Final = 5.0
#: Of a head, in bytes.
LONGEST_HEAD: Final = 16 * 1024
#: Others that the stand-in may meet before our own request comes.
MOST_STRANGERS: Final = 16

_END: Final = b"\r\n\r\n"


@dataclass(frozen=True)
class Head:
    """The first line and the headers (lower-case names) of a request or an answer, and what was read behind them."""

    first: str
    headers: Mapping[str, str]
    rest: bytes = b""

    @property
    def status(self) -> int:
        """Of an answer; 0 for anything else."""
        words = self.first.split(" ", 2)
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0

    @classmethod
    def read(cls, sock: socket.socket, until: float) -> Head:
        """Raises OSError, also where none comes."""
        data = b""
        while _END not in data:
            piece = _piece(sock, until)
            if not piece or len(data) > LONGEST_HEAD:
                raise ConnectionError("the connection was closed before an answer" if not piece else "no HTTP")
            data += piece
        head, _, rest = data.partition(_END)
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(first, {name.strip().lower(): value.strip() for name, _, value in pairs}, rest)


@dataclass(frozen=True)
class Target:
    """Where to connect, `tls` with what; `name` is what a URL would say."""

    address: tuple[str, int] | str
    name: str
    tls: ssl.SSLContext | None = None


class Handshake:
    """A client's, in three steps: it asks when it is made, then `answer`, then `greeting`.

    Each of the first two raises OSError (ssl.SSLError is one).
    """

    def __init__(self, target: Target, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self._sock = _connected(target)
        try:
            if target.tls is not None:
                host = target.address[0] if isinstance(target.address, tuple) else ""
                self._sock = target.tls.wrap_socket(self._sock, server_hostname=host)
            self._sock.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {target.name}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
        except OSError:
            self._sock.close()
            raise

    def answer(self) -> Head:
        """What comes back."""
        self._head = Head.read(self._sock, time.monotonic() + PATIENCE_S)
        return self._head

    def greeting(self) -> bytes:
        """The first piece of what follows an upgrade; nothing, if nothing comes in time."""
        try:
            return self._head.rest or _piece(self._sock, time.monotonic() + PATIENCE_S)
        except OSError:
            return b""

    def close(self) -> None:
        """Go away."""
        self._sock.close()


class StandIn:
    """Listens where the server would, and answers nobody but the one whom it waits for."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening

    def meet(self, mark: str, patience_s: float) -> tuple[Head | None, str]:
        """The request for a path with this mark, as it arrives; and what is wrong with it, if it cannot be upgraded.

        It has been answered. None: it has not come.
        """
        until = time.monotonic() + patience_s
        for _ in range(MOST_STRANGERS):
            self._listening.settimeout(max(until - time.monotonic(), 0.001))
            try:
                sock, _ = self._listening.accept()
            except OSError:
                break
            with sock:
                try:
                    head = Head.read(sock, until)
                except OSError:
                    continue
                if mark in head.first:
                    return head, _answered(sock, head)
        return None, ""


def _answered(sock: socket.socket, head: Head) -> str:
    method, version = head.first.partition(" ")[0], head.first.rpartition("HTTP/")[2]
    try:
        sock.sendall(accept_upgrade(method, version, head.headers))
    except HttpError as error:
        sock.sendall(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return error.message
    except OSError:
        pass
    return ""


def _connected(target: Target) -> socket.socket:
    if isinstance(target.address, tuple):
        return socket.create_connection(target.address, timeout=PATIENCE_S)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE_S)
    try:
        sock.connect(target.address)
    except OSError:
        sock.close()
        raise
    return sock


def _piece(sock: socket.socket, until: float) -> bytes:
    sock.settimeout(max(until - time.monotonic(), 0.001))
    return sock.recv(LONGEST_HEAD)
