"""Two hosts on one Redis are one system: what happens through one is seen through the other, at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.cluster import Crowd, Peer, Stage
from tests.support.eventually import eventually
from tests.support.hosts import PATIENCE_S, Hosts, says
from tests.support.rest import Rest
from tests.support.server import ONE_APP

LIMIT = 40
LIMITED = {"app_id": "app2", "key": "key2", "secret": "secret1", "max_connections": LIMIT}
#: An app whose connections nobody else counts.
COUNTED = {"app_id": "app3", "key": "key3", "secret": "secret1"}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Shared by the tests of this module, which leave them as they are."""
    with Hosts(tmp_path_factory.mktemp("hosts"), apps=[ONE_APP, LIMITED, COUNTED]) as running:
        yield running


class Both:
    """A client and a REST connection on each host."""

    def __init__(self, hosts: Hosts, number: int = 1) -> None:
        self.hosts, self.key = hosts, f"key{number}"
        self.clients: list[Client] = []
        self.here, self.there = self.client(0), self.client(1)
        self.rests = [Rest(each.host, each.port, f"app{number}", self.key) for each in hosts.servers]

    def client(self, host: int) -> Client:
        """Another one, on that host."""
        server = self.hosts.servers[host]
        self.clients.append(Client(server.host, server.port, f"/app/{self.key}").established())
        return self.clients[-1]

    def close(self) -> None:
        for each in (*self.clients, *self.rests):
            each.close()


@pytest.fixture
def both(hosts: Hosts) -> Iterator[Both]:
    with closing(Both(hosts)) as found:
        yield found


def event(channel: str, data: str, name: str = "e") -> dict[str, Any]:
    """A published event as a subscriber gets it."""
    return {"event": name, "data": data, "channel": channel}


def edge(client: Client) -> tuple[str, str]:
    """Who has come or gone, by the next event."""
    got = client.event()
    return got["event"].rpartition("_")[2], json.loads(got["data"])["user_id"]


def sign_in(client: Client, user: str) -> None:
    data = json.dumps({"id": user})
    client.send("pusher:signin", {"auth": client.auth(":user:", data), "user_data": data})
    assert client.event()["event"] == "pusher:signin_success"


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["news", "private-news", "presence-news", "cache-news", "private-encrypted-news"])
def test_publishing_through_either_reaches_both(both: Both, channel: str) -> None:
    member = {"user_id": "ann"} if channel.startswith("presence") else None
    for client in both.clients:
        client.subscribe(channel, member)
        assert client.event()["event"] == "pusher_internal:subscription_succeeded"
        assert not channel.startswith("cache") or client.event()["event"] == "pusher:cache_miss"
    for number, rest in enumerate(both.rests):
        assert rest.publish(channel, "e", str(number)).status == 200
        assert [client.event() for client in both.clients] == [event(channel, str(number))] * 2


def test_a_batch_keeps_its_order(both: Both) -> None:
    for client in both.clients:
        client.subscribed("batched")
    batch = [{"channel": "batched", "name": "e", "data": str(number)} for number in range(10)]
    for rest in both.rests:
        assert rest.call("POST", "/batch_events", {"batch": batch}).status == 200
        for client in both.clients:
            assert [client.event()["data"] for _ in batch] == [each["data"] for each in batch]


def test_all_see_one_order(both: Both) -> None:
    for client in both.clients:
        client.subscribed("ordered")

    def publish(rest: Rest) -> set[int]:
        return {rest.publish("ordered", "e", f"{id(rest)}-{number}").status for number in range(50)}

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(publish, both.rests)) == [{200}, {200}]
    first, other = [[client.event()["data"] for _ in range(100)] for client in both.clients]
    assert first == other
    for rest in both.rests:
        own = [text for text in first if text.startswith(f"{id(rest)}-")]
        assert own == [f"{id(rest)}-{number}" for number in range(50)]


def test_exclusion_by_socket_id(both: Both) -> None:
    for client in both.clients:
        client.subscribed("excluding")
    for rest in both.rests:
        for excluded in both.clients:
            assert rest.publish("excluding", "e", "others", socket_id=excluded.socket_id).status == 200
            assert rest.publish("excluding", "e", "all").status == 200
            for client in both.clients:
                wanted = ["all"] if client is excluded else ["others", "all"]
                assert [client.event()["data"] for _ in wanted] == wanted


@pytest.mark.parametrize("channel", ["private-chat", "presence-chat"])
def test_client_events(both: Both, channel: str) -> None:
    both.client(0)
    for client in both.clients:
        client.subscribed(channel, {"user_id": "ann"} if channel.startswith("presence") else None)
    for number, sender in enumerate(both.clients):
        sender.send("client-typing", {"number": number}, channel=channel)
        for client in both.clients:
            if client is not sender:
                got = client.event()
                assert (got["event"], got["channel"], got["data"]) == ("client-typing", channel, {"number": number})
    assert both.rests[0].publish(channel, "e", "end").status == 200
    assert [client.event() for client in both.clients] == [event(channel, "end")] * 3


def test_cache_channels(both: Both) -> None:
    for number, rest in enumerate(both.rests):
        channel = f"cache-{number}"
        for client in both.clients:
            client.subscribed(channel)
            assert client.event() == {"event": "pusher:cache_miss", "channel": channel}
            client.send("pusher:unsubscribe", {"channel": channel})
        assert rest.publish(channel, "e", f"kept {number}").status == 200
        for client in (both.client(0), both.client(1)):
            client.subscribed(channel)
            assert client.event() == event(channel, f"kept {number}")


def test_send_to_user(both: Both) -> None:
    bob = both.client(1)
    for client, user in zip(both.clients, ("ann", "ann", "bob"), strict=True):
        sign_in(client, user)
    for number, rest in enumerate(both.rests):
        for user, wanted in (("bob", [bob]), ("ann", [both.here, both.there])):
            text = f"{user} {number}"
            assert rest.call("POST", f"/users/{user}/events", {"name": "e", "data": text}).status == 200
            assert [client.event()["data"] for client in wanted] == [text] * len(wanted)


def test_terminate_connections(both: Both) -> None:
    for number, rest in enumerate(both.rests):
        user = f"gone-{number}"
        doomed = [both.client(host) for host in (0, 1, 0, 1)]
        for client in doomed[:2]:
            sign_in(client, user)
        for client in doomed[2:]:
            client.subscribed("presence-doomed", {"user_id": user})
        assert rest.call("POST", f"/users/{user}/terminate_connections").status == 200
        assert [client.closed() for client in doomed] == [4009] * 4
    assert both.here.barrier() == both.there.barrier() == []


def test_a_subscriber_is_on_the_channel_before_it_is_told_so(both: Both) -> None:
    """Subscribe here, publish there, 200 times."""
    for number in range(200):
        channel = f"barrier-{number}"
        both.here.subscribed(channel)
        assert both.rests[1].publish(channel, "e", "x").status == 200
        assert both.here.event() == event(channel, "x")
        both.here.send("pusher:unsubscribe", {"channel": channel})


# --- presence ---------------------------------------------------------------------------------------------------------


def test_members_are_those_of_both(both: Both) -> None:
    room = "presence-room"
    both.here.subscribed(room, {"user_id": "ann", "user_info": {"name": "Ann"}})
    data = both.there.subscribed(room, {"user_id": "bob", "user_info": {"name": "Bob"}})["presence"]
    assert (data["count"], sorted(data["ids"])) == (2, ["ann", "bob"])
    assert data["hash"] == {"ann": {"name": "Ann"}, "bob": {"name": "Bob"}}
    assert edge(both.here) == ("added", "bob")
    both.here.close()
    assert edge(both.there) == ("removed", "ann")
    ids = both.client(0).subscribed(room, {"user_id": "cid"})["presence"]["ids"]
    assert sorted(ids) == ["bob", "cid"]


def test_a_user_on_both_comes_once_and_goes_once(both: Both) -> None:
    room = "presence-once"
    for client, user in ((both.here, "watch-0"), (both.there, "watch-1")):
        client.subscribed(room, {"user_id": user})
    assert edge(both.here) == ("added", "watch-1")
    first, second = both.client(0), both.client(1)
    for client in (first, second):
        ids = client.subscribed(room, {"user_id": "ann"})["presence"]["ids"]
        assert sorted(ids) == ["ann", "watch-0", "watch-1"]
    for watcher in (both.here, both.there):
        assert edge(watcher) == ("added", "ann")
    first.send("pusher:unsubscribe", {"channel": room})
    first.barrier()
    assert both.rests[0].publish(room, "e", "between").status == 200
    for watcher in (both.here, both.there):
        assert watcher.event() == event(room, "between")
    second.close()
    for watcher in (both.here, both.there):
        assert edge(watcher) == ("removed", "ann")
    assert both.rests[1].publish(room, "e", "end").status == 200
    for watcher in (both.here, both.there):
        assert watcher.event() == event(room, "end")


# --- what REST says ---------------------------------------------------------------------------------------------------


def test_counts_on_the_other_host_right_after_the_fact(both: Both) -> None:
    room, plain = "presence-counted", "counted"
    for number in range(10):
        client = both.client(number % 2)
        client.subscribed(f"{plain}-{number}")
        client.subscribed(f"{room}-{number}", {"user_id": f"user-{number}"})
        other = both.rests[1 - number % 2]
        assert other.call("GET", f"/channels/{plain}-{number}", query={"info": "subscription_count"}).json() == {
            "occupied": True,
            "subscription_count": 1,
        }
        assert other.call("GET", f"/channels/{room}-{number}/users").json() == {"users": [{"id": f"user-{number}"}]}
        found = other.call("GET", "/channels", query={"filter_by_prefix": f"{room}-{number}", "info": "user_count"})
        assert found.json() == {"channels": {f"{room}-{number}": {"user_count": 1}}}


def test_counts_add_up(both: Both) -> None:
    room, plain = "presence-added-up", "added-up"
    users = ("ann", "ann", "bob", "cid")
    for client, user in zip([*both.clients, both.client(0), both.client(1)], users, strict=True):
        client.subscribed(plain)
        client.subscribed(room, {"user_id": user})
    for rest in both.rests:
        body = {"name": "e", "data": "x", "channels": [plain, room, "nobody-there"]}
        answer = rest.call("POST", "/events", {**body, "info": "subscription_count,user_count"})
        wanted = {plain: {"subscription_count": 4}, room: {"user_count": 3}, "nobody-there": {}}
        assert answer.json() == {"channels": wanted}
        listed = rest.call("GET", f"/channels/{room}/users").json()["users"]
        assert sorted(user["id"] for user in listed) == ["ann", "bob", "cid"]


def test_connections(hosts: Hosts) -> None:
    with closing(Both(hosts, 3)) as both:
        for number, client in enumerate((both.here, both.there, both.client(1)), 1):
            client.subscribed("connected")
            for rest in both.rests:
                assert rest.call("GET", "/connections").json() == {"connections": number}
        both.there.close()
        for rest in both.rests:
            eventually(lambda rest=rest: rest.call("GET", "/connections").json() == {"connections": 2})


# --- limits -----------------------------------------------------------------------------------------------------------


def arrive(crowd: Crowd, hosts: Hosts, count: int) -> list[Peer]:
    """So many clients at once, on all hosts; those that were let in."""
    peers = [Peer(crowd, hosts.servers[number % 2]) for number in range(count)]
    crowd.until(lambda: all(peer.stage is not Stage.OPENING for peer in peers))
    admitted = [peer for peer in peers if peer.stage is Stage.ESTABLISHED]
    assert all(peer.error == 4004 for peer in peers if peer not in admitted)
    return admitted


def test_max_connections_holds_over_both(hosts: Hosts) -> None:
    with Crowd(hosts.servers[0], key="key2") as crowd:
        admitted = arrive(crowd, hosts, 60)
        assert len(admitted) == LIMIT
        assert arrive(crowd, hosts, 10) == []
        for peer in admitted[:10]:
            peer.leave()
        again: list[Peer] = []

        def fit() -> bool:
            again.extend(arrive(crowd, hosts, 8))
            return len(again) >= 10

        eventually(fit)
        assert len(again) == 10


# --- without Redis ----------------------------------------------------------------------------------------------------


def test_each_serves_its_own_while_redis_is_away_and_they_rejoin(tmp_path: Path) -> None:
    with Hosts(tmp_path) as hosts, closing(Both(hosts)) as both:
        assert all("degraded" not in says(server).values() for server in hosts.servers)
        for client in both.clients:
            client.subscribed("news")
        hosts.redis.stop()
        for number, (client, rest) in enumerate(zip(both.clients, both.rests, strict=True)):
            assert rest.publish("news", "e", f"alone {number}").status in (200, 202)
            assert client.event() == event("news", f"alone {number}")
        for server in hosts.servers:
            eventually(lambda server=server: says(server).get("scaling") == "degraded", PATIENCE_S)
            assert says(server)["health"] == "OK"
        late = both.client(0)
        late.subscribed("late")
        assert both.rests[0].publish("late", "e", "own").status in (200, 202)
        assert late.event() == event("late", "own")
        hosts.redis.start()
        assert both.here.event() == event("news", "alone 1")  # what was kept for the other, both ways
        assert both.there.event() == event("news", "alone 0")
        hosts.rejoined()
        for number, rest in enumerate(both.rests):
            assert rest.publish("news", "e", f"together {number}").status == 200
            assert [each.event() for each in (both.here, both.there)] == [event("news", f"together {number}")] * 2
        assert both.rests[1].publish("late", "e", "other").status == 200
        assert late.event() == event("late", "other")
