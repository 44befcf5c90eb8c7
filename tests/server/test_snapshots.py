"""Connections that go on in another worker: two worlds, between which a descriptor and a piece of JSON travel."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
from _socket import SocketType
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.errors import SnapshotError
from resonate.http import Request as HttpRequest
from resonate.messages import Detach, Disconnect, Request, Unsubscribe
from resonate.server.context import Metrics
from resonate.server.hosting import HostedStream
from resonate.server.http_connection import HttpConnection
from resonate.server.moving import Passenger
from resonate.server.pusher_connection import UNHEARD_S, PusherConnection
from resonate.server.tls import TlsTransport
from resonate.server.transport import Reactor, Transport
from tests.server.support import APP, World
from tests.server.test_replies import PUSHER_PING, SUBSCRIBE, UPGRADE
from tests.support.client import CLOSE, PING, PONG, frame
from tests.support.eventually import eventually
from tests.websocket.test_snapshots import json_values

LOG = logging.getLogger("test")
GET = b"GET /up HTTP/1.1\r\nHost: x\r\n\r\n"
INTERVAL = APP.ping_interval


class Worlds:
    """The old worker and its heir; the shard is the same. `asked`: what the heir asks of it."""

    def __init__(self, old: World, heir: World) -> None:
        self.old, self.heir = old, heir
        self.asked: list[Request] = []

    def connected(self) -> PusherConnection:
        """A client of the old one that has its place."""
        self.old.open()
        assert b"connection_established" in self.old.say(UPGRADE)
        return self.connection

    @property
    def connection(self) -> Any:
        return self.old.transport.protocol

    def send(self, request: Request) -> None:
        self.asked.append(request)
        self.old.context.link.send(request)

    def carry(self, kind: type[PusherConnection] | type[HttpConnection]) -> dict[str, Any]:
        """All but the last step: returns the snapshot."""
        assert self.connection.movable
        snapshot = json.loads(json.dumps(self.connection.snapshot()))
        descriptor, unsent = self.old.transport.release()
        transport = Transport(SocketType(fileno=descriptor), self.heir.reactor)
        transport.adopt(unsent, self.old.transport.ended)
        self.heir.peer.close()
        self.heir.transport, self.heir.peer = transport, self.old.peer
        link: Any = self
        self.old.context.link.connect(self.heir.deliver)
        self.heir.context = replace(self.heir.context, link=link)
        return snapshot

    def move(self, **change: Any) -> PusherConnection:
        """Move a Pusher connection; what is in the snapshot may be changed."""
        snapshot = self.carry(PusherConnection) | change
        made = PusherConnection.restore(self.heir.context, self.heir.transport, APP, snapshot)
        made.settle()
        return made

    def move_http(self) -> HttpConnection:
        snapshot = self.carry(HttpConnection)
        made = HttpConnection.restore(self.heir.context, self.heir.transport, snapshot)
        made.settle()
        return made


@contextmanager
def two_worlds() -> Iterator[Worlds]:
    old, heir = World(), World()
    with closing(old.ours), closing(heir.ours), closing(old.peer), closing(heir.peer):
        yield Worlds(old, heir)
        if heir.transport is not None:
            heir.transport.abort()


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    with two_worlds() as worlds:
        yield worlds


def later(world: World, seconds: int) -> bytes:
    """What the client is told in that time."""
    for _ in range(seconds):
        world.reactor.wheel.advance()
    return world.read()


# --- Pusher connections ----------------------------------------------------------------------------------------------


def test_the_client_notices_nothing(worlds: Worlds) -> None:
    connection = worlds.connected()
    assert b"subscription_succeeded" in worlds.old.say(SUBSCRIBE)
    half = len(PUSHER_PING) // 2
    assert worlds.old.say(PUSHER_PING[:half]) == b""
    made = worlds.move()
    assert worlds.heir.read() == b""
    assert worlds.asked == []
    assert made.session.id == connection.session.id
    assert worlds.heir.hub.clients == {made.session.id: made}
    assert not worlds.heir.transport.eager
    assert b"pusher:pong" in worlds.heir.say(PUSHER_PING[half:])
    worlds.heir.hub._broadcast("app1", "news", b"event", None)
    worlds.heir.hub.receive([])
    assert b"event" in worlds.heir.read()


def test_the_old_one_is_dead_here(worlds: Worlds) -> None:
    connection = worlds.connected()
    worlds.old.say(SUBSCRIBE)
    worlds.move()
    transport = worlds.old.transport
    assert transport not in worlds.old.reactor.transports
    assert not transport.check_at
    connection.drained()
    transport.write(b"x")
    transport.cut(b"x")
    transport.close()
    transport.abort()
    transport.pause_reading()
    transport.resume_reading()
    assert transport.check(1) == 0
    assert worlds.heir.read() == b""
    assert b"pusher:pong" in worlds.heir.say(PUSHER_PING)


def test_it_gives_up_at_the_heir_what_it_got_before(worlds: Worlds) -> None:
    worlds.connected()
    worlds.old.say(SUBSCRIBE)
    worlds.move()
    worlds.heir.transport.abort()
    assert worlds.asked == [Unsubscribe("app1", "news", None), Detach("app1"), Disconnect("app1")]
    assert worlds.heir.hub.clients == {}
    assert worlds.heir.hub._channels == {}


def test_one_that_breaks_on_the_way_gives_up_what_it_held(worlds: Worlds) -> None:
    worlds.connected()
    worlds.old.say(SUBSCRIBE)
    snapshot = worlds.carry(PusherConnection)
    worlds.heir.transport.abort()
    made = PusherConnection.restore(worlds.heir.context, worlds.heir.transport, APP, snapshot)
    made.settle()
    assert worlds.asked == [Unsubscribe("app1", "news", None), Detach("app1"), Disconnect("app1")]
    assert worlds.heir.hub.clients == {}
    assert worlds.heir.hub._channels == {}


CLIENT: list[bytes] = [
    SUBSCRIBE,
    PUSHER_PING,
    SUBSCRIBE.replace(b"news", b"more"),
    frame(b"hello", PING),
    frame(b"hello", PONG),
    frame(b'{"event":"pusher:', fin=False) + frame(b"in between", PING) + frame(b'ping"}', 0),
    frame(b'{"event":"client-a","channel":"news","data":{}}'),
    frame(b"no json"),
    frame(bytes(20_000)),
    frame(b"\x03\xe8bye", CLOSE),
    frame(b"", 3),
]


@given(st.lists(st.sampled_from(CLIENT), max_size=8).map(b"".join), st.data())
def test_a_move_at_any_byte_is_not_seen(said: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(said)))
    with two_worlds() as stays, two_worlds() as moves:
        stays.connected()
        moves.connected()
        expected = stays.old.say(said[:at]) + stays.old.say(said[at:])
        found = moves.old.say(said[:at])
        if not moves.old.transport.closed:
            moves.move()
            found += moves.heir.say(said[at:])
            assert moves.heir.transport.closed == stays.old.transport.closed
        assert found == expected


def test_what_had_to_wait_is_done_at_the_heir(worlds: Worlds) -> None:
    connection = worlds.connected()
    worlds.old.hub.clogged = True
    assert worlds.old.say(PUSHER_PING + SUBSCRIBE + frame(b"hello", PING)) == b""
    assert connection._postponed is not None
    worlds.move()
    said = worlds.heir.read()
    assert b"pusher:pong" in said
    assert b"subscription_succeeded" in said
    assert b"hello" in said
    assert len(worlds.asked) == 2
    worlds.old.hub.clogged = False
    worlds.old.hub.receive([])  # which calls those who had to wait
    assert worlds.heir.read() == b""


def test_nobody_acts_while_another_speaks_on_its_transport(worlds: Worlds) -> None:
    """The hub calls back whoever had to wait for it, also when it is about to leave."""
    connection = worlds.connected()
    worlds.old.hub.clogged = True
    worlds.old.say(PUSHER_PING)
    worlds.old.transport.protocol = HostedStream(worlds.old.transport)
    worlds.old.hub.clogged = False
    worlds.old.hub.receive([])
    assert worlds.old.read() == b""
    connection.settle()  # it stays after all
    assert b"pusher:pong" in worlds.old.read()


def aboard(worlds: Worlds) -> Passenger:
    """One that the shards have been told of, and that is to stay after all."""
    passenger = Passenger(worlds.connected())
    worlds.old.hub.add(passenger)
    return passenger


def test_who_stays_after_all_is_listened_to_again(worlds: Worlds) -> None:
    passenger = aboard(worlds)
    passenger.unload()
    assert b"pusher:pong" in worlds.old.say(PUSHER_PING)
    assert worlds.old.hub.clients == {passenger.session.id: worlds.connection}


def test_who_stays_after_all_and_was_too_slow_meanwhile_is_closed(worlds: Worlds) -> None:
    """Something has been dropped: it would have a gap."""
    passenger = aboard(worlds)
    for _ in range(4):
        worlds.old.transport.write(bytes(400_000))
    worlds.old.loop.settle()
    assert passenger.overflowed_
    assert not worlds.old.transport.closed
    passenger.unload()
    assert worlds.old.transport.closed
    assert worlds.old.stats.slow_consumers == 1


def test_who_stays_after_all_is_closed_if_all_were_told_to_end(worlds: Worlds) -> None:
    passenger = aboard(worlds)
    worlds.old.transport.protocol.drain()
    assert not worlds.old.transport.closed
    passenger.unload()
    assert b"Server is restarting" in worlds.old.read()


def test_not_while_an_answer_is_missing(worlds: Worlds) -> None:
    worlds.old.kept = []
    worlds.old.open()
    worlds.old.say(UPGRADE)
    assert not worlds.connection.movable  # it has no place yet
    worlds.old.release(1)
    assert worlds.connection.movable
    worlds.old.say(SUBSCRIBE + PUSHER_PING)
    assert not worlds.connection.movable
    worlds.old.release(1)
    assert worlds.connection.movable
    worlds.old.say(SUBSCRIBE)  # a refresh
    assert not worlds.connection.movable
    worlds.old.release(1)
    assert worlds.connection.movable
    worlds.old.transport.close()
    assert not worlds.connection.movable


def test_not_when_something_has_been_dropped(worlds: Worlds) -> None:
    connection = worlds.connected()
    for _ in range(4):
        worlds.old.transport.write(bytes(400_000))
    assert not connection.movable
    worlds.old.loop.settle()
    assert worlds.old.transport.closed


# --- the clock of a Pusher connection --------------------------------------------------------------------------------


def test_silence_goes_on(worlds: Worlds) -> None:
    old = worlds.connected()
    assert INTERVAL == 1
    assert b"pusher:ping" in later(worlds.old, 1)
    later(worlds.heir, 40)
    made = worlds.move()
    assert made._pinged
    assert old._pinged
    assert later(worlds.heir, UNHEARD_S - 1) == b""
    assert b"4201" in later(worlds.heir, 1)
    assert worlds.heir.transport.closed


def test_who_has_answered_before_is_not_closed(worlds: Worlds) -> None:
    worlds.connected()
    later(worlds.old, 1)
    worlds.old.say(frame(b"", PONG))
    worlds.move()
    assert b"\x89" in later(worlds.heir, UNHEARD_S)  # it knows control frames: so it gets one
    worlds.heir.say(frame(b"", PONG))
    assert not worlds.heir.transport.closed


def test_an_answer_that_came_on_the_way_is_heard(worlds: Worlds) -> None:
    worlds.connected()
    later(worlds.old, INTERVAL)
    worlds.move()
    later(worlds.heir, 1)  # the clock may come before what waits in the kernel
    worlds.heir.say(frame(b"", PONG))
    later(worlds.heir, INTERVAL)
    assert not worlds.heir.transport.closed


def patient(worlds: Worlds, interval: int, seconds: int) -> Transport:
    """Move one that has been silent for so long, to an app that pings after `interval` seconds."""
    app = replace(APP, ping_interval=10)
    worlds.connected().session.app = app
    worlds.old.transport.check_after(10)
    later(worlds.old, seconds)
    later(worlds.heir, 3)
    snapshot = worlds.carry(PusherConnection)
    new = replace(APP, ping_interval=interval)
    PusherConnection.restore(worlds.heir.context, worlds.heir.transport, new, snapshot).settle()
    transport: Transport = worlds.heir.transport
    return transport


@pytest.mark.parametrize("seconds", [0, 1, 8])
def test_the_ping_comes_when_it_would_have_come(worlds: Worlds, seconds: int) -> None:
    patient(worlds, 10, seconds)
    assert later(worlds.heir, 10 - seconds - 1) == b""
    assert b"pusher:ping" in later(worlds.heir, 1)
    assert b"4201" in later(worlds.heir, 10)


@pytest.mark.parametrize("seconds", [10, 15, 18])
def test_an_answer_may_take_as_long_as_it_might(worlds: Worlds, seconds: int) -> None:
    transport = patient(worlds, 10, seconds)
    worlds.heir.read()  # the ping of the old one
    assert later(worlds.heir, 20 - seconds - 1) == b""
    assert not transport.closed
    assert b"4201" in later(worlds.heir, 1)


def test_a_shorter_interval_gives_time_to_answer(worlds: Worlds) -> None:
    patient(worlds, 4, 15)
    worlds.heir.read()  # the ping of the old one
    assert b"pusher:ping" in later(worlds.heir, UNHEARD_S)
    assert later(worlds.heir, 3) == b""
    assert b"4201" in later(worlds.heir, 1)


# --- what does not fit -----------------------------------------------------------------------------------------------


UNFIT: list[dict[str, Any]] = [
    *({key: value} for key in ("session", "websocket") for value in (None, 3, "x", [], {})),
    *({"silent_s": value} for value in (None, "x", [], {})),
    *({"postponed": value} for value in (3, "x", [3], [["Message", 3]], [["Other"]])),
]


@pytest.mark.parametrize("change", UNFIT)
def test_what_is_no_snapshot(worlds: Worlds, change: dict[str, Any]) -> None:
    worlds.connected()
    snapshot = worlds.carry(PusherConnection) | change
    with pytest.raises(SnapshotError, match="another worker"):
        PusherConnection.restore(worlds.heir.context, worlds.heir.transport, APP, snapshot)
    assert worlds.heir.hub.clients == {}
    assert worlds.asked == []
    assert not worlds.heir.transport.closed


@given(json_values, st.dictionaries(st.sampled_from(["unread", "fresh", "patience", "waited_s"]), json_values))
def test_whatever_comes_raises_nothing_else(value: Any, change: dict[str, Any]) -> None:
    with two_worlds() as worlds:
        worlds.old.open()
        snapshot = worlds.connection.snapshot() | change
        for restore in (
            lambda: PusherConnection.restore(worlds.heir.context, worlds.old.transport, APP, value),
            lambda: HttpConnection.restore(worlds.heir.context, worlds.old.transport, value),
            lambda: HttpConnection.restore(worlds.heir.context, worlds.old.transport, snapshot),
        ):
            with suppress(SnapshotError):
                restore()


def test_what_a_later_version_adds_is_ignored_and_what_it_leaves_out_is_supplied(worlds: Worlds) -> None:
    worlds.connected()
    snapshot = worlds.carry(PusherConnection) | {"later": 1}
    del snapshot["controls"], snapshot["postponed"], snapshot["pinged"]
    PusherConnection.restore(worlds.heir.context, worlds.heir.transport, APP, snapshot).settle()
    assert b"pusher:pong" in worlds.heir.say(PUSHER_PING)


# --- HTTP ------------------------------------------------------------------------------------------------------------


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def test_between_two_requests(worlds: Worlds) -> None:
    worlds.old.open()
    assert status(worlds.old.say(GET)) == 200
    worlds.move_http()
    assert status(worlds.heir.say(GET)) == 200


def test_before_the_first_request(worlds: Worlds) -> None:
    worlds.old.open()
    assert worlds.move_http()._fresh
    assert b"101 Switching" in worlds.heir.say(UPGRADE)


def test_in_the_middle_of_a_head_at_any_byte() -> None:
    for at in range(len(GET)):
        with two_worlds() as worlds:
            worlds.old.open()
            assert worlds.old.say(GET[:at]) == b""
            worlds.move_http()
            assert status(worlds.heir.say(GET[at:])) == 200


REQUESTS = [
    GET,
    b"\r\n",
    b"HEAD /up HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PUT /up HTTP/1.1\r\nHost: x\r\n\r\n",
    b"nonsense\r\n\r\n",
]


@given(st.lists(st.sampled_from(REQUESTS), max_size=5).map(b"".join), st.data())
def test_a_move_between_requests_is_not_seen(said: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(said)))
    with two_worlds() as stays, two_worlds() as moves:
        stays.old.open()
        moves.old.open()
        expected = stays.old.say(said[:at]) + stays.old.say(said[at:])
        found = moves.old.say(said[:at])
        if moves.connection.movable:
            moves.move_http()
            found += moves.heir.say(said[at:])
        else:
            assert moves.old.transport.closed
        assert found == expected


POST = b"POST /apps/app1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"


def test_not_within_a_body(worlds: Worlds) -> None:
    worlds.old.open()
    worlds.old.say(POST)
    assert not worlds.connection.movable
    worlds.old.say(b"{")
    assert not worlds.connection.movable
    assert status(worlds.old.say(b"}")) == 401
    assert worlds.connection.movable


def test_not_while_a_request_is_being_answered(worlds: Worlds) -> None:
    worlds.old.open()
    worlds.connection._serve(HttpRequest("GET", "/metrics", "", "1.1", {}, b"", True, Metrics()))
    assert worlds.old.read() == b""
    assert not worlds.connection.movable
    worlds.old.asked[0]([])
    assert worlds.connection.movable


def test_not_from_another_listener(worlds: Worlds) -> None:
    worlds.old.open(lambda path: None)
    assert not worlds.connection.movable


def test_not_while_the_client_does_not_read_its_answers(worlds: Worlds) -> None:
    worlds.old.open()
    worlds.old.transport.write(bytes(1_000_000))
    worlds.old.loop.settle()
    assert worlds.old.transport.congested
    assert not worlds.connection.movable


def test_not_while_the_application_has_it_and_not_when_it_is_over(worlds: Worlds) -> None:
    worlds.old.open()
    transport = worlds.old.transport
    assert not HostedStream(transport).movable
    transport.close()
    assert not worlds.connection.movable
    transport.abort()
    assert not worlds.connection.movable


def test_patience_goes_on(worlds: Worlds) -> None:
    world, keep_alive = worlds.old, worlds.old.context.keep_alive
    world.open()
    world.say(GET)
    later(world, keep_alive - 20)
    later(worlds.heir, 33)
    worlds.move_http()
    later(worlds.heir, 19)
    assert not worlds.heir.transport.closed
    later(worlds.heir, 1)
    assert worlds.heir.transport.closed


def test_a_head_has_no_more_time_than_elsewhere(worlds: Worlds) -> None:
    timeout = worlds.old.context.settings.server.handshake_timeout
    worlds.old.open()
    worlds.old.say(GET[:9])
    later(worlds.old, timeout - 3)
    worlds.move_http()
    assert later(worlds.heir, 2) == b""
    assert status(later(worlds.heir, 1)) == 408


def test_http_that_breaks_on_the_way(worlds: Worlds) -> None:
    worlds.old.open()
    snapshot = worlds.carry(HttpConnection)
    worlds.heir.transport.abort()
    made = HttpConnection.restore(worlds.heir.context, worlds.heir.transport, snapshot)
    made.settle()
    assert worlds.heir.transport.protocol is not made


# --- transports, on the real loop ------------------------------------------------------------------------------------


class Speaker:
    """Notes what it is told."""

    movable = True

    def __init__(self) -> None:
        self.data = b""
        self.told: list[str] = []

    def received(self, data: bytes) -> None:
        self.data += data

    def ended(self) -> None:
        self.told.append("ended")

    def lost(self) -> None:
        self.told.append("lost")

    def overflowed(self) -> None:
        self.told.append("overflowed")

    def drained(self) -> None:
        self.told.append("drained")

    def drain(self) -> None:
        """Nothing to do."""

    def check(self, now: int) -> int:
        return 0


def turn() -> None:
    gevent.sleep(0)


def soon(condition: Callable[[], object]) -> None:
    """That becomes true while the loop runs."""
    eventually(lambda: turn() or condition(), every=0.001)


@pytest.fixture
def reactors() -> tuple[Reactor, Reactor]:
    """Of two workers, on one loop."""
    loop = gevent.get_hub().loop
    return Reactor(loop, LOG, 100_000), Reactor(loop, LOG, 100_000)


@pytest.fixture
def pair(reactors: tuple[Reactor, Reactor]) -> Iterator[tuple[Transport, socket.socket]]:
    """A transport of the first, and its peer."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    peer.setblocking(False)
    with closing(ours), closing(peer):
        transport = Transport(ours, reactors[0])
        transport.start(Speaker())
        yield transport, peer
        for reactor in reactors:
            for each in list(reactor.transports):
                each.abort()


def adopted(transport: Transport, reactor: Reactor) -> Transport:
    """The same in the other worker."""
    descriptor, unsent = transport.release()
    made = Transport(SocketType(fileno=descriptor), reactor)
    made.adopt(unsent, transport.ended)
    return made


def all_of(peer: socket.socket, size: int) -> bytes:
    """The next so many bytes."""
    data = b""

    def complete() -> bool:
        nonlocal data
        with suppress(BlockingIOError):
            data += peer.recv(1 << 20)
        return len(data) >= size

    soon(complete)
    return data


Pair = tuple[Transport, socket.socket]
Reactors = tuple[Reactor, Reactor]


def test_what_was_written_in_this_turn_goes_with_it(pair: Pair, reactors: Reactors) -> None:
    transport, peer = pair
    transport.write(b"one ")
    transport.write(b"two ")
    made = adopted(transport, reactors[1])
    made.write(b"three")
    assert all_of(peer, 13) == b"one two three"
    assert made.waiting == 0


def test_what_the_kernel_has_refused_goes_with_it_in_order(pair: Pair, reactors: Reactors) -> None:
    transport, peer = pair
    before = os.urandom(3_000_000)
    transport.write(before)  # one message alone is never too long
    turn()
    assert transport.waiting
    made = adopted(transport, reactors[1])
    speaker = Speaker()
    made.protocol = speaker
    assert made.congested
    turn()
    assert made.waiting > reactors[1].limit
    assert speaker.told == []  # that much is no reason to cut it
    assert all_of(peer, len(before)) == before
    soon(lambda: not made.waiting)
    assert speaker.told == ["drained"]
    made.write(b"after")
    assert all_of(peer, 5) == b"after"


def test_more_may_be_written_behind_what_the_kernel_takes(pair: Pair, reactors: Reactors) -> None:
    """What was unsent is over the limit, but the peer has read meanwhile."""
    transport, peer = pair
    transport.write(bytes(150_000))
    made = adopted(transport, reactors[1])
    made.protocol = speaker = Speaker()
    made.write(b"after")
    assert all_of(peer, 150_005)[-6:] == b"\0after"
    assert "overflowed" not in speaker.told


def test_what_comes_is_for_the_one_who_has_it(pair: Pair, reactors: Reactors) -> None:
    transport, peer = pair
    old: Any = transport.protocol
    peer.send(b"one")
    soon(lambda: old.data)
    made = adopted(transport, reactors[1])
    peer.send(b"two")
    turn()
    new = Speaker()
    made.start(new)
    soon(lambda: new.data)
    assert (old.data, new.data) == (b"one", b"two")
    assert old.told == []


def test_nothing_that_is_done_with_a_released_one_matters(pair: Pair, reactors: Reactors) -> None:
    transport, peer = pair
    transport.write(b"one")
    transport.check_after(5)
    made = adopted(transport, reactors[1])
    old: Any = transport.protocol
    assert not transport.check_at
    assert (transport.closed, transport.movable, transport.waiting) == (True, False, 0)
    assert not reactors[0].transports
    for _ in range(2):
        transport.write(b"x")
        transport.flush()
        transport.pause_reading()
        transport.resume_reading()
        transport.poll()
        transport.close()
        transport.cut(b"x")
        transport.abort()
        transport.check_after(1)
        reactors[0].wheel.advance()
        turn()
    assert all_of(peer, 3) == b"one"
    assert not made.closed
    assert not transport.reading
    assert old.movable is False


def test_that_the_peer_will_say_no_more_crosses(pair: Pair, reactors: Reactors) -> None:
    transport, peer = pair
    peer.shutdown(socket.SHUT_WR)
    soon(lambda: transport.ended)
    made = adopted(transport, reactors[1])
    made.start(Speaker())
    assert made.ended
    assert not made.reading
    made.write(b"last")
    made.close()
    assert all_of(peer, 4) == b"last"


def test_one_that_has_broken_is_not_movable(pair: Pair) -> None:
    transport, peer = pair
    peer.close()
    transport.write(bytes(100_001))
    transport.write(b"more than may wait")
    assert not transport.movable


def test_one_that_breaks_before_it_has_settled(pair: Pair, reactors: Reactors) -> None:
    transport, peer = pair
    transport.write(b"x")
    made = adopted(transport, reactors[1])
    peer.close()
    soon(lambda: made.closed)
    assert not reactors[1].transports


def test_the_kernel_watches_it_no_more_for_the_old_one(pair: Pair, reactors: Reactors) -> None:
    """Else its next event would have libev look through all others: see `Reactor.unwatch`."""
    transport, _ = pair
    number = str(transport.sock.fileno())

    def watched() -> bool:
        lines = Path(f"/proc/self/fdinfo/{reactors[0].loop.fileno()}").read_text().splitlines()
        return number in [line.split()[1] for line in lines if line.startswith("tfd:")]

    soon(watched)
    descriptor, _ = transport.release()
    assert not watched()
    os.close(descriptor)


def test_tls_stays_where_it_is(reactors: Reactors) -> None:
    ours, peer = socket.socketpair()
    with closing(ours), closing(peer):
        transport = TlsTransport(ours, reactors[0], ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        assert not transport.movable
        transport.start(Speaker())
        transport.abort()
