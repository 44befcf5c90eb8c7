"""What a worker remembers for a successor of its shard, and what its clients are told of the difference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from resonate.messages import (
    Ack,
    Answer,
    Attach,
    Batch,
    ChannelHolding,
    Connect,
    Connected,
    CountConnections,
    Declaration,
    Describe,
    Described,
    Detach,
    Disconnect,
    Event,
    ListChannels,
    Listed,
    ListUsers,
    Mark,
    Member,
    MemberAdded,
    MemberRemoved,
    Parcel,
    Present,
    Publication,
    Publish,
    Request,
    Stamped,
    Subscribe,
    Subscribed,
    Terminate,
    Unsubscribe,
)
from resonate.shard import Shard
from resonate.shard.ledger import BEHIND, CACHE_BYTES, KEEP_REQUESTS, NOTHING, ORIGINS, Ledger, LostError


def data(user: Any) -> dict[str, Any]:
    return {"user_id": user, "user_info": None}


def member(user: Any) -> Member:
    return Member(str(user), data(user))


def subscribe(channel: str = "a", ref: int = 1, who: Member | None = None) -> Subscribe:
    return Subscribe("app", channel, f"1.{ref}", ref, who)


def publish(ref: int = 0, channel: str = "a", keep_s: int = 0, payload: bytes = b"e") -> Publish:
    return Publish(ref, "app", channel, payload, None, keep_s)


class Book:
    """The ledger of worker "me", and a shard that says what the test wants."""

    def __init__(self, past: Declaration = NOTHING) -> None:
        self.ledger = Ledger("me", past)
        self.parcels = 0

    def ask(self, *requests: Request) -> None:
        """Add and send."""
        for request in requests:
            self.ledger.add(request)
        self.ledger.batch()

    def hear(
        self,
        *events: Stamped,
        acks: tuple[Ack, ...] = (),
        marks: tuple[Mark, ...] = (),
        stable: int = 0,
        now: float = 0,
    ) -> list[Event]:
        self.parcels += 1
        return self.ledger.receive(Parcel("s", self.parcels, stable, list(acks), list(marks), list(events)), now)

    def declared(self, now: float = 0) -> Declaration:
        self.parcels = 0
        return self.ledger.declaration(now)


def mine(seq: int, place: int, *events: Event) -> Stamped:
    return Stamped("me", seq, place, list(events))


def theirs(seq: int, place: int, *events: Event) -> Stamped:
    return Stamped("other", seq, place, list(events))


def publication(payload: bytes = b"e", keep_s: int = 0, channel: str = "a") -> Publication:
    return Publication("app", channel, payload, None, keep_s)


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_requests_leave_once_with_their_numbers() -> None:
    ledger = Ledger("me")
    assert ledger.batch() is None
    ledger.add(subscribe())
    ledger.add(publish())
    batch = ledger.batch()
    assert batch == Batch("me", 0, 1, [subscribe(), publish()])
    assert ledger.batch() is None
    ledger.receive(Parcel("s", 1, 0, [], [], []), 0)
    ledger.add(publish(5))
    assert ledger.batch() == Batch("me", 1, 3, [publish(5)])


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_parcel_that_is_missing_is_noticed(number: int) -> None:
    ledger = Ledger("me")
    ledger.receive(Parcel("s", 1, 0, [], [], []), 0)
    with pytest.raises(LostError):
        ledger.receive(Parcel("s", number, 0, [], [], []), 0)


def test_it_is_behind_with_too_many_requests_under_way() -> None:
    book = Book()
    for requests, behind in ((BEHIND, False), (1, True)):
        book.ask(*[publish()] * requests)
        assert book.ledger.behind == behind
    book.hear(acks=(Ack(1, 1, 1),))
    assert not book.ledger.behind


def test_what_has_no_other_answer_is_answered_once_it_is_done() -> None:
    book = Book()
    book.ask(publish(7), publish(), replace(publish(8), info=True), Terminate(9, "app", "ann"), publish(10))
    assert book.hear(acks=(Ack(4, 4, 4),)) == [Answer(7, None), Answer(9, None)]
    book.declared()
    assert book.hear(acks=(Ack(4, 4, 4), Ack(5, 5, 1))) == [Answer(10, None)]


# --- what is declared ------------------------------------------------------------------------------------------------


def test_who_has_done_nothing_declares_nothing() -> None:
    assert Ledger("me").declaration(0) == NOTHING


def test_what_is_not_done_is_declared_as_requests() -> None:
    book = Book()
    book.ask(subscribe())
    book.ledger.add(publish())  # has not even been sent
    assert book.declared() == replace(NOTHING, requests=[subscribe(), publish()])
    assert book.ledger.batch() is None, "they have been sent with the declaration"


def test_what_is_done_and_not_stable_is_declared_as_requests_with_their_places() -> None:
    book = Book()
    book.ask(subscribe(), publish(), publish())
    book.hear(acks=(Ack(2, 5, 2),), stable=3)
    assert book.declared() == Declaration(
        [], [], [], [Mark("me", 1, 4), Mark("me", 2, 5)], 1, [subscribe(), publish(), publish()], 3
    )


def test_what_is_stable_is_declared_as_held() -> None:
    book = Book()
    book.ask(Connect("app", "1.1", 5), Attach("app"), subscribe("p", 1, member(1)), subscribe(), publish())
    book.hear(mine(1, 1, Connected("app", "1.1", True)), acks=(Ack(5, 5, 5),), stable=5)
    channels = [ChannelHolding("app", "p", 1, [("1", data(1), 1)]), ChannelHolding("app", "a", 1, [])]
    assert book.declared() == Declaration([("app", 1, 1)], channels, [], [], 6, [], 5)
    book.ask(Unsubscribe("app", "p", "1"), Unsubscribe("app", "a", None), Detach("app"), Disconnect("app"))
    book.hear(acks=(Ack(9, 9, 4),), stable=9)
    assert book.declared() == Declaration([("app", 0, 0)], [], [], [], 10, [], 9)


def test_several_connections_of_one_user_are_one_member() -> None:
    book = Book()
    book.ask(subscribe("p", 1, member(1)), subscribe("p", 2, member(1)), subscribe("p", 3, member(2)))
    book.hear(acks=(Ack(3, 3, 3),), stable=3)
    held = [("1", data(1), 2), ("2", data(2), 1)]
    assert book.declared().channels == [ChannelHolding("app", "p", 3, held)]
    book.ask(Unsubscribe("app", "p", "1"), Unsubscribe("app", "p", "2"))
    book.hear(acks=(Ack(5, 5, 2),), stable=5)
    assert book.declared().channels == [ChannelHolding("app", "p", 1, [("1", data(1), 1)])]


def test_numbers_go_on_after_a_declaration() -> None:
    book = Book()
    book.ask(publish(1), publish(2))
    book.hear(acks=(Ack(1, 1, 1),), stable=1)
    assert book.declared().first == 2
    book.ledger.add(publish(3))
    assert book.ledger.batch() == Batch("me", 0, 3, [publish(3)])
    book.hear(acks=(Ack(3, 3, 2),), stable=3)
    assert book.declared() == replace(NOTHING, first=4, stable=3)


@pytest.mark.parametrize(("admitted", "limit"), [(True, None), (False, 0), (None, 5)])
def test_a_connection_of_which_has_been_decided_is_not_decided_again(admitted: bool | None, limit: int | None) -> None:
    book = Book()
    book.ask(Connect("app", "1.1", 5))
    if admitted is not None:
        book.hear(mine(1, 1, Connected("app", "1.1", admitted)), acks=(Ack(1, 1, 1),))
    assert book.declared().requests == [Connect("app", "1.1", limit)]


def test_a_connection_that_was_refused_is_not_held() -> None:
    book = Book()
    book.ask(Connect("app", "1.1", 1), Connect("app", "1.2", 1))
    answers = (mine(1, 1, Connected("app", "1.1", True)), mine(2, 2, Connected("app", "1.2", False)))
    book.hear(*answers, acks=(Ack(2, 2, 2),), stable=2)
    assert book.declared().apps == [("app", 1, 0)]


def test_what_has_been_seen_of_others_is_declared_until_it_is_stable() -> None:
    book = Book()
    book.hear(theirs(3, 8, publication()), marks=(Mark("third", 2, 7),), stable=5)
    assert sorted(book.declared().seen, key=str) == [Mark("other", 3, 8), Mark("third", 2, 7)]
    book.hear(stable=7)
    assert book.declared().seen == [Mark("other", 3, 8)]
    book.hear(stable=8)
    assert book.declared().seen == []


def test_a_past_is_held() -> None:
    past = Declaration(
        [("app", 2, 1)],
        [ChannelHolding("app", "p", 1, [("1", data(1), 1)])],
        [("app", "cache-a", b"kept", 30, 0)],
        [],
        1,
        [],
    )
    book = Book(past)
    assert book.declared() == past
    book.ask(Unsubscribe("app", "p", "1"), Disconnect("app"))
    book.hear(acks=(Ack(2, 2, 2),), stable=2)
    assert book.declared().apps == [("app", 1, 1)]
    assert book.declared().channels == []


# --- clients hear everything once ------------------------------------------------------------------------------------


def test_what_has_been_seen_is_dropped() -> None:
    book = Book()
    assert book.hear(theirs(1, 1, publication(b"1")), theirs(2, 2, publication(b"2"))) != []
    book.declared()
    again = (theirs(1, 1, publication(b"1")), theirs(2, 2, publication(b"2")), theirs(3, 3, publication(b"3")))
    assert book.hear(*again) == [publication(b"3")]
    assert book.hear(Stamped("third", 1, 4, [publication(b"4")])) == [publication(b"4")], "another's numbers"


# --- cached events ---------------------------------------------------------------------------------------------------


def test_cached_events_are_declared_with_the_time_that_they_have_left() -> None:
    book = Book()
    book.hear(theirs(1, 1, publication(b"kept", 60)), theirs(2, 2, publication(b"not", 0, "b")), now=10)
    assert book.declared(20.5).cached == [("app", "a", b"kept", 49, 1)]
    assert book.declared(69.5).cached == [], "less than a second"


def test_what_one_has_published_is_remembered_though_nobody_here_listens() -> None:
    book = Book()
    book.ask(publish(1, "cache-a", 60, b"kept"))
    assert book.declared().cached == []
    book.hear(acks=(Ack(1, 7, 1),))
    assert book.declared().cached == [("app", "cache-a", b"kept", 60, 7)]


@given(st.permutations([1, 2, 3, 4]))
def test_the_last_in_the_order_of_the_shard_is_kept_whoever_declares_first(order: list[int]) -> None:
    shard = Shard()
    for place in order:
        book = Book()
        book.hear(theirs(place, place, publication(b"%d" % place, 60)))
        shard.join(f"w{place}")
        shard.declare(f"w{place}", book.declared(), 0)
    shard.handle("w1", subscribe(), 0)
    assert described(shard)["a"][2] == b"4"


def test_an_event_that_is_done_again_does_not_replace_a_later_one() -> None:
    book = Book()
    book.hear(theirs(2, 2, publication(b"later", 60)))
    book.ask(publish(1, "a", 60, b"earlier"))
    book.hear(acks=(Ack(1, 1, 1),))
    assert [row[2] for row in book.declared().cached] == [b"later"]


def test_what_was_kept_before_there_was_a_shard_survives_its_death_too() -> None:
    book = Book(replace(NOTHING, cached=[("app", "cache-a", b"kept", 60, 0)]))
    assert [row[2] for row in book.declared().cached] == [b"kept"]
    assert [row[2] for row in book.declared(10).cached] == [b"kept"]


# --- memory is bounded -----------------------------------------------------------------------------------------------


def test_clients_wait_when_too_much_is_kept_because_a_worker_hangs() -> None:
    """Nothing is forgotten that a successor would need to be told."""
    book, count = Book(), KEEP_REQUESTS + 1
    book.ask(*(publish(0) for _ in range(count)))
    book.hear(acks=(Ack(count, count, count),))
    assert book.ledger.behind
    assert len(book.declared().requests) == count
    book.hear(acks=(Ack(count, count, count),))
    book.hear(stable=1)
    assert not book.ledger.behind


def test_what_has_been_seen_is_not_kept_for_ever_though_a_worker_hangs() -> None:
    book, count = Book(), KEEP_REQUESTS + 100
    for place in range(1, count + 1):
        book.hear(theirs(place, place))
    assert len(book.declared().seen) == KEEP_REQUESTS
    assert Mark("other", count, count) in book.declared().seen


def test_cached_events_are_bounded() -> None:
    book, size = Book(), CACHE_BYTES // 16
    for place in range(1, 33):
        book.hear(theirs(place, place, publication(bytes(size), 60, f"cache-{place}")), stable=place)
    cached = book.declared().cached
    assert sum(len(row[2]) for row in cached) <= CACHE_BYTES
    assert cached[-1][1] == "cache-32"


def test_origins_are_bounded_and_the_latest_are_known() -> None:
    book = Book()
    names = [f"w{index}" for index in range(ORIGINS + 10)]
    for name in names:
        book.hear(Stamped(name, 1, 1, [publication()]), stable=1)
    assert book.hear(*(Stamped(name, 1, 1, [publication()]) for name in names[-10:]), stable=1) == []
    assert book.hear(Stamped(names[0], 1, 1, [publication()]), stable=1) == [publication()], "has been forgotten"


def test_an_origin_that_goes_on_speaking_is_not_forgotten() -> None:
    book = Book()
    for index in range(ORIGINS + 10):
        book.hear(theirs(index + 1, 1, publication()), Stamped(f"w{index}", 1, 1, [publication()]), stable=1)
    assert book.hear(theirs(ORIGINS + 10, 1, publication()), stable=1) == []


# --- presence --------------------------------------------------------------------------------------------------------


def on_presence(*users: Any) -> Book:
    """A client is on channel p, and has been told of these users."""
    book = Book()
    book.ask(subscribe("p", 1, member(1)))
    told = Subscribed("app", "p", "1.1", 1, [(user, None) for user in users], None)
    assert book.hear(mine(1, 1, told), acks=(Ack(1, 1, 1),)) == [told]
    return book


def added(user: Any) -> MemberAdded:
    return MemberAdded("app", "p", data(user), "")


def removed(user: Any) -> MemberRemoved:
    return MemberRemoved("app", "p", user)


def test_edges_that_are_news_are_told() -> None:
    book = on_presence(1)
    assert book.hear(theirs(1, 2, added(2))) == [added(2)]
    assert book.hear(theirs(2, 3, removed(2))) == [removed(2)]
    assert book.hear(theirs(3, 4, added(2))) == [added(2)]


def test_edges_that_are_none_are_not_told() -> None:
    book = on_presence(1, "2")
    assert book.hear(theirs(1, 2, added(2))) == [], "user ids are compared as strings"
    assert book.hear(theirs(2, 3, removed(3))) == []
    assert book.hear(theirs(3, 4, removed(2)), theirs(4, 5, removed("2"))) == [removed(2)]


def test_after_a_shard_died_the_difference_is_told() -> None:
    book = on_presence(1, 2)
    present = Present("app", "p", [(1, None), (3, {"name": "Cid"})])
    joined = MemberAdded("app", "p", {"user_id": 3, "user_info": {"name": "Cid"}}, "")
    assert book.hear(Stamped("s2", 1, 2, [present])) == [removed(2), joined, present]
    assert book.hear(Stamped("s2", 2, 3, [present])) == [present]
    assert book.hear(theirs(1, 4, added(3))) == []


def test_a_newcomer_gets_a_list_that_the_others_know_too() -> None:
    """A list that comes before `Present`: those who are there already hear the difference first."""
    book = on_presence(1, 2)
    book.ask(subscribe("p", 2, member(3)))
    list_ = Subscribed("app", "p", "1.2", 2, [(1, None), (3, None)], None)
    assert book.hear(mine(2, 2, list_)) == [removed(2), added(3), list_]


def test_who_has_nobody_on_a_channel_is_told_nothing_of_it() -> None:
    book = on_presence(1)
    book.ask(Unsubscribe("app", "p", "1"))
    book.hear(acks=(Ack(2, 2, 2),))
    assert book.hear(Stamped("s2", 1, 2, [Present("app", "p", [(2, None)])])) == []
    assert book.hear(Stamped("s2", 2, 3, [Present("app", "q", [(2, None)])])) == []
    book.ask(subscribe("p", 2, member(1)))
    list_ = Subscribed("app", "p", "1.2", 2, [(2, None), (1, None)], None)
    assert book.hear(mine(3, 4, list_)) == [list_], "a client that begins anew knows nobody"


def test_who_was_there_before_there_was_a_shard_is_known() -> None:
    book = Book(replace(NOTHING, channels=[ChannelHolding("app", "p", 1, [("1", data(1), 1)])]))
    one, both = Present("app", "p", [(1, None)]), Present("app", "p", [(1, None), (2, None)])
    assert book.hear(Stamped("s", 1, 1, [one])) == [one]
    assert book.hear(Stamped("s", 2, 2, [both])) == [added(2), both]


# --- the opposite of declaring ---------------------------------------------------------------------------------------


def described(shard: Shard) -> dict[str, tuple[int, int, bytes | None]]:
    """Each channel: subscriptions, users, the cached event."""
    ((_, answer),) = shard.handle("asking", ListChannels(1, "app", "", True), 0)
    assert isinstance(answer, Listed)
    return {name: astuple(info) for name, info in answer.value.items()}


def state(shard: Shard) -> Any:
    """All that a shard can be asked about an app. Who came first of two workers' users is not part of it."""

    def asked(request: Request) -> Any:
        ((_, answer),) = shard.handle("asking", request, 0)
        assert isinstance(answer, Answer | Described)
        return sorted(answer.value) if isinstance(answer.value, list) else answer.value

    channels = described(shard)
    users = {name: asked(ListUsers(1, "app", name)) for name in channels}
    cached = {name: asked(Describe(1, "app", name)) for name in ("a", "b", "cache-a")}
    return shard.counts().get("app"), asked(CountConnections(1, "app")), channels, users, cached


WORKERS = ("w1", "w2")
STEP = st.tuples(
    st.sampled_from(("connect", "join", "leave", "publish", "attach", "detach", "settle")),
    st.sampled_from(WORKERS),
    st.sampled_from(("a", "b", "presence-a", "presence-b", "cache-a")),
    st.sampled_from((1, 2, 3)),
)


class Clients:
    """What the clients of each worker have, so that only what they could ask is asked."""

    def __init__(self) -> None:
        self.held: list[tuple[str, str, int]] = []
        self.attached: list[str] = []
        self.refs = 0

    def request(self, step: tuple[str, str, str, int]) -> Request | None:
        kind, worker, channel, user = step
        presence, held = channel.startswith("presence-"), (worker, channel, user)
        self.refs += 1
        if kind == "connect":
            return Connect("app", f"{worker}.{self.refs}", 5)
        if kind == "join":
            self.held.append(held)
            return Subscribe("app", channel, f"{worker}.{self.refs}", self.refs, member(user) if presence else None)
        if kind == "leave" and held in self.held:
            self.held.remove(held)
            return Unsubscribe("app", channel, str(user) if presence else None)
        if kind == "publish":
            return Publish(0, "app", channel, b"%d" % self.refs, None, 60 if channel == "cache-a" else 0)
        if kind == "attach":
            self.attached.append(worker)
            return Attach("app")
        if kind == "detach" and worker in self.attached:
            self.attached.remove(worker)
            return Detach("app")
        return None


def held(declaration: Declaration) -> list[ChannelHolding]:
    """The channels; who joined first of those on several workers is not told, so users have no order here."""
    channels = [
        replace(channel, members=sorted(channel.members, key=lambda member: member[0]))
        for channel in declaration.channels
    ]
    return sorted(channels, key=lambda channel: channel.channel)


@given(st.lists(STEP, max_size=40))
def test_a_shard_that_is_told_what_another_had_is_its_equal(steps: list[tuple[str, str, str, int]]) -> None:
    one, other, clients = Shard(), Shard(), Clients()
    for worker in WORKERS:
        one.join(worker)
    for step in steps:
        request = clients.request(step)
        if request is not None:
            one.handle(step[1], request, 0)
    for worker in WORKERS:
        other.join(worker)
        other.declare(worker, one.declaration(worker, 0), 0)
    assert state(other) == state(one)
    for worker in WORKERS:
        assert held(other.declaration(worker, 0)) == held(one.declaration(worker, 0))
    one.leave("w1")
    other.leave("w1")
    assert state(other) == state(one)


@given(st.lists(STEP, max_size=40), st.integers(0, 40))
def test_a_ledger_declares_what_the_shard_had(steps: list[tuple[str, str, str, int]], known: int) -> None:
    """One worker. Whatever is stable, done, or under way: with the requests done again it comes to the same."""
    one, other, clients, book, place = Shard(), Shard(), Clients(), Book(), 0
    one.join("me")
    for number, (kind, _, channel, user) in enumerate(steps):
        request = clients.request((kind, "me", channel, user))
        if kind == "settle":
            book.hear(stable=place)
        if request is not None:
            place += 1
            book.ask(request)
            events = [event for _, event in one.handle("me", request, 0)]
            if number < known:
                book.hear(mine(place, place, *events), acks=(Ack(place, place, 1),))
    declared = book.declared()
    other.join("me")
    other.declare("me", declared, 0)
    places = {mark.seq: mark.place for mark in declared.seen}
    for seq, request in enumerate(declared.requests, declared.first):
        other.handle("me", request, 0, places.get(seq, 0))
    assert state(other) == state(one)


def test_who_has_left_is_not_counted_out_twice_though_a_shard_has_died() -> None:
    """The successor does it again, and says so again."""
    book = on_presence(1)
    book.ask(subscribe("p", 2, member(1)), Unsubscribe("app", "p", "1"))
    book.hear(acks=(Ack(3, 3, 2),))
    book.declared()
    book.hear(acks=(Ack(3, 3, 3),))
    assert book.hear(theirs(1, 4, added(1))) == [], "it is known to who is still there"
