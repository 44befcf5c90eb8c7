"""The shard: each request, and sequences of them by several workers against a naive model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from resonate.messages import (
    Answer,
    Attach,
    ChannelInfo,
    Connect,
    Connected,
    CountConnections,
    Describe,
    Described,
    Detach,
    Disconnect,
    Expel,
    HandOver,
    Inspect,
    ListChannels,
    Listed,
    ListUsers,
    Member,
    MemberAdded,
    MemberRemoved,
    Publication,
    Publish,
    Refresh,
    Request,
    Subscribe,
    Subscribed,
    Superseded,
    Terminate,
    Unsubscribe,
)
from resonate.shard import Outgoing, Shard
from resonate.shard.ledger import NOTHING

ANN, BOB = Member("1", {"user_id": 1, "user_info": {"name": "Ann"}}), Member("2", {"user_id": "2", "user_info": None})


def with_workers(*names: str) -> Shard:
    shard = Shard()
    for name in names:
        shard.join(name)
    return shard


def subscribe(shard: Shard, worker: str, channel: str, socket: str = "1.1", member: Member | None = None) -> Outgoing:
    return shard.handle(worker, Subscribe("app1", channel, socket, 9, member), 0)


def publish(shard: Shard, worker: str, channel: str, payload: bytes = b"e", ref: int = 0, keep_s: int = 0) -> Outgoing:
    return shard.handle(worker, Publish(ref, "app1", channel, payload, None, keep_s, True), 0)


def test_every_request_has_a_handler() -> None:
    from resonate.shard.shard import _HANDLERS

    assert {*_HANDLERS, HandOver, Inspect} == set(Request.__args__)  # those are about no app


# --- connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "admitted"), [(None, True), (0, False), (1, False), (2, True)])
def test_quota_counts_the_connections_of_all_workers(limit: int | None, admitted: bool) -> None:
    shard = with_workers("a", "b")
    shard.handle("a", Connect("app1", "1.1", None), 0)
    assert shard.handle("b", Connect("app1", "2.2", limit), 0) == [("b", Connected("app1", "2.2", admitted))]


def test_a_place_that_is_given_back_is_free_again() -> None:
    shard = with_workers("a", "b")
    shard.handle("a", Connect("app1", "1.1", 1), 0)
    assert shard.handle("b", Connect("app1", "2.2", 1), 0)[0][1].admitted is False  # type: ignore[union-attr]
    assert shard.handle("a", Disconnect("app1"), 0) == []
    assert shard.handle("b", Connect("app1", "2.2", 1), 0)[0][1].admitted is True  # type: ignore[union-attr]


def test_apps_have_quotas_of_their_own() -> None:
    shard = with_workers("a")
    shard.handle("a", Connect("app1", "1.1", 1), 0)
    assert shard.handle("a", Connect("app2", "1.2", 1), 0) == [("a", Connected("app2", "1.2", True))]


def test_connections_that_hold_a_subscription_are_counted_over_workers() -> None:
    shard = with_workers("a", "b")
    for worker in "aab":
        assert shard.handle(worker, Attach("app1"), 0) == []
    shard.handle("a", Detach("app1"), 0)
    assert shard.handle("b", CountConnections(4, "app1"), 0) == [("b", Answer(4, 2))]
    assert shard.handle("b", CountConnections(5, "app2"), 0) == [("b", Answer(5, 0))]


# --- subscriptions ---------------------------------------------------------------------------------------------------


def test_only_the_worker_that_asked_is_answered() -> None:
    shard = with_workers("a", "b")
    subscribe(shard, "a", "news")
    assert subscribe(shard, "b", "news", "2.2") == [("b", Subscribed("app1", "news", "2.2", 9, None, None))]


def test_a_users_first_connection_is_announced_to_those_who_were_there_before_it_is_answered() -> None:
    shard = with_workers("a", "b")
    assert subscribe(shard, "a", "presence-x", "1.1", ANN) == [
        ("a", Subscribed("app1", "presence-x", "1.1", 9, [(1, {"name": "Ann"})], None))
    ]
    both: list[tuple[Any, Any]] = [(1, {"name": "Ann"}), ("2", None)]
    assert subscribe(shard, "b", "presence-x", "2.2", BOB) == [
        ("a", MemberAdded("app1", "presence-x", BOB.data, "2.2")),
        ("b", Subscribed("app1", "presence-x", "2.2", 9, both, None)),
    ]


def test_a_user_is_announced_once_whatever_the_worker_and_the_type_of_the_id() -> None:
    shard = with_workers("a", "b")
    subscribe(shard, "a", "presence-x", "1.1", ANN)
    again = Member("1", {"user_id": "1", "user_info": {"name": "Other"}})
    assert subscribe(shard, "b", "presence-x", "2.2", again) == [
        ("b", Subscribed("app1", "presence-x", "2.2", 9, [(1, {"name": "Ann"})], None))
    ]


def test_the_last_connection_of_a_user_is_announced_to_those_who_stay() -> None:
    shard = with_workers("a", "b")
    subscribe(shard, "a", "presence-x", "1.1", ANN)
    subscribe(shard, "b", "presence-x", "2.2", ANN)
    subscribe(shard, "b", "presence-x", "3.3", BOB)
    assert shard.handle("a", Unsubscribe("app1", "presence-x", "1"), 0) == []
    assert shard.handle("b", Unsubscribe("app1", "presence-x", "1"), 0) == [
        ("b", MemberRemoved("app1", "presence-x", 1))
    ]
    assert shard.handle("b", Unsubscribe("app1", "presence-x", "2"), 0) == []


def test_refresh_tells_again_and_changes_nothing() -> None:
    shard = with_workers("a")
    subscribe(shard, "a", "presence-x", "1.1", ANN)
    publish(shard, "a", "presence-x", b"e", keep_s=10)
    assert shard.handle("a", Refresh("app1", "presence-x", "1.1", 7), 0) == [
        ("a", Subscribed("app1", "presence-x", "1.1", 7, [(1, {"name": "Ann"})], b"e"))
    ]
    assert shard.handle("a", Describe(1, "app1", "presence-x"), 0) == [("a", Described(1, ChannelInfo(1, 1, b"e")))]


# --- events ----------------------------------------------------------------------------------------------------------


def test_an_event_goes_once_to_each_worker_that_cares_and_the_answer_comes_last() -> None:
    shard = with_workers("a", "b", "c")
    subscribe(shard, "a", "news")
    subscribe(shard, "a", "news", "1.2")
    subscribe(shard, "b", "news", "2.2")
    publication = Publication("app1", "news", b"e", "1.1", 0)
    outgoing = shard.handle("a", Publish(5, "app1", "news", b"e", "1.1", 0, True), 0)
    assert Counter(receiver for receiver, event in outgoing if event == publication) == {"a": 1, "b": 1}
    assert outgoing[-1] == ("a", Described(5, ChannelInfo(3, 0, None)))
    assert len(outgoing) == 3


def test_an_unoccupied_channel_accepts_events() -> None:
    shard = with_workers("a")
    assert publish(shard, "a", "news") == []
    assert publish(shard, "a", "news", ref=5) == [("a", Described(5, ChannelInfo(0, 0, None)))]


def test_an_event_is_kept_when_nobody_is_there_and_when_the_last_has_left() -> None:
    shard = with_workers("a")
    publish(shard, "a", "cache-x", b"first", keep_s=10)
    assert subscribe(shard, "a", "cache-x")[0][1].cached == b"first"  # type: ignore[union-attr]
    publish(shard, "a", "cache-x", b"second", keep_s=10)
    shard.handle("a", Unsubscribe("app1", "cache-x", None), 0)
    assert subscribe(shard, "a", "cache-x")[0][1].cached == b"second"  # type: ignore[union-attr]


def test_a_kept_event_is_forgotten_in_time() -> None:
    shard = with_workers("a")
    publish(shard, "a", "cache-x", keep_s=10)
    shard.prune(9)
    late = Subscribe("app1", "cache-x", "1.1", 1, None)
    assert shard.handle("a", late, 9)[0][1].cached == b"e"  # type: ignore[union-attr]
    assert shard.handle("a", late, 10)[0][1].cached is None  # type: ignore[union-attr]


def test_member_events_are_not_kept() -> None:
    shard = with_workers("a")
    subscribe(shard, "a", "presence-cache-x", "1.1", ANN)
    subscribe(shard, "a", "presence-cache-x", "2.2", BOB)
    shard.handle("a", Unsubscribe("app1", "presence-cache-x", "2"), 0)
    assert subscribe(shard, "a", "presence-cache-x", "3.3", BOB)[-1][1].cached is None  # type: ignore[union-attr]


# --- questions -------------------------------------------------------------------------------------------------------


def test_questions_about_what_is_not_there() -> None:
    shard = with_workers("a")
    assert shard.handle("a", Describe(1, "app1", "news"), 0) == [("a", Described(1, ChannelInfo(0, 0, None)))]
    assert shard.handle("a", ListUsers(2, "app1", "presence-x"), 0) == [("a", Answer(2, None))]
    assert shard.handle("a", ListChannels(3, "app1", "", False), 0) == [("a", Listed(3, {}))]


def test_channels_are_listed_by_prefix_and_app() -> None:
    shard = with_workers("a")
    for channel in ("news", "presence-x", "presence-y"):
        subscribe(shard, "a", channel)
    ((_, answer),) = shard.handle("a", ListChannels(3, "app1", "presence-", False), 0)
    assert list(answer.value) == ["presence-x", "presence-y"]  # type: ignore[union-attr]
    assert shard.handle("a", ListChannels(3, "app2", "", False), 0) == [("a", Listed(3, {}))]


def test_users_of_a_channel_without_presence() -> None:
    shard = with_workers("a")
    subscribe(shard, "a", "news")
    assert shard.handle("a", ListUsers(2, "app1", "news"), 0) == [("a", Answer(2, []))]


def test_terminate_tells_every_worker_before_it_is_answered() -> None:
    shard = with_workers("a", "b", "c")
    outgoing = shard.handle("b", Terminate(8, "app1", "7"), 0)
    assert sorted(outgoing[:-1]) == [(worker, Expel("app1", "7")) for worker in "abc"]
    assert outgoing[-1] == ("b", Answer(8, None))


# --- sequences -------------------------------------------------------------------------------------------------------

WORKERS = ("a", "b", "c")
CHANNELS = ("news", "presence-x", "presence-y")
#: A worker's hold on a channel: who holds it, where, and as whom.
Hold = tuple[str, str, Member | None]


class Sequences(RuleBasedStateMachine):
    """The model is a list of holds; everything that a shard says is looked up in it."""

    def __init__(self) -> None:
        super().__init__()
        self.shard = Shard()
        self.holds: list[Hold] = []
        self.first: dict[tuple[str, str], Member] = {}  # by channel and user: as who came first

    @initialize()
    def start(self) -> None:
        for worker in WORKERS:
            self.shard.join(worker)

    def holders(self, channel: str) -> set[str]:
        return {worker for worker, on, _ in self.holds if on == channel}

    def users(self, channel: str) -> list[str]:
        return list(dict.fromkeys(member.user for _, on, member in self.holds if on == channel and member))

    @rule(
        worker=st.sampled_from(WORKERS),
        channel=st.sampled_from(CHANNELS),
        user=st.sampled_from([1, "1", 2, "x"]),
        info=st.integers(0, 3),
    )
    def subscribe(self, worker: str, channel: str, user: Any, info: int) -> None:
        member = Member(str(user), {"user_id": user, "user_info": info}) if channel != "news" else None
        came = member is not None and member.user not in self.users(channel)
        others = self.holders(channel)
        *announced, answered = subscribe(self.shard, worker, channel, "5.5", member)
        if came and member is not None:
            self.first[channel, member.user] = member
            expected = MemberAdded("app1", channel, member.data, "5.5")
            assert sorted(announced, key=str) == sorted([(other, expected) for other in others], key=str)
        else:
            assert announced == []
        self.holds.append((worker, channel, member))
        assert answered[0] == worker
        listed = answered[1].members  # type: ignore[union-attr]
        shown = [tuple(self.first[channel, user].data.values()) for user in self.users(channel)]
        assert (None if listed is None else dict(listed)) == (None if channel == "news" else dict(shown))

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        hold = data.draw(st.sampled_from(self.holds))
        worker, channel, member = hold
        self.holds.remove(hold)
        outgoing = self.shard.handle(worker, Unsubscribe("app1", channel, member and member.user), 0)
        if member is None or member.user in self.users(channel):
            assert outgoing == []
        else:
            removed = MemberRemoved("app1", channel, self.first.pop((channel, member.user)).data["user_id"])
            assert sorted(outgoing, key=str) == sorted([(other, removed) for other in self.holders(channel)], key=str)

    @rule(worker=st.sampled_from(WORKERS), channel=st.sampled_from(CHANNELS), ref=st.integers(0, 2))
    def publish(self, worker: str, channel: str, ref: int) -> None:
        outgoing = publish(self.shard, worker, channel, b"e", ref)
        if ref:
            receiver, answer = outgoing.pop()
            assert (receiver, answer.ref) == (worker, ref)  # type: ignore[union-attr]
        assert Counter(receiver for receiver, _ in outgoing) == Counter(self.holders(channel))

    @invariant()
    def counts(self) -> None:
        for channel in CHANNELS:
            ((_, answer),) = self.shard.handle("a", Describe(1, "app1", channel), 0)
            held = sum(on == channel for _, on, _ in self.holds)
            assert answer.value == ChannelInfo(held, len(self.users(channel)), None)  # type: ignore[union-attr]
        ((_, answer),) = self.shard.handle("a", ListChannels(1, "app1", "", False), 0)
        assert set(answer.value) == {on for _, on, _ in self.holds}  # type: ignore[union-attr]


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# --- what workers remember of cache channels -------------------------------------------------------------------------


def test_who_remembers_an_event_is_told_that_there_is_a_later_one() -> None:
    """Else a successor of this shard would be told of it by who has not heard of the later one."""
    shard = with_workers("a", "b", "c")
    event = Publish(0, "app1", "cache-x", b"e", None, 60)
    assert shard.handle("a", event, 0) == []
    assert shard.handle("b", event, 0) == [("a", Superseded("app1", "cache-x"))]
    assert shard.handle("b", event, 0) == []
    shard.leave("b")
    assert shard.handle("c", event, 0) == []


def test_who_has_declared_an_event_remembers_it() -> None:
    shard = with_workers("a", "b")
    shard.declare("a", replace(NOTHING, cached=[("app1", "cache-x", b"old", 60, 3)]), 0)
    assert shard.handle("b", Publish(0, "app1", "cache-x", b"e", None, 60), 0) == [("a", Superseded("app1", "cache-x"))]


def test_what_is_from_before_there_was_an_order_does_not_replace_anything() -> None:
    shard = with_workers("a", "b")
    shard.declare("a", replace(NOTHING, cached=[("app1", "cache-x", b"new", 60, 3)]), 0)
    shard.declare("b", replace(NOTHING, cached=[("app1", "cache-x", b"old", 60, 0), ("app1", "y", b"y", 60, 0)]), 0)
    found = {name: payload for (_, name), payload, *_ in shard._cache.items(0)}
    assert found == {"cache-x": b"new", "y": b"y"}
