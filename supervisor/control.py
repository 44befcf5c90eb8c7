"""The control socket: one line of JSON in, one line out (or several, for what takes its time), and the connection ends.

It is served from the master's loop and never holds it up: nothing blocks, all is bounded. The run directory's mode
keeps others out; the kernel is asked for the user of each client all the same.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from resonate.bus.asking import Line as Line
from resonate.bus.asking import ask as ask
from resonate.bus.asking import converse as converse
from resonate.bus.asking import encoded

LONGEST_REQUEST: Final = 4096  # bytes, the newline included
MOST_CLIENTS: Final = 16  # others wait in the kernel's queue
PATIENCE_S: Final = 5.0  # for all that a client does; not for what it waits for
MOST_UNREAD: Final = 256 * 1024  # bytes of a report


class Report:
    """An answer that takes its time: a client is told lines as things happen, up to the last one.

    Who reports need not care how it is read. A client that goes away, or reads too slowly, is `lost`.
    """

    def __init__(self) -> None:
        self.lost = False
        self.ended = False
        self._lines: list[bytes] = []
        self._changed: Callable[[], None] = _nothing

    def tell(self, line: Line) -> None:
        """Something has happened."""
        if not self.lost:
            self._lines.append(encoded(line))
            self._changed()

    def end(self, line: Line) -> None:
        """That was it."""
        self.ended = True
        self.tell(line)

    def attach(self, changed: Callable[[], None]) -> None:
        """`changed` is called when there is something to be taken."""
        self._changed = changed
        changed()

    def take(self) -> bytes:
        """What was told since."""
        lines, self._lines = b"".join(self._lines), []
        return lines


#: A command's request (the whole object) -> the answer.
Handler: TypeAlias = Callable[[dict[str, Any]], Line | Report]


@dataclass
class _Client:
    """`report` is what else it will be told. Nothing else, and all sent: it is done."""

    sock: socket.socket
    until: float
    request: bytes = b""
    asked: bool = False
    output: bytes = b""
    report: Report | None = None


class Control:
    """Answers with `handlers`, by the name that a request has as its `command`.

    `selector` is that of the loop; it finds what to call as the `data` of a key.
    """

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        selector: selectors.BaseSelector,
        clock: Callable[[], float],
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._selector = selector
        self._clock = clock
        self._listening: socket.socket | None = None
        self._file: os.stat_result | None = None  # that of our socket
        self._paused = False  # enough clients
        self._clients: dict[int, _Client] = {}

    def open(self) -> None:
        """Listen, in place of whatever has that name. Raises OSError; the path may be too long for a socket."""
        self._close_listening()
        new = self._path.with_suffix(".new")  # nobody finds it before it listens
        new.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(new))
            listening.setblocking(False)
            listening.listen(MOST_CLIENTS)
            new.rename(self._path)
            self._file = self._path.lstat()
        except OSError:
            listening.close()
            raise
        self._listening, self._paused = listening, False
        self._selector.register(listening, selectors.EVENT_READ, self._accept)

    @property
    def lost(self) -> bool:
        """Whether nobody can find us: the file has been removed, or is another master's."""
        if self._listening is None or self._file is None:
            return True
        try:
            return not os.path.samestat(self._path.lstat(), self._file)
        except OSError:
            return True

    def tick(self) -> None:
        """Once in a while: lose patience with clients."""
        now = self._clock()
        for client in [client for client in self._clients.values() if now >= client.until]:
            self._drop(client)

    def close(self) -> None:
        """Close everything, and remove the file."""
        self.part()
        self._path.unlink(missing_ok=True)

    def part(self) -> None:
        """Close everything: the file is another master's, or about to be."""
        self._close_listening()
        for client in list(self._clients.values()):
            self._drop(client)

    def part_with(self, report: Report) -> socket.socket | None:
        """Give up the client that waits for it, once it has all that it was told: another program goes on."""
        for client in [client for client in self._clients.values() if client.report is report]:
            if client.output:
                self._serve(client)
            if client.report is report and not client.output:
                client.report = None
                sock = client.sock.dup()
                self._drop(client)
                return sock
        return None

    def adopt(self, sock: socket.socket, report: Report) -> None:
        """A client that another program has parted with waits for that report."""
        sock.setblocking(False)
        client = _Client(sock, math.inf, asked=True, report=report)
        self._clients[sock.fileno()] = client
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._serve(client))
        report.attach(lambda: self._report(client))

    def close_in_child(self) -> None:
        """Close a child's copies; the selector is its parent's."""
        for sock in [self._listening, *(client.sock for client in self._clients.values())]:
            if sock is not None:
                sock.close()

    # --- callbacks of the loop ---------------------------------------------------------------------------------------

    def _accept(self) -> None:
        if self._listening is None:
            return
        try:
            sock, _ = self._listening.accept()
        except OSError:  # it has gone again, or we are out of descriptors: the loop comes back to it
            return
        if _user(sock) not in (0, os.geteuid()):
            sock.close()
            return
        sock.setblocking(False)
        client = _Client(sock, self._clock() + PATIENCE_S)
        self._clients[sock.fileno()] = client
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._serve(client))
        if len(self._clients) >= MOST_CLIENTS:
            self._selector.unregister(self._listening)
            self._paused = True

    def _serve(self, client: _Client) -> None:
        try:
            if not client.asked:
                self._read(client)
            if client.output:
                client.output = client.output[client.sock.send(client.output) :]
            elif client.asked and not client.sock.recv(LONGEST_REQUEST):
                self._drop(client)  # it waited for a report, and has gone
                return
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        self._expect(client)

    def _read(self, client: _Client) -> None:
        data = client.sock.recv(LONGEST_REQUEST - len(client.request))
        client.request += data
        line, newline, _ = client.request.partition(b"\n")
        if newline:
            client.asked = True
            self._answered(client, self._answer(line))
        elif not data or len(client.request) == LONGEST_REQUEST:
            self._drop(client)

    def _answered(self, client: _Client, answer: Line | Report) -> None:
        if isinstance(answer, Report):
            client.report = answer
            answer.attach(lambda: self._report(client))
        else:
            client.output = encoded(answer)

    def _report(self, client: _Client) -> None:
        """There is more to tell."""
        if client.report is None:
            return
        if not client.output:
            client.until = self._clock() + PATIENCE_S
        client.output += client.report.take()
        if client.report.ended:
            client.report = None
        if len(client.output) > MOST_UNREAD:
            self._drop(client)
        else:
            self._expect(client)

    def _expect(self, client: _Client) -> None:
        """Decide what to wait for: a request, room to send, or news for a report; or that was all."""
        if client.sock.fileno() not in self._clients:
            return
        if client.output:
            self._selector.modify(client.sock, selectors.EVENT_WRITE, lambda: self._serve(client))
        elif client.report is not None:
            client.until = math.inf
            self._selector.modify(client.sock, selectors.EVENT_READ, lambda: self._serve(client))
        elif client.asked:
            self._drop(client)

    def _answer(self, line: bytes) -> Line | Report:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"error": "the request is no JSON"}
        command = request.get("command") if isinstance(request, dict) else None
        handler = self._handlers.get(command) if isinstance(command, str) else None
        if handler is None:
            return {"error": f"there is no such command; there are: {', '.join(sorted(self._handlers))}"}
        return handler(request)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.sock.fileno(), None) is None:
            return
        if client.report is not None:
            client.report.lost, client.report = True, None
        self._selector.unregister(client.sock)
        client.sock.close()
        if self._paused and self._listening is not None:
            self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
            self._paused = False

    def _close_listening(self) -> None:
        if self._listening is None:
            return
        if not self._paused:
            self._selector.unregister(self._listening)
        self._listening.close()
        self._listening = None


def _nothing() -> None:
    """Nobody listens yet."""


def _user(sock: socket.socket) -> int:
    _, user, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(user)
