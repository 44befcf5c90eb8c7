"""What was once wrong about deaths of shards, each as small as it can be said."""

from __future__ import annotations

import pytest

from resonate.encoding import decode, encode
from resonate.messages import Batch, Beat, Event, Hello, Parcel, Publication, Publish, Request, Subscribe, Subscribed
from resonate.shard.exchange import Exchange
from resonate.shard.ledger import Ledger


class Cluster:
    """Some workers and the shard of the moment; everything arrives, unless a test says otherwise."""

    def __init__(self, *names: str) -> None:
        self.ledgers = {name: Ledger(name) for name in names}
        self.heard: dict[str, list[Event]] = {name: [] for name in names}
        self.shards = 0
        self.succeed()

    def succeed(self) -> None:
        """A shard takes the place of the one before it."""
        self.shards += 1
        self.exchange = Exchange(f"s{self.shards}", self.ledgers, 0)
        for name, ledger in self.ledgers.items():
            self.exchange.receive(encode(Hello(name, ledger.declaration(0))), 0)
        self.settle()

    def ask(self, name: str, *requests: Request, reach: tuple[str, ...] | None = None) -> None:
        """A worker asks; what follows reaches those of `reach` only (None: all)."""
        for request in requests:
            self.ledgers[name].add(request)
        batch = self.ledgers[name].batch()
        assert batch is not None
        self.exchange.receive(encode(batch), 0)
        self.deliver(reach)

    def deliver(self, reach: tuple[str, ...] | None = None) -> None:
        for name, data in self.exchange.take(0):
            parcel = decode(data)
            assert isinstance(parcel, Parcel)
            if reach is None or name in reach:
                self.heard[name] += self.ledgers[name].receive(parcel, 0)

    def settle(self) -> None:
        """All is dealt with, and everybody knows it."""
        for _ in range(3):
            self.exchange.beat(0)
            self.deliver()
            for name, ledger in self.ledgers.items():
                self.exchange.receive(encode(Beat(name, ledger.received, None)), 0)


def publish(payload: bytes, keep_s: int = 0) -> Publish:
    return Publish(0, "app", "cache-a", payload, None, keep_s)


def subscribe(name: str) -> Subscribe:
    return Subscribe("app", "cache-a", f"{name}.1", 1, None)


def payloads(events: list[Event]) -> list[bytes]:
    return [event.payload for event in events if isinstance(event, Publication)]


@pytest.mark.parametrize("first", ["a", "b"])
def test_what_has_reached_its_publisher_alone_is_not_stable(first: str) -> None:
    cluster = Cluster("a", "b")
    cluster.ask("b", subscribe("b"))
    cluster.settle()
    cluster.ask("a", publish(b"e"), reach=(first,))
    cluster.succeed()
    assert payloads(cluster.heard["b"]) == [b"e"]


def test_who_subscribed_after_an_event_does_not_get_it_because_a_shard_died() -> None:
    """Its publisher has not heard that all is well, and asks again; the subscriber knows that it is."""
    cluster = Cluster("a", "b", "c")
    cluster.ask("b", subscribe("b"))
    cluster.settle()
    cluster.ask("a", publish(b"old"))
    cluster.ask("c", subscribe("c"))
    for name in ("a", "b", "c"):
        cluster.exchange.receive(encode(Beat(name, cluster.ledgers[name].received, None)), 0)
    cluster.exchange.beat(0)
    cluster.deliver(("b", "c"))  # not to a
    cluster.succeed()
    assert payloads(cluster.heard["c"]) == []
    assert payloads(cluster.heard["b"]) == [b"old"]


def test_a_cached_event_is_the_last_one_also_after_two_deaths() -> None:
    cluster = Cluster("a")
    for number in range(5):
        cluster.ask("a", publish(b"old%d" % number, 60))
    cluster.settle()
    cluster.succeed()
    cluster.ask("a", publish(b"new", 60))
    cluster.settle()
    cluster.succeed()
    cluster.ask("a", subscribe("a"))
    (subscribed,) = [event for event in cluster.heard["a"] if isinstance(event, Subscribed)]
    assert subscribed.cached == b"new"


def test_a_worker_of_which_requests_are_missing_is_given_up() -> None:
    cluster = Cluster("a", "b")
    cluster.exchange.receive(encode(Batch("a", 0, 2, [publish(b"e")])), 0)
    assert list(cluster.exchange.given_up(0, 30)) == ["a"]
    cluster.ask("b", subscribe("b"))
    assert payloads(cluster.heard["b"]) == []
