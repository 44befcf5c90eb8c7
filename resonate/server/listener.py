"""Accepts connections on the listening sockets of a worker."""

from __future__ import annotations

import errno
from _socket import SO_KEEPALIVE, SOL_SOCKET, SocketType
from collections.abc import Callable
from typing import Any, Final

from resonate.server.transport import READ, Reactor

#: Connections taken in one turn, so that those already open are served in between.
BATCH: Final = 64
#: How long to wait when the process or the machine is out of descriptors or memory, in seconds.
EXHAUSTED_PAUSE_S: Final = 1.0
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """`opened` is given each new socket, non-blocking."""

    def __init__(self, sock: SocketType, reactor: Reactor, opened: Callable[[SocketType], None]) -> None:
        self._sock = sock
        self._reactor = reactor
        self._opened = opened
        self._watcher: Any = reactor.loop.io(sock.fileno(), READ)
        self._retry: Any = None  # a timer while the process is out of descriptors
        sock.setblocking(False)
        sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)  # accepted sockets inherit it: peers that vanish are found
        self._watcher.start(self._accept)

    def close(self) -> None:
        """Accept no more; this process's descriptor of the socket is closed."""
        for watcher in (self._watcher, self._retry):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._sock.close()

    def _accept(self) -> None:
        listening = self._sock
        for _ in range(BATCH):
            try:
                descriptor, _ = listening._accept()  # type: ignore[attr-defined]  # what socket.accept calls
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error)
                return
            if self._retry is not None:
                self._recovered()
            sock = SocketType(listening.family, listening.type, listening.proto, fileno=descriptor)
            sock.setblocking(False)
            try:
                self._opened(sock)
            except Exception:  # a defect of ours, or a peer that was gone at once: others are accepted all the same
                self._reactor.log.exception("a connection could not be opened")
                sock.close()

    def _failed(self, error: OSError) -> None:
        if error.errno in _EXHAUSTED:
            self._pause(error)
        elif error.errno != errno.ECONNABORTED:
            self._reactor.log.error("cannot accept a connection: %s", error)

    def _pause(self, error: OSError) -> None:
        """Leave new connections in the kernel's queue for a while; said once, until it is over."""
        if self._retry is None:
            self._reactor.log.error(
                "cannot accept connections: %s. %d are open; trying again every second. Raise the limit of open files "
                "(ulimit -n, LimitNOFILE=)",
                error,
                len(self._reactor.transports),
            )
        else:
            self._retry.close()
        self._watcher.stop()
        self._retry = self._reactor.loop.timer(EXHAUSTED_PAUSE_S)  # a fresh one: libev resumes one that has fired
        self._retry.start(self._watcher.start, self._accept)

    def _recovered(self) -> None:
        self._retry.close()
        self._retry = None
        self._reactor.log.info("accepting connections again")
