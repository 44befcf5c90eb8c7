"""Another number of shards: nothing is counted twice or forgotten, and presence has no edge."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from resonate.encoding import decode, encode
from resonate.messages import (
    Attach,
    Batch,
    Beat,
    Connect,
    Event,
    Hello,
    Inspect,
    ListChannels,
    Member,
    MemberAdded,
    MemberRemoved,
    Parcel,
    Present,
    Publish,
    Request,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from resonate.shard.exchange import Exchange
from resonate.shard.homes import homes
from resonate.shard.ledger import Ledger
from resonate.shard.resharding import resharded

WORKERS = ("a", "b", "c")
CHANNELS = ("presence-one", "presence-two", "chat", "cache-news")
USERS = ("1", "2", "3")


class Cluster:
    """Workers and shards, and what each worker was told."""

    def __init__(self, shards: int) -> None:
        self.ledgers = {worker: [Ledger(worker) for _ in range(shards)] for worker in WORKERS}
        self.heard: dict[str, list[Event]] = {worker: [] for worker in WORKERS}
        self.terms = 0
        self.begin()

    def begin(self) -> None:
        """Shards that know nothing, and workers that tell them."""
        self.terms += 1
        shards = range(len(self.ledgers["a"]))
        self.exchanges = [Exchange(f"s{index}-{self.terms}-1", WORKERS, 0) for index in shards]
        for worker, ledgers in self.ledgers.items():
            for exchange, ledger in zip(self.exchanges, ledgers, strict=True):
                exchange.receive(encode(Hello(worker, ledger.declaration(0))), 0)
        self.settle()

    def ask(self, worker: str, request: Request) -> None:
        for index in homes(request, len(self.exchanges)):
            self.ledgers[worker][index].add(request)

    def settle(self) -> None:
        """Until everybody has heard of everything."""
        for _ in range(10):
            for index, exchange in enumerate(self.exchanges):
                for ledgers in self.ledgers.values():
                    batch = ledgers[index].batch()
                    if batch is not None:
                        assert isinstance(batch, Batch)
                        exchange.receive(encode(batch), 0)
                for worker, data in exchange.take(0):
                    parcel = decode(data)
                    assert isinstance(parcel, Parcel)
                    self.heard[worker] += self.ledgers[worker][index].receive(parcel, 0)
                for worker, ledgers in self.ledgers.items():
                    exchange.receive(encode(Beat(worker, ledgers[index].received, None, urgent=True)), 0)
        assert all(ledger.settled for ledgers in self.ledgers.values() for ledger in ledgers)

    def reshard(self, shards: int) -> None:
        for worker, ledgers in self.ledgers.items():
            self.ledgers[worker] = resharded(worker, ledgers, shards, 0)
            self.heard[worker] = []
        self.begin()

    def answers(self, request: Request) -> list[object]:
        """What all shards know together, as told to one worker."""
        self.heard["a"] = []
        self.ask("a", request)
        self.settle()
        return [event.value for event in self.heard["a"] if hasattr(event, "value")]

    def counts(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for value in self.answers(Inspect(1)):
            assert isinstance(value, list)
            for app, (connections, subscriptions, channels) in value[0]["apps"].items():
                found.update({f"{app} c": connections, f"{app} s": subscriptions, f"{app} o": channels})
        return +found

    def channels(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for value in self.answers(ListChannels(2, "app", "", cached=True)):
            assert isinstance(value, dict)
            assert not found.keys() & value.keys()
            found |= value
        return found


def request(action: str, worker: str, channel: str, user: str, number: int) -> Request:
    member = Member(user, {"user_id": user, "user_info": None}) if channel.startswith("presence") else None
    if action == "subscribe":
        return Subscribe("app", channel, f"{worker}.{number}", number, member)
    if action == "publish":
        keep_s = 60 if channel.startswith("cache") else 0
        return Publish(number, "app", channel, b"%d" % number, None, keep_s, info=False)
    return Connect("app", f"{worker}.{number}", None) if number % 2 else Attach("app")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("subscribe", "subscribe", "publish", "connect", "leave")),
        st.sampled_from(WORKERS),
        st.sampled_from(CHANNELS),
        st.sampled_from(USERS),
    ),
    min_size=8,
    max_size=30,
)


@given(STEPS, st.integers(1, 4), st.integers(1, 4))
def test_what_is_held_is_the_same_and_nobody_hears_of_it(
    steps: list[tuple[str, str, str, str]], before: int, after: int
) -> None:
    cluster = Cluster(before)
    held: list[tuple[str, str, str]] = []
    for number, (action, worker, channel, user) in enumerate(steps, 1):
        if action != "leave":
            cluster.ask(worker, request(action, worker, channel, user, number))
            if action == "subscribe":
                held.append((worker, channel, user))
        elif held:
            worker, channel, user = held.pop(number % len(held))
            cluster.ask(worker, Unsubscribe("app", channel, user if channel.startswith("presence") else None))
    cluster.settle()
    counts, channels = cluster.counts(), cluster.channels()
    cluster.reshard(after)
    for worker in WORKERS:
        assert not [event for event in cluster.heard[worker] if isinstance(event, MemberAdded | MemberRemoved)]
    assert cluster.counts() == counts
    assert cluster.channels() == channels
    for worker in WORKERS:
        cluster.heard[worker] = []
    cluster.ask("b", request("subscribe", "b", "presence-one", "9", 1000))
    cluster.settle()
    (answer,) = [event for event in cluster.heard["b"] if isinstance(event, Subscribed)]
    present = {user for _, channel, user in held if channel == "presence-one"} | {"9"}
    assert {id_ for id_, _ in answer.members or []} == present
    others = {worker for worker, channel, _ in held if channel == "presence-one"} - {"b"}
    told = {worker for worker in WORKERS for event in cluster.heard[worker] if isinstance(event, MemberAdded)}
    assert told - {"b"} == others


def test_a_member_whose_worker_has_died_meanwhile_leaves() -> None:
    cluster = Cluster(2)
    for worker, user in (("a", "1"), ("b", "2")):
        cluster.ask(worker, request("subscribe", worker, "presence-one", user, 1))
    cluster.settle()
    del cluster.ledgers["b"]
    cluster.heard["a"] = []
    cluster.ledgers = {name: resharded(name, ledgers, 3, 0) for name, ledgers in cluster.ledgers.items()}
    cluster.exchanges = [Exchange(f"s{index}-9-1", ("a", "c"), 0) for index in range(3)]
    for worker, ledgers in cluster.ledgers.items():
        for exchange, ledger in zip(cluster.exchanges, ledgers, strict=True):
            exchange.receive(encode(Hello(worker, ledger.declaration(0))), 0)
    cluster.settle()
    edges = [event for event in cluster.heard["a"] if isinstance(event, MemberAdded | MemberRemoved)]
    assert edges == [MemberRemoved("app", "presence-one", "2")]
    assert [event for event in cluster.heard["a"] if isinstance(event, Present)]
