"""One TCP connection on the hub's loop: a watcher and callbacks, no greenlet.

What is written during one turn of the loop goes out in one system call, at the turn's end. What the kernel refuses is
kept, up to a limit; a peer that is slower than that is cut off, and nobody else waits for it.
"""

from __future__ import annotations

import os
from _socket import SHUT_WR, SocketType
from collections import deque
from contextlib import suppress
from logging import Logger
from time import perf_counter
from typing import Any, Final, Protocol

from gevent import monkey

from resonate.server.timers import Wheel

READ, WRITE = 1, 2

#: Bytes to ask the kernel for at once, and to give it at once.
CHUNK: Final = 65536
#: How long one turn may flush before other connections get theirs, in seconds.
SLICE_S: Final = 0.005
#: How long a closed connection is read on, in seconds, so that the peer gets our last bytes and not a reset.
LINGER_S: Final = 3
#: The same for a peer that has not been reading: it may need longer to find our last words.
CUT_S: Final = 10
#: Bytes that may wait for a peer when its connection changes its worker: 200 go at a time, in one piece of JSON.
MOST_TO_MOVE: Final = 1280 * 1024

_epoll: Final = monkey.get_original("select", "epoll")  # gunicorn's patching takes it away


class ConnectionProtocol(Protocol):
    """What speaks on a transport. Exactly one at a time; an upgrade replaces it."""

    def received(self, data: bytes) -> None:
        """Bytes have come."""

    def ended(self) -> None:
        """The peer will send no more."""

    def lost(self) -> None:
        """The connection is gone; nothing can be written."""

    def overflowed(self) -> None:
        """The peer does not read: more than the limit waits for it. The connection is to be cut."""

    def drained(self) -> None:
        """All that the kernel had refused has been sent."""

    def drain(self) -> None:
        """The server is stopping: come to an end."""

    def check(self, now: int) -> int:
        """A deadline may have passed; returns the tick of the next check, 0 for none."""

    @property
    def movable(self) -> bool:
        """Whether the connection could go on in another process just now."""

    @property
    def stranded(self) -> bool:
        """Whether it is a WebSocket that cannot go on in another process: it has to be told to go."""


class Silent:
    """Speaks on a transport that is gone, or is not at home yet."""

    movable = stranded = False

    def received(self, data: bytes) -> None:
        pass

    def ended(self) -> None:
        pass

    def lost(self) -> None:
        pass

    def overflowed(self) -> None:
        pass

    def drained(self) -> None:
        pass

    def drain(self) -> None:
        pass

    def check(self, now: int) -> int:
        return 0


_NOBODY: Final = Silent()


class _Lingering(Silent):
    """Speaks on a closed transport: drops what comes, and cuts the connection when the peer makes no progress."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._waiting = transport.waiting

    def check(self, now: int) -> int:
        waiting, before = self._transport.waiting, self._waiting
        if 0 < waiting < before:
            self._waiting = waiting
            return now + LINGER_S
        self._transport.abort()
        return 0


class Flusher:
    """Sends at the end of a turn what was queued during it; long turns are sliced, in order.

    Answers to requests go first: while a broadcast is being sent, those who published are at work on their next event,
    and more of those meet in the next turn.
    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._again = loop.timer(0)
        self._eager: list[Transport] = []
        self._dirty: list[Transport] = []

    def add(self, transport: Transport) -> None:
        """`transport` has its first output of this turn."""
        if not self._dirty and not self._eager:
            self._loop.run_callback(self._flush)
        (self._eager if transport.eager else self._dirty).append(transport)

    def _flush(self) -> None:
        dirty = self._eager + self._dirty
        self._eager, self._dirty = [], []
        until = perf_counter() + SLICE_S
        for index, transport in enumerate(dirty):
            try:
                transport.flush()
            except Exception:
                transport.fail()
            if not index & 63 and perf_counter() > until:
                self._dirty = dirty[index + 1 :] + self._dirty
                if self._dirty or self._eager:
                    self._again.start(self._flush)
                return


class Reactor:
    """What all transports of a worker share. `limit` is how many bytes may wait for one peer, `transports` are all, the
    oldest first.
    """

    __slots__ = ("flusher", "limit", "log", "loop", "transports", "wheel")

    def __init__(self, loop: Any, log: Logger, limit: int) -> None:
        self.loop = loop
        self.log = log
        self.limit = limit
        self.wheel = Wheel()
        self.flusher = Flusher(loop)
        self.transports: dict[Transport, None] = {}  # a set has no order

    def unwatch(self, descriptor: int) -> None:
        """To be called for one that lives on in another process. libev leaves it to `close` to take a descriptor off
        the kernel's list, and that does so only where it is the last one: at the next event libev would find that it is
        told of a stranger, and would make the whole list anew.
        """
        with suppress(OSError), _epoll.fromfd(os.dup(self.loop.fileno())) as registered:
            registered.unregister(descriptor)


class Transport:
    """`protocol` is told what happens; it may be replaced at any time.

    `write` never calls the protocol back: whoever writes is in the middle of something. What becomes of it is told at
    the end of the turn.
    """

    __slots__ = (
        "_broken",
        "_closing",
        "_ended",
        "_limit",
        "_mute",
        "_out",
        "_over",
        "_queue",
        "_reader",
        "_size",
        "_writer",
        "check_at",
        "eager",
        "protocol",
        "reactor",
        "sock",
    )

    protocol: ConnectionProtocol

    def __init__(self, sock: SocketType, reactor: Reactor) -> None:
        self.sock = sock
        self.reactor = reactor
        self.check_at = 0
        self.eager = True  # whether its output goes before that of others
        self._out: list[bytes] | None = None  # queued during this turn
        self._queue: deque[bytes] | None = None  # refused by the kernel; then nothing is in _out
        self._size = 0  # bytes in either
        self._limit = reactor.limit
        self._over = False  # that was too much: what is written is dropped until the end of the turn
        self._mute = False  # nothing can be written: so, or because of `close`
        self._broken = False  # the kernel says that the connection is gone
        self._closing = False
        self._ended = False  # the peer will send no more
        self._reader = reactor.loop.io(sock.fileno(), READ)
        self._writer: Any = None
        reactor.transports[self] = None

    def start(self, protocol: ConnectionProtocol) -> None:
        """Begin to read, for `protocol`."""
        self.protocol = protocol
        self.resume_reading()

    @property
    def closed(self) -> bool:
        """Whether `close` or `abort` has been called, or the peer has gone."""
        return self._closing

    @property
    def reading(self) -> bool:
        """Whether the peer is listened to."""
        return bool(self._reader.active)

    @property
    def ended(self) -> bool:
        """Whether the peer has closed its side."""
        return self._ended

    @property
    def waiting(self) -> int:
        """Bytes that have not been given to the kernel."""
        return self._size

    @property
    def congested(self) -> bool:
        """Whether so much waits for the peer that it should not be allowed to ask for more; ends with `drained`."""
        return self._size > self._limit >> 1

    def pause_reading(self) -> None:
        """Leave what comes in the kernel."""
        self._reader.stop()

    def resume_reading(self) -> None:
        """Read again, unless the connection or the peer's side of it is gone."""
        if not self._ended and self.sock.fileno() >= 0 and not self._reader.active:
            self._reader.start(self._readable)

    def poll(self) -> None:
        """Take what has arrived already, as the loop would in its next turn."""
        if self._reader.active:
            self._readable()

    def check_after(self, seconds: int) -> None:
        """Have the protocol checked in that time, instead of at the check that was due."""
        wheel = self.reactor.wheel
        wheel.schedule(self, wheel.now + seconds)

    def check(self, now: int) -> int:
        """The wheel's call."""
        try:
            return self.protocol.check(now)
        except Exception:
            self.fail()
            return 0

    # --- from one process to another ---------------------------------------------------------------------------------

    @property
    def portable(self) -> bool:
        """Whether it is of a kind that another process could go on with, and not too much waits for the peer."""
        return self._size <= MOST_TO_MOVE

    @property
    def movable(self) -> bool:
        """Whether another process could go on with it just now: not when it is coming to its end, as it does also when
        something has been dropped.
        """
        return self.portable and not (self._closing or self._over or self._broken)

    def release(self) -> tuple[int, bytes]:
        """Leave it to another process: its descriptor, which stays open, and what has not been sent. Here it is dead,
        and the protocol is not told. Only while it is `movable`; `flush` it first to learn that late.
        """
        unsent = b"".join(self._out or self._queue or ())
        self._wind_up()
        self.reactor.unwatch(self.sock.fileno())
        return self.sock.detach(), unsent

    def adopt(self, unsent: bytes, ended: bool) -> None:
        """It was another process's: `unsent` has been written there and goes first, `ended` says that the peer has
        closed its side. Nothing is read, and nobody told of anything, until `protocol` is set.
        """
        self.protocol = _NOBODY
        self._ended = ended
        if unsent:
            self.write(unsent)

    # --- output ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Queue `data`. Order is kept; nothing is written after `close`."""
        if self._mute or (self._size > self._limit and self._press()):
            return
        self._size += len(data)
        if self._out is not None:
            self._out.append(data)
        elif self._queue is None:
            self._out = [data]
            self.reactor.flusher.add(self)
        else:
            self._queue.append(data)

    def _press(self) -> bool:
        """More waits than may: see what the kernel takes. True when even then it is too much for anything to be added;
        `overflowed` is called at the end of the turn. One message alone is never too long.
        """
        if self._queue is None:
            self._send()
        if self._size > self._limit:
            self._over = self._mute = True
            self.reactor.flusher.add(self)
        return self._over

    def flush(self) -> None:
        """Give the kernel what was queued during this turn, and tell the protocol what has become of it."""
        size = self._size
        if self._out is not None:
            self._send()
        if self._broken:
            self.abort()
        elif self._over:
            self._over, self._mute = False, self._closing
            self.protocol.overflowed()
        elif size and self._queue is None:
            self._emptied(size > self._limit >> 1)

    def _send(self) -> None:
        out, self._out = self._out, None
        data = b"".join(out or ())
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._broken = True
            self._size = 0
            return
        self._size = len(data) - sent
        if self._size:
            self._queue = deque((data[sent:],))
            self._writer = self.reactor.loop.io(self.sock.fileno(), WRITE)
            self._writer.start(self._writable)

    def _writable(self) -> None:
        """The kernel takes more."""
        queue = self._queue
        assert queue is not None
        parts, size = [], 0
        while queue and size < CHUNK:
            parts.append(queue.popleft())
            size += len(parts[-1])
        data = b"".join(parts)
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return
        self._size -= sent
        if sent < size:
            queue.appendleft(data[sent:])
        elif not queue:
            self._queue = None
            self._stop_writing()
            self._emptied(True)

    def _emptied(self, congested: bool) -> None:
        """Everything has been given to the kernel."""
        if self._closing:
            self._shut()
        elif congested:
            try:
                self.protocol.drained()
            except Exception:
                self.fail()

    def _stop_writing(self) -> None:
        self._writer.stop()
        self._writer.close()
        self._writer = None

    # --- input -------------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        try:
            if data:
                self.received(data)
            else:
                self._end()
        except Exception:
            self.fail()

    def _end(self) -> None:
        """The peer has closed its side. What is queued for it is still sent."""
        self._ended = True
        self._reader.stop()
        self.protocol.ended()
        if self._closing and self._out is None and self._queue is None:
            self.abort()

    def received(self, data: bytes) -> None:
        """Bytes from the kernel, for the protocol."""
        self.protocol.received(data)

    # --- the end -----------------------------------------------------------------------------------------------------

    def close(self, linger_s: int = LINGER_S) -> None:
        """Send what is queued, say that no more will come, and give the peer a moment to read it."""
        if self._closing:
            return
        self._closing = self._mute = True
        protocol, self.protocol = self.protocol, _Lingering(self)
        self.resume_reading()
        self.check_after(linger_s)
        if self._out is None and self._queue is None:
            self._shut()
        protocol.lost()

    def cut(self, last: bytes) -> None:
        """Close on a peer that does not read: forget what waits for it, but for what is half sent, and say `last`."""
        if self._queue is not None and not self._closing:
            self._queue = deque((self._queue[0], last))
            self._size = len(self._queue[0]) + len(last)
        self.close(CUT_S)

    def fail(self) -> None:
        """To be called from an `except`: a defect of ours costs this connection, and no other."""
        self.reactor.log.exception("a connection has failed")
        self.abort()

    def _shut(self) -> None:
        """All has been sent: say so. Where the peer has said it before, that is the end."""
        try:
            self.sock.shutdown(SHUT_WR)
        except OSError:
            self._ended = True
        if self._ended:
            self.abort()

    def abort(self) -> None:
        """Cut the connection now. Harmless when repeated."""
        if self.sock.fileno() < 0:
            return
        protocol = self.protocol
        self._wind_up()
        self.sock.close()
        try:
            protocol.lost()
        except Exception:
            self.reactor.log.exception("a connection could not be wound up")

    def _wind_up(self) -> None:
        """Leave the reactor, all but the descriptor. Whoever calls later finds nothing to do."""
        self.reactor.wheel.cancel(self)
        self.reactor.transports.pop(self, None)
        self._closing = self._mute = True
        self._over = self._broken = False
        self._out = self._queue = None
        self._size = 0
        self._reader.stop()
        self._reader.close()
        if self._writer is not None:
            self._stop_writing()
        self.protocol = _NOBODY  # and not a cycle: memory comes back at once
