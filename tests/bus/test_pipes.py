"""A worker's ends of the pipes: real sockets, and libzmq at the other end."""

from __future__ import annotations

import logging
import os
import resource
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import zmq

from resonate.bus.pipes import STRANGERS, Inbox, Outlet
from resonate.bus.zmtp import head, opening
from tests.bus.support import Place, Turns
from tests.support.eventually import eventually

LOG = logging.getLogger("test")
NAME = "w-1-1"
SHARD = "s0-1-1"
#: More than a socket and libzmq take at once.
BIG = bytes(8 * 1024 * 1024)

Libzmq = Callable[[int], zmq.Socket[bytes]]


@pytest.fixture
def turns() -> Iterator[Turns]:
    found = Turns()
    yield found
    found.close()


class Listener:
    """An inbox, and what it has heard."""

    def __init__(self, place: Place, turns: Turns) -> None:
        self.place = place
        self.turns = turns
        self.heard: list[bytes] = []
        self.most = 10**9
        self.inbox = Inbox(turns.loop, place.directory, NAME, LOG, self.take)

    def take(self) -> None:
        while len(self.heard) < self.most:
            frame = self.inbox.receive()
            if frame is None:
                return
            self.heard.append(frame)
        self.inbox.pause()

    def until(self, heard: list[bytes]) -> None:
        self.turns.until(lambda: len(self.heard) >= len(heard))
        assert self.heard == heard

    def connect(self, said: bytes = b"") -> socket.socket:
        """A connection without libzmq."""
        found = socket.socket(socket.AF_UNIX)
        found.settimeout(20)
        found.connect(str(self.place.directory.file(NAME)))
        found.sendall(said)
        self.place.closing.append(found.close)
        return found


@pytest.fixture
def listener(place: Place, turns: Turns) -> Iterator[Listener]:
    found = Listener(place, turns)
    yield found
    found.inbox.close()


def push(libzmq: Libzmq, place: Place, name: str = NAME) -> zmq.Socket[bytes]:
    made = libzmq(zmq.PUSH)
    made.connect(place.directory.address(name))
    return made


def pull(libzmq: Libzmq, place: Place) -> zmq.Socket[bytes]:
    made = libzmq(zmq.PULL)
    made.bind(place.directory.address(SHARD))
    return made


def numbered(frames: int, begin: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(begin, begin + frames)]


def wired(frames: list[bytes]) -> bytes:
    return b"".join(head(len(frame)) + frame for frame in frames)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- the inbox -------------------------------------------------------------------------------------------------------


def test_shards_are_heard_in_order_of_each(listener: Listener, libzmq: Libzmq) -> None:
    shards = [push(libzmq, listener.place) for _ in range(2)]
    for frame in numbered(1000):
        for number, shard in enumerate(shards):
            shard.send(b"%d " % number + frame)
    listener.turns.until(lambda: len(listener.heard) == 2000)
    for number in (b"0 ", b"1 "):
        assert [frame[2:] for frame in listener.heard if frame.startswith(number)] == numbered(1000)


def test_what_was_read_with_the_last_frame_comes_after_a_pause_though_nothing_more_arrives(listener: Listener) -> None:
    listener.most = 3
    listener.connect(opening(b"PUSH") + wired(numbered(10)))
    listener.until(numbered(3))
    assert not listener.inbox.active
    listener.most = 10**9
    listener.inbox.resume()
    listener.take()
    assert listener.heard == numbered(10)


def test_while_it_is_paused_nothing_is_read_and_nothing_is_lost(listener: Listener, libzmq: Libzmq) -> None:
    """Neither from a shard that is there, nor from one that comes."""
    first = push(libzmq, listener.place)
    first.send(b"0")
    listener.until([b"0"])
    listener.inbox.pause()
    second = push(libzmq, listener.place)
    for shard in (first, second):
        shard.send(BIG)
    for _ in range(50):
        listener.turns.turn()
    assert listener.heard == [b"0"]
    listener.inbox.resume()
    listener.until([b"0", BIG, BIG])


def test_a_shard_dies_with_a_frame_half_sent(listener: Listener) -> None:
    shard = listener.connect(opening(b"PUSH") + wired([b"whole"]) + wired([b"half of it"])[:7])
    listener.until([b"whole"])
    before = descriptors()
    shard.close()
    listener.turns.until(lambda: descriptors() == before - 2)
    assert listener.heard == [b"whole"]


def test_what_a_dead_process_has_said_is_read_though_it_is_paused(listener: Listener) -> None:
    """Of others nothing is."""
    living = listener.connect(opening(b"PUSH"))
    frames = [os.urandom(100_000) for _ in range(20)]
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.setsockopt(1, 7, 1 << 22); s.connect(sys.argv[1]); "
        "s.sendall(sys.stdin.buffer.read())"
    )
    path = str(listener.place.directory.file(NAME))
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE) as dying:
        assert dying.stdin is not None
        listener.inbox.pause()
        dying.stdin.write(opening(b"PUSH") + wired(frames)[:150_000])
        dying.stdin.close()
        dying.wait(20)
    living.sendall(wired([b"later"]))
    for _ in range(5):
        listener.turns.turn()  # it is accepted
    listener.inbox.drain(dying.pid)
    listener.take()
    assert listener.heard == frames[:1]
    listener.inbox.resume()
    listener.until([frames[0], b"later"])


def test_the_directory_is_removed_and_made_anew(
    listener: Listener, libzmq: Libzmq, caplog: pytest.LogCaptureFixture
) -> None:
    """Who is connected stays so; others find the new file."""
    first = push(libzmq, listener.place)
    first.send(b"0")
    listener.until([b"0"])
    listener.place.directory.remove()
    listener.inbox.mend(LOG)
    listener.inbox.mend(LOG)
    assert caplog.text.count("had vanished, and has been made anew") == 1
    assert stat.S_IMODE(listener.place.directory.path.stat().st_mode) == 0o700
    first.send(b"1")
    listener.until(numbered(2))
    push(libzmq, listener.place).send(b"2")
    listener.until(numbered(3))


def test_where_no_file_can_be_made_that_is_said_once(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    listener.place.directory.remove()
    listener.place.directory.path.write_bytes(b"")  # in its place
    for _ in range(3):
        listener.inbox.mend(LOG)
    assert caplog.text.count("Trying again each second") == 1
    listener.place.directory.path.unlink()
    listener.inbox.mend(LOG)
    listener.connect(opening(b"PUSH") + wired([b"x"]))
    listener.until([b"x"])


def test_a_file_that_was_left_over_is_in_nobodys_way(place: Place, turns: Turns) -> None:
    for make in (place.directory.file(NAME).touch, Listener(place, turns).inbox.close):
        make()
        found = Listener(place, turns)
        found.connect(opening(b"PUSH") + wired([b"x"]))
        found.until([b"x"])
        assert place.directory.file(NAME).is_socket()
        found.inbox.close()


def test_where_no_inbox_can_be_made_nothing_is_left(place: Place, turns: Turns) -> None:
    place.directory.remove()
    before = descriptors()
    with pytest.raises(OSError, match="cannot listen on"):
        Listener(place, turns)
    assert descriptors() == before


def test_rubbish_is_dropped_and_said_once(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    good = listener.connect(opening(b"PUSH"))
    for _ in range(3):
        bad = listener.connect(b"GET / HTTP/1.1\r\n" * 100)
        listener.turns.until(partial(hung_up, bad))
    assert caplog.messages == [f"dropped a connection of process {os.getpid()}: it does not speak ZMTP 3"]
    good.sendall(wired([b"x"]))
    listener.until([b"x"])


def hung_up(sock: socket.socket) -> bool:
    """Whether all has been read, and no more comes."""
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def test_those_who_say_nothing_are_bounded(listener: Listener) -> None:
    """The oldest go; a shard that has said what it is stays."""
    shard = listener.connect(opening(b"PUSH") + wired([b"0"]))
    listener.until([b"0"])
    before = descriptors()
    strangers = [listener.connect() for _ in range(STRANGERS + 5)]
    listener.turns.until(lambda: descriptors() == before + len(strangers) + STRANGERS)
    listener.turns.until(lambda: sum(map(hung_up, strangers)) == 5)
    assert [hung_up(sock) for sock in strangers[:6]] == [True] * 5 + [False]
    shard.sendall(wired([b"1"]))
    listener.until(numbered(2))


def test_a_shard_that_could_not_be_read_is_no_stranger(listener: Listener) -> None:
    """While nobody is read many come who say nothing."""
    listener.inbox.pause()
    shard = listener.connect(opening(b"PUSH") + wired([b"1"]))
    listener.turns.turn()
    strangers = [listener.connect() for _ in range(STRANGERS + 1)]
    listener.turns.until(lambda: hung_up(strangers[0]))
    assert not hung_up(shard)
    listener.inbox.resume()
    listener.take()
    shard.sendall(wired([b"2"]))
    listener.until(numbered(2, 1))


@contextmanager
def no_files() -> Iterator[None]:
    """None can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_out_of_descriptors_a_shard_waits_and_the_loop_rests(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    listener.connect(opening(b"PUSH"))
    rests = listener.turns.loop.activecnt - 1
    with no_files():
        for _ in range(3):
            for _ in range(3):
                listener.turns.turn()
            assert listener.turns.loop.activecnt == rests
            listener.inbox.mend(LOG)
    assert len(caplog.messages) == 1
    assert "cannot accept a shard" in caplog.text
    listener.connect(opening(b"PUSH") + wired([b"x"]))
    listener.until([b"x"])


# --- to a shard ------------------------------------------------------------------------------------------------------


def test_frames_of_each_size_arrive_in_order(place: Place, turns: Turns, libzmq: Libzmq) -> None:
    frames = [*numbered(300), BIG, b"", bytes(65536), *numbered(300)]
    shard = pull(libzmq, place)
    outlet = Outlet(turns.loop, str(place.directory.file(SHARD)))
    for frame in frames:
        outlet.send(frame)
    heard: list[bytes] = []

    def all_is_heard() -> bool:
        while shard.poll(0):
            heard.append(shard.recv())
        return len(heard) == len(frames)

    turns.until(all_is_heard)
    assert heard == frames
    outlet.close()


class Listening:
    """The inbox of a shard that does only what the test does."""

    def __init__(self, place: Place) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(place.directory.file(SHARD)))
        self.sock.listen()
        place.closing.append(self.sock.close)

    def accept(self, said: bytes = b"") -> socket.socket:
        found, _ = self.sock.accept()
        found.settimeout(20)
        found.sendall(said)
        return found


@pytest.fixture
def listening(place: Place) -> Listening:
    return Listening(place)


@pytest.fixture
def outlet(place: Place, turns: Turns, listening: Listening) -> Outlet:
    return Outlet(turns.loop, str(place.directory.file(SHARD)))


def test_nothing_is_sent_before_the_shard_is_ready(outlet: Outlet, listening: Listening, turns: Turns) -> None:
    outlet.send(b"x")
    shard = listening.accept()
    turns.turn()
    assert shard.recv(65536) == opening(b"PUSH")
    shard.sendall(opening(b"PULL"))
    turns.turn()
    assert shard.recv(65536) == wired([b"x"])
    outlet.close()
    shard.close()


def test_a_shard_that_does_not_read_keeps_nobody_up(outlet: Outlet, listening: Listening, turns: Turns) -> None:
    """And what waits costs as much as it is long, and not the square of it."""
    shard = listening.accept(opening(b"PULL"))
    turns.turn()
    frames = [bytes(16 * 1024 * 1024), *numbered(1000)]
    began = time.monotonic()
    for frame in frames:
        outlet.send(frame)
        turns.turn()
    assert time.monotonic() - began < 5
    whole = opening(b"PUSH") + wired(frames)
    read = 0

    def all_is_read() -> bool:
        nonlocal read
        if read < len(whole):
            read += len(shard.recv(1 << 20))
        return read == len(whole)

    while not all_is_read():
        turns.turn()
    idle = turns.loop.activecnt
    outlet.close()
    assert turns.loop.activecnt == idle - 1, "only the reader was left"
    shard.close()


def test_a_shard_dies_in_the_middle_of_a_frame(outlet: Outlet, listening: Listening, turns: Turns) -> None:
    """Nothing is raised, nothing is kept, and the loop rests."""
    shard = listening.accept(opening(b"PULL"))
    turns.turn()
    outlet.send(BIG)
    shard.close()
    turns.until(lambda: outlet.hung_up)
    outlet.send(BIG)
    assert turns.loop.activecnt == 0
    outlet.close(time.monotonic() + 20)


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n" * 10, opening(b"SUB"), b""])
def test_a_shard_that_is_none_is_given_up(outlet: Outlet, listening: Listening, turns: Turns, said: bytes) -> None:
    shard = listening.accept(said)
    outlet.send(b"x")
    if not said:
        shard.close()
    turns.until(lambda: outlet.hung_up)
    outlet.send(b"x")
    assert turns.loop.activecnt == 0, "nothing is waited for"
    outlet.close(time.monotonic() + 20)
    shard.close()


def test_what_was_sent_goes_out_at_the_end(place: Place, turns: Turns, libzmq: Libzmq) -> None:
    """Though no turn comes any more, in which the shard could have said that it is ready."""
    shard = pull(libzmq, place)
    outlet = Outlet(turns.loop, str(place.directory.file(SHARD)))
    for frame in (b"1", bytes(1000), b"3"):
        outlet.send(frame)
    outlet.close(time.monotonic() + 20)
    assert [shard.recv() for _ in range(3)] == [b"1", bytes(1000), b"3"]


def test_a_shard_that_hangs_holds_nobody_up_for_long_at_the_end(
    outlet: Outlet, listening: Listening, turns: Turns
) -> None:
    shard = listening.accept(opening(b"PULL"))
    turns.turn()
    outlet.send(BIG)
    began = time.monotonic()
    outlet.close(began + 0.2)
    assert 0.2 <= time.monotonic() - began < 5
    shard.close()


def test_what_is_forgotten_is_not_waited_for(outlet: Outlet, listening: Listening) -> None:
    shard = listening.accept()
    outlet.send(b"x")
    outlet.close()
    assert shard.recv(65536) == opening(b"PUSH")
    assert shard.recv(65536) == b""
    shard.close()


def test_a_shard_that_cannot_be_reached_leaves_nothing(place: Place, turns: Turns) -> None:
    """It has no file, nobody listens there, or too many wait to be accepted."""
    path = place.directory.file(SHARD)

    def refused() -> bool:
        before = descriptors()
        try:
            Outlet(turns.loop, str(path)).close()
        except OSError:
            return descriptors() == before
        return False

    assert refused()
    full = socket.socket(socket.AF_UNIX)
    full.bind(str(path))
    assert refused()
    full.listen(0)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(str(path))
    assert refused()
    waiting.close()
    full.close()
    assert refused()


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["inbox", "outlet", "shard"])
def test_closing_leaves_nothing(place: Place, turns: Turns, first: str) -> None:
    before = descriptors()
    listener, listening = Listener(place, turns), Listening(place)
    outlet = Outlet(turns.loop, str(place.directory.file(SHARD)))
    outlet.send(BIG)
    accepted = listening.accept(opening(b"PULL"))
    sender = listener.connect(opening(b"PUSH") + wired([b"x"]))
    listener.until([b"x"])

    def shard() -> None:
        for sock in (accepted, sender, listening.sock):
            sock.close()
        turns.turn()

    ends: dict[str, Callable[[], None]] = {"inbox": listener.inbox.close, "outlet": outlet.close, "shard": shard}
    for end in (ends.pop(first), *ends.values()):
        end()
        turns.turn()
    assert turns.loop.activecnt == 0
    eventually(lambda: descriptors() == before)
