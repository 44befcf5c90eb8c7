"""A loop that is stepped by hand, and a worker without a process on it."""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Callable
from typing import Any

from resonate.api import Api
from resonate.counters import Snapshot
from resonate.messages import Event
from resonate.server.calls import Calls
from resonate.server.context import Context, Health, Route
from resonate.server.http_connection import HttpConnection
from resonate.server.hub import Hub
from resonate.server.link import LocalLink
from resonate.server.stats import Stats
from resonate.server.transport import Reactor, Transport
from resonate.settings import App, Server, Settings
from resonate.shard import Shard

APP = App(app_id="app1", key="key1", secret="secret1", ping_interval=1)
LOG = logging.getLogger("test")


class Watcher:
    """A timer or I/O watcher of the loop below."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.active = False

    def start(self, callback: Callable[[], None]) -> None:
        self._loop.waiting.append(callback)

    def stop(self) -> None:
        self.active = False

    close = stop


class Loop:
    """gevent's loop as far as the hub and transports use it: `turn` runs what has been put off."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def timer(self, after: float) -> Watcher:
        return Watcher(self)

    def io(self, descriptor: int, kind: int) -> Any:
        watcher = Watcher(self)
        watcher.start = lambda callback: None  # type: ignore[method-assign]
        return watcher

    def fileno(self) -> int:
        return -1  # it has no poller

    def run_callback(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    def turn(self) -> bool:
        """Run what waits; False when nothing did."""
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()
        return bool(waiting)

    def settle(self) -> int:
        """Turn until nothing waits; how many turns that took."""
        turns = 0
        while self.turn():
            turns += 1
        return turns


class World:
    """A worker without a process: one connection at a time, whose client is the other end of a socket pair."""

    def __init__(self, server: Server | None = None) -> None:
        self.loop, self.stats = Loop(), Stats()
        self.asked: list[Callable[[list[Snapshot]], None]] = []
        self.reactor = Reactor(self.loop, LOG, 100_000)
        link = LocalLink(Shard(), lambda: 1.0)
        calls = Calls(link.send, LOG, self.stats)
        hub = Hub(self.loop, LOG, link.send, calls.answer, None, self.stats)
        self.hub = hub
        link.connect(self.deliver)
        settings = Settings(server=server or Server(), apps=(APP,))
        self.context = Context(
            settings=settings,
            log=LOG,
            reactor=self.reactor,
            link=link,
            hub=hub,
            calls=calls,
            api=Api(settings, itertools.count(1)),
            hosting=Nobody(),
            health=Health(lambda: self.trouble, hub.cut_off),
            tracer=None,
            stats=self.stats,
            collect=self.asked.append,
            keep_alive=75,
        )
        self.ours, self.peer = socket.socketpair()
        self.ours.setblocking(False)
        self.transport: Any = None
        self.trouble = ""  # why the shard does not answer
        self.kept: list[Event] | None = None  # what the shard says is kept back here

    def close(self) -> None:
        """Nobody is connected."""
        self.ours.close()
        self.peer.close()

    def deliver(self, events: list[Event]) -> None:
        """What the shard says."""
        if self.kept is None:
            self.hub.receive(events)
        else:
            self.kept += events

    def release(self, count: int) -> bytes:
        """The next `count` events of the shard come; what the client is told then."""
        assert self.kept is not None
        events, self.kept = self.kept[:count], self.kept[count:]
        self.hub.receive(events)
        return self.read()

    def open(self, route: Callable[[str], Route | None] | None = None) -> None:
        self.transport = Transport(self.ours, self.reactor)
        connection = HttpConnection(self.context, self.transport, route)
        self.transport.start(connection)
        connection.open()

    def say(self, data: bytes) -> bytes:
        """What the server answers to that, or b"" when it does not."""
        self.transport.received(data)
        return self.read()

    def read(self) -> bytes:
        self.loop.settle()
        self.peer.setblocking(False)
        try:
            return self.peer.recv(100_000)
        except BlockingIOError:
            return b""


class Nobody:
    """There is no hosted application."""

    def serve(self, transport: Transport, data: bytes, resume: Callable[[bytes], None]) -> None:
        raise AssertionError(data)
