"""Single stories of hosts; the model tells all of them at random."""

from __future__ import annotations

from typing import Any

import pytest

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
from resonate.shard.cluster.entries import Joined, Seal, field_of
from resonate.shard.cluster.feed import PER_MS
from resonate.shard.cluster.store import PAGE, Entry, Join, Reply
from tests.shard.cluster.world import Host, Worker, ask, settle
from tests.support.memory_store import MemoryStore

LEASE_S = 10.0


class Pair:
    """Two hosts, a worker on each, and what each has heard."""

    def __init__(self, **terms: Any) -> None:
        self.store = MemoryStore()
        self.now = 100.0
        self.hosts = [Host(name, self.store, **{"lease_s": LEASE_S, **terms}) for name in ("here", "there")]
        self.heard: list[list[Event]] = [[], []]
        self.workers: list[Worker] = [
            host.add(f"w{number}", self.heard[number].append) for number, host in enumerate(self.hosts)
        ]
        self.settle()

    def settle(self) -> None:
        self.now = settle(self.hosts, self.now)

    def lease_passes(self) -> None:
        until = self.now + 2 * LEASE_S + 4
        while self.now < until:
            self.settle()

    def subscribe(self, number: int, channel: str, user: str | None = None, ref: int = 1) -> None:
        member = Member(user, {"user_id": user, "user_info": None}) if user is not None else None
        ask(self.workers[number], Subscribe("app", channel, f"{number}.{ref}", ref, member))

    def of(self, number: int, kind: type) -> list[Any]:
        found = [event for event in self.heard[number] if isinstance(event, kind)]
        self.heard[number].clear()
        return found


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_one_edge_for_a_user_on_two_hosts(pair: Pair) -> None:
    pair.subscribe(0, "p", "ann")
    pair.settle()
    pair.subscribe(1, "p", "bob")
    pair.settle()
    assert [event.data["user_id"] for event in pair.of(0, MemberAdded)] == ["bob"]
    assert [event.members for event in pair.of(1, Subscribed)] == [[("ann", None), ("bob", None)]]
    pair.subscribe(0, "p", "bob", ref=2)
    pair.settle()
    assert pair.of(0, MemberAdded) == pair.of(1, MemberAdded) == []
    ask(pair.workers[1], Unsubscribe("app", "p", "bob"))
    pair.settle()
    assert pair.of(0, MemberRemoved) == []
    ask(pair.workers[0], Unsubscribe("app", "p", "bob"))
    pair.settle()
    assert [event.id for event in pair.of(0, MemberRemoved)] == ["bob"]


def test_who_wakes_up_after_its_burial_leaves_no_ghost(pair: Pair) -> None:
    """It goes on under its old name until it is told."""
    pair.subscribe(0, "p", "watcher")
    pair.subscribe(1, "other", "ann", ref=2)
    pair.settle()
    late = pair.hosts[1]
    for _ in range(30):
        pair.now += 1
        pair.hosts[0].exchange.beat(pair.now)
        pair.hosts[0].turn(pair.now)
        pair.hosts[0].read_all(pair.now)
    pair.subscribe(1, "p", "ghost", ref=3)
    late.send(pair.workers[1], pair.now)
    late.turn(pair.now)
    for _ in range(6):
        late.turn(pair.now)
    pair.lease_passes()
    ask(pair.workers[1], Unsubscribe("app", "p", "ghost"))
    pair.lease_passes()
    assert [event.id for event in pair.of(0, MemberRemoved)] == ["ghost"]
    parties = {party for counts in pair.store._counts.values() for party in counts}
    assert all(party in pair.store._leases for party in parties), "nobody is counted twice"


def test_a_log_that_cannot_be_read_disturbs_nobody_else(pair: Pair) -> None:
    """Somebody has put something else there, and the store refuses."""
    pair.subscribe(0, "news")
    pair.settle()
    table = pair.store.do
    pair.store.do = lambda order: None if type(order).__name__ == "Read" else table(order)  # type: ignore[method-assign]
    ask(pair.workers[0], Connect("another", "1.1", None))
    pair.subscribe(0, "odd", ref=2)
    pair.settle()
    pair.store.do = table  # type: ignore[method-assign]
    assert [event.channel for event in pair.of(0, Subscribed)] == ["news", "odd"]
    assert any("cannot be read" in notice for notice in pair.hosts[0].notices)
    ask(pair.workers[0], Publish(7, "app", "news", b"event", None, 0))
    pair.settle()
    assert [event.payload for event in pair.of(0, Publication)] == [b"event"]


def test_what_the_store_refuses_is_delivered_here(pair: Pair) -> None:
    pair.subscribe(0, "news")
    pair.settle()
    table = pair.store.do
    pair.store.do = lambda order: None if type(order).__name__ == "Append" else table(order)  # type: ignore[method-assign]
    ask(pair.workers[0], Publish(7, "app", "news", b"event", None, 0))
    pair.settle()
    assert [event.payload for event in pair.heard[0] if isinstance(event, Publication)] == [b"event"]
    assert [event.ref for event in pair.of(0, Answer)] == [7]


def test_before_the_store_is_known_nothing_is_dropped() -> None:
    """Requests wait for it; what is past a bound would never be answered."""
    store, heard = MemoryStore(), []
    host = Host("here", store, queue_bytes=1000)
    host.end._turns.clear()  # it is not ready yet
    worker = host.add("w", heard.append)
    for ref in range(1, 51):
        ask(worker, Publish(ref, "app", "a", b"x" * 100, None, 0))
    now = settle([host], 100.0)
    host.end._turns.extend(store.end()._turns)
    settle([host], now)
    assert [event.ref for event in heard if isinstance(event, Answer)] == list(range(1, 51))


def test_nothing_is_kept_of_channels_that_came_and_went(pair: Pair) -> None:
    for away in (False, True):
        if away:
            pair.hosts[0].end.lose()
            pair.settle()
        for number in range(300):
            pair.subscribe(0, f"c{number}", ref=number + 1)
        pair.settle()
        for number in range(300):
            ask(pair.workers[0], Unsubscribe("app", f"c{number}", None))
        pair.settle()
        pair.settle()
        assert set(pair.hosts[0].cluster._following.logs) <= {"app/"}
    pair.hosts[0].end.mend()
    pair.settle()
    assert not pair.hosts[0].cluster._counts._changed
    assert not pair.hosts[0].end.follows - {"app/"}


def test_a_log_longer_than_a_page_is_read_after_an_outage(pair: Pair) -> None:
    for number in (0, 1):
        pair.subscribe(number, "news")
    pair.settle()
    pair.heard[1].clear()
    pair.hosts[1].end.lose()
    pair.settle()
    for ref in range(1, PAGE + 50):
        ask(pair.workers[0], Publish(ref, "app", "news", b"%d" % ref, None, 0))
    pair.settle()
    pair.hosts[1].end.mend()
    pair.settle()
    assert [int(event.payload) for event in pair.of(1, Publication)] == list(range(1, PAGE + 50))


def test_replies_that_nobody_waits_for_are_harmless(pair: Pair) -> None:
    pair.hosts[0].exchange.report([Reply(10**9, None), Reply(10**9 + 1, (1, 2))], pair.now)
    pair.settle()


def test_an_entry_of_a_time_to_come_silences_nobody(pair: Pair) -> None:
    pair.subscribe(0, "news")
    pair.settle()
    pair.hosts[0].exchange.report([Entry("app/news", 1 << 62, b"junk")], pair.now)
    ask(pair.workers[1], Publish(7, "app", "news", b"event", None, 0))
    pair.settle()
    assert [event.payload for event in pair.of(0, Publication)] == [b"event"]
    assert pair.hosts[0].cluster.figures()["refused"] == 1


def test_who_comes_back_while_the_store_is_away_hears_nothing_twice(pair: Pair) -> None:
    pair.subscribe(0, "news")
    pair.subscribe(1, "news")
    pair.settle()
    pair.hosts[0].end.lose()
    ask(pair.workers[0], Publish(2, "app", "news", b"once", None, 0))
    pair.settle()
    ask(pair.workers[0], Unsubscribe("app", "news", None))
    pair.settle()  # for longer than a log is followed that nobody needs
    pair.subscribe(0, "news", ref=3)
    pair.settle()
    assert pair.of(1, Publication) == []
    pair.hosts[0].end.mend()
    pair.settle()
    assert [[event.payload for event in pair.of(number, Publication)] for number in (0, 1)] == [[b"once"], [b"once"]]


def test_a_worker_that_comes_while_its_shard_recovers_hears_of_other_hosts(pair: Pair) -> None:
    """The shard waits for the store to answer what another worker has asked before."""
    heard: list[Event] = []
    late = Host("late", pair.store, lease_s=LEASE_S)
    first, second = late.add("w8", heard.append), late.add("w9", heard.append)
    ask(first, Publish(7, "app", "p", b"event", None, 0))
    late.send(first, pair.now)
    late.turn(pair.now, 0, 0, 0)
    ask(second, Subscribe("app", "p", "9.9", 1, Member("ann", {"user_id": "ann", "user_info": None})))
    pair.hosts.append(late)
    pair.settle()
    pair.subscribe(0, "p", "bob")
    pair.settle()
    assert [event.data["user_id"] for event in heard if isinstance(event, MemberAdded)] == ["bob"]
    assert [event.members for event in pair.of(0, Subscribed)] == [[("ann", None), ("bob", None)]]


# --- a store that forgets, and stays connected -----------------------------------------------------------------------


def noticed(pair: Pair) -> None:
    """A third of the lease passes, and what follows."""
    for _ in range(2):
        pair.settle()


def test_who_stays_while_the_store_forgets_has_no_edge(pair: Pair) -> None:
    for number, user in enumerate(("ann", "bob")):
        pair.subscribe(number, "p", user)
    pair.settle()
    for heard in pair.heard:
        heard.clear()
    for number in (0, 1):  # each has noticed while the other has not
        pair.store.wipe()
        for _ in range(6):
            pair.now += 1
            pair.hosts[number].exchange.beat(pair.now)
            for _ in range(4):
                pair.hosts[number].turn(pair.now)
        noticed(pair)
    pair.lease_passes()
    assert pair.heard == [[], []]
    assert sorted(field.split()[1] for field in pair.store.log("app/p").members) == ["ann", "bob"]


def test_who_leaves_before_it_is_noticed_leaves_a_lease_later(pair: Pair) -> None:
    for number, user in enumerate(("ann", "bob")):
        pair.subscribe(number, "p", user)
    pair.subscribe(0, "p", "eve", ref=2)
    pair.settle()
    for heard in pair.heard:
        heard.clear()
    pair.store.wipe()
    ask(pair.workers[0], Unsubscribe("app", "p", "eve"))
    noticed(pair)
    assert pair.of(1, MemberRemoved) == []
    pair.lease_passes()
    assert [event.id for event in pair.of(0, MemberRemoved)] == ["eve"]
    assert [event.id for event in pair.of(1, MemberRemoved)] == ["eve"]
    assert pair.of(1, MemberAdded) == []


@pytest.mark.parametrize("dies", [False, True])
def test_who_comes_before_it_is_noticed_is_no_ghost_later(pair: Pair, dies: bool) -> None:
    """He is in it with a party that the store does not know."""
    for number, user in enumerate(("ann", "bob")):
        pair.subscribe(number, "p", user)
    pair.settle()
    pair.store.wipe()
    pair.subscribe(0, "p", "eve", ref=2)
    pair.hosts[0].send(pair.workers[0], pair.now)
    for _ in range(4):
        pair.hosts[0].turn(pair.now)
    assert [field.split()[1] for field in pair.store.log("app/p").members] == ["eve"]
    if dies:
        pair.hosts.pop(0).end.lose()
    else:
        noticed(pair)
        ask(pair.workers[0], Unsubscribe("app", "p", "eve"))
    pair.lease_passes()
    left = [event.id for event in pair.of(1, MemberRemoved)]
    assert sorted(left) == (["ann", "eve"] if dies else ["eve"])
    assert [field.split()[1] for field in pair.store.log("app/p").members] == (["bob"] if dies else ["ann", "bob"])
    counting = {party for counts in pair.store._counts.values() for party in counts}
    assert counting == {host.cluster._parties.name for host in pair.hosts}


def test_a_store_that_forgets_again_is_not_believed_either(pair: Pair) -> None:
    """The second time is just before members are read once more, and with an entry behind it."""
    for number, user in enumerate(("ann", "bob")):
        pair.subscribe(number, "p", user)
    pair.settle()
    for heard in pair.heard:
        heard.clear()
    pair.store.wipe()
    noticed(pair)
    log = pair.hosts[0].cluster._following.logs["app/p"]
    while log.doubtful_until is not None and pair.now + 1 < log.doubtful_until:
        pair.now += 1
        for host in pair.hosts:
            host.exchange.beat(pair.now)
            for _ in range(4):
                host.turn(pair.now)
    pair.store.wipe()
    ask(pair.workers[0], Publish(7, "app", "p", b"event", None, 0))
    pair.lease_passes()
    assert pair.of(0, MemberRemoved) == pair.of(1, MemberRemoved) == []


def test_what_was_under_way_when_the_store_forgot_comes_once(pair: Pair) -> None:
    """The log is being read again: what has come of it meanwhile is nowhere else."""
    for number, user in enumerate(("ann", "bob")):
        pair.subscribe(number, "p", user)
    pair.settle()
    there = pair.hosts[1]
    there.cluster._desk.order(*there.cluster._following.begin(there.cluster._following.logs["app/p"]))
    ask(pair.workers[0], Publish(7, "app", "p", b"event", None, 0))
    pair.hosts[0].send(pair.workers[0], pair.now)
    for _ in range(3):
        pair.hosts[0].turn(pair.now)
    pair.store.wipe()
    pair.lease_passes()
    for number in (0, 1):
        assert [event.payload for event in pair.of(number, Publication)] == [b"event"]


def admitted(pair: Pair) -> int:
    return sum(event.admitted for number in (0, 1) for event in pair.of(number, Connected))


def test_a_place_that_is_being_given_is_not_taken_back(pair: Pair) -> None:
    """What else changes of the app is told when the answer has come."""
    here, worker = pair.hosts[0], pair.workers[0]
    for number in (0, 1):  # the log of the app is followed
        ask(pair.workers[number], Connect("app", f"{number}.0", None))
    pair.settle()
    assert admitted(pair) == 2
    ask(worker, Connect("app", "0.1", 3))
    here.send(worker, pair.now)
    here.turn(pair.now, 0, 0, 0)
    here.turn(pair.now, None, None, 0)  # the store has given it
    pair.subscribe(0, "news")
    here.send(worker, pair.now)
    for _ in range(4):
        here.turn(pair.now, None, None, 0)
    ask(pair.workers[1], Connect("app", "1.1", 3))
    for _ in range(6):
        pair.hosts[1].send(pair.workers[1], pair.now)
        pair.hosts[1].turn(pair.now)
        pair.hosts[1].read_all(pair.now)
    pair.settle()
    assert admitted(pair) == 1


def test_who_asks_for_a_place_when_the_store_forgets_is_answered_by_it(pair: Pair) -> None:
    """Each host by itself would let somebody in."""
    pair.now += LEASE_S / 2
    for number in (0, 1):
        host, worker = pair.hosts[number], pair.workers[number]
        host.exchange.beat(pair.now)
        ask(worker, Connect("app", f"{number}.1", 1))
        host.send(worker, pair.now)
        host.turn(pair.now, 0, 0, 0)
    pair.store.wipe()
    pair.settle()
    assert admitted(pair) == 1


def test_who_says_that_a_log_is_further_than_it_is_silences_nobody(pair: Pair) -> None:
    """Anybody who may publish there can, also where entries are signed."""
    pair.subscribe(0, "news")
    pair.settle()
    host = pair.hosts[0]
    ahead = host.cluster._following._position_at(pair.now) + 20_000 * PER_MS
    host.exchange.report([Entry("app/news", ahead, b"junk")], pair.now)
    ask(pair.workers[1], Publish(7, "app", "news", b"event", None, 0))
    pair.settle()
    assert [event.payload for event in pair.of(0, Publication)] == [b"event"]
    assert host.cluster.figures()["refused"] == 1
    assert any("time to come" in notice for notice in host.cluster.notices() + host.notices)


def test_a_clock_of_the_store_that_is_set_forward_loses_nothing(pair: Pair) -> None:
    pair.subscribe(0, "news")
    pair.settle()
    pair.store._position += 60_000 * PER_MS
    for number in (0, 1):
        ask(pair.workers[number], Publish(7 + number, "app", "news", b"%d" % number, None, 0))
        pair.settle()
    assert [event.payload for event in pair.of(0, Publication)] == [b"0", b"1"]


def test_where_the_store_refuses_to_count_each_host_lets_people_in(pair: Pair) -> None:
    table = pair.store.do
    pair.store.do = lambda order: None if type(order).__name__ == "Admit" else table(order)  # type: ignore[method-assign]
    ask(pair.workers[0], Connect("app", "0.1", 1))
    pair.settle()
    ask(pair.workers[0], Connect("app", "0.2", 1))
    pair.settle()
    assert [event.admitted for event in pair.of(0, Connected)] == [True, False]


def test_what_a_dead_host_has_sent_and_comes_late_leaves_no_ghost(pair: Pair) -> None:
    """The kernel goes on sending when a process has been killed: perhaps until after its burial."""
    pair.subscribe(0, "p", "watcher")
    pair.lease_passes()  # nothing is read any more
    party, log = "gone.0.s0-1-1.1", "app/p"
    joined = Joined(party, "ghost", {"user_id": "ghost", "user_info": None}, "9.9", 0)
    entry = Seal(None).close(log, joined)
    pair.store.do(Join(0, log, field_of(party, "ghost"), entry, entry))
    pair.heard[0].clear()
    pair.lease_passes()
    edges = [event for event in pair.heard[0] if isinstance(event, MemberAdded | MemberRemoved)]
    assert edges == [MemberAdded("app", "p", joined.data, "9.9"), MemberRemoved("app", "p", "ghost")]
