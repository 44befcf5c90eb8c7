"""Connections change their worker while workers and shards are killed: none that lives misses or repeats anything.

A naive model of everything: clients, workers' ledgers of two shards, frames as bytes on pipes that may be cut anywhere,
and the luggage between two workers.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from resonate.encoding import decode, encode
from resonate.messages import (
    Answer,
    Beat,
    Event,
    Expel,
    HandedOver,
    Hello,
    Inherit,
    Member,
    MemberAdded,
    MemberRemoved,
    Parcel,
    Present,
    Publication,
    Publish,
    Request,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from resonate.shard.exchange import Exchange
from resonate.shard.handover import Arrival, Arrivals, Departure, Holder, holdings
from resonate.shard.homes import home_of_channel, homes
from resonate.shard.ledger import Ledger

SHARDS = 2
SLOTS = (0, 1, 2)
CHANNELS = ("chat", "private-user-1")  # at home on different shards
USERS = ("ann", "bob")


def test_the_channels_of_the_model_have_different_homes() -> None:
    assert {home_of_channel("app", channel, SHARDS) for channel in CHANNELS} == {0, 1}


class Client:
    """What somebody sees who does not know of workers."""

    def __init__(self, socket: str, user: str) -> None:
        self.socket = socket
        self.user = user
        self.alive = True
        self.moving = False
        self.pending: dict[str, int] = {}
        self.on: set[str] = set()
        self.since: dict[str, int] = {}
        self.events: dict[str, list[bytes]] = {channel: [] for channel in CHANNELS}
        self.members: dict[str, set[str]] = {}

    def hear(self, event: Event) -> None:
        if isinstance(event, Publication):
            assert event.payload not in self.events[event.channel], "twice"
            self.events[event.channel].append(event.payload)
        elif isinstance(event, MemberAdded):
            if event.except_ != self.socket:
                assert event.data["user_id"] not in self.members[event.channel], "an edge that was none"
                self.members[event.channel].add(event.data["user_id"])
        elif isinstance(event, MemberRemoved):
            assert event.id in self.members[event.channel], "an edge that was none"
            self.members[event.channel].discard(event.id)


Beliefs = list[tuple[str, str, list[Any]]]
Luggage = tuple[list[Client], Beliefs]


class Worker:
    """A worker with its hub, and its half of a hand-over."""

    def __init__(self, name: str, model: Handing) -> None:
        self.name = name
        self.model = model
        self.alive = True
        self.ledgers = [Ledger(name) for _ in range(SHARDS)]
        self.inboxes: list[deque[bytes]] = [deque() for _ in range(SHARDS)]
        self.shards = ["" for _ in range(SHARDS)]  # the names of those that it has said hello to
        self.clients: dict[str, Client] = {}
        self.channels: dict[str, dict[str, Client]] = {channel: {} for channel in CHANNELS}
        self.departures: dict[int, tuple[Departure, list[Client]]] = {}
        self.arrivals: Arrivals[Luggage] = Arrivals(SHARDS)
        self.known: set[int] = set()  # to these shards, or to those before them: it is told to a successor
        self.lines: set[str] = set()  # to heirs, until this end is closed
        self.origins: set[str] = set()  # of lines from others, until their end has been read
        self.pipe: deque[tuple[str, int, Luggage | None]] = deque()  # (origin, ref, luggage); None: the line's end
        self.answered: set[int] = set()

    def send(self, request: Request) -> None:
        for index in homes(request, SHARDS):
            self.ledgers[index].add(request)

    # --- from the shards ---------------------------------------------------------------------------------------------

    def read(self, index: int) -> None:
        parcel = decode(self.inboxes[index].popleft())
        assert isinstance(parcel, Parcel)
        if parcel.shard == self.shards[index]:  # else it comes too late
            self.known.add(index)
            self.model.time += 1
            for event in self.ledgers[index].receive(parcel, self.model.now):
                self.hear(event)

    def hear(self, event: Event) -> None:
        match event:
            case Subscribed(_, channel, socket, ref, members):
                self.subscribed(channel, socket, ref, members)
            case Publication() | MemberAdded() | MemberRemoved() | Present():
                for client in list(self.channels[event.channel].values()):
                    client.hear(event)
                for arrival in self.arrivals.heard(event):
                    self.adopt(arrival)
            case Answer(ref):
                assert ref not in self.answered
                self.answered.add(ref)
            case HandedOver(ref):
                self.handed_over(event, *self.departures[ref])
            case Inherit(origin):
                self.adopt(self.arrivals.inherit(event))
                if origin not in self.origins:
                    self.give_up(origin)

    def subscribed(self, channel: str, socket: str, ref: int, members: list[tuple[Any, Any]] | None) -> None:
        client = self.clients.get(socket)
        if client is not None and client.pending.get(channel) == ref:
            del client.pending[channel]
            client.on.add(channel)
            client.since[channel] = self.model.time
            client.events[channel] = []
            client.members[channel] = {id_ for id_, _ in members or ()}
            self.channels[channel][socket] = client

    def handed_over(self, answer: HandedOver, departure: Departure, clients: list[Client]) -> None:
        departure.answered(answer)
        for client in clients if answer.done else ():
            for channel in CHANNELS:
                if home_of_channel("app", channel, SHARDS) == answer.shard:
                    self.channels[channel].pop(client.socket, None)
        if not departure.decided:
            return
        del self.departures[departure.ref]
        heir = self.model.by_name(departure.heir)
        if departure.refused:
            for client in clients:
                client.moving = False
            return
        for client in clients:
            del self.clients[client.socket]
            for channel in CHANNELS:
                self.channels[channel].pop(client.socket, None)
        if departure.granted and heir is not None:
            heir.pipe.append((self.name, departure.ref, (clients, departure.beliefs)))
            return
        assert heir is None, "closed although nobody has died"
        for client in clients:
            client.alive = False
        for request in departure.remains():
            self.send(request)

    # --- to other workers --------------------------------------------------------------------------------------------

    def dial(self, heir: Worker) -> bool:
        """Have a line to that one, unless it is not ready, or has not read an earlier line to its end."""
        if heir.name not in self.lines:
            if len(heir.known) < SHARDS or self.name in heir.origins:
                return False
            self.lines.add(heir.name)
            heir.origins.add(self.name)
        return True

    def hang_up(self) -> None:
        """Nothing more goes over lines over which nothing is to go; the worker lives on, and so do its clients."""
        busy = {departure.heir for departure, _ in self.departures.values()}
        for name in self.lines - busy:
            self.lines.discard(name)
            heir = self.model.by_name(name)
            if heir is not None:
                heir.pipe.append((self.name, 0, None))

    # --- from other workers ------------------------------------------------------------------------------------------

    def unpack(self) -> None:
        origin, ref, luggage = self.pipe.popleft()
        if luggage is None:
            self.origins.discard(origin)
            self.give_up(origin)
        else:
            self.adopt(self.arrivals.brought(origin, ref, luggage))

    def adopt(self, arrival: Arrival[Luggage] | None) -> None:
        if arrival is None or arrival.luggage is None:
            return
        clients, beliefs = arrival.luggage
        missed = list(arrival.missed(beliefs))
        for client in clients:
            client.moving = False
            self.clients[client.socket] = client
            for event in missed:
                if not isinstance(event, Expel) and event.channel in client.on:
                    client.hear(event)
            for channel in client.on:
                self.channels[channel][client.socket] = client

    def give_up(self, origin: str) -> None:
        for arrival in self.arrivals.abandoned(origin):
            for request in arrival.given_up():
                self.send(request)

    def give_up_all(self) -> None:
        """Their time is over."""
        for arrival in self.arrivals.expected:
            assert self.model.by_name(arrival.origin) is None, "given up although nobody has died"
            self.arrivals.forget(arrival)
            for client in arrival.luggage[0] if arrival.luggage else ():
                client.alive = False
            for request in arrival.given_up():
                self.send(request)


class Handing(RuleBasedStateMachine):
    """Pipes deliver in order; a death loses what is in them, but for what had got through."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.time = 0
        self.refs = itertools.count(1)
        self.generation = [0] * SHARDS
        self.born = 0
        self.clients: list[Client] = []
        self.published: list[tuple[int, str, Worker, int]] = []
        self.to_shard: list[deque[tuple[str, bytes]]] = [deque() for _ in range(SHARDS)]
        self.workers: list[Worker] = []
        self.workers = [self._new_worker() for _ in SLOTS]
        self.exchanges = [self._new_shard(index) for index in range(SHARDS)]

    def _new_worker(self) -> Worker:
        self.born += 1
        return Worker(f"w{self.born}", self)

    def _new_shard(self, index: int) -> Exchange:
        self.generation[index] += 1
        return Exchange(self._shard_name(index), [worker.name for worker in self.workers], self.now)

    def _shard_name(self, index: int) -> str:
        return f"s{index}.{self.generation[index]}"

    def by_name(self, name: str) -> Worker | None:
        return next((worker for worker in self.workers if worker.name == name), None)

    # --- what clients do ---------------------------------------------------------------------------------------------

    @rule(slot=st.sampled_from(SLOTS), user=st.sampled_from(USERS), channel=st.sampled_from(CHANNELS))
    def join(self, slot: int, user: str, channel: str) -> None:
        """Somebody new, or a client of that worker which is not on the channel yet."""
        worker = self.workers[slot]
        free = (
            client
            for client in worker.clients.values()
            if client.user == user and not client.moving and channel not in client.on and channel not in client.pending
        )
        client = next(free, None)
        if client is None:
            client = Client(f"{worker.name}.{next(self.refs)}", user)
            worker.clients[client.socket] = client
            self.clients.append(client)
        ref = client.pending[channel] = next(self.refs)
        member = Member(user, {"user_id": user, "user_info": None})
        worker.send(Subscribe("app", channel, client.socket, ref, member))

    @rule(slot=st.sampled_from(SLOTS), channel=st.sampled_from(CHANNELS))
    def leave(self, slot: int, channel: str) -> None:
        worker = self.workers[slot]
        for client in worker.channels[channel].values():
            if not client.moving:
                del worker.channels[channel][client.socket]
                client.on.discard(channel)
                worker.send(Unsubscribe("app", channel, client.user))
                return

    @rule(slot=st.sampled_from(SLOTS), channel=st.sampled_from(CHANNELS))
    def publish(self, slot: int, channel: str) -> None:
        ref = next(self.refs)
        self.time += 1
        self.published.append((ref, channel, self.workers[slot], self.time))
        self.workers[slot].send(Publish(ref, "app", channel, b"%d" % ref, None, 0))

    @rule(slot=st.sampled_from(SLOTS), other=st.integers(1, 2), most=st.integers(1, 4))
    def hand_over(self, slot: int, other: int, most: int) -> None:
        """Some clients of a worker are to be another's, which may die meanwhile; the others stay, and it serves on."""
        worker, heir = self.workers[slot], self.workers[(slot + other) % len(SLOTS)]
        if not worker.dial(heir):
            return
        free = [client for client in worker.clients.values() if not client.moving and not client.pending][:most]
        for client in free:
            client.moving = True
        member = {client.socket: Member(client.user, {"user_id": client.user, "user_info": None}) for client in free}
        holders = [Holder("app", [(channel, member[client.socket]) for channel in client.on]) for client in free]
        departure = Departure(next(self.refs), heir.name, holders, SHARDS)
        worker.departures[departure.ref] = (departure, free)
        for request in departure.requests():
            worker.send(request)

    @rule(slot=st.sampled_from(SLOTS))
    def hang_up(self, slot: int) -> None:
        self.workers[slot].hang_up()

    @rule(slot=st.sampled_from(SLOTS), other=st.integers(1, 2), most=st.integers(1, 4))
    def give_again(self, slot: int, other: int, most: int) -> None:
        """Some have gone, and their line is at its end, of which the heir has read nothing."""
        self.hand_over(slot, other, most)
        for index in range(SHARDS):
            self.send(slot, index)
            while self.to_shard[index]:
                self.step_shard(index, True)
            while self.workers[slot].inboxes[index]:
                self.workers[slot].read(index)
        self.hang_up(slot)
        self.hand_over(slot, other, most)

    @rule(one=st.sampled_from(SLOTS), other=st.integers(1, 2), most=st.integers(1, 4))
    def two_give_to_each_other(self, one: int, other: int, most: int) -> None:
        """What their figures say may differ."""
        self.hand_over(one, other, most)
        self.hand_over((one + other) % len(SLOTS), len(SLOTS) - other, most)

    # --- what happens underneath -------------------------------------------------------------------------------------

    @rule(slot=st.sampled_from(SLOTS), steps=st.integers(0, 3))
    def turn(self, slot: int, steps: int) -> None:
        """A worker's requests reach the shards; somebody may read."""
        for index in range(SHARDS):
            for worker in self.workers:
                self._link(worker, index)
            self.send(slot, index)
            while self.to_shard[index]:
                self.step_shard(index, True)
        for other in SLOTS[:steps]:
            for index in range(SHARDS):
                self.step_worker(other, index)

    def _link(self, worker: Worker, index: int) -> None:
        if worker.shards[index] != self._shard_name(index):
            while worker.inboxes[index]:  # what has arrived is read before the successor is spoken to
                worker.read(index)
            worker.shards[index] = self._shard_name(index)
            hello = Hello(worker.name, worker.ledgers[index].declaration(self.now))
            self.to_shard[index].append((worker.name, encode(hello)))

    @rule(slot=st.sampled_from(SLOTS), index=st.integers(0, SHARDS - 1))
    def send(self, slot: int, index: int) -> None:
        worker = self.workers[slot]
        self._link(worker, index)
        batch = worker.ledgers[index].batch()
        if batch is not None:
            self.to_shard[index].append((worker.name, encode(batch)))

    @rule(slot=st.sampled_from(SLOTS), index=st.integers(0, SHARDS - 1))
    def receipt(self, slot: int, index: int) -> None:
        worker = self.workers[slot]
        if worker.shards[index] == self._shard_name(index):
            self.to_shard[index].append((worker.name, encode(Beat(worker.name, worker.ledgers[index].received, None))))

    @rule(index=st.integers(0, SHARDS - 1), turn_over=st.booleans())
    def step_shard(self, index: int, turn_over: bool) -> None:
        if self.to_shard[index]:
            self.exchanges[index].receive(self.to_shard[index].popleft()[1], self.now)
        if turn_over:
            self._deliver(index)

    def _deliver(self, index: int) -> None:
        for name, data in self.exchanges[index].take(self.now):
            worker = self.by_name(name)
            assert worker is not None
            worker.inboxes[index].append(data)
        assert not self.exchanges[index].failures()

    @rule(index=st.integers(0, SHARDS - 1))
    def beat(self, index: int) -> None:
        self.now += 1
        self.exchanges[index].beat(self.now)
        self._deliver(index)

    @rule(slot=st.sampled_from(SLOTS), index=st.integers(0, SHARDS - 1))
    def step_worker(self, slot: int, index: int) -> None:
        if self.workers[slot].inboxes[index]:
            self.workers[slot].read(index)

    @rule(slot=st.sampled_from(SLOTS))
    def step_pipe(self, slot: int) -> None:
        if self.workers[slot].pipe:
            self.workers[slot].unpack()

    @rule()
    def all_is_quiet(self) -> None:
        """Everybody has read everything, and has said so: what comes next is the only thing under way."""
        for _ in range(4):
            for index in range(SHARDS):
                for slot in SLOTS:
                    self.send(slot, index)
                    self.receipt(slot, index)
                while self.to_shard[index]:
                    self.step_shard(index, True)
                self.beat(index)
                for worker in self.workers:
                    while worker.inboxes[index]:
                        worker.read(index)
            for worker in self.workers:
                while worker.pipe:
                    worker.unpack()

    @rule(slot=st.sampled_from(SLOTS), index=st.integers(0, SHARDS - 1), arrived=st.tuples(*[st.integers(0, 1)] * 3))
    def only_a_hand_over_is_cut(self, slot: int, index: int, arrived: tuple[int, ...]) -> None:
        """What it leads to reaches some, and not others."""
        self.all_is_quiet()
        self.hand_over(slot, 1, 4)
        for number in range(SHARDS):
            self.send(slot, number)
            self.step_shard(number, True)
        self.kill_shard(index, arrived)

    @rule(index=st.integers(0, SHARDS - 1), arrived=st.tuples(*[st.integers(0, 5)] * 3))
    def kill_shard(self, index: int, arrived: tuple[int, ...]) -> None:
        self.to_shard[index].clear()
        for worker, count in zip(self.workers, arrived, strict=True):
            while len(worker.inboxes[index]) > count:
                worker.inboxes[index].pop()
        self.exchanges[index] = self._new_shard(index)

    @rule(slot=st.sampled_from(SLOTS), got_through=st.tuples(*[st.integers(0, 3)] * SHARDS))
    def kill_worker(self, slot: int, got_through: tuple[int, ...]) -> None:
        dead = self.workers[slot]
        for client in [*dead.clients.values(), *(c for _, _, luggage in dead.pipe if luggage for c in luggage[0])]:
            client.alive = False
        for arrival in dead.arrivals.expected:
            for client in arrival.luggage[0] if arrival.luggage else ():
                client.alive = False
        self.workers[slot] = self._new_worker()
        for worker in self.workers:
            if worker.name in dead.lines:
                worker.pipe.append((dead.name, 0, None))
        for index in range(SHARDS):
            left = got_through[index]
            while self.to_shard[index]:
                name, data = self.to_shard[index].popleft()
                left -= name == dead.name
                if name != dead.name or left >= 0:
                    self.exchanges[index].receive(data, self.now)
            if dead.name in self.exchanges[index].workers:
                self.exchanges[index].gone(dead.name, self.now)
            self._deliver(index)

    # --- the reckoning -----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        self.all_is_quiet()
        for worker in self.workers:
            worker.give_up_all()
        self.all_is_quiet()
        living = [client for client in self.clients if client.alive]
        for client in living:
            assert not client.moving, "on its way for ever"
        self._nothing_is_lost(living)
        self._who_is_there(living)
        for index in range(SHARDS):
            for worker in self.workers:
                assert not worker.ledgers[index].declaration(self.now).requests, "everything is stable"
                self._held(worker, index)

    def _nothing_is_lost(self, living: list[Client]) -> None:
        for ref, channel, publisher, time in self.published:
            for client in living:
                if publisher.name in {worker.name for worker in self.workers} and channel in client.on:
                    assert ref in publisher.answered
                    assert client.since[channel] >= time or b"%d" % ref in client.events[channel], "lost"
        for channel in CHANNELS:
            rows = [client.events[channel] for client in living]
            for one, other in itertools.combinations(rows, 2):
                common = set(one) & set(other)
                assert [event for event in one if event in common] == [event for event in other if event in common]

    def _who_is_there(self, living: list[Client]) -> None:
        for channel in CHANNELS:
            on = [client for client in living if channel in client.on]
            present = {client.user for client in on}
            for client in on:
                assert client.members[channel] == present

    def _held(self, worker: Worker, index: int) -> None:
        """What a worker would declare is what its clients hold."""
        declared = worker.ledgers[index].declaration(self.now)
        holders = [
            Holder(
                "app",
                [(channel, Member(client.user, {"user_id": client.user, "user_info": None})) for channel in client.on],
            )
            for client in worker.clients.values()
        ]
        held = {each.channel: each.subscriptions for each in holdings(holders, SHARDS)[index].channels}
        assert {each.channel: each.subscriptions for each in declared.channels} == held


TestHanding = Handing.TestCase
if settings.default is settings.get_profile("any machine"):
    TestHanding.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
