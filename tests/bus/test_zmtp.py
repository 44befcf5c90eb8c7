"""ØMQ's wire protocol: whole and in pieces, rubbish, and what libzmq makes of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from resonate.bus.zmtp import LONGEST, LONGEST_COMMAND, Reader, WireError, head, opening
from tests.bus.support import Place

#: About each size where a head changes, and more than a socket takes at once.
SIZES = (0, 1, 255, 256, 65535, 65536, 5 * 1024 * 1024)
#: As libzmq 4.3.5 says it: a version of 3.1, and a padding that is not all zero.
GREETING_OF_LIBZMQ = b"\xff" + bytes(7) + b"\x01\x7f\x03\x01NULL" + bytes(48)
GREETING = opening(b"PUSH")[:64]

Libzmq = Callable[[int], zmq.Socket[bytes]]

_frames = st.lists(st.binary(max_size=300), max_size=6)


def command(body: bytes) -> bytes:
    return bytes((4, len(body))) + body


def ready(kind: bytes = b"PUSH") -> bytes:
    return opening(kind)[64:]


def wired(frames: list[bytes]) -> bytes:
    return opening(b"PUSH") + b"".join(head(len(frame)) + frame for frame in frames)


# --- alone -----------------------------------------------------------------------------------------------------------


@given(_frames, st.integers(1, 120))
def test_frames_come_out_as_they_went_in_however_they_are_cut(frames: list[bytes], size: int) -> None:
    data = wired(frames)
    assert Reader(b"PUSH").feed(data) == frames
    for step in (1, size):
        reader = Reader(b"PUSH")
        assert [
            frame for begin in range(0, len(data), step) for frame in reader.feed(data[begin : begin + step])
        ] == frames
        assert reader.ready


@given(st.binary(max_size=300), st.integers(0, 2), st.integers(1, 30))
def test_rubbish_raises_one_kind_of_error_and_the_same_however_it_is_cut(data: bytes, begin: int, size: int) -> None:
    """At the beginning, in place of READY, and later."""
    data = (b"", GREETING, wired([b"x"]))[begin] + data
    assert outcome(data, len(data) or 1) == outcome(data, size)


def outcome(data: bytes, step: int) -> bool:
    """Whether it is taken."""
    reader = Reader(b"PUSH")
    try:
        for begin in range(0, len(data), step):
            reader.feed(data[begin : begin + step])
    except WireError:
        return False
    return True


@given(st.binary(max_size=120))
def test_a_command_may_hold_anything(body: bytes) -> None:
    assert outcome(opening(b"PUSH") + command(body), 1000) is (body[1 : 1 + body[0]] != b"ERROR" if body else True)
    outcome(GREETING + command(b"\x05READY" + body), 1000)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n" * 4, "does not speak ZMTP 3"),
        (GREETING_OF_LIBZMQ.replace(b"\x7f\x03", b"\x7f\x01"), "does not speak ZMTP 3"),
        (GREETING_OF_LIBZMQ.replace(b"NULL", b"PLAIN"[:4]), "mechanism"),
        (GREETING_OF_LIBZMQ.replace(b"NULL\0", b"NULLX"), "mechanism"),
        (GREETING + head(1) + b"x", "before READY"),
        (GREETING + b"\6" + (LONGEST_COMMAND + 1).to_bytes(8, "big"), "too long"),
        (GREETING + b"\2" + (LONGEST_COMMAND + 1).to_bytes(8, "big"), "too long"),
        (GREETING + command(b""), "in place of READY"),
        (GREETING + command(b"\x04PING"), "in place of READY"),
        (GREETING + command(b"\x05ERROR\x04away"), "refuses: b'away'"),
        (GREETING + command(b"\x05READY"), "kind b''"),
        (GREETING + ready(b"PULL"), "kind b'PULL'"),
        (GREETING + ready(b"SUB"), "kind b'SUB'"),
        (wired([]) + b"\1\1x", "flags 1"),
        (wired([]) + b"\5\1x", "flags 5"),
        (wired([]) + b"\x08\1x", "flags 8"),
        (wired([]) + head(LONGEST + 1), "too long"),
    ],
)
def test_what_does_not_fit(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        Reader(b"PUSH").feed(data)


def test_properties_may_be_others_and_in_any_case() -> None:
    reader = Reader(b"PUSH")
    body = b"\x05READY\x08Identity\0\0\0\0\x0bSOCKET-TYPE\0\0\0\x04PUSH\x03X-Y\0\0\0\x01z"
    assert reader.feed(GREETING_OF_LIBZMQ + command(body) + head(1) + b"x") == [b"x"]


def test_heartbeats_and_long_commands_are_passed_over() -> None:
    more = command(b"\x04PING\0\0") + b"\6" + (300).to_bytes(8, "big") + b"\x04PONG" + bytes(295)
    assert Reader(b"PUSH").feed(wired([b"1"]) + more + head(1) + b"2") == [b"1", b"2"]


def test_the_longest_frame_is_waited_for() -> None:
    assert Reader(b"PUSH").feed(wired([]) + head(LONGEST) + b"x") == []


# --- with libzmq -----------------------------------------------------------------------------------------------------


@pytest.fixture
def frames() -> list[bytes]:
    return [os.urandom(size) for size in SIZES]


def test_libzmq_pushes(place: Place, libzmq: Libzmq, frames: list[bytes]) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(place.directory.file("x")))
    listening.listen()
    push = libzmq(zmq.PUSH)
    push.connect(place.directory.address("x"))
    ours, _ = listening.accept()
    ours.settimeout(20)
    ours.sendall(opening(b"PULL"))
    for frame in frames:
        push.send(frame)
    reader = Reader(b"PUSH")
    found: list[bytes] = []
    while len(found) < len(frames):
        found += reader.feed(ours.recv(65536))
    assert found == frames
    ours.close()
    listening.close()


@contextmanager
def connected(place: Place, pull: zmq.Socket[bytes], kind: bytes) -> Iterator[socket.socket]:
    """A connection to that socket, of somebody who says that he is of that kind."""
    pull.bind(place.directory.address("x"))
    with socket.socket(socket.AF_UNIX) as found:
        found.settimeout(20)
        found.connect(str(place.directory.file("x")))
        found.sendall(opening(kind))
        yield found


def test_libzmq_pulls(place: Place, libzmq: Libzmq, frames: list[bytes]) -> None:
    pull = libzmq(zmq.PULL)
    with connected(place, pull, b"PUSH") as ours:
        _push(ours, pull, frames)


def _push(ours: socket.socket, pull: zmq.Socket[bytes], frames: list[bytes]) -> None:
    reader = Reader(b"PULL")
    said = b""
    while not reader.ready:
        said += (piece := ours.recv(65536))
        reader.feed(piece)
    assert said[10:12] >= b"\x03\x00"
    for frame in frames:
        ours.sendall(head(len(frame)) + frame)
        assert pull.recv() == frame


def test_libzmq_hangs_up_on_another_kind(place: Place, libzmq: Libzmq) -> None:
    with connected(place, libzmq(zmq.PULL), b"SUB") as ours:
        while ours.recv(65536):
            pass
        assert ours.recv(1) == b"", "no time-out: it has ended"
