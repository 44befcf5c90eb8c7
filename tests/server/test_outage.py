"""While the other hosts cannot be reached: what is asked still is answered, and who writes is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from resonate.messages import Standing
from resonate.pusher import signatures
from resonate.scaling import Scaling
from resonate.settings import Server
from tests.server.support import World

AWAY = Standing(0, "Redis at 10.0.0.1:6379: timed out")
BACK = Standing(0, "")
EVENT = {"name": "e", "channel": "a", "data": "x"}
WRITING = [
    ("/events", EVENT, "{}"),
    ("/events", {**EVENT, "info": "subscription_count"}, '{"channels":{"a":{}}}'),
    ("/batch_events", {"batch": [EVENT]}, '{"batch":{}}'),
    ("/users/7/events", {"name": "e", "data": "x"}, "{}"),
    ("/users/7/terminate_connections", {}, "{}"),
]
READING = ["/channels", "/channels/a", "/channels/presence-a/users", "/connections"]

Start = Callable[..., World]


@pytest.fixture
def start() -> Iterator[Start]:
    """A worker with these settings of scaling."""
    worlds: list[World] = []

    def begin(**scaling: Any) -> World:
        worlds.append(World(Server(scaling=Scaling(**scaling))))
        worlds[-1].open()
        return worlds[-1]

    yield begin
    for world in worlds:
        world.close()


def signed(method: str, path: str, value: Any = None, secret: bytes = b"secret1") -> bytes:
    """A request of a back end."""
    body = b"" if value is None else json.dumps(value).encode()
    query = f"auth_key=key1&auth_timestamp={int(time.time())}&auth_version=1.0"
    if body:
        query += f"&body_md5={signatures.body_md5(body)}"
    signature = signatures.sign(secret, f"{method}\n/apps/app1{path}\n{query}")
    line = f"{method} /apps/app1{path}?{query}&auth_signature={signature} HTTP/1.1\r\n"
    return f"{line}Content-Length: {len(body)}\r\n\r\n".encode() + body


def parted(answer: bytes) -> tuple[int, str]:
    """Status and body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def up(world: World) -> tuple[int, str]:
    return parted(world.say(b"GET /up HTTP/1.1\r\nHost: x\r\n\r\n"))


# --- /up -------------------------------------------------------------------------------------------------------------


def test_where_there_is_one_host_it_says_nothing_of_others(start: Start) -> None:
    world = start()
    assert up(world) == (200, '{"health":"OK"}')
    world.trouble = "shard 0 does not answer"
    assert up(world) == (503, '{"health":"shard 0 does not answer"}')


@pytest.mark.parametrize(
    ("outage_health", "degraded"),
    [
        (200, (200, '{"health":"OK","scaling":"degraded"}')),
        (503, (503, '{"health":"the other hosts cannot be reached","scaling":"degraded"}')),
    ],
)
def test_it_says_how_this_host_stands_with_the_others(
    start: Start, outage_health: int, degraded: tuple[int, str]
) -> None:
    world = start(enabled=True, outage_health=outage_health)
    assert up(world) == (200, '{"health":"OK","scaling":"ok"}')
    world.hub.receive([AWAY])
    assert up(world) == degraded
    world.trouble = "shard 0 does not answer"
    assert up(world) == (503, '{"health":"shard 0 does not answer","scaling":"degraded"}')
    world.trouble = ""
    world.hub.receive([BACK])
    assert up(world) == (200, '{"health":"OK","scaling":"ok"}')


def test_the_outage_is_over_when_every_shard_says_so(start: Start) -> None:
    world = start(enabled=True)
    world.hub.receive([AWAY, replace(AWAY, shard=1), BACK, BACK])
    assert world.context.health.degraded
    assert not world.context.health.reason, "its clients are served"
    world.hub.receive([Standing(1, "another reason"), Standing(1, "")])
    assert not world.context.health.degraded


# --- REST ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "value", "body"), WRITING)
def test_what_is_published_meanwhile_is_answered_as_ever(start: Start, path: str, value: Any, body: str) -> None:
    world = start(enabled=True)
    world.hub.receive([AWAY])
    assert parted(world.say(signed("POST", path, value))) == (200, body)


@pytest.mark.parametrize(("path", "value", "body"), WRITING)
def test_what_is_accepted_meanwhile_may_be_202(start: Start, path: str, value: Any, body: str) -> None:
    world = start(enabled=True, outage_publish=202)
    assert parted(world.say(signed("POST", path, value))) == (200, body)
    world.hub.receive([AWAY])
    assert parted(world.say(signed("POST", path, value))) == (202, body)
    world.hub.receive([BACK])
    assert parted(world.say(signed("POST", path, value))) == (200, body)


@pytest.mark.parametrize(("path", "value", "body"), WRITING)
def test_what_is_refused_has_not_been_done(start: Start, path: str, value: Any, body: str) -> None:
    world = start(enabled=True, outage_publish=503)
    assert parted(world.say(signed("POST", path, value))) == (200, body)
    world.hub.receive([AWAY])
    world.kept = []
    answer = world.say(signed("POST", path, value))
    assert parted(answer) == (503, '{"error":"The other hosts cannot be reached. Nothing has been done."}')
    assert b"Retry-After: 1\r\n" in answer
    assert world.kept == [], "no shard has been asked"


@pytest.mark.parametrize("outage_publish", [200, 202, 503])
@pytest.mark.parametrize("path", READING)
def test_who_asks_is_told_what_this_host_knows(start: Start, outage_publish: int, path: str) -> None:
    world = start(enabled=True, outage_publish=outage_publish)
    before = world.say(signed("GET", path))
    world.hub.receive([AWAY])
    assert world.say(signed("GET", path)) == before
    assert parted(before)[0] in (200, 404)


@pytest.mark.parametrize(("before", "meanwhile"), [(BACK, AWAY), (AWAY, BACK)])
def test_an_outage_that_begins_or_ends_meanwhile(start: Start, before: Standing, meanwhile: Standing) -> None:
    """The first was not there when it was asked for, nor the last when it was published: nobody knows who has it."""
    world = start(enabled=True, outage_publish=202)
    world.hub.receive([before])
    world.kept = []
    assert world.say(signed("POST", "/events", EVENT)) == b""
    world.hub.receive([meanwhile])
    assert parted(world.release(1)) == (202, "{}")


@pytest.mark.parametrize("outage_publish", [200, 202, 503])
def test_a_stranger_is_told_nothing_of_it(start: Start, outage_publish: int) -> None:
    world = start(enabled=True, outage_publish=outage_publish)
    world.hub.receive([AWAY])
    assert parted(world.say(signed("POST", "/events", EVENT, b"wrong")))[0] == 401


def test_a_mistake_is_one_in_an_outage_too(start: Start) -> None:
    world = start(enabled=True)
    world.hub.receive([AWAY])
    assert parted(world.say(signed("POST", "/events", {"name": "e"})))[0] == 422
