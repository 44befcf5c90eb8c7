"""The snapshots of all processes as Prometheus wants to read them. The one home of prometheus_client.

Counters are added up over workers, shards, and what is left of workers that have gone; docs/metrics.md has the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from resonate import __version__, counters
from resonate.counters import Snapshot
from resonate.http import Response
from resonate.server.stats import BUCKETS_S


class _Counter(NamedTuple):
    """`key` is its name in a snapshot; with a `label` there is a dict there, by values of that label."""

    name: str
    key: str
    meaning: str
    label: str = ""


_COUNTERS: Final = (
    _Counter("messages_received", "messages_received", "Messages from clients."),
    _Counter("messages_sent", "messages_sent", "Messages to clients that were no broadcasts."),
    _Counter("deliveries", "deliveries", "Messages of broadcasts, counted once for each subscriber."),
    _Counter("publishes", "publishes", "Events published, counted once for each channel.", "source"),
    _Counter("errors", "errors", "pusher:error events sent to clients.", "code"),
    _Counter("slow_consumers", "slow_consumers", "Connections closed because the client did not read."),
    _Counter("drained", "drained", "WebSockets sent away because they could not change their worker, or in a drain."),
    _Counter(
        "connections_handed_over",
        "handed_over",
        "Connections that have changed their worker while they were open.",
        "reason",
    ),
    _Counter(
        "http_requests", "http_requests", "HTTP requests answered by the server itself, handshakes included.", "status"
    ),
    _Counter("bus_requests", "requests", "Requests of workers done by shards."),
    _Counter("bus_frames_received", "frames_in", "Frames that shards have got from workers."),
    _Counter("bus_frames_sent", "frames_out", "Frames that shards have sent to workers."),
    _Counter("bus_undecodable_frames", "undecodable", "Frames on the bus that could not be decoded, and were dropped."),
)

#: What shards count of several hosts, as `scaling` in a snapshot; only where there are any.
_OF_SCALING: Final = (
    _Counter("scaling_redis_losses", "lost", "Times that a shard could not reach Redis any more."),
    _Counter("scaling_entries_received", "entries_in", "Entries of logs that shards have got from Redis."),
    _Counter("scaling_entries_sent", "entries_out", "Entries of logs that shards have given to Redis."),
    _Counter("scaling_dropped", "dropped", "Entries for the other hosts that were dropped: the queue was full."),
    _Counter("scaling_missed", "missed", "Channels of which Redis had not all any more when a shard came back."),
    _Counter("scaling_refused", "refused", "What came from Redis, was none of ours nor an envelope, and was dropped."),
    _Counter("scaling_overheard", "overheard", "What shards have delivered of the envelopes of other programs."),
)
_NOW_OF_SCALING: Final = (
    ("scaling_degraded", "degraded", "Shards that cannot reach the other hosts."),
    ("scaling_queue_entries", "queue", "Entries that wait for Redis."),
    ("scaling_queue_bytes", "queue_bytes", "The same in bytes."),
)

#: What a shard says of an app, in this order: of this host as `apps`, of all hosts as `totals`.
_OF_AN_APP: Final = (
    ("connections", "Open WebSocket connections."),
    ("subscriptions", "Subscriptions, counted once for each connection and channel."),
    ("channels", "Channels that have a subscriber."),
)
_OF_AN_APP_ON_ALL_HOSTS: Final = (
    ("cluster_connections", "Open WebSocket connections on all hosts."),
    ("cluster_subscriptions", "Subscriptions on all hosts."),
    ("cluster_channels", "Channels that have a subscriber on any host."),
)


def response(snapshots: list[Snapshot]) -> Response:
    """The answer to GET /metrics."""
    return Response(200, render(snapshots), CONTENT_TYPE_LATEST)


def render(snapshots: list[Snapshot]) -> bytes:
    """All metrics in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Cluster(snapshots))
    return generate_latest(registry)


class _Cluster(Collector):
    """Made for one scrape."""

    def __init__(self, snapshots: list[Snapshot]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        total: Snapshot = {}
        for snapshot in self._snapshots:
            total = counters.add(total, snapshot)
        yield from self._of_apps()
        yield from (_counter(counter, total) for counter in _COUNTERS)
        yield _latency(total)
        yield self._restarts("worker", "workers_gone", "Workers that took the place of one that had gone.")
        yield self._restarts("shard", "successions", "Shards that took the place of one that had gone.")
        yield from self._of_processes()
        if "scaling" in total:
            yield from self._of_scaling(total["scaling"])

    def _of_apps(self) -> Iterator[Metric]:
        for index, (name, meaning) in enumerate(_OF_AN_APP):
            found: dict[str, int] = {}
            for apps in self._all("apps"):
                for app, numbers in apps.items():
                    found[app] = found.get(app, 0) + numbers[index]
            yield _by_app(name, meaning, found)

    def _of_scaling(self, counted: Snapshot) -> Iterator[Metric]:
        shards = [snapshot["scaling"] for snapshot in self._snapshots if {"apps", "scaling"} <= snapshot.keys()]
        for name, key, meaning in _NOW_OF_SCALING:
            yield _gauge(name, meaning, sum(shard.get(key, 0) for shard in shards))
        yield from (_counter(counter, counted) for counter in _OF_SCALING)
        for index, (name, meaning) in enumerate(_OF_AN_APP_ON_ALL_HOSTS):
            found: dict[str, int] = {}
            for totals in self._all("totals"):  # each shard knows all of it, some sooner than others
                for app, numbers in totals.items():
                    found[app] = max(found.get(app, 0), numbers[index])
            yield _by_app(name, meaning, found)

    def _restarts(self, kind: str, seen: str, meaning: str) -> Metric:
        """The master's own number, which each worker tells; without it, under gunicorn's, what one of us has `seen`."""
        counted = [numbers[kind] for numbers in self._all("restarts")] or self._all(seen)
        return CounterMetricFamily(_full(f"{kind}_restarts"), meaning, value=max(counted, default=0))

    def _of_processes(self) -> Iterator[Metric]:
        transports = list(self._all("transports"))
        shards = list(self._all("apps"))
        lag = max(self._all("loop_lag_s"), default=0.0)
        queued = sum(sum(queues.values()) for queues in self._all("queue_bytes"))
        yield _gauge("workers", "Workers that serve.", len(transports))
        yield _gauge("shards", "Shards that serve; the one inside a worker that is alone is one.", len(shards))
        yield _gauge(
            "open_transports", "Open connections of all kinds, HTTP and hosted ones included.", sum(transports)
        )
        yield _gauge("loop_lag_seconds", "How late the loop of a worker was in the last 15 s, at the worst.", lag)
        yield _gauge("bus_queue_bytes", "Bytes on their way from shards to workers.", queued)
        build = GaugeMetricFamily(_full("build_info"), "Always 1; the label tells the version.", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build

    def _all(self, key: str) -> Iterable[Any]:
        return (snapshot[key] for snapshot in self._snapshots if key in snapshot)


def _full(name: str) -> str:
    return f"resonate_{name}"


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(_full(name), meaning, value=value)


def _by_app(name: str, meaning: str, numbers: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(_full(name), meaning, labels=("app",))
    for app, number in sorted(numbers.items()):
        family.add_metric((app,), number)
    return family


def _counter(counter: _Counter, total: Snapshot) -> Metric:
    name, key, meaning, label = counter
    if not label:
        return CounterMetricFamily(_full(name), meaning, value=total.get(key, 0))
    family = CounterMetricFamily(_full(name), meaning, labels=(label,))
    for value, count in sorted(total.get(key, {}).items()):
        family.add_metric((value,), count)
    return family


def _latency(total: Snapshot) -> Metric:
    counts = total.get("rest_latency", [0] * (len(BUCKETS_S) + 1))
    bounds = [*map(str, BUCKETS_S), "+Inf"]
    buckets = list(zip(bounds, accumulate(counts), strict=True))
    return HistogramMetricFamily(
        _full("rest_latency_seconds"),
        "From the last byte of a REST request until its answer was written.",
        buckets=buckets,
        sum_value=total.get("rest_latency_sum_s", 0.0),
    )
