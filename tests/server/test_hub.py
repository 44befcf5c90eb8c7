"""The hub on a loop that is stepped by hand: order, exclusion, members, and who is on which channel."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.messages import (
    Answer,
    Connected,
    Disconnect,
    Expel,
    MemberAdded,
    MemberRemoved,
    Publication,
    Request,
    Subscribed,
)
from resonate.pusher import Session, events
from resonate.server.hub import STRIDE, Hub
from resonate.server.stats import Stats
from resonate.server.transport import Reactor, Transport
from resonate.settings import App, Server
from resonate.websocket import encode_text
from tests.server.support import Loop

APP = App(app_id="app1", key="key1", secret="secret1")
LOG = logging.getLogger("test")


class Pipe:
    """A transport that keeps what is written. `cost` wastes time, so that a turn ends before its work does."""

    def __init__(self, cost: int = 0) -> None:
        self.frames: list[bytes] = []
        self._cost = cost

    def write(self, frame: bytes) -> None:
        sum(range(self._cost))
        self.frames.append(frame)


class Client:
    """A connection that is told its session's answers and nothing else."""

    def __init__(self, name: str, transport: Any = None, app: App = APP) -> None:
        self.session = Session(app, name, Server())
        self.transport: Any = transport or Pipe()
        self.answers: list[Connected] = []
        self.wanted = True
        self.expelled = False

    def connected(self, answer: Connected) -> None:
        self.answers.append(answer)

    def subscribed(self, answer: Subscribed) -> bool:
        if self.wanted:
            self.transport.write(events.succeeded(answer.channel, answer.members))
        return self.wanted

    def expel(self) -> None:
        self.expelled = True

    @property
    def frames(self) -> list[bytes]:
        """What has come since the successes of subscriptions."""
        frames: list[bytes] = self.transport.frames
        return [frame for frame in frames if b"subscription_succeeded" not in frame]


class World:
    """A hub with what it is given."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.sent: list[Request] = []
        self.answers: list[Answer] = []
        self.traced: list[tuple[str, int, bytes]] = []
        self.stats = Stats()
        self.hub = Hub(
            self.loop,
            LOG,
            self.sent.append,
            self.answers.append,
            lambda *what: self.traced.append(what),
            self.stats,
        )

    def client(self, name: str, *channels: str, transport: Any = None) -> Client:
        client = Client(name, transport)
        self.hub.add(client)
        for channel in channels:
            self.hub.receive([Subscribed("app1", channel, name, 1, None, None)])
        return client

    def publish(self, channel: str, payload: bytes, except_: str | None = None, app: str = "app1") -> None:
        self.hub.receive([Publication(app, channel, payload, except_, 0)])


@pytest.fixture
def world() -> World:
    return World()


def test_a_broadcast_reaches_the_subscribers_of_its_channel(world: World) -> None:
    ann, bob, eve = world.client("1.1", "a", "b"), world.client("2.2", "a"), world.client("3.3", "b")
    world.publish("a", b"one")
    assert [client.frames for client in (ann, bob, eve)] == [[encode_text(b"one")], [encode_text(b"one")], []]
    assert ann.frames[0] is bob.frames[0]  # encoded once
    assert world.traced == [("a", 2, b"one")]
    assert world.stats.deliveries == 2


def test_a_channel_without_subscribers(world: World) -> None:
    world.publish("a", b"one")
    assert world.traced == []
    assert world.stats.deliveries == 0


def test_apps_do_not_share_a_channel(world: World) -> None:
    ann = world.client("1.1", "a")
    world.publish("a", b"one", app="app2")
    assert ann.frames == []


@pytest.mark.parametrize("excluded", ["1.1", "9.9", "3.3"])
def test_exclusion(world: World, excluded: str) -> None:
    ann, bob = world.client("1.1", "a"), world.client("2.2", "a")
    world.client("3.3", "b")
    world.publish("a", b"one", excluded)
    assert ann.frames == ([] if excluded == "1.1" else [encode_text(b"one")])
    assert bob.frames == [encode_text(b"one")]
    assert world.stats.deliveries == (1 if excluded == "1.1" else 2)


def test_members(world: World) -> None:
    ann, bob = world.client("1.1", "presence-x"), world.client("2.2", "presence-x")
    data = {"user_id": 2, "user_info": None}
    world.hub.receive([MemberAdded("app1", "presence-x", data, "2.2")])
    world.hub.receive([MemberRemoved("app1", "presence-x", 2)])
    added = encode_text(events.member_added("presence-x", data))
    removed = encode_text(events.member_removed("presence-x", 2))
    assert ann.frames == [added, removed]
    assert bob.frames == [removed]


def test_who_leaves_hears_no_more(world: World) -> None:
    ann, bob = world.client("1.1", "a"), world.client("2.2", "a")
    world.hub.leave("app1", "a", ann.transport)
    world.hub.leave("app1", "a", ann.transport)
    world.hub.leave("app1", "nowhere", ann.transport)
    world.publish("a", b"one")
    assert (ann.frames, bob.frames) == ([], [encode_text(b"one")])


def test_a_success_comes_before_what_is_published_after_it(world: World) -> None:
    ann = world.client("1.1")
    world.publish("a", b"before")
    world.hub.receive([Subscribed("app1", "a", "1.1", 1, None, None)])
    world.publish("a", b"after")
    assert ann.transport.frames == [events.succeeded("a", None), encode_text(b"after")]


def test_an_answer_that_is_not_wanted_any_more_does_not_subscribe(world: World) -> None:
    ann = world.client("1.1")
    ann.wanted = False
    world.hub.receive([Subscribed("app1", "a", "1.1", 1, None, None)])
    world.hub.receive([Subscribed("app1", "a", "9.9", 1, None, None)])
    world.publish("a", b"one")
    assert ann.frames == []
    assert world.traced == []


def test_a_place_for_a_connection_that_has_gone_is_given_back(world: World) -> None:
    ann = world.client("1.1")
    world.hub.receive([Connected("app1", "1.1", True)])
    world.hub.remove(ann)
    world.hub.remove(ann)
    world.hub.receive([Connected("app1", "1.1", True)])
    world.hub.receive([Connected("app1", "1.1", False)])
    assert ann.answers == [Connected("app1", "1.1", True)]
    assert world.sent == [Disconnect("app1")]


def test_answers_go_to_who_waits_for_them(world: World) -> None:
    world.hub.receive([Answer(5, "x")])
    assert world.answers == [Answer(5, "x")]


def test_expelled_are_the_connections_of_that_user_in_that_app(world: World) -> None:
    ann, bob, other = world.client("1.1"), world.client("2.2"), Client("3.3", app=App(app_id="b", key="k", secret="s"))
    world.hub.add(other)
    ann.session.user = other.session.user = "7"
    bob.session.user = "8"
    world.hub.receive([Expel("app1", "7")])
    assert [client.expelled for client in (ann, bob, other)] == [True, False, False]


def test_an_event_that_cannot_be_handled_does_not_stop_the_stream(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ann = world.client("1.1", "a")
    world.hub.receive([MemberRemoved("app1", "a", object())])  # cannot be written as JSON
    world.publish("a", b"one")
    assert ann.frames == [encode_text(b"one")]
    assert len(caplog.records) == 1


def test_a_transport_that_fails_does_not_stop_the_stream(world: World) -> None:
    class Broken(Pipe):
        def write(self, frame: bytes) -> None:
            if b"succeeded" not in frame:
                raise OSError("broken")

    world.client("1.1", "a", transport=Pipe())
    broken = world.client("2.2", transport=Broken())
    with contextlib.suppress(OSError):
        world.hub.receive([Subscribed("app1", "a", "2.2", 1, None, None)])
    bob = world.client("3.3", "a")
    with contextlib.suppress(OSError):  # whoever gave the event may be told, but the hub must live on
        world.publish("a", b"one")
    world.hub.leave("app1", "a", broken.transport)
    world.publish("a", b"two")
    world.loop.settle()
    assert bob.frames[-1] == encode_text(b"two")


# --- slices ----------------------------------------------------------------------------------------------------------


def crowd(world: World, size: int, channel: str = "a", cost: int = 2000) -> list[Client]:
    return [world.client(f"{index}.{index}", channel, transport=Pipe(cost)) for index in range(size)]


def test_a_long_broadcast_is_sliced_and_everything_behind_it_waits(world: World) -> None:
    clients = crowd(world, 20 * STRIDE)
    late = world.client("0.1", "b")
    world.publish("a", b"one")
    world.publish("a", b"two")
    world.publish("b", b"three")
    world.hub.receive([Subscribed("app1", "a", "0.1", 2, None, None)])
    world.publish("a", b"four")
    assert clients[-1].frames == []
    assert late.frames == []
    assert world.loop.settle() > 1
    sequence = [encode_text(payload) for payload in (b"one", b"two", b"four")]
    assert all(client.frames == sequence for client in clients)
    assert late.frames == [encode_text(b"three"), encode_text(b"four")]
    assert world.stats.deliveries == 3 * len(clients) + 2


def test_joining_and_leaving_during_a_slice_disturbs_nobody(world: World) -> None:
    clients = crowd(world, 20 * STRIDE)
    world.publish("a", b"one")
    for client in clients[::2]:
        world.hub.leave("app1", "a", client.transport)
        world.hub.remove(client)
    world.publish("a", b"two")
    world.loop.settle()
    assert all(client.frames == [encode_text(b"one"), encode_text(b"two")] for client in clients[1::2])
    assert not any(encode_text(b"two") in client.frames for client in clients[::2])


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["publish", "turn", "join", "leave"]), st.integers(0, 3), st.sampled_from("ab")),
        max_size=30,
    )
)
def test_every_subscriber_hears_everything_once_and_in_order(steps: list[tuple[str, int, str]]) -> None:
    world = World()
    clients = [world.client(f"{index}.{index}", transport=Pipe(60_000)) for index in range(4)]
    for index in range(STRIDE):  # so that every broadcast on `a` is sliced, or nearly
        world.client(f"{index}.99", "a", transport=Pipe(300))
    on: dict[tuple[int, str], bool] = {}
    heard: list[list[bytes]] = [[] for _ in clients]
    for number, (what, who, channel) in enumerate(steps):
        if what == "publish":
            payload = f"{channel}{number}".encode()
            world.publish(channel, payload)
            for index in range(4):
                if on.get((index, channel)):
                    heard[index].append(encode_text(payload))
        elif what == "turn":
            world.loop.turn()
        elif what == "join":
            world.hub.receive([Subscribed("app1", channel, f"{who}.{who}", 1, None, None)])
            on[who, channel] = True
        else:
            world.loop.settle()  # what a client has not heard when it leaves, it may or may not hear
            world.hub.leave("app1", channel, clients[who].transport)
            on[who, channel] = False
    world.loop.settle()
    assert [client.frames for client in clients] == heard


# --- with a real transport -------------------------------------------------------------------------------------------


@pytest.fixture
def peers() -> Iterator[tuple[Any, Any]]:
    """Both ends of a connection; nobody reads the second."""
    left, right = socket.socketpair()
    left.setblocking(False)
    with closing(left), closing(right):
        yield left, right


def test_a_consumer_that_is_cut_off_while_it_is_told_of_its_subscription_is_not_put_on_the_channel(
    peers: tuple[Any, Any],
) -> None:
    """PusherConnection.subscribed must not say yes for a connection that its own effects have ended."""
    from resonate.server.pusher_connection import PusherConnection

    world = World()
    reactor = Reactor(world.loop, LOG, 4_000_000)
    transport = Transport(peers[0], reactor)
    context: Any = Context(world, reactor)
    connection = PusherConnection(context, transport, APP, "1.1")
    transport.protocol = connection
    connection.open()
    connection.connected(Connected("app1", "1.1", True))
    transport.write(b"x" * 5_000_000)  # one message alone is never too long
    world.loop.settle()
    connection._apply(connection.session.receive(b'{"event":"pusher:subscribe","data":{"channel":"cache-a"}}', 0))
    assert not transport.closed
    world.hub.receive([Subscribed("app1", "cache-a", "1.1", 1, None, b"y" * 5_000_000)])
    world.loop.settle()
    assert transport.closed
    world.publish("cache-a", b"one")
    assert world.traced == []


class Context:
    """What a Pusher connection needs of its worker."""

    class Settings:
        server = Server()

    class Link:
        def __init__(self, sent: list[Request]) -> None:
            self.send = sent.append

    def __init__(self, world: World, reactor: Reactor) -> None:
        self.settings = self.Settings()
        self.log, self.reactor, self.hub, self.tracer, self.stats = LOG, reactor, world.hub, None, world.stats
        self.link = self.Link(world.sent)
