"""What every store does, in memory and in Redis."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.shard.cluster.names import log_name
from resonate.shard.cluster.store import (
    PAGE,
    SLICE,
    Admit,
    Append,
    Arrive,
    Bury,
    Channels,
    Count,
    Entry,
    Follow,
    Followed,
    Index,
    Join,
    Keep,
    Leave,
    Listen,
    ListParties,
    Logs,
    Look,
    Order,
    Page,
    Read,
    Renew,
    Reply,
    Said,
    Say,
    Subscriptions,
    Sum,
    Tally,
    Unfollow,
    Unindex,
)
from tests.support.redis import RedisServer, at
from tests.support.stores import End, MemoryHosts, RedisHosts

Hosts = MemoryHosts | RedisHosts
A = log_name("app", "a")
B = log_name("app", "b")

_prefixes = (f"test{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest, redis: RedisServer) -> Iterator[Callable[..., Hosts]]:
    """Makes hosts whose store is empty."""
    made: list[Hosts] = []

    def new(log_length: int = 10_000) -> Hosts:
        if request.param == "memory":
            made.append(MemoryHosts(log_length))
        else:
            made.append(RedisHosts(at(port=redis.port, prefix=next(_prefixes), log_length=log_length)))
        return made[-1]

    yield new
    for hosts in made:
        hosts.close()


@pytest.fixture
def hosts(make: Callable[..., Hosts]) -> Hosts:
    return make()


@pytest.fixture
def end(hosts: Hosts) -> End:
    return hosts.end()


# --- logs ------------------------------------------------------------------------------------------------------------


def test_all_who_follow_hear_each_entry_in_one_order(hosts: Hosts) -> None:
    ends = [hosts.end(), hosts.end()]
    for end in ends:
        end.follow(A)
    for number in range(20):
        for name, end in zip("xy", ends, strict=True):
            end.order(Append(1000 + number, A, f"{name}{number}".encode(), b"", 0))
    answers = [[end.answer(1000 + number) for number in range(20)] for end in ends]
    first, second = (end.until_heard(A, 40) for end in ends)
    assert first == second
    positions = [entry.position for entry in first]
    assert positions == sorted(set(positions))
    assert positions[0] > 0
    for name, answered in zip("xy", answers, strict=True):
        mine = [entry for entry in first if entry.entry.startswith(name.encode())]
        assert [entry.entry for entry in mine] == [f"{name}{number}".encode() for number in range(20)]
        assert [entry.position for entry in mine] == answered


def test_what_is_ordered_after_a_log_is_followed_is_heard(end: End) -> None:
    end.order(Follow(A), Append(1001, A, b"one", b"", 0), Follow(A), Append(1002, A, b"two", b"", 0))
    entries = end.until_heard(A, 2)
    assert [entry.entry for entry in entries] == [b"one", b"two"]
    assert end.reports.index(Followed(A)) < end.reports.index(entries[0])
    assert end.followed(A) == 2  # harmless


def test_nothing_is_heard_of_a_log_that_is_not_followed_any_more(end: End) -> None:
    end.follow(A)
    end.order(Unfollow(A), Unfollow(log_name("app", "never followed")))
    end.follow(B)
    end.ask(Append, A, b"unheard", b"", 0)
    end.order(Append(1000, B, b"heard", b"", 0))
    end.until_heard(B, 1)
    assert end.heard(A) == []
    end.follow(A)
    end.ask(Append, A, b"again", b"", 0)
    assert [entry.entry for entry in end.until_heard(A, 1)] == [b"again"]


def test_a_log_is_read_by_pages(end: End) -> None:
    count = 2 * PAGE + 7
    end.order(*(Append(1000 + number, A, b"%d" % number, b"", 0) for number in range(count)))
    positions = [end.answer(1000 + number) for number in range(count)]
    after, found = 0, []
    for size in (PAGE, PAGE, 7, 0):
        page = end.ask(Read, A, after, False)
        assert len(page.entries) == size
        assert page.last == positions[-1]
        assert page.members is None
        found += page.entries
        after = found[-1][0]
    assert found == [(position, b"%d" % number) for number, position in enumerate(positions)]
    assert end.ask(Read, A, None, True) == Page([], positions[-1], [], None)


def test_a_log_that_nobody_has_written_to(end: End) -> None:
    assert end.ask(Read, A, 0, True) == Page([], 0, [], None)
    assert end.ask(Look, A) == Page([], 0, [], None)
    assert end.ask(Leave, A, "nobody", b"left") == 0


def test_a_log_keeps_its_latest_entries(make: Callable[..., Hosts]) -> None:
    end = make(log_length=100).end()
    end.order(*(Append(1000 + number, A, b"%d" % number, b"", 0) for number in range(450)))
    last = end.answer(1449)
    page = end.ask(Read, A, 0, False)
    kept = [int(content) for _, content in page.entries]
    assert kept == list(range(450 - len(kept), 450))
    assert 100 <= len(kept) <= 200  # a store may keep a few more
    assert page.last == last


def test_any_bytes_are_kept_as_they_are(end: End) -> None:
    content = bytes(range(256)) + b"\r\n$-1\r\n"
    large = b"x" * (2**20)
    end.follow(A)
    end.order(Append(1001, A, content, b"", 0), Append(1002, A, b"", b"", 0), Append(1003, A, large, content, 60))
    assert [entry.entry for entry in end.until_heard(A, 3)] == [content, b"", large]
    assert end.ask(Join, A, "field", content, b"joined") > 0
    page = end.ask(Read, A, 0, True)
    assert [entry for _, entry in page.entries] == [content, b"", large, b"joined"]
    assert page.members == [("field", content)]
    assert page.cached[0] == content


# --- members ---------------------------------------------------------------------------------------------------------


def test_one_entry_for_who_joins_and_one_for_who_leaves(hosts: Hosts) -> None:
    here, there = hosts.end(), hosts.end()
    here.follow(A)
    joined = here.ask(Join, A, "ann", b"1", b"ann joined")
    assert there.ask(Join, A, "ann", b"2", b"ann joined again") == joined
    assert there.ask(Look, A) == Page([], joined, [("ann", b"2")], None)
    bob = there.ask(Join, A, "bob", b"3", b"bob joined")
    assert sorted(here.ask(Read, A, None, True).members) == [("ann", b"2"), ("bob", b"3")]
    left = here.ask(Leave, A, "ann", b"ann left")
    assert there.ask(Leave, A, "ann", b"ann left again") == left
    assert joined < bob < left
    assert here.until_heard(A, 3) == [
        Entry(A, joined, b"ann joined"),
        Entry(A, bob, b"bob joined"),
        Entry(A, left, b"ann left"),
    ]
    assert here.ask(Look, A).members == [("bob", b"3")]


# --- cached events ---------------------------------------------------------------------------------------------------


def test_the_cached_event_is_the_last_that_was_to_be_kept(end: End) -> None:
    end.ask(Append, A, b"one", b"first", 60)
    end.ask(Append, A, b"two", b"second", 100)
    last = end.ask(Append, A, b"three", b"not kept", 0)
    page = end.ask(Look, A)
    cached, left = page.cached
    assert (page.last, cached) == (last, b"second")
    assert 90 < left <= 100
    assert end.ask(Look, B).cached is None


def test_the_cached_event_runs_out(end: End) -> None:
    end.ask(Append, A, b"one", b"short", 1)
    assert end.ask(Look, A).cached in ((b"short", 1), None)  # on a machine that is slow
    end.until(lambda _: end.ask(Look, A).cached is None)


# --- counts ----------------------------------------------------------------------------------------------------------


def test_counts_are_said_as_a_whole_and_added_up(hosts: Hosts) -> None:
    end, other = hosts.end(), hosts.end()
    for _ in range(2):  # the second time says nothing new
        end.ask(Count, "p1", "app", 5, 3, {"room-a": 2, "room-b": 1, "hall": 4})
        other.ask(Count, "p2", "app", 7, 1, {"room-a": 1})
        other.ask(Count, "p2", "other", 100, 100, {"room-a": 100})
    assert end.ask(Tally, "app") == Sum(12, 4, 8, 3)
    assert end.ask(Channels, "app", "") == {"room-a": 3, "room-b": 1, "hall": 4}
    assert end.ask(Channels, "app", "room-") == {"room-a": 3, "room-b": 1}
    end.ask(Count, "p1", "app", 4, 2, {"room-b": 0, "new": 1})  # of the others nothing is said
    assert other.ask(Tally, "app") == Sum(11, 3, 8, 3)
    assert [other.ask(Subscriptions, "app", channel) for channel in ("room-a", "room-b", "new")] == [3, 0, 1]
    end.ask(Count, "p1", "app", 0, 0, {"room-a": 0, "hall": 0, "new": 0})
    assert end.ask(Tally, "app") == Sum(7, 1, 1, 1)
    assert end.ask(Channels, "app", "") == {"room-a": 1}
    assert end.ask(Tally, "nobody's") == Sum(0, 0, 0, 0)
    assert end.ask(Subscriptions, "nobody's", "room-a") == 0
    assert end.ask(Channels, "nobody's", "") == {}


def test_a_prefix_is_no_pattern(end: End) -> None:
    names = ["a*b", "a?b", "a[b]", "a\\b", "axb", "a^b", "a-b", "*", "ab"]
    end.ask(Count, "p", "app", 1, 1, dict.fromkeys(names, 1))
    for prefix in ("a*", "a?", "a[", "a[b]", "a\\", "a^", "a-", "*", "?", "a"):
        assert set(end.ask(Channels, "app", prefix)) == {name for name in names if name.startswith(prefix)}


def test_many_channels_are_counted_listed_and_buried(hosts: Hosts) -> None:
    end, other = hosts.end(), hosts.end()
    names = [f"channel-{number}" for number in range(3 * SLICE + 7)]
    for count, party in ((2, "p1"), (3, "p2")):
        end.ask(Arrive, party, 60.0)
        for begin in range(0, len(names), SLICE):
            end.ask(Count, party, "app", 9, 8, dict.fromkeys(names[begin : begin + SLICE], count))
    assert end.ask(Tally, "app") == Sum(18, 16, 5 * len(names), len(names))
    assert end.ask(Channels, "app", "") == dict.fromkeys(names, 5)
    end.order(Bury(1000, "p1"))
    other.order(Bury(1000, "p1"))  # both at a time
    for each in (end, other):
        assert each.answer(1000) is None
        assert each.ask(Tally, "app") == Sum(9, 8, 3 * len(names), len(names))
    assert other.ask(Channels, "app", "channel-12") == {name: 3 for name in names if name.startswith("channel-12")}
    end.ask(Bury, "p2")
    assert other.ask(Tally, "app") == Sum(0, 0, 0, 0)
    assert other.ask(Channels, "app", "") == {}


def test_who_counts_after_his_burial_is_counted_once(hosts: Hosts) -> None:
    """He has not noticed yet. What he does not say anew is gone."""
    end, other = hosts.end(), hosts.end()
    end.ask(Count, "p1", "app", 5, 4, {"a": 2, "b": 3})
    other.ask(Count, "p2", "app", 1, 1, {"a": 1})
    other.ask(Bury, "p1")
    for _ in range(2):
        end.ask(Count, "p1", "app", 5, 4, {"a": 3})
        assert end.ask(Tally, "app") == Sum(6, 5, 4, 1)
    end.ask(Count, "p1", "app", 5, 4, {"b": 0})
    assert other.ask(Channels, "app", "") == {"a": 4}
    for _ in range(2):
        end.ask(Bury, "p1")
        assert end.ask(Tally, "app") == Sum(1, 1, 1, 1)
        assert other.ask(Channels, "app", "") == {"a": 1}


def test_no_more_are_admitted_than_the_limit_over_all_parties(hosts: Hosts) -> None:
    end, other = hosts.end(), hosts.end()
    for _ in range(2):  # asked again, when nobody knows what has been done
        assert end.ask(Admit, "p1", "app", 0, 6, 10) == (6, 0)
    assert other.ask(Admit, "p2", "app", 0, 6, 10) == (4, 6)
    assert other.ask(Admit, "p2", "app", 4, 1, 10) == (0, 6)
    assert end.ask(Tally, "app") == Sum(10, 0, 0, 0)
    end.ask(Count, "p1", "app", 3, 3, {"a": 3})
    assert other.ask(Admit, "p2", "app", 4, 9, 10) == (3, 3)
    assert other.ask(Admit, "p2", "app", 20, 1, 10) == (0, 3)  # it holds what it holds
    assert end.ask(Admit, "p1", "app", 3, 1, 10) == (0, 20)
    assert end.ask(Tally, "app") == Sum(23, 3, 3, 1)  # to ask for places changes nothing else


# --- parties ---------------------------------------------------------------------------------------------------------


def test_a_party_lives_as_long_as_its_lease(hosts: Hosts) -> None:
    end, other = hosts.end(), hosts.end()
    assert not end.ask(Renew, "p1", 60.0)
    before = end.ask(Append, "a/log", b"before", b"", 0)
    arrived = end.ask(Arrive, "p1", 60.0)
    assert arrived.now >> 16 >= before >> 16
    assert arrived.since == arrived.now
    end.ask(Arrive, "p2", 0.4)
    assert end.ask(Renew, "p1", 60.0)
    other.until(lambda _: other.ask(ListParties) == {"p1": True, "p2": False})
    assert not end.ask(Renew, "p2", 60.0)
    assert other.ask(ListParties) == {"p1": True, "p2": False}
    assert end.ask(Arrive, "p2", 60.0).since == arrived.since
    assert other.ask(ListParties) == {"p1": True, "p2": True}


def test_who_counts_is_known(hosts: Hosts) -> None:
    end = hosts.end()
    end.ask(Arrive, "p1", 60.0)
    end.ask(Count, "p1", "app", 1, 1, {})
    end.ask(Count, "p2", "app", 1, 1, {})
    end.ask(Admit, "p3", "app", 0, 1, 5)
    assert end.ask(ListParties) == {"p1": True, "p2": False, "p3": False}
    assert not end.ask(Renew, "p2", 60.0)


def test_nothing_is_left_of_who_is_buried(hosts: Hosts) -> None:
    end, other = hosts.end(), hosts.end()
    for party in ("p1", "p2"):
        end.ask(Arrive, party, 60.0)
        end.ask(Index, party, A)
        end.ask(Index, party, A)
        end.ask(Index, party, B)
        end.ask(Count, party, "app", 2, 1, {"a": 1})
        end.ask(Admit, party, "other", 0, 1, 5)
    end.order(Unindex("p2", A), Unindex("p2", A))
    for _ in range(2):
        assert end.ask(Bury, "p1") is None
    assert other.ask(ListParties) == {"p2": True}
    assert other.ask(Logs, "p1") == []
    assert other.ask(Logs, "p2") == [B]
    assert other.ask(Tally, "app") == Sum(2, 1, 1, 1)
    assert other.ask(Admit, "p3", "other", 0, 9, 5) == (4, 1)
    assert not end.ask(Renew, "p1", 60.0)


# --- names, order, model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", ["app", "a}b{c/d", "käse {1}", "\ud800"])
@pytest.mark.parametrize("channel", ["", "a/b", "{}{", "}:log", "日本", "\udfff%7B", "a b\n\0"])
def test_any_name(end: End, app: str, channel: str) -> None:
    log = log_name(app, channel)
    end.follow(log)
    position = end.ask(Append, log, b"entry", b"cached", 60)
    assert end.until_heard(log, 1) == [Entry(log, position, b"entry")]
    end.ask(Join, log, channel, b"value", b"joined")
    assert end.ask(Look, log).members == [(channel, b"value")]
    end.ask(Arrive, app, 60.0)
    end.ask(Count, app, app, 2, 1, {channel: 1})
    assert end.ask(Tally, app) == Sum(2, 1, 1, 1)
    assert end.ask(Subscriptions, app, channel) == 1
    assert end.ask(Channels, app, channel) == {channel: 1}
    end.ask(Index, app, log)
    assert end.ask(Logs, app) == [log]
    assert end.ask(ListParties) == {app: True}
    end.ask(Bury, app)
    assert end.ask(Tally, app) == Sum(0, 0, 0, 0)
    assert end.ask(ListParties) == {}


def test_a_thousand_orders_at_once_are_answered_in_their_order(end: End) -> None:
    kinds: list[Callable[[int], Order]] = [
        lambda ref: Append(ref, A, b"x", b"y", 60),
        lambda ref: Join(ref, A, "ann", b"", b"joined"),
        lambda ref: Read(ref, A, None, True),
        lambda ref: Leave(ref, A, "ann", b"left"),
        lambda ref: Look(ref, A),
    ]
    end.order(*(kinds[ref % len(kinds)](ref) for ref in range(1000)))
    end.until(lambda reports: Reply in map(type, reports) and len(reports) >= 1001)
    replies = [report for report in end.reports if isinstance(report, Reply)]
    assert [reply.ref for reply in replies] == list(range(1000))
    positions = [reply.value for reply in replies if isinstance(reply.value, int)]
    assert positions == sorted(set(positions))


_logs = st.sampled_from([A, B])
_names = st.sampled_from(["p", "q"])
_apps = st.sampled_from(["app", "other"])
_small = st.integers(0, 3)
_data = st.binary(max_size=3)
_ref = st.just(0)
_counts = st.dictionaries(st.sampled_from(["a", "ab", "b"]), _small)
# --- programs that are no hosts ---------------------------------------------------------------------------------------


def test_all_who_listen_hear_what_is_said(hosts: Hosts) -> None:
    ends = [hosts.end(), hosts.end()]
    deaf = hosts.end()
    for end in ends:
        end.order(Listen())
        end.follow(A)  # by the time that this is so, it listens
    words = [b"one", b"two" * 1000, b"", b"\x00\r\n\xff"]
    ends[0].order(*map(Say, words))
    for end in ends:
        end.until(lambda reports: [each.data for each in reports if isinstance(each, Said)] == words)
        assert end.heard(A) == []
    deaf.follow(A)
    assert not [report for report in deaf.reports if isinstance(report, Said)]


def test_what_is_said_is_not_what_is_in_a_log(end: End) -> None:
    end.order(Listen())
    end.follow(A)
    end.ask(Append, A, b"entry", b"", 0)
    end.order(Say(b"1-1 said"))
    end.until(lambda reports: Said(b"1-1 said") in reports)
    assert [entry.entry for entry in end.until_heard(A, 1)] == [b"entry"]


def test_an_event_is_kept_without_an_entry(end: End) -> None:
    end.ask(Append, A, b"entry", b"first", 600)
    end.order(Keep(A, b"second", 500))
    page = end.ask(Read, A, 0, False)
    assert [entry for _, entry in page.entries] == [b"entry"]
    assert page.cached is not None
    assert page.cached[0] == b"second"
    assert 490 < page.cached[1] <= 500
    end.order(Keep(A, b"gone", 1))
    end.until(lambda _: end.ask(Look, A).cached is None)


# --- all of it --------------------------------------------------------------------------------------------------------

_ORDERS = st.lists(
    st.one_of(
        st.builds(Append, _ref, _logs, _data, _data, st.sampled_from([0, 600])),
        st.builds(Read, _ref, _logs, st.just(0) | st.none(), st.booleans()),
        st.builds(Join, _ref, _logs, _names, _data, _data),
        st.builds(Leave, _ref, _logs, _names, _data),
        st.builds(Look, _ref, _logs),
        st.builds(Keep, _logs, _data, st.just(600)),
        st.builds(Say, _data),
        st.builds(Count, _ref, _names, _apps, _small, _small, _counts),
        st.builds(Admit, _ref, _names, _apps, _small, _small, _small),
        st.builds(Tally, _ref, _apps),
        st.builds(Subscriptions, _ref, _apps, st.sampled_from(["a", "ab", "c"])),
        st.builds(Channels, _ref, _apps, st.sampled_from(["", "a", "c"])),
        st.builds(Arrive, _ref, _names, st.just(600.0)),
        st.builds(Renew, _ref, _names, st.just(600.0)),
        st.builds(Index, _ref, _names, _logs),
        st.builds(Unindex, _names, _logs),
        st.builds(ListParties, _ref),
        st.builds(Logs, _ref, _names),
        st.builds(Bury, _ref, _names),
    ),
    max_size=40,
)


@given(orders=_ORDERS)
def test_both_stores_answer_the_same(redis: RedisServer, orders: list[Any]) -> None:
    answers = []
    for make in (MemoryHosts, partial(RedisHosts, at(port=redis.port, prefix=next(_prefixes)))):
        hosts: Hosts = make()
        end = hosts.end()
        places: dict[str, list[int]] = {A: [0], B: [0]}  # the positions of each log
        found = []
        for order in orders:
            if isinstance(order, Unindex | Keep | Say):
                end.order(order)
            else:
                found.append(_plain(order, end.ask(type(order), *order[1:]), places))
        answers.append(found)
        hosts.close()
    assert answers[0] == answers[1]


def _plain(order: Any, value: Any, places: dict[str, list[int]]) -> Any:
    """An answer without what may differ: positions, rests of seconds, orders of sets."""
    if isinstance(order, Append | Join | Leave):
        if value > places[order.log][-1]:
            places[order.log].append(value)
        return places[order.log].index(value)
    if isinstance(order, Arrive):
        return None
    if isinstance(value, Page):
        place = places[order.log].index
        entries = [(place(position), entry) for position, entry in value.entries]
        members = None if value.members is None else sorted(value.members)
        return entries, place(value.last), members, value.cached and value.cached[0]
    return sorted(value) if isinstance(value, list) else value
