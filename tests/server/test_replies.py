"""A client's messages while a shard takes its time: what it is told comes in the order of what it has asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.server.support import World
from tests.support.client import CLOSE, PING, frame

UPGRADE = (
    b"GET /app/key1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SUBSCRIBE = frame(b'{"event":"pusher:subscribe","data":{"channel":"news"}}')
PUSHER_PING = frame(b'{"event":"pusher:ping"}')


def positions(said: bytes, *parts: bytes) -> list[int]:
    """Where the parts stand, which must be in this order."""
    found = [said.index(part) for part in parts]
    assert found == sorted(found), said
    return found


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    with closing(world.ours), closing(world.peer):
        yield world


def connected(world: World) -> World:
    """With a client that has its place; from now on what the shard says waits for `release`."""
    world.open()
    assert b"connection_established" in world.say(UPGRADE)
    world.kept = []
    return world


def test_what_comes_before_the_client_has_its_place_waits(world: World) -> None:
    world.kept = []
    world.open()
    said = world.say(UPGRADE + PUSHER_PING + SUBSCRIBE)
    assert said.startswith(b"HTTP/1.1 101")
    assert b"pusher" not in said
    said = world.release(1)
    positions(said, b"connection_established", b"pusher:pong")
    assert b"subscription_succeeded" in world.release(1)


def test_replies_wait_for_the_subscriptions_before_them(world: World) -> None:
    connected(world)
    more = frame(b"hello", PING) + frame(b'{"event":"pusher:subscribe","data":{}}')
    assert world.say(SUBSCRIBE + PUSHER_PING + more) == b""
    said = world.release(1)
    positions(said, b"subscription_succeeded", b"pusher:pong", b"hello", b"4200")


def test_the_end_waits_too(world: World) -> None:
    connected(world)
    assert world.say(SUBSCRIBE + frame(b"\x03\xe8Bye", CLOSE)) == b""
    said = world.release(1)
    positions(said, b"subscription_succeeded", b"\x03\xe8Bye")


def test_subscriptions_do_not_wait_for_each_other(world: World) -> None:
    connected(world)
    other = SUBSCRIBE.replace(b"news", b"news")  # the same again: a refresh, with an answer of its own
    assert world.say(SUBSCRIBE + other + PUSHER_PING) == b""
    assert world.kept is not None
    assert len(world.kept) == 2
    assert b"pong" not in world.release(1)
    positions(world.release(1), b"subscription_succeeded", b"pusher:pong")


def test_a_flood_of_pings_meanwhile_is_not_kept(world: World) -> None:
    connected(world)
    assert world.say(SUBSCRIBE + PUSHER_PING * 300) == b""
    assert not world.transport.reading
    assert world.release(1).count(b"pusher:pong") == 300


def test_a_client_that_goes_meanwhile_is_forgotten(world: World) -> None:
    connected(world)
    world.say(SUBSCRIBE + PUSHER_PING)
    world.transport.abort()
    assert world.release(1) == b""
    assert world.hub.clients == {}
