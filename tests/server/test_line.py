"""Who may send connections over a line, and when; and what is said of it."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from socket import socketpair
from types import SimpleNamespace
from typing import Any

import gevent
import orjson
import pytest
from gevent import socket

from resonate.bus.directory import RunDirectory, identity
from resonate.server.descriptors import Descriptors, soft_limit
from resonate.server.line import FEW, Recipient, Sender
from resonate.server.moving import Group, Movers, Passenger
from resonate.server.pusher_connection import PusherConnection
from tests.server.support import World
from tests.server.test_replies import UPGRADE

LOG = logging.getLogger("test")
SECRET = "do not print this"
ME = f"w-{identity(os.getpid())}"


class Heir:
    """A recipient that waits for lines in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = RunDirectory(directory)
        self.world = World()
        self.movers = Movers(self.world.context, 1)
        self.ready = True
        self.limit = soft_limit()
        self.descriptors = Descriptors(8, lambda: self.limit)
        self.recipient = Recipient(self.movers, self.directory, ME, LOG, lambda: self.ready, self.descriptors)
        self.recipient.open()
        self.lines: list[Any] = []

    def dial(self, origin: str = ME) -> str:
        """What it says to a worker of that name."""
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.lines.append(line)
        line.settimeout(10)
        line.connect(str(self.directory.line(ME)))
        with suppress(BrokenPipeError):  # who is full does not wait for that
            line.sendall(orjson.dumps({"origin": origin}))
        return str(line.recv(64), "latin-1")


@pytest.fixture
def heir(tmp_path: Path) -> Iterator[Heir]:
    made = Heir(tmp_path)
    yield made
    for line in made.lines:
        line.close()
    made.recipient.close()
    made.descriptors.close()
    while made.movers.origins:
        gevent.sleep(0)
    made.world.close()


def test_a_second_line_waits_for_the_end_of_the_first(heir: Heir) -> None:
    """Else the end of the first, read late, would say of what comes over the second that it does not come any more."""
    assert heir.dial() == "ready"
    assert heir.dial() == "wait"
    assert heir.movers.origins == {ME}, "who has to wait ends nothing"
    heir.lines[0].close()
    answer = "wait"
    with gevent.Timeout(10):
        while answer == "wait":
            answer = heir.dial()
    assert answer == "ready"


def test_who_is_not_ready_asks_to_wait(heir: Heir) -> None:
    heir.ready = False
    assert heir.dial() == "wait"


def test_who_leaves_says_so(heir: Heir) -> None:
    heir.recipient.leaving = True
    assert heir.dial() == "leaving"


@pytest.mark.parametrize("origin", ["w-1-1", "s0-1-1", "../w-1-1", ""])
def test_strangers_are_not_taken_in(heir: Heir, origin: str) -> None:
    assert heir.dial(origin) == "wait"
    assert heir.movers.origins == set()


def test_who_has_no_descriptor_left_says_so(heir: Heir) -> None:
    heir.limit = 0
    assert [heir.dial(), heir.dial()] == ["full", "full"]
    heir.limit = soft_limit()
    assert heir.dial() == "ready"


def test_it_says_how_many_it_takes(heir: Heir) -> None:
    assert heir.dial() == "ready"
    line = heir.lines[0]
    line.sendall(b"3")
    assert line.recv(16) == b"3"
    line.sendall(b'.{"ref":0,"beliefs":[],"bags":[]}')
    assert line.recv(16) == b"taken"
    heir.limit = 0
    line.sendall(b"3")
    assert line.recv(16) == b"0"


def test_who_breaks_off_is_not_waited_for(heir: Heir) -> None:
    assert heir.dial() == "ready"
    heir.lines[0].sendall(b"3")
    assert heir.lines[0].recv(16) == b"3"
    before = heir.descriptors.held(1)
    heir.descriptors.release(list(before))
    heir.lines[0].close()
    with gevent.Timeout(10):
        while heir.movers.origins:
            gevent.sleep(0)
    after = heir.descriptors.held(1)
    heir.descriptors.release(list(after))
    assert after < before, "what it held is free again"


# --- the giver's end -------------------------------------------------------------------------------------------------


class Granting:
    """Movers whose shards let everybody go at once, and know nobody."""

    def depart(self, heir: str, connections: list[PusherConnection]) -> Group:
        departure: Any = SimpleNamespace(refused=False, granted=True, ref=0, beliefs=[])
        group = Group(departure, [Passenger(connection) for connection in connections])
        group.decided.set()
        return group


@pytest.fixture
def giver() -> Iterator[World]:
    """It has more connections than go at a time, and plugins that keep something of them."""
    world = World()
    world.close()
    with ExitStack() as stack:
        for index in range(2 * FEW + 1):
            world.ours, world.peer = socketpair()
            world.ours.setblocking(False)
            stack.callback(world.peer.close)
            world.open()
            world.say(UPGRADE)
            world.transport.protocol.state.update({"chat": {SECRET}, "typing": index, "seen": math.nan})
        yield world
        for transport in list(world.reactor.transports):
            transport.abort()


def test_what_is_left_behind_is_said_once_for_all(heir: Heir, giver: World, caplog: pytest.LogCaptureFixture) -> None:
    movers: Any = Granting()
    sender = Sender(giver.context, movers, heir.directory, ME, ME, "balance")
    assert sender.connect() == "ready"
    given = sender.give(1000, lambda: True)
    sender.close()
    arrived = heir.world.hub.clients
    assert given == len(arrived) == 2 * FEW + 1
    assert sorted(client.state["typing"] for client in arrived.values()) == list(range(given))
    first, second = sorted(record.getMessage() for record in caplog.records)
    assert first.startswith(f"the state that the plugin 'chat' keeps of {given} connections is not handed over: ")
    assert second.startswith(f"the state that the plugin 'seen' keeps of {given} connections is not handed over: ")
    assert SECRET not in caplog.text
    for transport in list(heir.world.reactor.transports):
        transport.abort()
