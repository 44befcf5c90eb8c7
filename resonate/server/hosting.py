"""The hosted WSGI application: one request at a time of a connection, through gunicorn's own request handling.

A transport is lent to a greenlet that sees it as a blocking socket. Afterwards the connection goes back to HTTP, with
the bytes that were read beyond the request, or is closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.event import Event
from gunicorn.http.errors import NoMoreData
from gunicorn.http.parser import RequestParser

from resonate.errors import HttpError
from resonate.http import encode, error_response
from resonate.server.transport import CHUNK, Transport

#: How long the application may wait for bytes of a body, or of its own WebSocket: for ever, as under gunicorn's gevent
#: worker. TCP keep-alive finds the clients that have vanished.
READ_TIMEOUT_S: Final = None
#: How long the rest of a body that the application has not read may take to come, in seconds.
DRAIN_S: Final = 30
#: And how long it may be, in bytes: the answer has promised that the connection stays.
DRAIN_BYTES: Final = 64 * 1024 * 1024

_BUSY = HttpError(
    503, "The application is at its limit of concurrent requests.", headers=(("Retry-After", "1"),), close=True
)


class HostedStream:
    """A transport as gunicorn and gevent-websocket want it: a socket that blocks the greenlet, and nobody else."""

    movable = False  # the application holds it

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._buffer = bytearray()
        self._changed = Event()
        self._ended = False
        self._lost = False
        self.upgraded = False  # whether the application speaks WebSocket on it
        self._timeout: float | None = READ_TIMEOUT_S

    # --- the transport's side ----------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= CHUNK:
            self._transport.pause_reading()
        self._changed.set()

    def ended(self) -> None:
        self._ended = True
        self._changed.set()

    def lost(self) -> None:
        self._ended = self._lost = True
        self._changed.set()

    def overflowed(self) -> None:
        """`sendall` waits instead."""

    def drained(self) -> None:
        self._changed.set()

    @property
    def stranded(self) -> bool:
        """As long as it has not been told that it has to end."""
        return self.upgraded and not self._ended

    def drain(self) -> None:
        """A request under way is finished; a WebSocket of the application's has to end."""
        if self.upgraded:
            self.ended()

    def check(self, now: int) -> int:
        return 0

    # --- the socket's side -------------------------------------------------------------------------------------------

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; nothing at the end."""
        while not self._buffer:
            if self._ended:
                return b""
            self._transport.resume_reading()
            self._wait()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def sendall(self, data: bytes) -> None:
        """Queue all, and wait until the kernel has taken it."""
        view = memoryview(data)
        for start in range(0, len(view), CHUNK):
            if self._lost:
                raise BrokenPipeError("the client has gone")
            self._transport.write(bytes(view[start : start + CHUNK]))
            self._transport.flush()
            while self._transport.waiting and not self._lost:
                self._wait()

    def send(self, data: bytes) -> int:
        """As `sendall`."""
        self.sendall(data)
        return len(data)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """What is left of `file`, or `count` bytes of it."""
        if offset:
            file.seek(offset)
        sent = 0
        while count is None or sent < count:
            data = file.read(CHUNK if count is None else min(CHUNK, count - sent))
            if not data:
                break
            self.sendall(data)
            sent += len(data)
        return sent

    def _wait(self) -> None:
        self._changed.clear()
        if not self._changed.wait(self._timeout):
            raise TimeoutError("timed out")

    def unread(self, data: bytes) -> None:
        """Put back what was read too far."""
        self._buffer[:0] = data

    def rest(self) -> bytes:
        """What has been received and not been read."""
        return bytes(self._buffer)

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """It always blocks, and only its greenlet."""

    def fileno(self) -> int:
        return self._transport.sock.fileno()

    def getsockname(self) -> Any:
        return self._transport.sock.getsockname()

    def getpeername(self) -> Any:
        return self._transport.sock.getpeername()

    def shutdown(self, how: int) -> None:
        self._transport.close()

    def close(self) -> None:
        self._transport.close()


class Hosting:
    """`worker` is gunicorn's: it answers one parsed request. At most `limit` requests are answered at a time."""

    def __init__(self, worker: Any, limit: int) -> None:
        self._worker = worker
        self._limit = limit
        self._active = 0

    def serve(self, transport: Transport, data: bytes, resume: Callable[[bytes], None]) -> None:
        """Answer the request that `data` begins with; then `resume` with what follows it, or close."""
        if self._active >= self._limit:
            transport.write(encode(error_response(_BUSY), keep_alive=False))
            transport.close()
            return
        self._active += 1
        stream = HostedStream(transport)
        transport.protocol = stream
        gevent.spawn(self._run, transport, stream, data, resume)

    def _run(self, transport: Transport, stream: HostedStream, data: bytes, resume: Callable[[bytes], None]) -> None:
        rest = None
        try:
            rest = self._answer(stream, data)
        finally:  # whatever the application has raised
            self._active -= 1
            if rest is None or transport.closed:
                transport.close()
            else:
                resume(rest)

    def _answer(self, stream: HostedStream, data: bytes) -> bytes | None:
        """The bytes after the request, or None when the connection cannot go on."""
        worker, request = self._worker, None
        try:
            peer = stream.getpeername()
            parser = RequestParser(worker.cfg, stream, peer)
            parser.unreader.unread(data)
            request = next(parser)
            if any(name == "UPGRADE" for name, _ in request.headers):  # frames may lie behind the head already
                stream.unread(parser.unreader.read() if parser.unreader.buf.getvalue() else b"")
            if not worker.handle_request(stream.getsockname(), request, stream, peer):
                return None
            if not parser.finish_body(time.monotonic() + DRAIN_S, DRAIN_BYTES):
                return None  # where the next request begins is not known
            return bytes(parser.unreader.buf.getvalue()) + stream.rest()
        except (NoMoreData, StopIteration, ConnectionError, TimeoutError):
            return None
        except OSError as error:  # as when the peer's address is asked for after a reset
            worker.log.debug("a hosted request ended early: %s", error)
            return None
        except Exception as error:
            worker.handle_error(request, stream, peer, error)
            return None
