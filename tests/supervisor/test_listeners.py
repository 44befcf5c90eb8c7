"""The listening sockets of the slots, with real connections."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from resonate.supervisor import steering
from resonate.supervisor.address import Address
from resonate.supervisor.listeners import Listeners

from tests.support.eventually import eventually

LOCAL = Address(socket.AF_INET, ("127.0.0.1", 0))


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    """On a port that the first socket has picked."""
    opened = Listeners.open(LOCAL)
    yield opened
    opened.close()


def place(listeners: Listeners) -> tuple[str, int]:
    host, _, port = listeners.names()[0].rpartition(":")
    return host, int(port)


def accepted(sock: socket.socket) -> int:
    """Take all that waits; returns how many."""
    count = 0
    while True:
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def distribution(listeners: Listeners, slots: list[int], connections: int = 200) -> dict[int, int]:
    """Of so many new connections, how many each slot gets."""
    for _ in range(connections):
        socket.create_connection(place(listeners)).close()
    return {slot: accepted(listeners.sockets(slot)[0].sock) for slot in slots}


class Acceptors:
    """One thread for each slot: what is accepted is told the slot's number, as one byte."""

    def __init__(self) -> None:
        self.served: Counter[int] = Counter()
        self._halts: dict[int, threading.Event] = {}
        self._threads: dict[int, threading.Thread] = {}

    def begin(self, slot: int, sock: socket.socket) -> None:
        copy = sock.dup()  # as a fork has one
        self._halts[slot] = halt = threading.Event()
        self._threads[slot] = threading.Thread(target=self._accept, args=(slot, copy, halt))
        self._threads[slot].start()

    def _accept(self, slot: int, sock: socket.socket, halt: threading.Event) -> None:
        sock.settimeout(0.02)
        with sock:
            while True:
                halting = halt.is_set()
                try:
                    connection, _ = sock.accept()
                except TimeoutError:
                    if halting:
                        return
                    continue
                with connection:
                    connection.settimeout(10)
                    connection.sendall(bytes([slot]))
                    self.served[slot] += 1

    def halt(self, slot: int) -> None:
        """Accept what waits, and end."""
        self._halts.pop(slot).set()
        self._threads.pop(slot).join()

    def close(self) -> None:
        for slot in list(self._halts):
            self.halt(slot)


def storm(target: tuple[str, int], connections: int, answers: list[bytes]) -> None:
    """Connect, read the answer, again and again; an error ends up among the answers."""
    for _ in range(connections):
        try:
            with socket.create_connection(target, timeout=20) as sock:
                answers.append(sock.recv(1))
        except OSError as error:
            answers.append(repr(error).encode())


# --- TCP -------------------------------------------------------------------------------------------------------------


def test_each_slot_has_a_socket_and_all_have_the_port_that_the_first_has_picked(listeners: Listeners) -> None:
    socks = [listeners.sockets(slot)[0].sock for slot in range(4)]
    assert len({sock.fileno() for sock in socks}) == 4
    assert {sock.getsockname() for sock in socks} == {place(listeners)}
    assert listeners.sockets(2)[0].sock is socks[2]
    for sock in socks:
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_ipv6() -> None:
    opened = Listeners.open(Address(socket.AF_INET6, ("::1", 0)))
    name = opened.names()[0]
    assert name.startswith("[::1]:")
    assert opened.sockets(1)[0].sock.getsockname()[1] == int(name.rpartition(":")[2])
    opened.close()


def test_connections_are_spread_over_all_slots(listeners: Listeners) -> None:
    for slot in range(3):
        listeners.sockets(slot)
    assert min(distribution(listeners, [0, 1, 2]).values()) > 20


@pytest.mark.parametrize("slots", [{0}, {1}, {3}, {0, 2}, {1, 2, 3}])
def test_steering(listeners: Listeners, slots: set[int]) -> None:
    for slot in range(4):
        listeners.sockets(slot)
    listeners.steer(slots)
    got = distribution(listeners, [0, 1, 2, 3])
    assert {slot for slot, count in got.items() if count} == slots
    assert sum(got.values()) == 200
    listeners.steer({0, 1, 2, 3})
    assert min(distribution(listeners, [0, 1, 2, 3]).values()) > 10


def test_a_socket_that_comes_later_is_steered_away_from_until_it_is_named(listeners: Listeners) -> None:
    listeners.sockets(1)
    listeners.steer({0, 1})
    listeners.sockets(5)
    assert distribution(listeners, [0, 1, 5])[5] == 0
    listeners.steer({0, 1, 5})
    assert distribution(listeners, [0, 1, 5])[5] > 10


def test_the_kernels_order_is_known_after_sockets_have_been_released(listeners: Listeners) -> None:
    for slot in range(5):
        listeners.sockets(slot)
    listeners.steer({0, 2, 3, 4})
    listeners.release(1)  # 4 moves to its place
    listeners.steer({2, 3, 4})
    listeners.release(0)  # 3 moves to its place
    listeners.sockets(6)
    for slot in (2, 3, 4, 6):
        listeners.steer({slot})
        got = distribution(listeners, [2, 3, 4, 6], 50)
        assert got == {**dict.fromkeys((2, 3, 4, 6), 0), slot: 50}


def test_a_slot_that_is_given_up_loses_no_connection(listeners: Listeners) -> None:
    acceptors = Acceptors()
    for slot in range(3):
        acceptors.begin(slot, listeners.sockets(slot)[0].sock)
    answers: list[bytes] = []
    target = place(listeners)
    clients = [threading.Thread(target=storm, args=(target, 500, answers)) for _ in range(4)]
    for client in clients:
        client.start()
    eventually(lambda: len(answers) > 500)
    listeners.steer({0, 2})
    before = len(answers)
    eventually(lambda: len(answers) > before + 50)  # what was under way has arrived
    acceptors.halt(1)
    listeners.release(1)
    for client in clients:
        client.join()
    acceptors.close()
    assert len(answers) == 2000
    assert set(answers) == {b"\0", b"\1", b"\2"}
    assert sum(acceptors.served.values()) == 2000


def test_a_queue_outlives_the_worker(listeners: Listeners) -> None:
    """Only the master's copy is left, and the next worker accepts what has waited."""
    listeners.sockets(0)[0].sock.dup().close()
    with socket.create_connection(place(listeners)):
        assert accepted(listeners.sockets(0)[0].sock) == 1


def test_a_child_keeps_its_own_socket_only(listeners: Listeners) -> None:
    socks = [listeners.sockets(slot)[0].sock for slot in range(3)]
    listeners.keep_only(1)
    assert [sock.fileno() >= 0 for sock in socks] == [False, True, False]


def test_another_process_goes_on_with_them(listeners: Listeners) -> None:
    for slot in (1, 2):
        listeners.sockets(slot)
    listeners.steer({0, 2})
    plain = json.loads(json.dumps(passed(listeners)))
    other = Listeners.restored(plain)
    target = place(listeners)
    listeners.close_copies()
    assert other.slots == [0, 1, 2]
    assert place(other) == target
    assert distribution(other, [0, 1, 2])[1] == 0
    other.sockets(3)
    assert distribution(other, [0, 1, 2, 3])[3] == 0
    other.release(0)
    other.steer({3})
    assert distribution(other, [1, 2, 3], 50) == {1: 0, 2: 0, 3: 50}
    assert not any(os.get_inheritable(descriptor) for descriptor in other.descriptors)
    other.close()


def passed(listeners: Listeners) -> dict[str, Any]:
    """As another process would be told, with descriptors of its own."""
    plain = listeners.plain()
    plain["own"] = [(slot, os.dup(descriptor)) for slot, descriptor in plain["own"]]
    plain["shared"] = None if plain["shared"] is None else [os.dup(descriptor) for descriptor in plain["shared"]]
    return plain


def test_after_closing_connections_are_refused(listeners: Listeners) -> None:
    target = place(listeners)
    listeners.close()
    listeners.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(target)


def test_a_program_is_written_for_the_kernel() -> None:
    """Random number, modulo 3, one more from index 1 on, return."""
    assert [steering.program(4, [1])[start : start + 8].hex() for start in range(0, 40, 8)] == [
        "2000000038f0ffff",
        "9400000003000000",
        "3500000101000000",
        "0400000001000000",
        "1600000000000000",
    ]


# --- one for all -----------------------------------------------------------------------------------------------------


def test_the_path_of_a_unix_socket_is_left_to_another_process(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    opened = Listeners.open(Address(socket.AF_UNIX, str(path)))
    other = Listeners.restored(json.loads(json.dumps(passed(opened))))
    opened.close_copies()
    opened.close()
    assert other.names() == [f"unix:{path}"]
    assert not other.handed_down
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert accepted(other.sockets(0)[0].sock) == 1
    other.close()
    assert not path.exists()


def test_a_unix_socket_is_shared_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    opened = Listeners.open(Address(socket.AF_UNIX, str(path)))
    assert opened.names() == [f"unix:{path}"]
    assert opened.sockets(0) == opened.sockets(7)
    assert path.stat().st_mode & 0o777 == 0o777
    opened.steer({0})
    opened.release(7)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert accepted(opened.sockets(0)[0].sock) == 1
    opened.close()
    assert not path.exists()


def test_a_unix_socket_that_was_left_there_is_replaced_and_that_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    address = Address(socket.AF_UNIX, str(tmp_path / "x.sock"))
    first = Listeners.open(address)
    second = Listeners.open(address)
    first.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address.name)
    second.close()


def test_sockets_of_systemd_are_shared_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        given = Listeners(LOCAL, [sock])
        assert given.names() == [f"unix:{path}"]
        given.close()
    assert path.exists()


# --- for the next program --------------------------------------------------------------------------------------------


def handed_down(listeners: Listeners, slots: int) -> Listeners:
    """As the next program has them, with copies in place of the descriptors themselves."""
    descriptors = [os.dup(number) for number in listeners.hand_down()]
    host, port = place(listeners)
    return Listeners.inherited(Address(socket.AF_INET, (host, port)), descriptors, foreign=False, slots=slots)


def test_who_waits_in_the_queue_of_a_slot_that_has_gone_is_accepted_in_the_first(listeners: Listeners) -> None:
    for slot in range(4):
        listeners.sockets(slot)
    clients = [socket.create_connection(place(listeners)) for _ in range(40)]
    fewer = handed_down(listeners, 2)
    assert [len(fewer.sockets(slot)) for slot in range(2)] == [3, 1]
    assert sum(accepted(it.sock) for slot in range(2) for it in fewer.sockets(slot)) == 40
    fewer.steer({0, 1})
    for client in clients:
        client.close()
    assert sum(distribution(fewer, [0, 1]).values()) == 200  # none goes to the others any more
    fewer.keep_only(0)
    assert [it.fileno() >= 0 for it in fewer.sockets(0)] == [True] * 3
    fewer.close()


def test_the_next_program_may_have_more_slots(listeners: Listeners) -> None:
    listeners.steer({0})
    more = handed_down(listeners, 3)
    for slot in range(3):
        more.sockets(slot)
    more.steer({0, 1, 2})
    assert place(more) == place(listeners)
    listeners.sockets(0)[0].close()
    assert all(distribution(more, [0, 1, 2]).values())
    more.close()
