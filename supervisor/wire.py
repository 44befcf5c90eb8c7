"""The line between two masters: one JSON object in each packet, in order. Nothing blocks, all is bounded."""

from __future__ import annotations

import json
import selectors
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from resonate.supervisor.control import Line

#: Bytes of one message: the workers of a master are the longest of them.
LONGEST: Final = 64 * 1024
#: Messages that wait for a master that does not read; with more the line is cut.
MOST_UNSENT: Final = 64


class Wire:
    """One end. `heard` is given what the other master says; `ended` is called once, when it has gone.

    What nothing can be made of is the end as well: a defect of one master must not be that of both.
    """

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        log: Any,
        heard: Callable[[Line], None],
        ended: Callable[[], None],
    ) -> None:
        self._sock: socket.socket | None = sock
        self._selector = selector
        self._log = log
        self._heard = heard
        self._ended = ended
        self._unsent: deque[bytes] = deque()
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, self._read)

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Both ends, to be made wires of. Raises OSError."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def say(self, what: str, **more: Any) -> None:
        """Tell the other master; `flush` sends what cannot be sent now."""
        self._unsent.append(json.dumps({"say": what, **more}).encode())
        self.flush()

    def flush(self) -> None:
        """To be called now and then."""
        try:
            while self._sock is not None and self._unsent:
                self._sock.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            if len(self._unsent) > MOST_UNSENT:
                self._end()
        except OSError:
            self._end()

    def close(self) -> None:
        """Say no more; the other master finds that this one has gone."""
        if self._sock is not None:
            self._selector.unregister(self._sock)
            self._sock.close()
            self._sock = None

    def close_in_child(self) -> None:
        """Close a child's copy; the selector is its parent's."""
        if self._sock is not None:
            self._sock.close()

    def _read(self) -> None:
        if self._sock is None:
            return
        try:
            data = self._sock.recv(LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        try:
            self._heard(json.loads(data))
        except (LookupError, TypeError, ValueError) as error:
            self._log.error("the other master says what cannot be understood: %r", error)
            self._end()

    def _end(self) -> None:
        self.close()
        self._ended()
