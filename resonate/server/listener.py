"""Accepts connections on the listening sockets of a worker."""

from __future__ import annotations

import errno
import os
import socket
from _socket import SO_KEEPALIVE, SOL_SOCKET, SocketType
from collections.abc import Callable
from typing import Any, Final

from resonate.server.descriptors import Descriptors
from resonate.server.transport import READ, Reactor
from resonate.settings import Server

#: Who reads the metrics and waits to be accepted.
METRICS_BACKLOG: Final = 16
#: Connections taken in one turn, so that those already open are served in between.
BATCH: Final = 64
#: How many times that at the end.
LAST_BATCHES: Final = 64
#: How long to wait when the process or the machine is out of descriptors or memory, in seconds.
EXHAUSTED_PAUSE_S: Final = 1.0
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_MORE: Final = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Listener:
    """`opened` is given each new socket, non-blocking; `descriptors` says whether there is one for it."""

    def __init__(
        self, sock: SocketType, reactor: Reactor, descriptors: Descriptors, opened: Callable[[SocketType], None]
    ) -> None:
        self._exhausted = False  # and it has been said
        self._sock = sock
        self._reactor = reactor
        self._descriptors = descriptors
        self._opened = opened
        self._watcher: Any = reactor.loop.io(sock.fileno(), READ)
        self._retry: Any = None  # a timer while the process is out of descriptors
        sock.setblocking(False)
        sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)  # accepted sockets inherit it: peers that vanish are found
        self._watcher.start(self._accept)

    def finish(self) -> None:
        """Accept those who are waiting, then no more."""
        for _ in range(LAST_BATCHES):
            if not self._accept():
                break
        self.close()

    def close(self) -> None:
        """Accept no more; this process's descriptor of the socket is closed."""
        self._stop_waiting()
        self._watcher.stop()
        self._watcher.close()
        self._sock.close()

    def _accept(self) -> bool:
        """Accept a batch; whether more may be waiting."""
        listening, descriptors = self._sock, self._descriptors
        if not descriptors.room():
            self._pause(_NO_MORE)
            return False
        for _ in range(BATCH):
            try:
                descriptor, _ = listening._accept()  # type: ignore[attr-defined]  # what socket.accept calls
            except BlockingIOError:
                self._recovered()
                return False
            except OSError as error:
                self._failed(error)
                return False
            last = descriptor >= descriptors.ceiling
            if last:
                descriptor = descriptors.lowered(descriptor)
            self._take(SocketType(listening.family, listening.type, listening.proto, fileno=descriptor))
            if last:
                self._pause(_NO_MORE)
                return False
        return True

    def _take(self, sock: SocketType) -> None:
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
        if not self._exhausted:
            self._exhausted = True
            self._reactor.log.error(
                "cannot accept connections: %s. %d are open; trying again every second. Raise the limit of open files "
                "(ulimit -n, LimitNOFILE=)",
                error,
                len(self._reactor.transports),
            )
        self._watcher.stop()
        self._stop_waiting()
        self._retry = self._reactor.loop.timer(EXHAUSTED_PAUSE_S)  # a fresh one: libev resumes one that has fired
        self._retry.start(self._try_again)

    def _try_again(self) -> None:
        self._stop_waiting()
        self._watcher.start(self._accept)
        self._accept()

    def _stop_waiting(self) -> None:
        if self._retry is not None:
            self._retry.stop()
            self._retry.close()
            self._retry = None

    def _recovered(self) -> None:
        """Nobody waits to be accepted."""
        if self._exhausted:
            self._exhausted = False
            self._reactor.log.info("accepting connections again")


def listen_for_metrics(server: Server, log: Any) -> socket.socket | None:
    """The listening socket of `/metrics`, for all workers; None where there is to be none, or cannot be, which is said.

    A server whose metrics cannot be read still serves.
    """
    if not server.metrics_port:
        return None
    host, port = server.metrics_host.strip("[]"), server.metrics_port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=METRICS_BACKLOG)
    except OSError as error:
        log.warning(
            "metrics are not served: %s port %d: %s. Choose another with metrics_host and metrics_port "
            "(RESONATE_METRICS_HOST, RESONATE_METRICS_PORT), or 0 for none",
            host,
            port,
            error.strerror,
        )
        return None
