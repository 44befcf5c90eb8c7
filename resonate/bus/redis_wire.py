"""One connection to Redis that has been made: bytes go out and come in, and nothing ever waits."""

from __future__ import annotations

import select
import ssl
from collections import deque
from typing import Any, Final

from resonate.bus.redis_connection import Connection
from resonate.bus.resp import ProtocolError, Reader, pack
from resonate.errors import ResonateError

#: Bytes to read at once, more than a record of TLS has; and in one turn: then it is for others.
CHUNK: Final = 256 * 1024
TURN: Final = 2**20
#: Bytes to send at once; commands are joined up to here.
SEGMENT: Final = 256 * 1024

_PING: Final = pack((b"PING",))


class LinkError(ResonateError):
    """The connection is of no use any more; the text says why."""


class Wire:
    """Owns a connection that has been made, and its socket. Whoever reads from it knows what replies to expect.

    It is asked for a sign of life when it has been silent for half of `patience` seconds, by PING.
    """

    def __init__(self, connection: Connection, poll: select.epoll, patience: float, now: float) -> None:
        self._connection = connection
        self._socket = connection.socket
        self._socket.setblocking(False)
        self._reader = Reader()
        self._out: deque[bytes] = deque()
        self.waits = 0  # bytes that have not been sent
        self._full = False  # the kernel takes no more for now
        self._poll = poll
        self._patience = patience
        self._heard_at = now
        self._asked_at: float | None = None
        self.descriptor = self._socket.fileno()
        poll.register(self.descriptor, select.EPOLLIN)

    def send(self, data: bytes) -> None:
        """Put it into the queue; it goes out with `flush`."""
        self._out.append(data)
        self.waits += len(data)

    def flush(self) -> None:
        """Send what can be sent. Raises LinkError."""
        if not self._out:
            return
        try:
            while self._out:
                self._send_some()
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            raise LinkError(_told(error)) from None
        if bool(self._out) != self._full:
            self._full = not self._full
            self._poll.modify(self.descriptor, select.EPOLLIN | (select.EPOLLOUT if self._full else 0))

    def _send_some(self) -> None:
        joined = [self._out.popleft()]
        size = len(joined[0])
        while self._out and size < SEGMENT:
            joined.append(self._out.popleft())
            size += len(joined[-1])
        data = b"".join(joined) if len(joined) > 1 else joined[0]
        sent = 0
        try:
            sent = self._socket.send(data)
        finally:
            self.waits -= sent
            if sent < len(data):
                self._out.appendleft(data[sent:])

    def read(self, now: float) -> list[Any]:
        """Replies that have come. Of what remains the poll knows: TLS is read by whole records. Raises LinkError."""
        replies: list[Any] = []
        size = 0
        try:
            while size < TURN:
                data = self._socket.recv(CHUNK)
                if not data:
                    raise LinkError("Redis has closed the connection")
                size += len(data)
                replies += self._reader.feed(data)
                if len(data) < CHUNK and not isinstance(self._socket, ssl.SSLSocket):
                    break
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            raise LinkError(_told(error)) from None
        except ProtocolError as error:
            raise LinkError(str(error)) from None
        if size:
            self._heard_at, self._asked_at = now, None
        return replies

    def watch(self, now: float) -> bool:
        """Look whether it lives; whether a PING has gone out, whose reply will come. Raises LinkError.

        It is read before: what has come in the meantime counts.
        """
        half = self._patience / 2
        if self._asked_at is not None:
            if now - self._asked_at >= half:
                raise LinkError(f"no answer within {self._patience:g} s")
        elif now - self._heard_at >= half:
            self._asked_at = now
            self.send(_PING)
            return True
        return False

    def close(self) -> None:
        """Close it, whatever it is doing."""
        try:
            self._poll.unregister(self.descriptor)
        except OSError:
            pass  # closed before it was registered, or already
        self._connection.close()


def _told(error: OSError) -> str:
    return f"the connection has broken: {error.strerror or type(error).__name__}"
