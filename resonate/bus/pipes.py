"""A worker's ends of the pipes to its shards: ØMQ's protocol on sockets of the worker's own loop.

libzmq would do the same in a thread of its own. Any second thread makes every `send` to a client dearer, though: see
docs/decisions/pyzmq.md.
"""

from __future__ import annotations

import socket
import struct
import time
from _socket import SocketType  # socket.socket may be gevent's
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from logging import Logger
from typing import Any, Final

from resonate.bus.directory import RunDirectory
from resonate.bus.mending import Mender
from resonate.bus.zmtp import Reader, WireError, head, opening

READ, WRITE = 1, 2
#: Bytes to read at once. Python asks for as many each time: more than 128 KiB would be mapped and unmapped.
CHUNK: Final = 64 * 1024
#: Chunks of one shard that are read in one turn.
CHUNKS: Final = 16
#: Shards that wait to be accepted.
BACKLOG: Final = 100
#: Connections that have not said what they are: more than there can be shards.
STRANGERS: Final = 64

_CREDENTIALS: Final = struct.Struct("3i")  # pid, user, group


class _Pipe:
    """A connection that has been accepted."""

    def __init__(self, sock: SocketType, watcher: Any) -> None:
        self.sock = sock
        self.watcher = watcher
        self.reader = Reader(b"PUSH")
        self.pid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]

    def close(self) -> None:
        self.watcher.stop()
        self.watcher.close()
        self.sock.close()


class Inbox:
    """The PULL socket of the worker `name`, on its file of the run directory. Raises OSError where none can be made.

    `arrived` is called when there is something to `receive`: all of it, or else `pause` and `resume`.
    """

    def __init__(self, loop: Any, directory: RunDirectory, name: str, log: Logger, arrived: Callable[[], None]) -> None:
        self._loop = loop
        self._path = directory.file(name)
        self._log = log
        self._arrived = arrived
        self._frames: deque[bytes] = deque()
        self._pipes: dict[_Pipe, None] = {}  # the oldest first
        self._listening: tuple[SocketType, Any] | None = None
        self._mender = Mender(directory, name, self._listen)
        self._trouble = ""  # why a shard cannot be accepted
        self._complained = False  # of a stranger, in this second
        self.active = True  # whether it is read what comes
        self._listen()

    def _listen(self) -> None:
        """Shards that wait at an old socket try again, and have sent nothing yet."""
        sock = _unix_socket()
        try:
            self._path.unlink(missing_ok=True)  # a plain file, which said that there is a worker; or an old socket
            sock.bind(str(self._path))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"cannot listen on {self._path}: {error.strerror}") from None
        self._stop_listening()
        self._listening = (sock, self._loop.io(sock.fileno(), READ))
        self._listening[1].start(self._accept)

    def _accept(self) -> None:
        """Without a descriptor for it a shard waits until `mend` tries again: the watcher would not come to rest."""
        assert self._listening is not None
        sock, watcher = self._listening
        try:
            descriptor, _ = sock._accept()  # type: ignore[attr-defined]  # what socket.accept calls
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            watcher.stop()
            if error.strerror != self._trouble:
                self._log.error("cannot accept a shard: %s. Trying again each second", error.strerror)
            self._trouble = str(error.strerror)
            return
        self._trouble = ""
        self._open(SocketType(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor))

    def _open(self, sock: SocketType) -> None:
        sock.setblocking(False)
        with suppress(OSError):  # it has gone again: that is found when it is read
            sock.send(opening(b"PULL"))
        pipe = _Pipe(sock, self._loop.io(sock.fileno(), READ))
        self._pipes[pipe] = None
        if self.active:
            pipe.watcher.start(self._readable, pipe)
        strangers = [pipe for pipe in self._pipes if not pipe.reader.ready]
        if len(strangers) > STRANGERS:
            self._turn_away(strangers[0])

    def _turn_away(self, stranger: _Pipe) -> None:
        """Unless it has said by now what it is, and only has not been read."""
        if self._read(stranger) and stranger.reader.ready:
            if self.active:
                self._arrived()
        elif stranger in self._pipes:
            self._drop(stranger)

    def _readable(self, pipe: _Pipe) -> None:
        for _ in range(CHUNKS):
            if self._read(pipe) < CHUNK:
                break
        if self._frames:
            self._arrived()

    def _read(self, pipe: _Pipe) -> int:
        """One chunk; how long it was, 0 where there was none."""
        try:
            data = pipe.sock.recv(CHUNK)
            if data:
                self._frames.extend(pipe.reader.feed(data))
                return len(data)
        except BlockingIOError:
            return 0
        except OSError:
            pass  # as if it had ended
        except WireError as error:
            if not self._complained:  # whoever is dropped may come again many times a second
                self._log.error("dropped a connection of process %d: %s", pipe.pid, error)
            self._complained = True
        self._drop(pipe)
        return 0

    def _drop(self, pipe: _Pipe) -> None:
        del self._pipes[pipe]
        pipe.close()

    def receive(self) -> bytes | None:
        """The next frame, or None."""
        return self._frames.popleft() if self._frames else None

    def drain(self, pid: int) -> None:
        """Read all that a process has said that has ended; also while this is paused."""
        for pipe in [pipe for pipe in self._pipes if pipe.pid == pid]:
            while self._read(pipe):
                pass

    def pause(self) -> None:
        """Read nothing until `resume`; what has been read can still be received."""
        self.active = False
        for pipe in self._pipes:
            pipe.watcher.stop()

    def resume(self) -> None:
        """Go on. What has been read already is not announced again."""
        self.active = True
        for pipe in self._pipes:
            pipe.watcher.start(self._readable, pipe)

    def mend(self, log: Logger) -> None:
        """To be called each second: make the file anew if it has vanished; who is connected stays so."""
        self._mender.mend(log)
        self._complained = False
        if self._listening is not None and not self._listening[1].active:
            self._listening[1].start(self._accept)

    def _stop_listening(self) -> None:
        if self._listening is not None:
            sock, watcher = self._listening
            watcher.stop()
            watcher.close()
            sock.close()
            self._listening = None

    def close(self) -> None:
        """Nobody reaches it any more, and there is nothing left to receive."""
        self._stop_listening()
        for pipe in list(self._pipes):
            self._drop(pipe)
        self._frames.clear()


class Outlet:
    """A PUSH socket to a shard's inbox. Raises OSError where that cannot be reached.

    What it holds is bounded by who sends: see resonate.shard.ledger. A beat each second comes on top.
    """

    def __init__(self, loop: Any, path: str) -> None:
        self._sock = _unix_socket()
        try:
            self._sock.connect(path)
            self._sock.send(opening(b"PUSH"))  # a new socket has room for that
        except OSError:
            self._sock.close()
            raise
        self._heard = Reader(b"PULL")
        self._out: deque[bytes | memoryview] = deque()
        self._reader = loop.io(self._sock.fileno(), READ)
        self._writer = loop.io(self._sock.fileno(), WRITE)
        self._reader.start(self._readable)
        self.hung_up = False  # by the shard: nothing reaches it any more

    def send(self, data: bytes) -> None:
        """Put a frame on its way."""
        if self.hung_up:
            return
        self._out.append(head(len(data)) + data)
        if self._heard.ready and len(self._out) == 1:
            self._write()

    def _write(self) -> None:
        """What the kernel takes; the rest when it takes more."""
        while self._out:
            data = self._out[0]
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                break
            except OSError:
                self._end()
                return
            if sent < len(data):
                self._out[0] = memoryview(data)[sent:]  # without a copy: this may go on for long
            else:
                self._out.popleft()
        if not self._out:
            self._writer.stop()
        elif not self._writer.active:
            self._writer.start(self._write)

    def _readable(self) -> None:
        """Nothing is said but READY; and then, that it has gone."""
        try:
            data = self._sock.recv(CHUNK)
            self._heard.feed(data)
        except BlockingIOError:
            return
        except (OSError, WireError):
            data = b""
        if not data:
            self._end()
        elif self._heard.ready:
            self._write()

    def _end(self) -> None:
        self.hung_up = True
        self._reader.stop()
        self._writer.stop()
        self._out.clear()

    def close(self, until: float | None = None) -> None:
        """No more is sent. What is on its way still goes out, until that time (`time.monotonic`); or is forgotten."""
        for watcher in (self._reader, self._writer):
            watcher.stop()
            watcher.close()
        if until is not None:
            with suppress(OSError, WireError):
                self._linger(until)
        self._sock.close()

    def _linger(self, until: float) -> None:
        while self._out:
            self._sock.settimeout(max(0.0, until - time.monotonic()))
            if self._heard.ready:
                self._sock.sendall(self._out.popleft())
            elif data := self._sock.recv(CHUNK):
                self._heard.feed(data)
            else:
                return


def _unix_socket() -> SocketType:
    sock = SocketType(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock
