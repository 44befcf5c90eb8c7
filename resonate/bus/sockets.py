"""A shard's ends of the pipes to its workers: an inbox, which all of them write to, and an outlet to each."""

from __future__ import annotations

from logging import Logger
from typing import Final

import zmq

from resonate.bus.directory import RunDirectory
from resonate.bus.mending import Mender

#: How long what has been sent may take to leave when a process ends, in milliseconds.
LINGER_MS: Final = 1000

#: As plain numbers: those of pyzmq are enumerations, and slow.
_EVENTS: Final = int(zmq.EVENTS)
_READABLE: Final = int(zmq.POLLIN)
_AT_ONCE: Final = int(zmq.NOBLOCK)


class Inbox:
    """The PULL socket of the process `name`, on a file of the run directory. Raises OSError where none can be made.

    `fileno` is readable when something changes: read until nothing comes.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], directory: RunDirectory, name: str) -> None:
        self._address = directory.address(name)
        self._mender = Mender(directory, name, self._bind)
        self._socket = _made(context, zmq.PULL)
        self._socket.linger = 0
        try:
            self._bind()
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For a watcher."""
        return int(self._socket.FD)

    def receive(self) -> bytes | None:
        """The next frame, or None. Whether there is one is asked first: an exception costs more than a frame."""
        return self._socket.recv(_AT_ONCE) if int(self._socket.get(_EVENTS)) & _READABLE else None

    def mend(self, log: Logger) -> None:
        """To be called each second: make the file anew if it has vanished; who is connected stays so."""
        self._mender.mend(log)

    def _bind(self) -> None:
        """Beside an old one: to take that down would drop what is on its way."""
        address = self._address
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from None

    def close(self) -> None:
        """Nobody reaches it any more."""
        self._socket.close()


class Outlet:
    """A PUSH socket to one inbox. Raises OSError where no file can be opened.

    What it holds is bounded by who sends: see resonate.shard.outbox.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self._socket = _made(context, zmq.PUSH)
        self._socket.sndhwm = 0
        self._socket.linger = LINGER_MS
        self._socket.connect(address)

    def send(self, data: bytes) -> None:
        """Put a frame on its way. It is copied: pyzmq's way without copies needs a thread, which gevent would patch."""
        self._socket.send(data, _AT_ONCE)

    def close(self, *, forget: bool = False) -> None:
        """No more is sent; what is on its way still goes out, unless it is to be forgotten."""
        self._socket.close(0 if forget else None)


def _made(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    try:
        return context.socket(kind)
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"no socket can be made: {error.strerror}") from None
