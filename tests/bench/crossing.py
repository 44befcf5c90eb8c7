"""What it costs to cross between hosts: latency, deliveries, processor time of all processes of a host.

One program publishes and listens, in one loop, as `load.py` does; figures of two cores that the hosts, Redis and this
program share.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tests.bench.load import publish_request
from tests.bench.streams import Caller, Heard, Streams
from tests.bench.verdict import latency_ms
from tests.support.client import Client
from tests.support.cluster import Peer, processes
from tests.support.eventually import eventually
from tests.support.hosts import Hosts
from tests.support.load import cpu_s, memory
from tests.support.rest import Rest
from tests.support.server import Server

RATES: Final = (100, 1000)
SUBSCRIBERS: Final = 200
#: Of them, whose latency is measured; the bytes of the others are taken so often, in seconds.
LISTENERS: Final = 4
TAKE_S: Final = 0.02
#: Of the measure of deliveries: a closed loop of so many publishers, of events with so many bytes.
PUBLISHERS: Final = 8
SIZE: Final = 100
CHANNEL: Final = "bench"
IDLE_CHANNELS: Final = 10_000
#: Channels of one client there.
EACH: Final = 50
SECONDS: Final = 10.0
SETTLE_S: Final = 3.0


@contextmanager
def _streams(number: int, options: argparse.Namespace, subscribers: int, channels: int) -> Iterator[Streams]:
    with tempfile.TemporaryDirectory() as directory, Hosts(Path(directory), number, workers=options.workers) as hosts:
        streams = Streams(hosts, channels=channels, subscribers=subscribers, rate=0.0)
        with streams.crowd:
            yield streams


def _usage(streams: Streams) -> list[float]:
    """Of each host, then of Redis."""
    hosts = [sum(map(cpu_s, processes(server))) for server in streams.hosts.servers]
    return [*hosts, streams.hosts.redis.cpu_s()]


def _spent(streams: Streams, seconds: float, work: Callable[[], None]) -> tuple[float, list[float]]:
    """How long it went on, and what each has used meanwhile; in seconds."""
    before, began = _usage(streams), time.monotonic()
    while time.monotonic() < began + seconds:
        work()
    took = time.monotonic() - began
    return took, [after - was for was, after in zip(before, _usage(streams), strict=True)]


class _Sink(Peer):
    """A subscriber that costs as little as possible: bytes are counted, and taken when it suits."""

    def __init__(self, streams: Streams, server: Server, channel: str) -> None:
        self.received, self.counting, self.channel = 0, False, channel
        super().__init__(streams.crowd, server)

    def established(self) -> None:
        self.subscribe(self.channel)

    def heard(self, event: dict[str, Any]) -> None:
        self.counting = True
        self._crowd.forget(self)

    def take(self) -> None:
        """What has come."""
        with suppress(BlockingIOError):
            while data := self.socket.recv(2**20):
                self.received += len(data)


class _Sinks:
    """Many of them, spread over some hosts."""

    def __init__(self, streams: Streams, servers: Sequence[Server], channel: str, count: int) -> None:
        self.all = [_Sink(streams, servers[index % len(servers)], channel) for index in range(count)]
        self._next = 0.0
        streams.crowd.until(lambda: all(each.counting for each in self.all))

    def turn(self) -> None:
        """Take from all, now and then."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + TAKE_S
            for each in self.all:
                each.take()

    def received(self) -> int:
        return sum(each.received for each in self.all)

    def close(self) -> None:
        for each in self.all:
            each.socket.close()


def latency(rate: int, options: argparse.Namespace) -> dict[str, Any]:
    """Published on one host, heard by all subscribers on the other: nobody listens where it is published."""
    with _streams(2, options, LISTENERS, 1) as streams:
        here, there = streams.hosts.servers
        _only(streams, here)
        sinks = _Sinks(streams, [there], streams.channels[0], SUBSCRIBERS - LISTENERS)

        def work() -> None:
            streams.turn()
            sinks.turn()

        with closing(sinks):
            streams.rate = rate
            _spent(streams, 1.0, work)
            count = streams.published
            took, used = _spent(streams, options.seconds or SECONDS, work)
            crossed = streams.published - count
            streams.publishing = False
            _spent(streams, 1.0, work)
        heard: list[Heard] = [each for subscriber in streams.subscribers for each in subscriber.heard_all]
        per_event = [round(seconds / max(crossed, 1) * 1e6) for seconds in used]
        return {
            "case": "latency between hosts",
            "asked per s": rate,
            "published per s": round(crossed / took),
            "subscribers": SUBSCRIBERS,
            "latency_ms": latency_ms(heard),
            "cpu_us per event: publisher's host, subscribers' host, redis": per_event,
        }


def _only(streams: Streams, here: Server) -> None:
    """Who subscribes is elsewhere, and who publishes is here."""
    for each in [each for each in streams.subscribers if each.server is here]:
        each.leave()
        streams.subscribers.remove(each)
    streams.open()
    streams.callers = [each for each in streams.callers if each.server is here]


def crossing_cpu(options: argparse.Namespace) -> dict[str, Any]:
    """The same with one subscriber: what an event costs that crosses, without its deliveries."""
    with _streams(2, options, 1, 1) as streams:
        _only(streams, streams.hosts.servers[0])
        streams.rate = 500
        streams.go_on(1.0)
        count = streams.published
        took, used = _spent(streams, options.seconds or SECONDS, streams.turn)
        crossed = streams.published - count
        per_event = [round(seconds / max(crossed, 1) * 1e6) for seconds in used]
        return {
            "case": "an event crosses to one subscriber",
            "published per s": round(crossed / took),
            "cpu_us per event: publisher's host, subscriber's host, redis": per_event,
        }


class _Asker(Caller):
    """Publishes one thing."""

    def ask(self, request: bytes) -> None:
        self.waiting = (CHANNEL, 0, time.monotonic())
        self._write(request)


def deliveries(number: int, options: argparse.Namespace) -> dict[str, Any]:
    """As many publications as are answered, to subscribers spread over the hosts."""
    request = publish_request(CHANNEL, SIZE)
    with _streams(number, options, 0, 1) as streams:
        servers = streams.hosts.servers
        size = _frame_size(servers[0], request)
        sinks = _Sinks(streams, servers, CHANNEL, SUBSCRIBERS)
        askers = [_Asker(streams, servers[index % number], "") for index in range(PUBLISHERS)]

        def work() -> None:
            for asker in askers:
                if asker.free:
                    asker.ask(request)
            streams.crowd.turn(0.002)
            sinks.turn()

        with closing(sinks):
            took, used = _spent(streams, options.seconds or SECONDS, work)
        delivered = sinks.received() / size
        return {
            "case": "deliveries",
            "hosts": number,
            "subscribers": SUBSCRIBERS,
            "published per s": round(streams.answers["200"] / took),
            "deliveries per s": round(delivered / took),
            "cpu_us per delivery, all hosts": round(sum(used[:-1]) / max(delivered, 1) * 1e6, 2),
            "cpu_cores: hosts, redis": [round(seconds / took, 2) for seconds in used],
        }


def _frame_size(server: Server, request: bytes) -> int:
    """Of what a subscriber gets for it, in bytes."""
    with Client(server.host, server.port).established() as client, socket.socket() as publisher:
        client.subscribed(CHANNEL)
        publisher.connect((server.host, server.port))
        publisher.sendall(request)
        payload = len(client.text())
    return payload + (2 if payload < 126 else 4)


class _Idle(Peer):
    """On EACH channels of its own."""

    def __init__(self, streams: Streams, number: int) -> None:
        super().__init__(streams.crowd, streams.hosts.servers[number % len(streams.hosts.servers)])
        self.number, self.there = number, 0

    def established(self) -> None:
        for channel in range(EACH):
            self.subscribe(f"idle-{self.number}-{channel}")

    def heard(self, event: dict[str, Any]) -> None:
        self.there += 1


def idle(options: argparse.Namespace) -> dict[str, Any]:
    """Nothing happens on many channels."""
    with _streams(2, options, 0, 1) as streams:
        peers = [_Idle(streams, number) for number in range(IDLE_CHANNELS // EACH)]
        began = time.monotonic()
        streams.crowd.until(lambda: all(peer.there == EACH for peer in peers), within=120)
        subscribed = time.monotonic() - began
        with closing(Rest(streams.hosts.servers[0].host, streams.hosts.servers[0].port)) as rest:
            eventually(lambda: len(rest.call("GET", "/channels").json()["channels"]) == IDLE_CHANNELS)
        settled = time.monotonic() + SETTLE_S
        while time.monotonic() < settled:
            streams.crowd.turn(0.1)
        took, used = _spent(streams, options.seconds or SECONDS, lambda: streams.crowd.turn(0.1))
        mib = [round(sum(map(memory, processes(each))) / 2**20) for each in streams.hosts.servers]
        return {
            "case": "idle",
            "channels": IDLE_CHANNELS,
            "subscribed in_s": round(subscribed, 1),
            "cpu_cores: hosts, redis": [round(seconds / took, 4) for seconds in used],
            "memory_MiB of each host": mib,
        }


def main(options: argparse.Namespace) -> int:
    for rate in RATES:
        print(json.dumps(latency(rate, options)), flush=True)
    print(json.dumps(crossing_cpu(options)), flush=True)
    for number in (1, 2):
        print(json.dumps(deliveries(number, options)), flush=True)
    print(json.dumps(idle(options)), flush=True)
    return 0
