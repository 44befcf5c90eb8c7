"""A host that cannot reach the others: what its settings make of that, and what its metrics say. With a real Redis."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.client import Client
from tests.support.cluster import shards_of
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.redis import RedisServer
from tests.support.rest import Rest
from tests.support.server import Server

#: How long a host may take to find that Redis has gone, or is back, in seconds.
PATIENCE_S = 60
OK = b'{"health":"OK","scaling":"ok"}'
ALONE = b'{"health":"the other hosts cannot be reached","scaling":"degraded"}'


def asked(port: int, path: str) -> tuple[int, bytes]:
    """Status and body."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def metrics(port: int) -> dict[str, float]:
    """Numbers by name; what has a label is of the only app."""
    status, text = asked(port, "/metrics")
    if status != 200:
        return {}
    families = text_string_to_metric_families(text.decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def counted(port: int) -> bool:
    """Whether that host has heard of what is on the other."""
    return metrics(port).get("resonate_cluster_subscriptions") == 2


def test_who_may_not_be_alone_refuses_and_says_so(tmp_path: Path, start: Callable[..., Server]) -> None:
    """One worker, whose shard is a process, and two shards: both have to be there again."""
    with RedisServer(tmp_path / "redis") as redis:
        scaling = {"enabled": True, "patience": 0.5, "outage_publish": "refuse", "outage_health": "down"}
        scaling["server"] = {"port": redis.port}
        port = free_port()
        server = start(
            command=["resonate", "start", "--host", "127.0.0.1", "--port", "{port}"],
            server={"scaling": scaling, "bus_shards": 2, "metrics_port": port},
        )
        rest = Rest(server.host, server.port)
        with closing(rest), Client(server.host, server.port).established() as client:
            client.subscribed("news")
            assert asked(server.port, "/up") == (200, OK)
            assert rest.publish("news", "e", "1").status == 200
            assert client.event()["data"] == "1"
            redis.stop()
            eventually(lambda: asked(server.port, "/up") == (503, ALONE), PATIENCE_S)
            refused = rest.publish("news", "e", "2")
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert rest.call("GET", "/channels").json() == {"channels": {"news": {}}}
            eventually(lambda: metrics(port).get("resonate_scaling_degraded") == 2, PATIENCE_S)
            redis.start()
            eventually(lambda: asked(server.port, "/up") == (200, OK), PATIENCE_S)
            assert rest.publish("news", "e", "3").status == 200
            assert client.event()["data"] == "3", "what was refused has not been published"
            found = metrics(port)
            assert found["resonate_scaling_degraded"] == 0
            assert found["resonate_scaling_redis_losses_total"] >= 2


def test_an_accepted_event_is_202_and_all_hosts_count_together(tmp_path: Path, start: Callable[..., Server]) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        scaling = {"enabled": True, "patience": 0.5, "secret": "0123456789abcdef", "server": {"port": redis.port}}
        ports = [free_port(), free_port()]
        words = ["resonate", "start", "--host", "127.0.0.1", "--port", "{port}"]
        one, two = (start(command=words, server={"scaling": scaling, "metrics_port": port}) for port in ports)
        assert [len(shards_of(server)) for server in (one, two)] == [1, 1]
        rest = Rest(one.host, one.port)
        with (
            closing(rest),
            Client(one.host, one.port).established() as here,
            Client(two.host, two.port).established() as there,
        ):
            here.subscribed("news")
            there.subscribed("news")
            for port in ports:
                eventually(partial(counted, port), PATIENCE_S)
                found = metrics(port)
                assert found["resonate_subscriptions"] == found["resonate_connections"] == 1
                assert (found["resonate_cluster_connections"], found["resonate_cluster_channels"]) == (2, 1)
            redis.stop()
            eventually(lambda: rest.publish("news", "e", "1").status == 202, PATIENCE_S)
            answer = rest.publish("news", "e", "2")
            assert (answer.status, answer.body) == (202, b"{}")
            assert rest.call("POST", "/users/7/terminate_connections").status == 202
            redis.start()
            eventually(lambda: rest.publish("news", "e", "3").status == 200, PATIENCE_S)
            eventually(lambda: there.event()["data"] == "3")
