"""What was wrong with the streams of hosts, when all is over: lost, doubled, out of order; and figures of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tests.bench.streams import Heard, Key, Streams, Subscriber
from tests.support.cluster import Stage
from tests.support.hosts import says


def judge(streams: Streams, outage: tuple[float, float]) -> dict[str, int]:
    """Complain of all that is lost, doubled or out of order; how many subscribers saw another order within `outage`."""
    inside = Counter[str]()
    for channel in streams.channels:
        alive = [each for each in streams.subscribers if each.channel == channel and each.stage is not Stage.CLOSED]
        for each in alive:
            _judge_one(streams, each)
        calm = [[(h.publisher, h.number) for h in each.heard_all if not _within(h, outage)] for each in alive]
        for each, other in _other_orders(calm):
            streams.wrong("two orders", f"{alive[each]} and {alive[other]}")
        inside["other orders in the outage"] += len(
            list(_other_orders([[(h.publisher, h.number) for h in each.heard_all] for each in alive]))
        )
    if not streams.agreed():
        views = [f"{each}: {sorted(each.view)}" for each in streams.subscribers if each.present]
        streams.wrong("members", f"the lists are not the truth at the end: {views[:4]}")
    return dict(inside)


def _judge_one(streams: Streams, subscriber: Subscriber) -> None:
    keys = [(heard.publisher, heard.number) for heard in subscriber.heard_all]
    there = set(keys)
    for key in sorted(streams.wanted(subscriber) - there):
        streams.wrong("lost", f"{key} at {subscriber}")
    if len(there) != len(keys):
        doubled = [key for key, times in Counter(keys).items() if times > 1]
        streams.complaints["doubled"] += len(doubled) - 1
        streams.wrong("doubled", f"{doubled[:5]} at {subscriber}")
    latest: dict[str, int] = {}
    for publisher, number in dict.fromkeys(keys):
        if number < latest.get(publisher, 0):
            streams.wrong("out of order", f"{publisher} {number} after {latest[publisher]} at {subscriber}")
        latest[publisher] = max(number, latest.get(publisher, 0))


def _within(heard: Heard, outage: tuple[float, float]) -> bool:
    return outage[0] <= heard.sent <= outage[1] or outage[0] <= heard.came <= outage[1]


def _other_orders(sequences: Sequence[Sequence[Key]]) -> Iterable[tuple[int, int]]:
    """Which have another order than the longest, and the longest."""
    if not sequences:
        return
    longest = max(range(len(sequences)), key=lambda index: len(sequences[index]))
    places = {key: place for place, key in enumerate(sequences[longest])}
    for index, sequence in enumerate(sequences):
        seen = [places[key] for key in dict.fromkeys(sequence) if key in places]
        if seen != sorted(seen):
            yield index, longest


def latency_ms(heard: Iterable[Heard]) -> dict[str, float]:
    """How long events have taken from their publisher to who heard them."""
    took = sorted(each.came - each.sent for each in heard) or [0.0]
    shares = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    return {name: round(took[min(int(len(took) * share), len(took) - 1)] * 1000, 1) for name, share in shares}


def summary(streams: Streams, outage: tuple[float, float]) -> dict[str, Any]:
    """What the run has shown, in figures."""
    heard = [each for subscriber in streams.subscribers for each in subscriber.heard_all]
    edges = sum((each.edges for each in streams.subscribers), Counter[str]())
    inside = judge(streams, outage)
    return {
        "wrong": dict(+streams.complaints),
        "examples": streams.examples,
        "published": streams.published,
        "client events": sum(map(len, streams.talked.values())),
        "heard": len(heard),
        "answers": dict(streams.answers),
        "longest answer_s": round(streams.longest_answer, 2),
        "longest pause of this program_s": round(streams.longest_pause, 2),
        "closed": dict(streams.closed),
        "codes": dict(streams.codes),
        "edges": dict(edges),
        "degraded_s": {name: round(seconds, 1) for name, seconds in streams.degraded_s.items()},
        "latency_ms": latency_ms(each for each in heard if not _within(each, outage)),
        "latency in the outage_ms": latency_ms(each for each in heard if _within(each, outage)),
        **inside,
        **streams.notes,
        "up": [says(server) for server in streams.hosts.living()],
    }
