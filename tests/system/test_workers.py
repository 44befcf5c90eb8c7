"""Several workers are one system: what happens through one of them is seen through all."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.bench.storm import barrier
from tests.support.client import Client
from tests.support.cluster import (
    KINDS,
    Crowd,
    Everywhere,
    Kind,
    Peer,
    Stage,
    clients_on,
    cluster,
    holders,
    rests_on,
    settled,
    shards_of,
    workers_of,
)
from tests.support.eventually import eventually
from tests.support.rest import Rest
from tests.support.server import ONE_APP, Server

LIMIT = 150
LIMITED = {"app_id": "app2", "key": "key2", "secret": "secret1", "max_connections": LIMIT}
#: Two shards share them.
CHANNELS = tuple(f"news-{number}" for number in range(6))


@pytest.fixture(scope="module", params=KINDS, ids=str)
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Four workers, shared by the tests that leave them as they are."""
    with cluster(tmp_path_factory.mktemp("many"), request.param, apps=[ONE_APP, LIMITED]) as server:
        yield server


@pytest.fixture
def here(many: Server) -> Iterator[Everywhere]:
    """A client and a REST connection on each worker."""
    with Everywhere(many) as found:
        yield found


def event(channel: str, data: str, name: str = "e") -> dict[str, Any]:
    """A published event as a subscriber gets it."""
    return {"event": name, "data": data, "channel": channel}


def sign_in(client: Client, user: str) -> None:
    data = json.dumps({"id": user})
    client.send("pusher:signin", {"auth": client.auth(":user:", data), "user_data": data})
    assert client.event()["event"] == "pusher:signin_success"


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_worker_has_one_thread(many: Server, here: Everywhere) -> None:
    """Another one would make each `send` dearer: so libzmq is not there, either."""
    for client in here.clients:
        client.subscribed("threads")
    assert here.rests[0].publish("threads", "e", "x").status == 200
    assert [client.event() for client in here.clients] == [event("threads", "x")] * 4
    for worker in workers_of(many):
        assert len(os.listdir(f"/proc/{worker}/task")) == 1
        assert "libzmq" not in Path(f"/proc/{worker}/maps").read_text()
    for shard in shards_of(many):
        assert "libzmq" in Path(f"/proc/{shard}/maps").read_text(), "it would not be found there, either"


# --- events ----------------------------------------------------------------------------------------------------------


def test_publishing_through_any_reaches_all(here: Everywhere) -> None:
    for client in here.clients:
        for channel in CHANNELS:
            client.subscribed(channel)
    for number, rest in enumerate(here.rests):
        for channel in CHANNELS:
            assert rest.publish(channel, "e", str(number)).status == 200
            assert [client.event() for client in here.clients] == [event(channel, str(number))] * 4


def test_exclusion_by_socket_id(here: Everywhere) -> None:
    for client in here.clients:
        client.subscribed("excluding")
    for rest in here.rests:
        for excluded in here.clients:
            assert rest.publish("excluding", "e", "others", socket_id=excluded.socket_id).status == 200
            assert rest.publish("excluding", "e", "all").status == 200
            for client in here.clients:
                first = "all" if client is excluded else "others"
                assert client.event() == event("excluding", first)
            for client in here.clients:
                assert client is excluded or client.event() == event("excluding", "all")


def test_a_batch_keeps_its_order(here: Everywhere) -> None:
    for client in here.clients:
        for channel in CHANNELS:
            client.subscribed(channel)
    for turn, rest in enumerate(here.rests):
        texts = [f"{turn}-{number}" for number in range(5)]
        batch = [{"channel": channel, "name": "e", "data": text} for text in texts for channel in CHANNELS[:2]]
        assert rest.call("POST", "/batch_events", {"batch": batch}).status == 200
        for client in here.clients:
            got = [client.event() for _ in batch]
            for channel in CHANNELS[:2]:
                assert [each["data"] for each in got if each["channel"] == channel] == texts


def test_all_see_one_order(here: Everywhere) -> None:
    for client in here.clients:
        client.subscribed("ordered")

    def publish(rest: Rest) -> list[int]:
        return [rest.publish("ordered", "e", f"{id(rest)}-{number}").status for number in range(25)]

    with ThreadPoolExecutor(len(here.rests)) as pool:
        assert list(pool.map(publish, here.rests)) == [[200] * 25] * 4
    first, *others = [[client.event()["data"] for _ in range(100)] for client in here.clients]
    assert all(other == first for other in others)
    for rest in here.rests:
        own = [text for text in first if text.startswith(f"{id(rest)}-")]
        assert own == [f"{id(rest)}-{number}" for number in range(25)]


def test_client_events(here: Everywhere) -> None:
    for client in here.clients:
        client.subscribed("private-chat")
    for number, sender in enumerate(here.clients):
        sender.send("client-typing", {"number": number}, channel="private-chat")
        for client in here.clients:
            if client is not sender:
                got = client.event()
                assert (got["event"], got["channel"]) == ("client-typing", "private-chat")
                assert json.loads(got["data"]) if isinstance(got["data"], str) else got["data"] == {"number": number}
    assert here.rests[0].publish("private-chat", "e", "end").status == 200
    assert [client.event() for client in here.clients] == [event("private-chat", "end")] * 4


def test_cache_channels(here: Everywhere) -> None:
    for number, rest in enumerate(here.rests):
        channel = f"cache-{number}"
        assert rest.publish(channel, "e", f"kept {number}").status == 200
        for client in here.clients:
            client.subscribed(channel)
            assert client.event() == event(channel, f"kept {number}")
        here.clients[number].subscribed(f"cache-empty-{number}")
        assert here.clients[number].event() == {"event": "pusher:cache_miss", "channel": f"cache-empty-{number}"}


def test_send_to_user(here: Everywhere) -> None:
    for client, user in zip(here.clients, ("ann", "ann", "bob", "ann"), strict=True):
        sign_in(client, user)
    for number, rest in enumerate(here.rests):
        for user, wanted in (("bob", [2]), ("ann", [0, 1, 3])):
            text = f"{user} {number}"
            assert rest.call("POST", f"/users/{user}/events", {"name": "e", "data": text}).status == 200
            for index in wanted:
                assert here.clients[index].event()["data"] == text


def test_a_subscriber_is_on_the_channel_before_it_is_told_so(many: Server) -> None:
    assert barrier(many, 300) == 0


# --- counts ----------------------------------------------------------------------------------------------------------


def test_counts(here: Everywhere) -> None:
    room, plain = "presence-counted", "counted"
    for client, user in zip(here.clients, ("ann", "ann", "bob", "cid"), strict=True):
        client.subscribed(plain)
        client.subscribe(room, {"user_id": user})
    for rest in here.rests:
        eventually(partial(counted, rest, room, 3))
        assert rest.call("GET", f"/channels/{plain}", query={"info": "subscription_count"}).json() == {
            "occupied": True,
            "subscription_count": 4,
        }
        users = rest.call("GET", f"/channels/{room}/users").json()["users"]
        assert sorted(user["id"] for user in users) == ["ann", "bob", "cid"]
        info = {"filter_by_prefix": "presence-counted", "info": "user_count"}
        assert rest.call("GET", "/channels", query=info).json() == {"channels": {room: {"user_count": 3}}}
        found = rest.call("GET", "/channels").json()["channels"]
        assert {room, plain} <= set(found)
        eventually(partial(connected, rest, 4))  # those of other tests go at their own pace


def connected(rest: Rest, count: int) -> bool:
    return bool(rest.call("GET", "/connections").json() == {"connections": count})


def counted(rest: Rest, room: str, count: int) -> bool:
    return user_count(rest, room) == count


def user_count(rest: Rest, room: str) -> int | None:
    answer = rest.call("GET", f"/channels/{room}", query={"info": "user_count"}).json()
    count: int | None = answer.get("user_count")
    return count


def test_info_of_a_publication(here: Everywhere) -> None:
    for client in here.clients[:3]:
        client.subscribed("informed")
        client.subscribed("presence-informed", {"user_id": "ann"})
    for rest in here.rests:
        body = {"name": "e", "data": "x", "channels": ["informed", "presence-informed", "nobody-there"]}
        answer = rest.call("POST", "/events", {**body, "info": "subscription_count,user_count"})
        assert answer.json() == {
            "channels": {
                "informed": {"subscription_count": 3},
                "presence-informed": {"user_count": 1},
                "nobody-there": {},
            }
        }


def test_terminate_connections(many: Server, here: Everywhere) -> None:
    for number, rest in enumerate(here.rests):
        user = f"gone-{number}"
        doomed = clients_on(many, *here.workers)
        for client in doomed[:2]:
            sign_in(client, user)
        doomed[2].subscribed("presence-doomed", {"user_id": user})
        sign_in(doomed[3], "stays")
        assert rest.call("POST", f"/users/{user}/terminate_connections").status == 200
        assert [client.closed() for client in doomed[:3]] == [4009] * 3
        assert doomed[3].barrier() == []
        for client in doomed:
            client.close()


def test_answers_take_no_time(here: Everywhere) -> None:
    """Nothing is collected for a while before it is answered."""
    here.clients[0].subscribed("presence-timed", {"user_id": "ann"})
    paths = ("/channels", "/channels/presence-timed", "/channels/presence-timed/users", "/connections")
    for path in paths:
        waits = [timed(here.rests[number % 4], path) for number in range(50)]
        assert median(waits) < 0.5


def timed(rest: Rest, path: str) -> float:
    began = time.perf_counter()
    assert rest.call("GET", path).status == 200
    return time.perf_counter() - began


# --- limits ----------------------------------------------------------------------------------------------------------


def arrive(crowd: Crowd, count: int) -> list[Peer]:
    """So many clients at once; those that were let in."""
    peers = [Peer(crowd) for _ in range(count)]
    crowd.until(lambda: all(peer.stage is not Stage.OPENING for peer in peers))
    admitted = [peer for peer in peers if peer.stage is Stage.ESTABLISHED]
    assert all(peer.error == 4004 for peer in peers if peer not in admitted)
    return admitted


def test_max_connections_holds_over_all_workers(many: Server) -> None:
    with Crowd(many, key="key2") as crowd:
        admitted = arrive(crowd, 200)
        assert len(admitted) == LIMIT
        assert len(set(holders(many, [peer.socket for peer in admitted]))) > 1
        assert arrive(crowd, 20) == []
        for peer in admitted[:10]:
            peer.leave()
        again: list[Peer] = []

        def fit() -> bool:
            again.extend(arrive(crowd, 8))
            return len(again) >= 10

        eventually(fit)
        assert len(again) == 10
        assert arrive(crowd, 20) == []


# --- more and fewer workers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind("gunicorn", 1), Kind("own", 1)], ids=str)
def test_from_one_worker_to_two_and_back(kind: Kind, start: Callable[..., Server]) -> None:
    """The first worker has its shard inside, and gives it up when another comes."""
    server = start(command=kind.command(1))
    (first,) = eventually(lambda: workers_of(server))
    assert shards_of(server) == []
    with Client(server.host, server.port) as ann:
        ann.established().subscribed("presence-room", {"user_id": "ann"})
        ann.subscribed("news")
        server.process.send_signal(signal.SIGTTIN)
        eventually(lambda: settled(server, 2, 1))
        (second,) = set(workers_of(server)) - {first}
        (bob,) = clients_on(server, second)
        with bob:
            two_are_one(server, {first: ann, second: bob})
            server.process.send_signal(signal.SIGTTOU)
            eventually(lambda: len(workers_of(server)) == 1)
            with Client(server.host, server.port) as cid:
                data = cid.established().subscribed("presence-room", {"user_id": "cid"})
                assert data["presence"]["count"] == 3
                for stays in (ann, bob):  # the one has changed its worker
                    assert stays.event()["event"] == "pusher_internal:member_added"
    assert server.stop() == 0
    assert "Traceback" not in server.log()


def two_are_one(server: Server, clients: dict[int, Client]) -> None:
    """The second has come: it sees the first, and both hear what is published through either."""
    ann, bob = clients.values()
    data = bob.subscribed("presence-room", {"user_id": "bob"})
    assert sorted(data["presence"]["ids"]) == ["ann", "bob"]
    assert ann.event()["event"] == "pusher_internal:member_added"
    bob.subscribed("news")
    for worker in clients:
        (rest,) = rests_on(server, worker)
        assert rest.publish("news", "e", str(worker)).status == 200
        assert [ann.event(), bob.event()] == [event("news", str(worker))] * 2
        assert user_count(rest, "presence-room") == 2
        rest.close()
