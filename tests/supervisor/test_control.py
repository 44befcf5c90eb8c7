"""The control socket, and clients that mean no good."""

from __future__ import annotations

import json
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from resonate.supervisor.control import (
    LONGEST_REQUEST,
    MOST_CLIENTS,
    MOST_UNREAD,
    PATIENCE_S,
    Control,
    Line,
    Report,
    ask,
    converse,
)

from tests.support.eventually import eventually

LARGE = {"filling": "x" * 3_000_000}  # more than a socket buffer takes


def test_a_file_of_another_master_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "control"
    one, other = (Control(path, {}, selectors.PollSelector(), lambda: 0.0) for _ in range(2))
    one.open()
    assert not one.lost
    other.open()
    other.part()
    assert path.exists()
    assert one.lost
    one.open()
    assert not one.lost
    one.close()
    assert one.lost


class Loop:
    """A loop as the master's, turned by hand; time stands still but for `now`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 100.0
        self.selector = selectors.PollSelector()
        self.reports: list[Report] = []
        handlers = {"echo": lambda request: {"echo": request}, "large": lambda request: LARGE, "long": self.begin}
        self.control = Control(path, handlers, self.selector, lambda: self.now)
        self.control.open()
        self.clients: list[socket.socket] = []

    def begin(self, request: Line) -> Report:
        """What takes its time: the test reports."""
        self.reports.append(Report())
        self.reports[-1].tell({"begins": True})
        return self.reports[-1]

    def reporting(self) -> tuple[socket.socket, Report]:
        """A client that has been told that something begins."""
        sock = self.client()
        sock.sendall(b'{"command": "long"}\n')
        assert self.line(sock) == {"begins": True}
        return sock, self.reports[-1]

    def line(self, sock: socket.socket) -> Any:
        """The next that is told."""
        received = b""

        def complete() -> bool:
            nonlocal received
            self.turn()
            try:
                received += sock.recv(1)
            except BlockingIOError:
                return False
            return received.endswith(b"\n")

        eventually(complete, every=0)
        return json.loads(received)

    def turn(self) -> None:
        for key, _ in self.selector.select(0):
            key.data()
        self.control.tick()

    def client(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(str(self.path))
        self.clients.append(sock)
        return sock

    def answer(self, sock: socket.socket) -> bytes:
        """All that comes until the end."""
        received: list[bytes] = []

        def ended() -> bool:
            self.turn()
            try:
                received.append(sock.recv(65536))
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True
            return not received[-1]

        eventually(ended, every=0)
        return b"".join(received)

    def asked(self, request: bytes) -> Any:
        sock = self.client()
        sock.sendall(request)
        answer = self.answer(sock)
        return json.loads(answer) if answer else None

    @property
    def served(self) -> int:
        """Clients that are connected."""
        return len([key for key in self.selector.get_map().values() if key.fileobj.family == socket.AF_UNIX]) - 1  # type: ignore[union-attr]

    @property
    def waiting_to_send(self) -> bool:
        """Whether the kernel takes no more of what a client is told."""
        self.turn()
        return any(key.events == selectors.EVENT_WRITE for key in self.selector.get_map().values())

    def close(self) -> None:
        self.control.close()
        self.selector.close()
        for sock in self.clients:
            sock.close()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path / "c.sock")
    yield made
    made.close()


def test_a_command_is_answered_and_the_connection_ends(loop: Loop) -> None:
    assert loop.asked(b'{"command": "echo", "more": [1]}\n') == {"echo": {"command": "echo", "more": [1]}}
    assert loop.served == 0


def test_a_request_in_pieces(loop: Loop) -> None:
    sock = loop.client()
    for byte in b'{"command": "echo"}\n':
        sock.send(bytes([byte]))
        loop.turn()
    assert json.loads(loop.answer(sock)) == {"echo": {"command": "echo"}}


@pytest.mark.parametrize(
    "request_line",
    [
        b"\n",
        b"hello\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"null\n",
        b"{}\n",
        b'{"command": "reboot"}\n',
        b'{"command": ["echo"]}\n',
        b'{"command": null}\n',
        b"[" * 4000 + b"\n",
        b"1" * 4094 + b"\n",
    ],
)
def test_what_is_no_command_is_told_so(loop: Loop, request_line: bytes) -> None:
    assert set(loop.asked(request_line)) == {"error"}


def test_a_request_that_is_too_long_is_cut_off(loop: Loop) -> None:
    assert loop.asked(b" " * LONGEST_REQUEST + b"\n") is None
    assert loop.asked(b" " * (LONGEST_REQUEST - 20) + b'{"command": "echo"}\n') is not None
    assert loop.asked(b"x" * 50_000) is None
    assert loop.served == 0


def test_a_client_that_goes_away_is_forgotten(loop: Loop) -> None:
    for last_words in (b"", b'{"comm', b'{"command": "large"}\n'):
        sock = loop.client()
        sock.send(last_words)
        loop.turn()
        sock.close()
        eventually(lambda: loop.turn() or loop.served == 0, every=0)


def test_a_client_that_says_nothing_is_cut_off_in_time(loop: Loop) -> None:
    silent, slow = loop.client(), loop.client()
    loop.turn()
    loop.turn()
    assert loop.served == 2
    loop.now += PATIENCE_S / 2
    slow.send(b"{")  # a byte now and then buys no time
    loop.turn()
    loop.now += PATIENCE_S / 2
    assert loop.answer(silent) == loop.answer(slow) == b""
    assert loop.served == 0


def test_a_client_that_does_not_read_holds_nobody_up(loop: Loop) -> None:
    deaf = loop.client()
    deaf.send(b'{"command": "large"}\n')
    for _ in range(10):
        loop.turn()
    assert loop.asked(b'{"command": "echo"}\n') is not None
    loop.now += PATIENCE_S
    loop.turn()
    assert loop.served == 0


def test_a_large_answer_arrives_whole(loop: Loop) -> None:
    assert loop.asked(b'{"command": "large"}\n') == LARGE


def test_more_clients_than_are_served_wait_for_their_turn(loop: Loop) -> None:
    hanging = [loop.client() for _ in range(MOST_CLIENTS)]
    eventually(lambda: loop.turn() or loop.served == MOST_CLIENTS - 1, every=0)  # nobody listens: one key less
    late = loop.client()
    late.send(b'{"command": "echo"}\n')
    loop.turn()
    assert late not in loop.selector.get_map()
    hanging[0].close()
    assert json.loads(loop.answer(late))
    loop.now += PATIENCE_S
    loop.turn()
    assert loop.served == 0


def test_a_socket_whose_file_is_gone_can_be_made_anew(loop: Loop) -> None:
    assert not loop.control.lost
    loop.path.unlink()
    assert loop.control.lost
    loop.control.open()
    assert loop.asked(b'{"command": "echo"}\n')


def test_a_child_closes_its_copies_and_its_parent_goes_on(loop: Loop) -> None:
    sock = loop.client()
    loop.turn()
    pid = os.fork()
    if pid == 0:
        loop.selector.close()
        loop.control.close_in_child()
        os._exit(0)
    os.waitpid(pid, 0)
    sock.send(b'{"command": "echo"}\n')
    assert loop.answer(sock)
    assert loop.asked(b'{"command": "echo"}\n')


# --- what takes its time ---------------------------------------------------------------------------------------------


def test_a_report_is_told_as_things_happen_and_ends_the_connection(loop: Loop) -> None:
    sock, report = loop.reporting()
    report.tell({"done": 1})
    assert loop.line(sock) == {"done": 1}
    report.end({"ok": True})
    assert json.loads(loop.answer(sock)) == {"ok": True}
    assert loop.served == 0
    assert not report.lost


def test_who_waits_for_a_report_may_wait_long(loop: Loop) -> None:
    sock, report = loop.reporting()
    loop.now += 100 * PATIENCE_S
    loop.turn()
    report.end({"ok": True})
    assert json.loads(loop.answer(sock)) == {"ok": True}


def test_who_waits_for_a_report_and_goes_away_is_forgotten(loop: Loop) -> None:
    sock, report = loop.reporting()
    sock.close()
    eventually(lambda: loop.turn() or report.lost, every=0)
    report.tell({"done": 1})
    report.end({"ok": True})
    assert loop.served == 0


def test_who_says_more_while_it_waits_is_not_heard(loop: Loop) -> None:
    sock, report = loop.reporting()
    sock.sendall(b'{"command": "echo"}\n' * 100)
    loop.turn()
    loop.turn()
    report.end({"ok": True})
    loop.turn()
    assert json.loads(sock.recv(100)) == {"ok": True}


def test_who_does_not_read_a_report_is_cut_off_in_time(loop: Loop) -> None:
    _, report = loop.reporting()
    filling = {"filling": "x" * 10_000}
    while loop.served:  # until what the kernel takes and what we keep is full
        report.tell(filling)
        loop.turn()
        assert len(report.take()) <= MOST_UNREAD
    assert report.lost
    report.tell(filling)
    assert report.take() == b""


def test_who_reads_a_report_too_slowly_is_cut_off(loop: Loop) -> None:
    sock, report = loop.reporting()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    while not loop.waiting_to_send:
        report.tell({"filling": "x" * 10_000})
        loop.turn()
    loop.now += PATIENCE_S
    loop.turn()
    assert report.lost


def test_what_has_ended_at_once_is_told_at_once(loop: Loop) -> None:
    report = Report()
    report.tell({"a": 1})
    report.end({"b": 2})
    called: list[bytes] = []
    report.attach(lambda: called.append(report.take()))
    assert called == [b'{"a": 1}\n{"b": 2}\n']


def test_conversing(loop: Loop) -> None:
    told: list[Line] = []
    client = threading.Thread(target=lambda: told.extend(converse(loop.path, {"command": "long"}, lambda: 20)))
    client.start()
    eventually(lambda: loop.turn() or loop.reports, every=0.001)
    loop.reports[0].end({"ok": True})
    eventually(lambda: loop.turn() or len(told) == 2, every=0.001)
    client.join()
    assert told == [{"begins": True}, {"ok": True}]


def test_asking(loop: Loop) -> None:
    answers: list[dict[str, Any]] = []
    client = threading.Thread(target=lambda: answers.append(ask(loop.path, "echo", 20)))
    client.start()
    eventually(lambda: loop.turn() or answers, every=0.001)
    client.join()
    assert answers == [{"echo": {"command": "echo"}}]


def test_asking_one_that_hangs(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / "h.sock"))
        hanging.listen()
        with pytest.raises(TimeoutError):
            ask(tmp_path / "h.sock", "status", 0.05)
