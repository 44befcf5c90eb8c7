"""What it costs to cross between hosts: latency, deliveries, processor time of all processes of a host.

One program publishes and listens, in one loop, as `load.py` does; figures of two cores that the hosts, Redis and this
program share.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from tests.bench.streams import Caller, Heard, Streams, latency_ms
from tests.support.cluster import Peer, processes
from tests.support.eventually import eventually
from tests.support.hosts import Hosts
from tests.support.load import cpu_s, memory
from tests.support.rest import Rest

RATES: Final = (100, 1000)
SUBSCRIBERS: Final = 200
#: Of the measure of deliveries: a closed loop of so many publishers.
PUBLISHERS: Final = 8
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


def latency(rate: int, options: argparse.Namespace) -> dict[str, Any]:
    """Published on one host, heard by all subscribers on the other: nobody listens where it is published."""
    with _streams(2, options, SUBSCRIBERS, 1) as streams:
        here = streams.hosts.servers[0]
        for each in list(streams.subscribers):
            if each.server is here:
                each.leave()
                streams.subscribers.remove(each)
        streams.open()
        streams.callers = [each for each in streams.callers if each.server is here]
        streams.rate = rate
        streams.go_on(1.0)
        count = streams.published
        took, used = _spent(streams, options.seconds or SECONDS, streams.turn)
        crossed = streams.published - count
        streams.publishing = False
        streams.until(lambda: not any(each.waiting for each in streams.callers), SECONDS)
        heard: list[Heard] = [each for subscriber in streams.subscribers for each in subscriber.heard_all]
        per_event = [round(seconds / max(crossed, 1) * 1e6) for seconds in used]
        return {
            "case": "latency between hosts",
            "asked per s": rate,
            "published per s": round(crossed / took),
            "subscribers": len(streams.subscribers),
            "latency_ms": latency_ms(heard),
            "cpu_us per event: publisher's host, subscribers' host, redis": per_event,
        }


def crossing_cpu(options: argparse.Namespace) -> dict[str, Any]:
    """The same with one subscriber: what an event costs that crosses, without its deliveries."""
    with _streams(2, options, 1, 1) as streams:
        here = streams.hosts.servers[0]
        streams.subscribers[0].leave()
        del streams.subscribers[0]
        streams.open()
        streams.callers = [each for each in streams.callers if each.server is here]
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


def deliveries(number: int, options: argparse.Namespace) -> dict[str, Any]:
    """As many publications as are answered, to subscribers spread over the hosts."""
    with _streams(number, options, SUBSCRIBERS // number, 1) as streams:
        streams.crowd.until(lambda: all(each.subscribed for each in streams.subscribers))
        servers = streams.hosts.servers
        callers = [Caller(streams, servers[index % number], f"rest-{index}") for index in range(PUBLISHERS)]
        numbers = iter(range(10**9))

        def work() -> None:
            for caller in callers:
                if caller.free:
                    caller.publish(streams.channels[0], next(numbers), time.monotonic())
            streams.crowd.turn(0.002)

        took, used = _spent(streams, options.seconds or SECONDS, work)
        heard = sum(len(each.heard_all) for each in streams.subscribers)
        return {
            "case": "deliveries",
            "hosts": number,
            "subscribers": len(streams.subscribers),
            "deliveries per s": round(heard / took),
            "cpu_cores: hosts, redis": [round(seconds / took, 2) for seconds in used],
        }


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
        streams.crowd.turn(0)
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
