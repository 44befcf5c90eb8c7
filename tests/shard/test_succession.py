"""A shard is killed at any moment and followed by another: nobody misses an event or gets one twice or out of order."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from resonate.messages import (
    Answer,
    Connect,
    Connected,
    Event,
    Member,
    MemberAdded,
    MemberRemoved,
    Publication,
    Publish,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from resonate.shard import Shard
from resonate.shard.ledger import Ledger
from resonate.shard.sequencer import Deliveries, Parcel, Sequencer

WORKERS = ("w1", "w2", "w3")
CHANNELS = ("a", "b")
USERS = ("ann", "bob")


class Worker:
    """A worker's end, without its clients: one subscription a channel and a member, at most."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ledger = Ledger(name)
        self.inbox: deque[Parcel] = deque()
        self.linked = False
        self.held: dict[tuple[str, str | None], int] = {}  # (channel, user) -> ref of the subscription
        self.joined: set[int] = set()
        self.events: dict[str, list[bytes]] = {channel: [] for channel in CHANNELS}
        self.members: dict[str, set[str]] = {}  # as a client would see it, from the snapshot and the edges
        self.answered: set[int] = set()
        self.asked = 0
        self.admitted = 0

    def on(self, channel: str) -> bool:
        return any(where == channel and ref in self.joined for (where, _), ref in self.held.items())

    def hear(self, event: Event) -> None:
        if isinstance(event, Subscribed):
            if event.ref in self.held.values():
                first = not self.on(event.channel)
                self.joined.add(event.ref)
                if first:
                    self.events[event.channel].append(b"joined")
                    self.members[event.channel] = {id_ for id_, _ in event.members or ()}
        elif isinstance(event, Publication) and self.on(event.channel):
            assert event.payload not in self.events[event.channel], "twice"
            self.events[event.channel].append(event.payload)
        elif isinstance(event, MemberAdded) and self.on(event.channel):
            assert event.data["user_id"] not in self.members[event.channel], "an edge that was none"
            self.members[event.channel].add(event.data["user_id"])
        elif isinstance(event, MemberRemoved) and self.on(event.channel):
            assert event.id in self.members[event.channel], "an edge that was none"
            self.members[event.channel].discard(event.id)
        elif isinstance(event, Answer):
            assert event.ref not in self.answered
            self.answered.add(event.ref)
        elif isinstance(event, Connected):
            self.admitted += event.admitted


class Succession(RuleBasedStateMachine):
    """Pipes deliver in order; a shard's death loses what is in them, but for what had got through."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.refs = 0
        self.generation = 0
        self.workers = {name: Worker(name) for name in WORKERS}
        self.requests: deque[tuple[str, int, list[Any]]] = deque()
        self.order: dict[str, list[bytes]] = {channel: [] for channel in CHANNELS}
        self.payloads: dict[int, tuple[str, bytes]] = {}
        self._start_shard()

    def _start_shard(self) -> None:
        self.generation += 1
        self.shard = Shard()
        self.sequencer = Sequencer(self.shard, f"shard-{self.generation}", self.workers)
        for worker in self.workers.values():
            worker.linked = False
            worker.ledger.lost()

    def _deliver(self, deliveries: Deliveries) -> None:
        for name, worker in self.workers.items():
            if name in deliveries:
                worker.inbox.append(deliveries[name])

    # --- what clients do ---------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(WORKERS), channel=st.sampled_from(CHANNELS), user=st.sampled_from(USERS))
    def join(self, name: str, channel: str, user: str) -> None:
        worker = self.workers[name]
        if (channel, user) in worker.held:
            return
        self.refs += 1
        worker.held[channel, user] = self.refs
        member = Member(user, {"user_id": user, "user_info": None})
        worker.ledger.add(Subscribe("app", channel, f"{name}.{self.refs}", self.refs, member), self.now)

    @rule(name=st.sampled_from(WORKERS), channel=st.sampled_from(CHANNELS), user=st.sampled_from(USERS))
    def leave(self, name: str, channel: str, user: str) -> None:
        worker = self.workers[name]
        ref = worker.held.pop((channel, user), None)
        if ref is not None:
            worker.joined.discard(ref)
            worker.ledger.add(Unsubscribe("app", channel, user), self.now)

    @rule(name=st.sampled_from(WORKERS), channel=st.sampled_from(CHANNELS))
    def publish(self, name: str, channel: str) -> None:
        self.refs += 1
        payload = b"%d" % self.refs
        self.payloads[self.refs] = (channel, payload)
        self.workers[name].ledger.add(Publish(self.refs, "app", channel, payload, None, 0), self.now)

    @rule(name=st.sampled_from(WORKERS))
    def connect(self, name: str) -> None:
        worker = self.workers[name]
        worker.asked += 1
        worker.ledger.add(Connect("app", f"{name}-{worker.asked}", 4), self.now)

    # --- what happens underneath -------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(WORKERS), steps=st.integers(0, 2))
    def turn(self, name: str, steps: int) -> None:
        """A worker's requests reach the shard; somebody may read."""
        for other in WORKERS:
            self.link(other)
        self.send(name)
        while self.requests:
            self.step_shard()
        for other in WORKERS[:steps]:
            self.step_worker(other)

    def link(self, name: str) -> None:
        worker = self.workers[name]
        if not worker.linked:
            worker.linked = True
            self._deliver(self.sequencer.declare(name, worker.ledger.declaration(self.now), self.now))

    @rule(name=st.sampled_from(WORKERS))
    def send(self, name: str) -> None:
        worker = self.workers[name]
        if worker.linked:
            first, requests = worker.ledger.unsent()
            if requests:
                self.requests.append((name, first, requests))

    @rule()
    def step_shard(self) -> None:
        if self.requests:
            name, first, requests = self.requests.popleft()
            self._deliver(self.sequencer.requests(name, first, requests, self.now))

    @rule(name=st.sampled_from(WORKERS))
    def step_worker(self, name: str) -> None:
        worker = self.workers[name]
        if worker.inbox:
            for event in worker.ledger.receive(worker.inbox.popleft(), self.now):
                worker.hear(event)

    @rule(seconds=st.sampled_from([0.5, 3.0]))
    def wait(self, seconds: float) -> None:
        """Frames are on their way for far less than the ledgers keep what they have been answered."""
        if not any(worker.inbox for worker in self.workers.values()):
            self.now += seconds
            for worker in self.workers.values():
                worker.ledger.retire(self.now)

    @rule(arrived=st.tuples(*[st.integers(0, 5)] * 3))
    def kill_shard(self, arrived: tuple[int, ...]) -> None:
        self.requests.clear()
        for worker, count in zip(self.workers.values(), arrived, strict=True):
            while len(worker.inbox) > count:
                worker.inbox.pop()
        for name in WORKERS:  # what has arrived is read before the successor is heard of
            while self.workers[name].inbox:
                self.step_worker(name)
        self._start_shard()

    @invariant()
    def places_are_never_too_many(self) -> None:
        assert sum(worker.admitted for worker in self.workers.values()) <= 4

    # --- the reckoning -----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        for name in WORKERS:
            self.link(name)
        for _ in range(3):
            for name in WORKERS:
                self.send(name)
            while self.requests:
                self.step_shard()
            for name in WORKERS:
                while self.workers[name].inbox:
                    self.step_worker(name)
        self._all_agree()

    def _all_agree(self) -> None:
        everyone = self.workers.values()
        assert {ref for worker in everyone for ref in worker.answered} == set(self.payloads)
        for channel in CHANNELS:
            present = {user for worker in everyone for where, user in worker.held if where == channel}
            for worker in everyone:
                if worker.on(channel):
                    assert worker.members[channel] == present
            self._one_order(channel)

    def _one_order(self, channel: str) -> None:
        """Any two events that two workers both have stand in the same order."""
        rows = [[event for event in worker.events[channel] if event != b"joined"] for worker in self.workers.values()]
        for one in rows:
            for other in rows:
                common = set(one) & set(other)
                assert [event for event in one if event in common] == [event for event in other if event in common]


TestSuccession = Succession.TestCase
TestSuccession.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
