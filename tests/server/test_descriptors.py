"""Clients never get the last descriptors: a door on real sockets, in a process whose limit is made up."""

from __future__ import annotations

import gc
import logging
import os
import socket
from _socket import SocketType
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.server.descriptors import Descriptors, soft_limit
from resonate.server.listener import Listener
from resonate.server.transport import Reactor

KEPT = 4


class Watcher:
    """Of I/O, or a timer; `fire` is the loop's."""

    def __init__(self) -> None:
        self.fire: Callable[[], object] | None = None

    def start(self, callback: Callable[[], object]) -> None:
        self.fire = callback

    def stop(self) -> None:
        self.fire = None

    close = stop


class Loop:
    """One listening socket, and the timer that was set last."""

    def __init__(self) -> None:
        self.reader, self.pause = Watcher(), Watcher()

    def io(self, descriptor: int, kind: int) -> Watcher:
        return self.reader

    def timer(self, after: float, repeat: float = 0) -> Watcher:
        self.pause = Watcher()
        return self.pause


def used() -> set[int]:
    """The descriptors of this process."""
    return {int(name) for name in os.listdir("/proc/self/fd")} - {_lowest()}


def _lowest() -> int:
    """What would be given out next; so it is also the one with which a directory is read."""
    with open(os.devnull, "rb") as file:
        return file.fileno()


class Door:
    """A listener whose process may have `room` descriptors for clients, and KEPT besides."""

    def __init__(self, room: int) -> None:
        self.loop: Any = Loop()
        self.inside: list[SocketType] = []
        self._clients: list[socket.socket] = []
        self._others: list[int] = []
        self.limit = 0
        self.listening = SocketType(socket.AF_INET, socket.SOCK_STREAM)
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen(200)
        self.descriptors = Descriptors(KEPT, lambda: self.limit)
        reactor = Reactor(self.loop, logging.getLogger("test"), 1000)
        self.listener = Listener(self.listening, reactor, self.descriptors, self.inside.append)
        self.queue(60)  # all clients of the test: those that wait hold descriptors of this process too
        self.limit = self._limit_for(room)

    def queue(self, count: int) -> None:
        """So many more clients wait to be accepted."""
        for _ in range(count):
            self._clients.append(socket.create_connection(self.listening.getsockname()))

    def _limit_for(self, room: int) -> int:
        """The limit that leaves `room` and KEPT free, with a spare one."""
        limit = free = 0
        there = used()
        while free < room + 1 + KEPT:
            free += limit not in there
            limit += 1
        return limit

    def more_room(self, count: int) -> None:
        """The limit is raised."""
        self.limit += count

    def turn(self) -> None:
        """The loop sees that clients wait, or that the pause is over."""
        for watcher in (self.loop.reader, self.loop.pause):
            if watcher.fire is not None:
                watcher.fire()

    def leave(self, index: int) -> None:
        """One who is inside goes."""
        if self.inside:
            self.inside.pop(index % len(self.inside)).close()

    def borrow(self) -> None:
        """The worker itself needs one."""
        self._others.append(os.eventfd(0))

    def give_back(self) -> None:
        if self._others:
            os.close(self._others.pop())

    @property
    def borrowed(self) -> int:
        return len(self._others)

    def check(self) -> None:
        """What is kept is there."""
        below = {number for number in used() if number < self.limit}
        assert self.limit - len(below) >= KEPT - self.borrowed
        assert all(sock.fileno() < self.limit - KEPT for sock in self.inside)

    def close(self) -> None:
        self.listener.close()
        self.descriptors.close()
        for sock in (*self.inside, *self._clients):
            sock.close()
        while self._others:
            self.give_back()


@pytest.fixture(autouse=True)
def nothing_goes_meanwhile() -> None:
    """Sockets that other tests have left must not be closed in the middle of one."""
    gc.collect()


@pytest.fixture
def door() -> Iterator[Door]:
    """With room for ten."""
    with closing(Door(10)) as made:
        yield made


def test_clients_wait_when_only_kept_descriptors_are_left(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    door.turn()
    assert len(door.inside) == 11  # the last one has the spare one's place
    for _ in range(3):
        door.turn()
    assert len(door.inside) == 11
    door.check()
    assert [record.getMessage()[:26] for record in caplog.records] == ["cannot accept connections:"]


def test_one_leaves_and_one_comes_in(door: Door) -> None:
    door.turn()
    for _ in range(2 * KEPT):  # and not one of the kept ones goes each time
        door.leave(3)
        door.turn()
        door.turn()
        assert len(door.inside) == 11
        door.check()


def test_it_is_over_when_nobody_waits(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    door.turn()
    door.more_room(100)
    door.turn()
    assert len(door.inside) == 60
    assert [record.getMessage() for record in caplog.records][1:] == ["accepting connections again"]


def test_a_limit_below_what_is_open_lets_nobody_in(door: Door) -> None:
    door.limit = 3
    door.turn()
    assert door.inside == []
    assert door.descriptors.held(5) == []


def test_the_real_limit_may_be_huge() -> None:
    assert soft_limit() > 0
    with closing(Descriptors(KEPT, lambda: 1 << 62)) as descriptors:
        assert descriptors.room()


def test_descriptors_that_are_held_are_no_clients(door: Door) -> None:
    held = door.descriptors.held(7)
    assert len(held) == 7
    door.turn()
    assert len(door.inside) == 11 - 7
    assert door.descriptors.held(1) == []
    door.check()
    door.descriptors.release(held)
    door.turn()
    assert len(door.inside) == 11
    door.check()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(Door.turn)),
        st.tuples(st.just(Door.leave), st.integers(0, 50)),
        st.tuples(st.just(Door.borrow)),
        st.tuples(st.just(Door.give_back)),
        st.tuples(st.just(Door.more_room), st.integers(1, 3)),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_the_kept_ones_are_there(steps: list[tuple[Any, ...]]) -> None:
    with closing(Door(5)) as door:
        for step, *arguments in steps:
            if step is not Door.borrow or door.borrowed < KEPT:
                step(door, *arguments)
            door.check()
