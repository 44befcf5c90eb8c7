"""Workers and shards are killed at any moment: nobody who lives misses an event or gets one twice or out of order.

A naive model of everything: clients, workers' ledgers, frames as bytes on pipes that may be cut anywhere, and one shard
after another.
"""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from resonate.encoding import decode, encode
from resonate.messages import (
    Answer,
    Beat,
    Connect,
    Connected,
    Event,
    Hello,
    Member,
    MemberAdded,
    MemberRemoved,
    Parcel,
    Publication,
    Publish,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from resonate.shard.exchange import Exchange
from resonate.shard.ledger import Ledger

SLOTS = (0, 1, 2)
CHANNELS = ("a", "b")
USERS = ("ann", "bob")


class Worker:
    """A worker's end, without its clients: one subscription a channel and a member, at most."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ledger = Ledger(name)
        self.inbox: deque[bytes] = deque()
        self.shard = ""  # the name of the one that it has said hello to
        self.held: dict[tuple[str, str], int] = {}  # (channel, user) -> ref of the subscription
        self.joined: set[int] = set()
        self.since: dict[str, int] = {}  # channel -> the model's time at which this worker was on it
        self.events: dict[str, list[bytes]] = {channel: [] for channel in CHANNELS}
        self.members: dict[str, set[str]] = {}  # as a client would see it, from the snapshot and the edges
        self.answered: set[int] = set()
        self.asked = 0
        self.admitted = 0

    def on(self, channel: str) -> bool:
        return any(where == channel and ref in self.joined for (where, _), ref in self.held.items())

    def hear(self, event: Event, time: int) -> None:
        if isinstance(event, Subscribed):
            if event.ref in self.held.values():
                first = not self.on(event.channel)
                self.joined.add(event.ref)
                if first:
                    self.since[event.channel] = time
                    self.events[event.channel].append(b"joined")
                    self.members[event.channel] = {id_ for id_, _ in event.members or ()}
                else:
                    assert self.members[event.channel] == {id_ for id_, _ in event.members or ()}
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
    """Pipes deliver in order; a death loses what is in them, but for what had got through."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.time = 0  # of the model: every step is a moment
        self.refs = 0
        self.generation = 0
        self.born = 0
        self.workers = [self._new_worker() for _ in SLOTS]
        self.to_shard: deque[tuple[str, bytes]] = deque()
        self.published: list[tuple[int, str, Worker, int]] = []  # (ref, channel, publisher, time)
        self.exchange = self._new_shard()

    def _new_worker(self) -> Worker:
        self.born += 1
        return Worker(f"w{self.born}")

    def _new_shard(self) -> Exchange:
        self.generation += 1
        return Exchange(f"s{self.generation}", [worker.name for worker in self.workers], self.now)

    @property
    def shard_name(self) -> str:
        return f"s{self.generation}"

    def _deliver(self) -> None:
        inboxes = {worker.name: worker.inbox for worker in self.workers}
        for name, data in self.exchange.take(self.now):
            inboxes[name].append(data)
        assert not self.exchange.failures()

    # --- what clients do ---------------------------------------------------------------------------------------------

    @rule(slot=st.sampled_from(SLOTS), channel=st.sampled_from(CHANNELS), user=st.sampled_from(USERS))
    def join(self, slot: int, channel: str, user: str) -> None:
        worker = self.workers[slot]
        if (channel, user) in worker.held:
            return
        self.refs += 1
        worker.held[channel, user] = self.refs
        member = Member(user, {"user_id": user, "user_info": None})
        worker.ledger.add(Subscribe("app", channel, f"{worker.name}.{self.refs}", self.refs, member))

    @rule(slot=st.sampled_from(SLOTS), channel=st.sampled_from(CHANNELS), user=st.sampled_from(USERS))
    def leave(self, slot: int, channel: str, user: str) -> None:
        worker = self.workers[slot]
        ref = worker.held.pop((channel, user), None)
        if ref is not None:
            worker.joined.discard(ref)
            worker.ledger.add(Unsubscribe("app", channel, user))

    @rule(slot=st.sampled_from(SLOTS), channel=st.sampled_from(CHANNELS))
    def publish(self, slot: int, channel: str) -> None:
        self.refs += 1
        self.time += 1
        self.published.append((self.refs, channel, self.workers[slot], self.time))
        self.workers[slot].ledger.add(Publish(self.refs, "app", channel, b"%d" % self.refs, None, 0))

    @rule(slot=st.sampled_from(SLOTS))
    def connect(self, slot: int) -> None:
        worker = self.workers[slot]
        worker.asked += 1
        worker.ledger.add(Connect("app", f"{worker.name}-{worker.asked}", 4))

    # --- what happens underneath -------------------------------------------------------------------------------------

    @rule(slot=st.sampled_from(SLOTS), steps=st.integers(0, 3))
    def turn(self, slot: int, steps: int) -> None:
        """A worker's requests reach the shard; somebody may read."""
        for worker in self.workers:
            self._link(worker)
        self.send(slot)
        while self.to_shard:
            self.step_shard()
        for other in SLOTS[:steps]:
            self.step_worker(other)

    def _link(self, worker: Worker) -> None:
        if worker.shard != self.shard_name:
            while worker.inbox:  # what has arrived is read before the successor is spoken to
                self._read(worker)
            worker.shard = self.shard_name
            self.to_shard.append((worker.name, encode(Hello(worker.name, worker.ledger.declaration(self.now)))))

    @rule(slot=st.sampled_from(SLOTS))
    def link(self, slot: int) -> None:
        self._link(self.workers[slot])

    @rule(slot=st.sampled_from(SLOTS))
    def send(self, slot: int) -> None:
        worker = self.workers[slot]
        batch = worker.ledger.batch() if worker.shard == self.shard_name else None
        if batch is not None:
            self.to_shard.append((worker.name, encode(batch)))

    @rule(slot=st.sampled_from(SLOTS))
    def receipt(self, slot: int) -> None:
        worker = self.workers[slot]
        if worker.shard == self.shard_name:
            self.to_shard.append((worker.name, encode(Beat(worker.name, worker.ledger.received, None))))

    @rule()
    def all_is_quiet(self) -> None:
        """Everybody has read everything, and has said so: what comes next is the only thing under way."""
        for worker in self.workers:
            self._link(worker)
        for _ in range(2):
            for slot in SLOTS:
                self.send(slot)
                self.receipt(slot)
            while self.to_shard:
                self.step_shard()
            for worker in self.workers:
                while worker.inbox:
                    self._read(worker)
        for slot in SLOTS:
            self.receipt(slot)
        while self.to_shard:
            self.step_shard()

    @rule(
        slot=st.sampled_from(SLOTS), channel=st.sampled_from(CHANNELS), arrived=st.tuples(*[st.integers(0, 1)] * 3)
    )
    def the_only_event_under_way_is_cut(self, slot: int, channel: str, arrived: tuple[int, ...]) -> None:
        """What one event leads to reaches some, and not others."""
        self.all_is_quiet()
        self.publish(slot, channel)
        self.send(slot)
        self.step_shard()
        self.kill_shard(arrived)

    @rule(turn_over=st.booleans())
    def step_shard(self, turn_over: bool = True) -> None:
        if self.to_shard:
            self.exchange.receive(self.to_shard.popleft()[1], self.now)
        if turn_over:
            self._deliver()

    @rule()
    def beat(self) -> None:
        self.now += 1
        self.exchange.beat(self.now)
        self._deliver()

    @rule(slot=st.sampled_from(SLOTS))
    def step_worker(self, slot: int) -> None:
        if self.workers[slot].inbox:
            self._read(self.workers[slot])

    def _read(self, worker: Worker) -> None:
        parcel = decode(worker.inbox.popleft())
        assert isinstance(parcel, Parcel)
        if parcel.shard == worker.shard:  # else it comes too late
            self.time += 1
            for event in worker.ledger.receive(parcel, self.now):
                worker.hear(event, self.time)

    @rule(arrived=st.tuples(*[st.integers(0, 5)] * 3))
    def kill_shard(self, arrived: tuple[int, ...]) -> None:
        self.to_shard.clear()
        for worker, count in zip(self.workers, arrived, strict=True):
            while len(worker.inbox) > count:
                worker.inbox.pop()
        self.exchange = self._new_shard()

    @rule(slot=st.sampled_from(SLOTS), got_through=st.integers(0, 3))
    def kill_worker(self, slot: int, got_through: int) -> None:
        dead = self.workers[slot]
        kept: deque[tuple[str, bytes]] = deque()
        for name, data in self.to_shard:
            got_through -= name == dead.name
            if name != dead.name or got_through >= 0:
                kept.append((name, data))
        self.to_shard = kept
        self.workers[slot] = self._new_worker()
        if dead.name in self.exchange.workers:
            self.exchange.gone(dead.name, self.now)
            self._deliver()
        self.to_shard = deque(item for item in kept if item[0] != dead.name)

    @invariant()
    def places_are_never_too_many(self) -> None:
        assert sum(worker.admitted for worker in self.workers) <= 4

    # --- the reckoning -----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        for worker in self.workers:
            self._link(worker)
        for _ in range(4):
            for slot in SLOTS:
                self.send(slot)
                self.receipt(slot)
            while self.to_shard:
                self.step_shard()
            self.beat()
            for worker in self.workers:
                while worker.inbox:
                    self._read(worker)
        self._all_agree()

    def _all_agree(self) -> None:
        for ref, channel, publisher, time in self.published:
            if publisher in self.workers:
                assert ref in publisher.answered
                for worker in self.workers:
                    if worker.on(channel) and worker.since[channel] < time:
                        assert b"%d" % ref in worker.events[channel], "lost"
        for channel in CHANNELS:
            present = {user for worker in self.workers for where, user in worker.held if where == channel}
            for worker in self.workers:
                if worker.on(channel):
                    assert worker.members[channel] == present
            self._one_order(channel)
        for worker in self.workers:
            assert not worker.ledger.declaration(self.now).requests, "everything is stable"

    def _one_order(self, channel: str) -> None:
        """Any two events that two workers both have stand in the same order."""
        rows = [[event for event in worker.events[channel] if event != b"joined"] for worker in self.workers]
        for one in rows:
            for other in rows:
                common = set(one) & set(other)
                assert [event for event in one if event in common] == [event for event in other if event in common]


TestSuccession = Succession.TestCase
if settings.default is settings.get_profile("any machine"):
    TestSuccession.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
