"""Hosts, their shards, workers and connections to the store fail at any moment: whoever lives agrees with the others.

A naive model of what clients did; three hosts; a store in memory whose answers and entries come piece by piece.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

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
    Standing,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from resonate.shard.cluster.store import Channels
from tests.shard.cluster.world import Host, Worker, ask, settle
from tests.support.memory_store import MemoryStore

HOSTS = (0, 1, 2)
SLOTS = (0, 1)
CHANNELS = ("a", "b")
USERS = ("ann", "bob")
LEASE_S = 10.0
LIMIT = 4


class Client:
    """What one worker's clients hold, and have heard."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], int] = {}  # (channel, user) -> ref of the subscription
        self.joined: set[int] = set()
        self.since: dict[str, int] = {}  # channel -> the model's time at which this worker was on it
        self.events: dict[str, list[bytes]] = {channel: [] for channel in CHANNELS}
        self.members: dict[str, set[str]] = {}
        self.answered: set[int] = set()
        self.asked = 0
        self.admitted = 0
        self.time = 0
        self.alone = False

    def on(self, channel: str) -> bool:
        return any(where == channel and ref in self.joined for (where, _), ref in self.held.items())

    def hear(self, event: Event) -> None:
        match event:
            case Subscribed(_, channel, _, ref, members) if ref in self.held.values():
                first = not self.on(channel)
                self.joined.add(ref)
                users = {id_ for id_, _ in members or ()}
                if first:
                    self.since[channel] = self.time
                    self.members[channel] = users
                else:
                    assert self.members[channel] == users, "a list that differs from the edges"
            case Publication(_, channel, payload) if self.on(channel):
                assert payload not in self.events[channel], "twice"
                self.events[channel].append(payload)
            case MemberAdded(_, channel, data) if self.on(channel):
                assert data["user_id"] not in self.members[channel], "an edge that was none"
                self.members[channel].add(data["user_id"])
            case MemberRemoved(_, channel, id_) if self.on(channel):
                assert id_ in self.members[channel], "an edge that was none"
                self.members[channel].discard(id_)
            case Answer(ref):
                assert ref not in self.answered
                self.answered.add(ref)
            case Connected(_, _, admitted):
                self.admitted += admitted
            case Standing(_, trouble):
                self.alone = bool(trouble)


class Published(NamedTuple):
    """An event of the model: its publisher, and the model's time."""

    ref: int
    channel: str
    host: Host
    worker: Worker
    time: int


class UnderWay(NamedTuple):
    """What somebody has begun, and how far it has come. `everybody` is on the channel first."""

    channel: str
    what: str
    turns: list[tuple[int, int, int]]
    read: str
    everybody: bool


UNDER_WAY = st.builds(
    UnderWay,
    channel=st.sampled_from(CHANNELS),
    what=st.sampled_from(("publish", "join", "leave")),
    turns=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), max_size=4),
    read=st.sampled_from(("nobody", "one", "all")),
    everybody=st.booleans(),
)


class Turn(NamedTuple):
    """As in `Host.turn`, of a host."""

    host: int
    orders: int | None
    heard: int | None
    replies: int | None


TURNS = st.builds(
    Turn,
    st.sampled_from(HOSTS),
    st.none() | st.integers(0, 3),
    st.none() | st.integers(0, 2),
    st.none() | st.integers(0, 2),
)
#: What happens to a store that forgets, and at one place.
STEPS = ("joins", "leaves", "publishes", "forgets", "forgets", "turns", "turns", "turns", "a second", "all is quiet")


class Clients(RuleBasedStateMachine):
    """Nothing is delivered but by a rule, until the reckoning; and nothing fails."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.time = 0
        self.refs = 0
        self.born = 0
        self.store = MemoryStore()
        self.clients: dict[str, Client] = {}
        self.published: list[Published] = []
        self.excused: set[int] = set()
        self.outages = False
        self.dead: list[Host] = []
        self.forgotten = self.succession = False  # since all was quiet: the store, of a shard
        self.hosts = [Host(f"h{index}", self.store, lease_s=LEASE_S, queue_s=1e9) for index in HOSTS]
        for host in self.hosts:
            for _ in SLOTS:
                self._add_worker(host)
        self._settle()

    def _add_worker(self, host: Host) -> None:
        self.born += 1
        name = f"w{self.born}"
        client = self.clients[name] = Client()
        host.add(name, client.hear)

    def _worker(self, host: int, slot: int) -> tuple[Host, Worker, Client]:
        found = self.hosts[host]
        worker = list(found.workers.values())[slot]
        return found, worker, self.clients[worker.name]

    def _moment(self) -> int:
        self.time += 1
        for client in self.clients.values():
            client.time = self.time
        return self.time

    def _settle(self) -> None:
        self._moment()
        self.now = settle(self.hosts, self.now)
        self.forgotten = self.succession = False

    # --- what clients do ---------------------------------------------------------------------------------------------

    @rule(
        host=st.sampled_from(HOSTS),
        slot=st.sampled_from(SLOTS),
        channel=st.sampled_from(CHANNELS),
        user=st.sampled_from(USERS),
    )
    def join(self, host: int, slot: int, channel: str, user: str) -> None:
        _, worker, client = self._worker(host, slot)
        if (channel, user) not in client.held:
            self.refs += 1
            client.held[channel, user] = self.refs
            member = Member(user, {"user_id": user, "user_info": None})
            ask(worker, Subscribe("app", channel, f"{worker.name}.{self.refs}", self.refs, member))

    @rule(
        host=st.sampled_from(HOSTS),
        slot=st.sampled_from(SLOTS),
        channel=st.sampled_from(CHANNELS),
        user=st.sampled_from(USERS),
    )
    def leave(self, host: int, slot: int, channel: str, user: str) -> None:
        _, worker, client = self._worker(host, slot)
        self._leaves(worker, (channel, user))
        ref = client.held.pop((channel, user), None)
        if ref is not None:
            client.joined.discard(ref)
            ask(worker, Unsubscribe("app", channel, user))

    @rule(
        host=st.sampled_from(HOSTS), slot=st.sampled_from(SLOTS), channel=st.sampled_from(CHANNELS), keep=st.booleans()
    )
    def publish(self, host: int, slot: int, channel: str, keep: bool) -> None:
        found, worker, _ = self._worker(host, slot)
        self.refs += 1
        self.published.append(Published(self.refs, channel, found, worker, self._moment()))
        ask(worker, Publish(self.refs, "app", channel, b"%d" % self.refs, None, 60 if keep else 0))

    @rule(host=st.sampled_from(HOSTS), slot=st.sampled_from(SLOTS))
    def connect(self, host: int, slot: int) -> None:
        _, worker, client = self._worker(host, slot)
        client.asked += 1
        ask(worker, Connect("app", f"{worker.name}-{client.asked}", LIMIT))

    # --- what happens underneath -------------------------------------------------------------------------------------

    @rule(host=st.sampled_from(HOSTS), slot=st.sampled_from(SLOTS))
    def send(self, host: int, slot: int) -> None:
        found, worker, _ = self._worker(host, slot)
        found.send(worker, self.now)

    @rule(
        host=st.sampled_from(HOSTS),
        orders=st.none() | st.integers(0, 3),
        heard=st.none() | st.integers(0, 3),
        replies=st.none() | st.integers(0, 3),
    )
    def turn(self, host: int, orders: int | None, heard: int | None, replies: int | None) -> None:
        self.hosts[host].turn(self.now, orders, heard, replies)

    @rule(host=st.sampled_from(HOSTS))
    def read(self, host: int) -> None:
        self._moment()
        self.hosts[host].read_all(self.now)

    @rule(host=st.sampled_from(HOSTS))
    def receipts(self, host: int) -> None:
        for worker in self.hosts[host].workers.values():
            self.hosts[host].receipt(worker)

    @rule()
    def all_is_quiet(self) -> None:
        self._settle()

    def _leaves(self, worker: Worker, place: tuple[str, str]) -> None:
        """He is on that channel as that user no more."""

    def _time_passes(self, seconds: int) -> None:
        self.now += seconds
        for host in self.hosts:
            host.exchange.beat(self.now)

    def _join_all(self, channel: str) -> None:
        for number in HOSTS:
            for each in SLOTS:
                self.join(number, each, channel, "bob")

    def _begin(self, host: int, slot: int, under_way: UnderWay) -> None:
        """It is the only thing that is under way, so that all that follows does so from this."""
        channel, what, turns, read, everybody = under_way
        if everybody:
            self._join_all(channel)
        self._settle()
        if what == "publish":
            self.publish(host, slot, channel, keep=False)
        else:
            change = self.join if what == "join" else self.leave
            change(host, slot, channel, "ann")
        self.send(host, slot)
        self.hosts[host].turn(self.now, 0, 0, 0)
        for orders, heard, replies in turns:
            self.hosts[host].turn(self.now, orders, heard, replies)
        self._moment()
        for worker in list(self.hosts[host].workers.values())[: {"nobody": 0, "one": 1, "all": 2}[read]]:
            while worker.inbox:
                self.hosts[host].read(worker, self.now)

    # --- the reckoning -----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        for host in self.hosts:
            host.end.mend()
        began = self.now
        while self.now < began + 2 * LEASE_S + 4:  # who was away, and comes back; then who does not
            self._settle()
        for channel in CHANNELS:
            held = {user for client in self.clients.values() for where, user in client.held if where == channel}
            for name, client in self.clients.items():
                if client.on(channel):
                    assert client.members[channel] == held, name
            self._orders(channel)
        self._completeness()
        subscriptions = Counter(channel for client in self.clients.values() for channel, _ in client.held)
        assert self.store.do(Channels(0, "app", "")) == subscriptions
        if not self.outages and not self.dead:
            assert sum(client.admitted for client in self.clients.values()) <= LIMIT

    def _completeness(self) -> None:
        for ref, channel, host, worker, time in self.published:
            if host not in self.hosts or worker.name not in self.clients:
                continue
            assert ref in self.clients[worker.name].answered
            if ref in self.excused:
                continue
            for client in self.clients.values():
                if client.on(channel) and client.since[channel] < time:
                    assert b"%d" % ref in client.events[channel], "lost"

    def _orders(self, channel: str) -> None:
        """Events of one publisher come in the order of publication; without outages there is one order for all."""
        publishers = {b"%d" % each.ref: each.worker.name for each in self.published}
        rows = [client.events[channel] for client in self.clients.values()]
        for row in rows:
            for name in {publishers[event] for event in row}:
                numbers = [int(event) for event in row if publishers[event] == name]
                assert numbers == sorted(numbers), "out of order"
        if self.outages:
            return
        for one in rows:
            for other in rows:
                common = set(one) & set(other)
                assert [event for event in one if event in common] == [event for event in other if event in common]


class Hosts(Clients):
    """Hosts, their shards, workers and connections to the store fail."""

    @rule(seconds=st.sampled_from((1, 1, 1, 3, 11)))
    def time_passes(self, seconds: int) -> None:
        self._time_passes(seconds)

    @rule(host=st.sampled_from(HOSTS), done=st.integers(0, 3))
    def the_store_is_lost(self, host: int, done: int) -> None:
        end = self.hosts[host].end
        if end.connected and self.hosts[host].cluster.released:  # what two deaths at a time do is documented
            end.lose(min(done, len(end.waiting)))
            self.outages = True

    @rule(host=st.sampled_from(HOSTS))
    def the_store_is_back(self, host: int) -> None:
        self.hosts[host].end.mend()

    @rule(host=st.sampled_from(HOSTS), slot=st.sampled_from(SLOTS))
    def a_worker_dies(self, host: int, slot: int) -> None:
        found, worker, _ = self._worker(host, slot)
        del self.clients[worker.name]
        found.kill(worker.name, self.now)
        self._add_worker(found)

    @rule(host=st.sampled_from(HOSTS))
    def a_shard_dies(self, host: int) -> None:
        """What it has answered and not told the store is lost: so it only dies while that is there."""
        found = self.hosts[host]
        alone = any(self.clients[name].alone for name in found.workers)
        if found.end.connected and not alone and not self.forgotten:
            self.succession = True
            found.start_shard(self.now)

    @precondition(lambda self: len(self.dead) < 3)
    @rule(host=st.sampled_from(HOSTS))
    def a_host_dies(self, host: int) -> None:
        """Another comes in its place."""
        gone = self.hosts[host]
        gone.end.lose()
        self.dead.append(gone)
        for name in gone.workers:
            del self.clients[name]
        found = self.hosts[host] = Host(f"{gone.name}x", self.store, lease_s=LEASE_S, queue_s=1e9)
        for _ in SLOTS:
            self._add_worker(found)

    @rule(
        under_way=UNDER_WAY,
        host=st.sampled_from(HOSTS),
        slot=st.sampled_from(SLOTS),
        then=st.sampled_from(("the store", "the shard", "the worker", "the host")),
    )
    def something_is_under_way_when(self, under_way: UnderWay, host: int, slot: int, then: str) -> None:
        self._begin(host, slot, under_way)
        match then:
            case "the store":
                self.the_store_is_lost(host, len(under_way.turns))
            case "the shard":
                self.a_shard_dies(host)
            case "the worker":
                self.a_worker_dies(host, slot)
            case "the host" if len(self.dead) < 3:
                self.a_host_dies(host)

    @rule(done=st.integers(0, 3))
    def the_store_begins_anew(self, done: int) -> None:
        """It has lost all that it had, and its connections; what was published is nowhere but in queues."""
        if not all(host.cluster.released for host in self.hosts):
            return
        for host in self.hosts:
            host.end.lose(min(done, len(host.end.waiting)) if host.end.connected else 0)
        self.store.wipe()
        self.outages = True
        self.excused |= {each.ref for each in self.published}

    @precondition(lambda self: not self.succession)
    @rule()
    def the_store_forgets(self) -> None:
        """It has lost all that it had, and stays connected. What follows if a shard dies just then is documented."""
        self.store.wipe()
        self.outages = self.forgotten = True
        self.excused |= {each.ref for each in self.published}


class Forgetting(Clients):
    """Nothing fails but that the store forgets all, while all are connected: nobody who stays has an edge.

    Who comes to a channel that is new to his host hears of those on others when they are back.
    """

    def __init__(self) -> None:
        self.staying: dict[tuple[str, str], set[tuple[str, int]]] = {}  # since all was quiet: worker and ref of each
        self.known: set[tuple[str, str, str]] = set()  # who knew of whom by then
        super().__init__()
        self.outages = True

    def _add_worker(self, host: Host) -> None:
        super()._add_worker(host)
        name, client = list(self.clients.items())[-1]
        host.workers[name].hear = lambda event: self._hears(name, client, event)

    def _hears(self, name: str, client: Client, event: Event) -> None:
        if isinstance(event, MemberRemoved) and (name, event.channel, event.id) in self.known:
            assert (event.channel, event.id) not in self.staying, "who stays leaves"
        client.hear(event)

    def _settle(self) -> None:
        again = self.forgotten
        super()._settle()
        if again:
            super()._settle()  # everybody has noticed by then
        self.staying.clear()
        self.known.clear()
        for name, client in self.clients.items():
            for place, ref in client.held.items():
                if ref in client.joined:
                    self.staying.setdefault(place, set()).add((name, ref))
            self.known |= {(name, each, user) for each in CHANNELS if client.on(each) for user in client.members[each]}
        self.heard_at = dict.fromkeys(HOSTS, self.now)

    def _leaves(self, worker: Worker, place: tuple[str, str]) -> None:
        client = self.clients[worker.name]
        if sum(channel == place[0] for channel, _ in client.held) == 1:
            self.known = {each for each in self.known if each[:2] != (worker.name, place[0])}
        stay = self.staying.get(place, set())
        stay.discard((worker.name, self.clients[worker.name].held.get(place, 0)))
        if not stay:
            self.staying.pop(place, None)

    @rule()
    def a_second_passes(self) -> None:
        """No host is silent for so long that it could be taken for dead."""
        self._time_passes(1)
        for number, host in enumerate(self.hosts):
            if self.now - self.heard_at[number] >= 3:
                host.turn(self.now)
                host.turn(self.now)
                self.heard_at[number] = self.now

    @rule()
    def the_store_forgets(self) -> None:
        self.store.wipe()
        self.forgotten = True

    @rule(
        host=st.sampled_from(HOSTS),
        slot=st.sampled_from(SLOTS),
        channel=st.sampled_from(CHANNELS),
        steps=st.lists(st.sampled_from(STEPS) | TURNS, min_size=4, max_size=12),
        everybody=st.booleans(),
    )
    def it_forgets_while_somebody(
        self, host: int, slot: int, channel: str, steps: list[str | Turn], everybody: bool
    ) -> None:
        """Much happens at one place. `everybody` is on the channel first."""
        if everybody:
            self._join_all(channel)
        self._settle()
        for step in steps:
            match step:
                case "joins":
                    self.join(host, slot, channel, "ann")
                case "leaves":
                    self.leave(host, slot, channel, "ann")
                case "publishes":
                    self.publish(host, slot, channel, keep=False)
                case "forgets":
                    self.the_store_forgets()
                case "turns":
                    self.send(host, slot)
                    for _ in range(4):
                        self.hosts[host].turn(self.now)
                        self.hosts[host].read_all(self.now)
                case "a second":
                    self.a_second_passes()
                case "all is quiet":
                    self._settle()
                case Turn(who, orders, heard, replies):
                    self.send(host, slot)
                    self.hosts[who].turn(self.now, orders, heard, replies)
                    self._moment()
                    self.hosts[who].read_all(self.now)


TestHosts = Hosts.TestCase
TestForgetting = Forgetting.TestCase
if settings.default is settings.get_profile("any machine"):
    for case in (TestHosts, TestForgetting):
        case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
