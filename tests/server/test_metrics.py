"""What Prometheus reads: that it is complete, true and documented; and how it is asked for."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from resonate import __version__, counters
from resonate.counters import Snapshot
from resonate.pusher import signatures
from resonate.server import metrics
from resonate.server.context import Metrics, Nowhere, Route, metrics_route
from resonate.server.stats import BUCKETS_S, Stats
from tests.docs.pages import table
from tests.server.support import World

LOG = logging.getLogger("test")
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"

SHARD: Snapshot = {
    "apps": {"app1": [3, 5, 2], "app2": [1, 0, 0]},
    "requests": 40,
    "frames_in": 30,
    "frames_out": 20,
    "undecodable": 1,
    "queue_bytes": {"w-1": 100, "w-2": 50},
    "workers_gone": 2,
}


SCALED: Snapshot = {
    **SHARD,
    "scaling": {
        "degraded": 1,
        "queue": 3,
        "queue_bytes": 300,
        "dropped": 4,
        "missed": 5,
        "lost": 6,
        "entries_in": 7,
        "entries_out": 8,
        "refused": 9,
        "overheard": 10,
    },
    "totals": {"app1": [30, 50, 20]},
}


def worker() -> Stats:
    """The counters of a worker that has seen one of everything."""
    stats = Stats()
    stats.messages_received, stats.messages_sent, stats.deliveries = 11, 12, 13
    stats.client_publishes, stats.rest_publishes, stats.slow_consumers = 14, 15, 16
    stats.errors[4009] += 17
    stats.answered(200, 0.002)
    stats.answered(200, 0.3)
    stats.answered(401, 60)
    return stats


def samples(text: bytes) -> dict[str, float]:
    """Each sample by its name and labels, as PromQL writes them."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found
            found[key] = sample.value
    return found


# --- what is rendered ------------------------------------------------------------------------------------------------


def test_every_metric_is_documented_and_no_other() -> None:
    rendered = []
    for family in text_string_to_metric_families(metrics.render([worker().snapshot(1), SCALED]).decode()):
        name = f"`{family.name}_total`" if family.type == "counter" else f"`{family.name}`"
        labels = sorted({f"`{label}`" for sample in family.samples for label in sample.labels if label != "le"})
        rendered.append([name, family.type, ", ".join(labels) or "–", family.documentation])
    assert table(PAGE, "All metrics") == rendered


def test_every_counter_of_a_snapshot_is_rendered() -> None:
    """A number that is counted, sent and shown nowhere, or shown and not kept when its worker goes."""
    rendered = {counter.key for counter in metrics._COUNTERS}
    assert rendered | {"rest_latency", "rest_latency_sum_s", "scaling"} == set(counters.COUNTERS)
    told = {counter.key for counter in metrics._OF_SCALING} | {key for _, key, _ in metrics._NOW_OF_SCALING}
    assert told == SCALED["scaling"].keys()


def test_the_numbers_of_all_processes_are_added_up() -> None:
    first, second = worker().snapshot(transports=4), worker().snapshot(transports=6)
    second["loop_lag_s"], first["loop_lag_s"] = 0.25, 0.125
    second["undecodable"] = 1
    other = {**SHARD, "apps": {"app1": [0, 10, 1]}, "queue_bytes": {"w-1": 7}}
    gone = counters.add({}, worker().snapshot(0))
    found = samples(metrics.render([first, second, SHARD, other, gone]))
    expected = {
        'resonate_connections{app="app1"}': 3,
        'resonate_connections{app="app2"}': 1,
        'resonate_subscriptions{app="app1"}': 15,
        'resonate_channels{app="app1"}': 3,
        "resonate_messages_received_total": 33,
        "resonate_messages_sent_total": 36,
        "resonate_deliveries_total": 39,
        'resonate_publishes_total{source="client"}': 42,
        'resonate_publishes_total{source="rest"}': 45,
        'resonate_errors_total{code="4009"}': 51,
        "resonate_slow_consumers_total": 48,
        'resonate_http_requests_total{status="200"}': 6,
        'resonate_http_requests_total{status="401"}': 3,
        "resonate_bus_requests_total": 80,
        "resonate_bus_frames_received_total": 60,
        "resonate_bus_frames_sent_total": 40,
        "resonate_bus_undecodable_frames_total": 3,
        "resonate_workers": 2,
        "resonate_shards": 2,
        "resonate_open_transports": 10,
        "resonate_loop_lag_seconds": 0.25,
        "resonate_bus_queue_bytes": 157,
        f'resonate_build_info{{version="{__version__}"}}': 1,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_of_several_hosts() -> None:
    """Counters of a shard that has gone are kept, what was true of it is not; all shards know the same totals."""
    other = {**SCALED, "totals": {"app1": [31, 49, 20], "app2": [1, 0, 0]}}
    gone = counters.add({}, SCALED)
    found = samples(metrics.render([worker().snapshot(0), SCALED, other, gone]))
    expected = {
        "resonate_scaling_degraded": 2,
        "resonate_scaling_queue_entries": 6,
        "resonate_scaling_queue_bytes": 600,
        "resonate_scaling_redis_losses_total": 18,
        "resonate_scaling_entries_received_total": 21,
        "resonate_scaling_entries_sent_total": 24,
        "resonate_scaling_dropped_total": 12,
        "resonate_scaling_missed_total": 15,
        "resonate_scaling_refused_total": 27,
        "resonate_scaling_overheard_total": 30,
        'resonate_connections{app="app1"}': 6,
        'resonate_cluster_connections{app="app1"}': 31,
        'resonate_cluster_connections{app="app2"}': 1,
        'resonate_cluster_subscriptions{app="app1"}': 50,
        'resonate_cluster_channels{app="app1"}': 20,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_where_there_is_one_host_nothing_is_said_of_others() -> None:
    text = metrics.render([worker().snapshot(0), SHARD]).decode()
    assert "resonate_scaling" not in text
    assert "resonate_cluster" not in text


@pytest.mark.parametrize(
    ("first", "second", "workers", "shards"),
    [
        ({}, {}, 2, 0),  # the shards have seen two go
        ({"successions": 1}, {"successions": 3}, 2, 3),
        ({"restarts": {"worker": 5, "shard": 4}}, {"restarts": {"worker": 6, "shard": 4}, "successions": 9}, 6, 4),
    ],
)
def test_restarts_are_the_masters_number_and_not_added_up(
    first: Snapshot, second: Snapshot, workers: int, shards: int
) -> None:
    found = samples(
        metrics.render([{**worker().snapshot(0), **first}, {**worker().snapshot(0), **second}, SHARD, SHARD])
    )
    assert found["resonate_worker_restarts_total"] == workers
    assert found["resonate_shard_restarts_total"] == shards


def test_the_histogram_is_cumulative() -> None:
    found = samples(metrics.render([worker().snapshot(0), worker().snapshot(0)]))
    counts = [found[f'resonate_rest_latency_seconds_bucket{{le="{bound}"}}'] for bound in (*BUCKETS_S, "+Inf")]
    assert counts == [0, 2, 2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 6]
    assert found["resonate_rest_latency_seconds_count"] == 6
    assert found["resonate_rest_latency_seconds_sum"] == pytest.approx(2 * 60.302)


def test_counters_are_there_before_anything_has_happened() -> None:
    """`rate` does not see the step from nothing to one."""
    found = samples(metrics.render([Stats().snapshot(0)]))
    for key in ("resonate_deliveries_total", 'resonate_publishes_total{source="rest"}', "resonate_bus_queue_bytes"):
        assert found[key] == 0
    assert samples(metrics.render([]))["resonate_workers"] == 0


def test_an_app_id_may_have_any_characters() -> None:
    found = samples(metrics.render([{**SHARD, "apps": {'a"b\\c': [1, 2, 3]}}]))
    assert found['resonate_connections{app="a"b\\c"}'] == 1


def test_content_type() -> None:
    response = metrics.response([])
    assert response.status == 200
    assert response.content_type.startswith("text/plain; version=")


# --- what connections count, and how metrics are asked for -----------------------------------------------------------


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    with closing(world.ours), closing(world.peer):
        yield world


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def publish(data: Any = "x", secret: bytes = b"secret1") -> bytes:
    """A signed POST /events."""
    body = json.dumps({"name": "e", "channels": ["a"], "data": data}).encode()
    query = f"auth_key=key1&auth_timestamp={int(time.time())}&auth_version=1.0&body_md5={signatures.body_md5(body)}"
    signature = signatures.sign(secret, f"POST\n/apps/app1/events\n{query}")
    head = f"POST /apps/app1/events?{query}&auth_signature={signature} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def masked(payload: bytes) -> bytes:
    """A client's text frame, with a mask of zeros."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2)
    return b"\x81" + length + bytes(4) + payload


HANDSHAKE = (
    b"GET /app/%s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.parametrize(
    ("path", "route"),
    [("/metrics", Metrics()), ("/metrics/", Nowhere()), ("/up", Nowhere()), ("/", Nowhere()), ("/apps/a", Nowhere())],
)
def test_only_metrics_are_on_their_listener(path: str, route: Route) -> None:
    assert metrics_route(path) == route
    assert type(metrics_route(path)) is type(route)


def test_metrics_are_answered_when_they_have_been_collected(world: World) -> None:
    world.open(metrics_route)
    assert world.say(get("/metrics")) == b""
    (done,) = world.asked
    done([worker().snapshot(1)])
    head, _, body = world.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=")
    assert samples(body)["resonate_messages_received_total"] == 11
    assert world.say(get("/metrics")) == b""  # on the same connection
    world.asked[1]([])
    assert world.read().startswith(b"HTTP/1.1 200")


def test_head_has_no_body(world: World) -> None:
    world.open(metrics_route)
    world.say(get("/metrics", "HEAD"))
    world.asked[0]([])
    head, _, body = world.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""


@pytest.mark.parametrize("request_", [get("/"), get("/up"), get("/apps/app1/channels"), get("/metrics", "POST")])
def test_everything_else_is_not_found(world: World, request_: bytes) -> None:
    world.open(metrics_route)
    answer = world.say(request_)
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain")
    assert answer.endswith(b"\r\n\r\nNot found.")
    assert world.asked == []


def test_a_scraper_that_has_gone_is_not_waited_for(world: World) -> None:
    world.open(metrics_route)
    world.say(get("/metrics"))
    world.transport.abort()
    world.asked[0]([])


def test_snapshots_that_cannot_be_rendered_cost_the_scrape_and_nothing_else(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.open(metrics_route)
    world.say(get("/metrics"))
    world.asked[0]([{"apps": "nonsense"}])
    assert world.transport.closed
    assert len(caplog.records) == 1


def test_scrapes_are_not_counted(world: World) -> None:
    world.open(metrics_route)
    world.say(get("/metrics"))
    world.asked[0]([])
    world.say(get("/other"))
    assert world.stats.snapshot(0)["http_requests"] == {}


def test_on_the_public_port_metrics_are_not_ours(world: World) -> None:
    assert world.context.route("/metrics") is None


def test_rest_is_counted_and_timed(world: World) -> None:
    world.open()
    for request in (publish(), publish(), publish(secret=b"wrong"), get("/up"), get("/up", "POST")):
        assert world.say(request).startswith(b"HTTP/1.1 ")
    snapshot = world.stats.snapshot(0)
    assert snapshot["http_requests"] == {"200": 3, "401": 1, "405": 1}
    assert sum(snapshot["rest_latency"]) == 3  # not /up
    assert 0 < snapshot["rest_latency_sum_s"] < 3


def test_a_request_that_is_refused_as_it_is_read_is_counted(world: World) -> None:
    world.open()
    assert world.say(b"no HTTP\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert world.stats.snapshot(0)["http_requests"] == {"400": 1}


def test_messages_of_clients_are_counted(world: World) -> None:
    world.open()
    world.say(HANDSHAKE % b"key1")
    session = world.transport.protocol.session
    signature = signatures.sign(b"secret1", f"{session.id}:private-a")
    data = {"channel": "private-a", "auth": signature}
    world.say(masked(json.dumps({"event": "pusher:subscribe", "data": data}).encode()))
    world.say(masked(b'{"event":"client-x","channel":"private-a"}'))
    world.say(masked(b"no json"))
    world.say(masked(b'{"event":"pusher:ping"}'))
    snapshot = world.stats.snapshot(0)
    assert snapshot["http_requests"] == {"101": 1}
    assert snapshot["messages_received"] == 4
    assert snapshot["messages_sent"] == 4  # established, succeeded, error, pong
    assert snapshot["publishes"] == {"rest": 0, "client": 1}
    assert snapshot["deliveries"] == 0  # nobody but the sender is on the channel
    assert snapshot["errors"] == {"4200": 1}


def test_a_refused_app_is_counted(world: World) -> None:
    world.open()
    assert b"4001" in world.say(HANDSHAKE % b"unknown")
    snapshot = world.stats.snapshot(0)
    assert snapshot["errors"] == {"4001": 1}
    assert snapshot["messages_sent"] == 1


def test_a_missing_pong_is_counted(world: World) -> None:
    world.open()
    world.say(HANDSHAKE % b"key1")
    for _ in range(3):
        world.reactor.wheel.advance()
    assert b"4201" in world.read()
    assert world.stats.errors == {4201: 1}
    assert world.stats.messages_sent == 3  # established, ping, error


def test_a_slow_consumer_is_counted(world: World) -> None:
    world.open()
    world.say(HANDSHAKE % b"key1")
    world.transport.protocol.overflowed()
    assert world.stats.slow_consumers == 1
    assert world.transport.closed
