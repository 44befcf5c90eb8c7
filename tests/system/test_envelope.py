"""Two hosts with the envelope of Reverb: programs on its Redis channel reach all clients, and hear what happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.client import Client
from tests.support.cluster import kill, shards_of
from tests.support.eventually import eventually
from tests.support.hosts import PATIENCE_S, Hosts, says
from tests.support.rest import Rest
from tests.support.server import ONE_APP, Server

CHANNEL = "reverb"
HOST = "resonate_host"
#: How a genuine Reverb 1.10 writes the app.
PHP_APP = 'O:26:"Laravel\\Reverb\\Application":11:{s:5:"\0*\0id";s:4:"app1";s:6:"\0*\0key";s:4:"key1";}'


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Shared by the tests of this module, which leave them as they are."""
    with Hosts(tmp_path_factory.mktemp("hosts"), scaling={"envelope": "resonate"}) as running:
        yield running


class Program:
    """A program that is no host, and two clients on each host."""

    def __init__(self, hosts: Hosts) -> None:
        self.redis = hosts.redis.client()
        self.listening = self.redis.pubsub(ignore_subscribe_messages=True)
        self.listening.subscribe(CHANNEL)
        self.clients = [
            Client(server.host, server.port, "/app/key1").established() for server in hosts.servers for _ in range(2)
        ]
        self.rests = [Rest(server.host, server.port, "app1", "key1") for server in hosts.servers]

    def say(self, value: Any, **more: Any) -> None:
        """An event, or whatever is no payload of one."""
        if isinstance(value, dict):
            value = json.dumps({"type": "message", "application": "app1", "payload": value, **more})
        self.redis.publish(CHANNEL, value)

    def heard(self, count: int) -> list[dict[str, Any]]:
        """So many messages of hosts."""
        found: list[dict[str, Any]] = []

        def all_of_them() -> bool:
            message = self.listening.get_message(timeout=0.1)
            if message is not None:
                value = json.loads(message["data"])
                found.extend([value] if HOST in value else [])
            return len(found) >= count

        eventually(all_of_them)
        return found

    def subscribe(self, channel: str, member: dict[str, Any] | None = None) -> None:
        for client in self.clients:
            client.subscribed(channel, member)

    def events(self) -> list[dict[str, Any]]:
        """The next event of each."""
        return [client.event() for client in self.clients]

    def close(self) -> None:
        self.listening.close()  # type: ignore[no-untyped-call]
        self.redis.close()
        for each in (*self.clients, *self.rests):
            each.close()


@pytest.fixture
def program(hosts: Hosts) -> Iterator[Program]:
    with closing(Program(hosts)) as found:
        yield found


def event(channel: str, data: Any, name: str = "e") -> dict[str, Any]:
    return {"event": name, "data": data, "channel": channel}


def last(program: Program, channel: str) -> None:
    """All have heard what was said before, and nothing more."""
    program.say({"event": "last", "channels": [channel], "data": ""})
    assert program.events() == [event(channel, "", "last")] * len(program.clients)


# --- what programs say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", ["app1", PHP_APP])
def test_an_event_reaches_all_clients_once_but_for_the_sender(program: Program, app: str) -> None:
    program.subscribe("room")
    program.say({"event": "e", "channels": ["room", "elsewhere"], "data": '{"a":1}'}, application=app)
    assert program.events() == [event("room", '{"a":1}')] * 4
    sender = program.clients[-1]
    program.say({"event": "e", "channel": "room", "data": {"a": [1]}}, application=app, socket_id=sender.socket_id)
    assert [client.event() for client in program.clients[:-1]] == [event("room", {"a": [1]})] * 3
    last(program, "room")


def test_events_keep_their_order(program: Program) -> None:
    program.subscribe("ordered")
    for number in range(50):
        program.say({"event": "e", "channels": ["ordered"], "data": str(number)})
    for client in program.clients:
        assert [client.event()["data"] for _ in range(50)] == [str(number) for number in range(50)]


def test_a_cache_channel_keeps_what_it_is_told(hosts: Hosts, program: Program) -> None:
    for number in range(10):  # so that they have homes on all shards
        channel = f"cache-{number}"
        first = program.clients[0]
        first.subscribed(channel)
        assert first.event()["event"] == "pusher:cache_miss"
        program.say({"event": "e", "channels": [channel], "data": "kept"})
        assert first.event() == event(channel, "kept")
        for client in program.clients[1:]:
            client.subscribed(channel)
            assert client.event() == event(channel, "kept")
        ttl = program.redis.ttl(f"reverb:{{app1/{channel}}}:cached")
        assert 1700 < ttl <= 1800


def test_connections_of_a_user_are_closed_on_all_hosts(program: Program) -> None:
    others = program.clients[::2]
    for number, client in enumerate(program.clients):
        client.subscribed("presence-room", {"user_id": "ann" if client not in others else f"u{number}"})
    program.redis.publish(
        CHANNEL, json.dumps({"type": "terminate", "application": "app1", "payload": {"user_id": "ann"}})
    )
    for client in program.clients[1::2]:
        client.closed()
    for client in others:
        while (got := client.event())["event"] != "pusher_internal:member_removed":
            assert got["event"] == "pusher_internal:member_added"
        assert json.loads(got["data"]) == {"user_id": "ann"}


def message(channels: list[str], data: str, **more: Any) -> str:
    payload = {"event": "e", "channels": channels, "data": data}
    return json.dumps({"type": "message", "application": "app1", "payload": payload, **more})


GARBAGE = [
    "[]",
    "hello",
    "{}",
    "[" * 10_000,
    b"\xff\x00",
    '{"type":"metrics","application":"app1","key":"k","payload":{}}',
    message(["garbage"], "x" * 2**20),
    message(["garbage", *map(str, range(100))], "x"),
    message(["garbage"], "x", application="nobody"),
    message(["garbage"], "x", application={"id": "app1"}),
]


def test_garbage_disturbs_nobody(hosts: Hosts, program: Program) -> None:
    program.subscribe("garbage")
    before = [shards_of(server) for server in hosts.servers]
    for garbage in GARBAGE * 3:
        program.say(garbage)
    last(program, "garbage")
    for rest in program.rests:
        assert rest.publish("garbage", "e", "still").status == 200
        assert program.events() == [event("garbage", "still")] * 4
    assert [shards_of(server) for server in hosts.servers] == before
    assert [says(server)["scaling"] for server in hosts.servers] == ["ok", "ok"]
    eventually(lambda: list(map(complaints, hosts.servers)) == list(map(len, before)))


def complaints(server: Server) -> int:
    """How often its shards say that something is no object: each does once."""
    return server.log().count("it is no object")


# --- what hosts say ---------------------------------------------------------------------------------------------------


def test_who_listens_hears_what_rest_publishes_once(program: Program) -> None:
    program.subscribe("private-told")
    excluded = program.clients[0]
    for rest in program.rests:
        assert rest.publish("private-told", "e", "x", socket_id=excluded.socket_id).status == 200
        assert [client.event() for client in program.clients[1:]] == [event("private-told", "x")] * 3
    assert program.rests[0].call("POST", "/users/nobody/terminate_connections", {}).status == 200
    excluded.send("client-e", {"n": 1}, channel="private-told")
    for client in program.clients[1:]:
        assert client.event()["event"] == "client-e"
    messages = program.heard(4)
    assert len({message.pop(HOST) for message in messages}) == 2
    published = {
        "type": "message",
        "application": "app1",
        "payload": {"channels": ["private-told"], **event("private-told", "x")},
        "socket_id": excluded.socket_id,
    }
    assert [message for message in messages if message == published] == [published] * 2
    assert {"type": "terminate", "application": "app1", "payload": {"user_id": "nobody"}} in messages
    assert [message["payload"]["data"] for message in messages if "client-e" in str(message)] == [{"n": 1}]
    last(program, "private-told")
    assert program.rests[1].publish("private-told", "end", "x").status == 200
    assert [message["payload"]["event"] for message in program.heard(1)] == ["end"], "nothing was said twice"


def test_what_each_host_has_is_answered(hosts: Hosts, program: Program) -> None:
    """As a node of the PHP server asks, and adds up."""
    program.subscribe("counted")

    def answers(about: str, **options: Any) -> list[Any]:
        payload = {"key": f"k-{about}", "node": "n", "type": about, "options": options}
        program.say(json.dumps({"type": "metrics", "application": "app1", "payload": payload}))
        found = program.heard(len(hosts.servers))
        assert {answer["payload"]["key"] for answer in found} == {f"k-{about}"}
        return [answer["payload"]["metrics"] for answer in found]

    assert answers("channel", channel="counted", info="occupied,subscription_count") == [
        {"occupied": True, "subscription_count": 2}
    ] * 2
    assert answers("channels", filter="counted") == [{"counted": {}}] * 2
    assert [len(each) for each in answers("connections")] == [2, 2]
    for client, server in zip(program.clients, [server for server in hosts.servers for _ in range(2)], strict=True):
        member = {"user_id": f"{server.host}", "user_info": None}
        client.subscribed("presence-counted", member)
    users = answers("channel_users", channel="presence-counted")
    assert sorted(user["id"] for (user,) in users) == sorted(server.host for server in hosts.servers)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_programs_are_heard_again_after_a_shard_and_redis_have_gone(tmp_path: Path) -> None:
    with (
        Hosts(tmp_path, workers=1, scaling={"envelope": "resonate"}, apps=[ONE_APP]) as hosts,
        closing(Program(hosts)) as program,
    ):
        program.subscribe("room")
        for server in hosts.servers:
            before = shards_of(server)
            for shard in before:
                kill(shard)
            eventually(partial(_others, server, before), PATIENCE_S)
        hosts.rejoined()
        _heard_again(program)
        hosts.redis.stop()
        eventually(lambda: len(hosts.degraded()) == 2, PATIENCE_S)
        assert program.rests[0].publish("room", "e", "alone").status == 200
        hosts.redis.start()
        hosts.rejoined()
        _heard_again(program)


def _others(server: Server, before: list[int]) -> bool:
    now = shards_of(server)
    return len(now) == len(before) and not set(now) & set(before)


def _heard_again(program: Program) -> None:
    """A program that speaks while nobody listens is not heard: it says it until all have."""
    waiting = list(program.clients)

    def all_have() -> bool:
        try:
            program.say({"event": "again", "channels": ["room"], "data": ""})
        except redis.ConnectionError:
            return False
        waiting[:] = [client for client in waiting if "again" not in [each["event"] for each in client.barrier()]]
        return not waiting

    eventually(all_have, PATIENCE_S)
