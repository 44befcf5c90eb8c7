"""The store in Redis when things go wrong, and over all ways that lead to a Redis."""

from __future__ import annotations

import itertools
import logging
import re
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
import redis as redis_py
import trustme
from hypothesis import given
from hypothesis import strategies as st

from resonate.bus.redis_address import described
from resonate.bus.redis_link import MOST_BYTES
from resonate.bus.redis_orders import entry as entry_of
from resonate.bus.redis_store import RedisStore
from resonate.bus.resp import Reader
from resonate.scaling import Scaling
from resonate.shard.cluster.entries import MAX_BYTES
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
    Index,
    Join,
    Leave,
    Listen,
    ListParties,
    Logs,
    Look,
    Read,
    Ready,
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
from tests.bus.redis_proxy import Proxy
from tests.support.eventually import eventually
from tests.support.redis import RedisServer, at
from tests.support.redis_groups import SERVICE, RedisCluster, Sentinels, in_directory
from tests.support.server import free_port
from tests.support.stores import End, RedisHosts

LOG = "app/a"
KEY = "reverb:{app/a}:log"
SECRET = "hunter2"


class Lines(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.logger = logging.Logger("store")
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as running:
        yield running


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def unready(lines: Lines) -> Iterator[Callable[[Scaling], End]]:
    """Makes ends, whatever becomes of them."""
    hosts = RedisHosts(at())
    yield lambda place: hosts.unready(place, lines.logger)
    hosts.close()


def works(end: End, log: str = LOG) -> bool:
    """Whether what is appended is heard."""
    before = len(end.heard(log))
    end.follow(log)
    position = end.ask(Append, log, b"still there", b"", 0)
    return end.until_heard(log, before + 1)[-1] == Entry(log, position, b"still there")


# --- losing it -------------------------------------------------------------------------------------------------------


def test_a_redis_that_dies_and_comes_back_empty(redis: RedisServer, unready: Callable[[Scaling], End]) -> None:
    end = unready(at(port=redis.port)).until_ready()
    assert works(end)
    redis.stop()
    assert "closed" in end.until_lost() or "broken" in end.until_lost()
    end.order(Append(1000, LOG, b"dropped", b"", 0))
    redis.start()
    end.until_ready(2)
    assert end.ask(Read, LOG, 0, False).entries == []
    before = end.heard(LOG)[-1].position
    assert works(end)
    assert end.heard(LOG)[-1].position > before
    assert not [report for report in end.reports if isinstance(report, Reply) and report.ref == 1000]


def test_a_redis_that_is_not_there_yet(unready: Callable[[Scaling], End], lines: Lines, tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    end = unready(at(port=server.port))
    assert "refused" in end.until_lost()
    with server:
        end.until_ready()
        assert len(end.losses) == 1
    assert lines.count(f"Redis at 127.0.0.1:{server.port} cannot be used") >= 1


@pytest.mark.parametrize("busy", [True, False])
def test_a_redis_that_hangs_is_lost(redis: RedisServer, unready: Callable[[Scaling], End], busy: bool) -> None:
    end = unready(at(port=redis.port, patience=0.5)).until_ready()
    redis.freeze()
    if busy:
        end.order(Append(1000, LOG, b"x", b"", 0))
    assert end.until_lost(within=10) == "no answer within 0.5 s"
    redis.thaw()
    end.until_ready(2)
    assert works(end)
    assert not [report for report in end.reports if isinstance(report, Reply) and report.ref == 1000]


def test_a_redis_that_never_answers_is_no_redis(unready: Callable[[Scaling], End]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        end = unready(at(port=deaf.getsockname()[1], patience=0.3))
        assert "Timeout" in end.until_lost()


ODD = (b"+OK", b":1", b"*1\r\n$1\r\nx", b"*1\r\n:7", b"*1\r\n*3\r\n:0\r\n:16383\r\n:1", b"*1\r\n*1\r\n+x")


@pytest.mark.parametrize("answer", ODD)
def test_whatever_answers_it_is_tried_again(unready: Callable[[Scaling], End], answer: bytes) -> None:
    asked = [0]

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                peer, _ = listening.accept()
                asked[0] += 1
                with peer:
                    while peer.recv(4096):
                        peer.sendall(answer + b"\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = threading.Thread(target=serve, args=(listening,), daemon=True)
        serving.start()
        end = unready(at(port=listening.getsockname()[1], cluster=True, patience=1))
        assert end.until_lost() == "what answers there is no Redis that we know"
        end.until(lambda _: asked[0] >= 3)
        listening.shutdown(socket.SHUT_RDWR)
        serving.join(20)


@pytest.mark.parametrize("which", [0, 1])
def test_a_connection_that_is_cut_one_way_is_lost(
    redis: RedisServer, unready: Callable[[Scaling], End], which: int
) -> None:
    with Proxy(redis.port) as proxy:
        end = unready(at(port=proxy.port, patience=0.5)).until_ready()
        assert works(end)
        proxy.mute(which)
        assert end.until_lost(within=10) == "no answer within 0.5 s"
        end.until_ready(2)
        assert works(end)


def test_who_follows_misses_nothing_between_two_breaks(redis: RedisServer, unready: Callable[[Scaling], End]) -> None:
    end = unready(at(port=redis.port, log_length=100_000)).until_ready()
    reference = 1000
    for number, kind in enumerate(("normal", "pubsub", "normal", "pubsub")):
        end.until_mended()
        begins = len(end.reports)
        end.follow(LOG)
        reference += 3000
        for begin in range(reference, reference + 3000, 100):
            end.order(*(Append(ref, LOG, b"%d" % ref, b"", 0) for ref in range(begin, begin + 100)))
            end.take()
        redis.do("CLIENT", "KILL", "TYPE", kind)
        end.until_lost(number + 1)
        end.until_mended()
        new = end.reports[begins:]
        heard = [(report.position, report.entry) for report in new if isinstance(report, Entry)]
        entries = everything(end)
        begin = entries.index(heard[0]) if heard else 0
        assert entries[begin : begin + len(heard)] == heard
        log = {int(entry): position for position, entry in entries}
        answered = [report for report in new if isinstance(report, Reply) and report.ref in log]
        assert all(log[reply.ref] == reply.value for reply in answered)
        assert [reply.ref for reply in answered] == sorted(reply.ref for reply in answered)


def everything(end: End, log: str = LOG) -> list[tuple[int, bytes]]:
    """All entries of a log."""
    found: list[tuple[int, bytes]] = []
    while page := end.ask(Read, log, found[-1][0] if found else 0, False).entries:
        found += page
    return found


def test_who_does_not_keep_up_is_lost(redis: RedisServer, unready: Callable[[Scaling], End]) -> None:
    end = unready(at(port=redis.port, patience=60)).until_ready()
    redis.freeze()
    entry = bytes(2**20)
    end.order(*(Append(1000, LOG, entry, b"", 0) for _ in range(MOST_BYTES // 2**20 + 16)))
    assert "keep up" in end.until_lost()
    redis.thaw()
    end.until_ready(2)


@pytest.mark.parametrize(
    ("wrong", "right", "reason"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), r"READONLY|read only"),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), r"OOM|maxmemory"),
        (("SCRIPT", "FLUSH"), ("PING",), r"NOSCRIPT"),
        (("CLIENT", "KILL", "TYPE", "pubsub"), ("PING",), r"closed|broken"),
        (("CLIENT", "KILL", "TYPE", "normal"), ("PING",), r"closed|broken"),
    ],
)
def test_a_redis_that_cannot_serve_is_lost_until_it_can(
    redis: RedisServer,
    unready: Callable[[Scaling], End],
    wrong: tuple[str, ...],
    right: tuple[str, ...],
    reason: str,
) -> None:
    end = unready(at(port=redis.port)).until_ready()
    end.follow(LOG)
    redis.do(*wrong)
    end.order(Append(1000, LOG, b"x", b"", 0))
    assert re.search(reason, end.until_lost())
    redis.do(*right)
    end.until_mended()
    assert works(end)


# --- what is in it is data -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def hosts(shared: RedisServer) -> Iterator[RedisHosts]:
    found = RedisHosts(at(port=shared.port, prefix="garbage"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def follower(hosts: RedisHosts) -> End:
    end = hosts.end()
    end.follow(LOG)
    return end


_GARBAGE = st.one_of(
    st.binary(max_size=50),
    st.just(b"1-1"),
    st.just(b"x" * 100_000),
    st.builds(b"%b-%b x".__mod__, st.tuples(st.binary(max_size=30), st.binary(max_size=30))),
).filter(lambda data: not re.match(rb"\d{1,19}-\d{1,19} .{0,100}$", data, re.DOTALL))


@given(published=st.lists(_GARBAGE, max_size=4))
def test_garbage_on_the_channel_is_dropped_and_counted(
    shared: RedisServer, hosts: RedisHosts, follower: End, published: list[bytes]
) -> None:
    dropped = hosts.stores[0].counters["dropped_messages"]
    heard = len(follower.heard(LOG))
    with shared.client() as client:
        for data in published:
            client.publish("garbage:{app/a}:log", data)
    position = follower.ask(Append, LOG, b"ours", b"", 0)
    assert follower.until_heard(LOG, heard + 1)[heard:] == [Entry(LOG, position, b"ours")]
    assert hosts.stores[0].counters["dropped_messages"] == dropped + len(published)


def test_a_message_that_is_dropped_is_logged_once(
    redis: RedisServer, unready: Callable[[Scaling], End], lines: Lines
) -> None:
    end = unready(at(port=redis.port)).until_ready()
    end.follow(LOG)
    redis.do("PUBLISH", KEY, "garbage")
    redis.do("PUBLISH", KEY, "garbage")
    assert works(end)
    assert lines.count("none of ours") == 1
    assert lines.count("garbage") == 0


def test_a_long_entry_is_heard_and_read(hosts: RedisHosts, follower: End) -> None:
    """As long as a request may be is for `max_request_size` to say."""
    heard = len(follower.heard(LOG))
    entry = b"x" * (5 * 2**20)
    position = follower.ask(Append, LOG, entry, entry, 60)
    assert follower.until_heard(LOG, heard + 1)[-1] == Entry(LOG, position, entry)
    assert follower.ask(Read, LOG, position - 1, False).entries == [(position, entry)]


def test_the_longest_entry_is_the_same_everywhere() -> None:
    longest = b"1" * 20 + b"-1 " + bytes(MAX_BYTES)
    (told,) = Reader().feed(b"$%d\r\n%b\r\n" % (len(longest), longest))
    assert len(entry_of(LOG, told).entry) == MAX_BYTES < MOST_BYTES // 2
    with pytest.raises(ValueError):
        entry_of(LOG, longest + b"x")


def test_a_key_of_somebody_else_is_refused_and_said_once(
    redis: RedisServer, unready: Callable[[Scaling], End], lines: Lines
) -> None:
    redis.set(KEY, "a string", database=0)
    redis.set("reverb:parties", "a string", database=0)
    redis.set("reverb:{app/}:counts", "a string", database=0)
    redis.set("reverb:{p}:apps", "a string", database=0)
    redis.set("reverb:{shop/}:subscriptions", "a string", database=0)
    end = unready(at(port=redis.port)).until_ready()
    for _ in range(3):
        assert end.ask(Append, LOG, b"presence data", b"", 0) is None
        assert end.ask(Read, LOG, 0, True) is None
        assert end.ask(ListParties) is None
        assert end.ask(Renew, "p", 1.0) is None
        assert end.ask(Tally, "app") is None
        assert end.ask(Subscriptions, "shop", "a") is None
        assert end.ask(Channels, "shop", "") is None
        assert end.ask(Count, "q", "shop", 1, 1, {"a": 1}) is None
        assert end.ask(Bury, "p") is None
    assert redis.do("EXISTS", "reverb:{shop/}:counts", "reverb:{shop/}:channels:q") == 0  # nothing by halves
    assert end.losses == []
    assert lines.count("WRONGTYPE") == lines.count("refused an order") == 9
    assert lines.count("presence") == 0
    for subject in (f"Append of {LOG}:", f"Read of {LOG}:", "Tally of app:", "Subscriptions of shop:", "ListParties:"):
        assert lines.count(subject) == 1, lines.lines
    assert works(end, "app/b")


def test_values_of_somebody_else_are_left_out(
    redis: RedisServer, unready: Callable[[Scaling], End], lines: Lines
) -> None:
    with redis.client() as client:
        client.xadd(KEY, {"theirs": "x"})
        client.xadd(KEY, {"e": "x", "more": "y"})
        client.hset("reverb:{app/}:counts", mapping={"p1": "x", "p2": "1 x", "p3": "3 2 2", "p4": "-1 1 1"})
        client.hset("reverb:{app/}:subscriptions", mapping={b"a": b"x", b"b": b"2", b"c": b"-1", b"\xff": b"1"})
        client.hset("reverb:{app/b}:members", mapping={b"\xff": b"x", b"p ann": b"y"})
    end = unready(at(port=redis.port)).until_ready()
    assert [entry for _, entry in end.ask(Read, LOG, 0, False).entries] == [b"x"]
    assert end.ask(Tally, "app") == Sum(3, 2, 2, 4)
    assert [end.ask(Subscriptions, "app", channel) for channel in "abc"] == [0, 2, 0]
    assert end.ask(Channels, "app", "") == {"b": 2}
    assert end.ask(Look, "app/b").members == [("p ann", b"y")]
    assert lines.count("a field is no text") == 2  # once for each kind
    assert end.losses == []


GARBAGE = ["x", "-3", "", "1.5", "1e3", "0x10", " 1", "9" * 400, "inf", "nan"]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_counts_of_somebody_else_are_none(redis: RedisServer, unready: Callable[[Scaling], End], garbage: str) -> None:
    end = unready(at(port=redis.port)).until_ready()
    end.ask(Count, "p", "app", 2, 1, {"a": 1, "b": 1})
    end.ask(Count, "q", "app", 2, 1, {"c": 1})
    with redis.client() as client:
        client.hset("reverb:{app/}:counts", "p", f"2 1 {garbage}")
        client.hset("reverb:{app/}:subscriptions", mapping={"a": garbage, "c": garbage})
        client.hset("reverb:{app/}:channels:p", "b", garbage)
    assert end.ask(Subscriptions, "app", "a") == 0
    assert end.ask(Count, "p", "app", 2, 1, {"a": 3}) is None
    assert end.ask(Subscriptions, "app", "a") == 3  # what it says itself is true
    assert end.ask(Channels, "app", "") == {"a": 3, "b": 1}
    end.ask(Bury, "p")
    assert end.ask(Channels, "app", "") == {"b": 1}  # whose it was nobody knows
    end.ask(Bury, "q")  # the last
    with redis.client() as client:
        assert client.keys() == []


def test_a_burial_that_was_broken_off_is_ended_by_others(redis: RedisServer, unready: Callable[[Scaling], End]) -> None:
    """Whoever it is: a party with many channels is buried in slices, and its burier may die between any two."""
    end, other = (unready(at(port=redis.port)).until_ready() for _ in range(2))
    names = [f"channel-{number}" for number in range(9 * SLICE)]
    for count, party in ((2, "p"), (3, "q")):
        end.ask(Arrive, party, 60.0)
        for begin in range(0, len(names), SLICE):
            end.ask(Count, party, "app", 9, 8, dict.fromkeys(names[begin : begin + SLICE], count))
    with redis.client() as client:

        def enough(slices: int, _: object) -> bool:
            stats = client.info("commandstats")
            return "cmdstat_evalsha" in stats and stats["cmdstat_evalsha"]["calls"] >= slices

        for slices in (1, 2):
            client.config_resetstat()
            end.order(Bury(1000, "p"))
            end.until(partial(enough, slices))
            client.client_kill_filter(_type="normal", skipme=True)
            end.until_lost(slices)
            end.until_mended()
        other.until_mended()
        left = client.hlen("reverb:{app/}:channels:p")
        assert 0 < left < len(names)
        assert end.ask(Tally, "app") == Sum(9, 8, 3 * len(names) + 2 * left, len(names))
        assert end.ask(ListParties) == {"p": True, "q": True}
        assert other.ask(Bury, "p") is None
        assert other.ask(Tally, "app") == Sum(9, 8, 3 * len(names), len(names))
        assert other.ask(Channels, "app", "") == dict.fromkeys(names, 3)
        other.ask(Bury, "q")
        assert client.keys() == [b"reverb:parties"]  # since when it remembers


def test_a_burial_holds_nobody_up(redis: RedisServer, unready: Callable[[Scaling], End]) -> None:
    """No step of it is about more than a slice; others are served in between, and what they do is right."""
    end, other = (unready(at(port=redis.port)).until_ready() for _ in range(2))
    names = [f"channel-{number}" for number in range(10 * SLICE)]
    for begin in range(0, len(names), SLICE):
        end.ask(Count, "p", "app", 1, 1, dict.fromkeys(names[begin : begin + SLICE], 1))
    with redis.client() as client:
        end.order(Bury(1000, "p"))
        seen = [len(names)]
        while not [report for report in end.take() if isinstance(report, Reply) and report.ref == 1000]:
            seen.append(client.hlen("reverb:{app/}:channels:p"))
            other.ask(Count, "p", "app", 1, 1, {"new": len(seen)})  # it is there yet
        assert all(before - left <= SLICE for before, left in itertools.pairwise(seen))
    said = other.ask(Subscriptions, "app", "new")
    assert other.ask(Tally, "app").subscriptions == said
    end.ask(Bury, "p")
    assert other.ask(Tally, "app") == Sum(0, 0, 0, 0)


def test_apps_that_are_no_text_hold_up_no_burial(
    redis: RedisServer, unready: Callable[[Scaling], End], lines: Lines
) -> None:
    end = unready(at(port=redis.port)).until_ready()
    end.ask(Count, "p", "app", 1, 1, {"a": 1})
    with redis.client() as client:
        client.sadd("reverb:{p}:apps", b"\xff")
    assert end.ask(Bury, "p") is None
    assert end.ask(Tally, "app") == Sum(0, 0, 0, 0)
    assert lines.count("a field is no text") == 1


def test_counts_are_right_when_redis_has_lost_them(redis: RedisServer, unready: Callable[[Scaling], End]) -> None:
    end = unready(at(port=redis.port)).until_ready()
    for times in (1, 2):
        for _ in range(2):
            end.ask(Count, "p", "app", 3, 2, {"a": 2, "b": 1})
            end.ask(Count, "q", "app", 3, 2, {"a": 1})
        assert end.ask(Tally, "app") == Sum(6, 4, 4, 2)
        assert end.ask(Channels, "app", "") == {"a": 3, "b": 1}
        redis.stop()
        end.until_lost(times)
        redis.start()
        end.until_ready(times + 1)
        assert end.ask(Tally, "app") == Sum(0, 0, 0, 0)


def test_positions_grow_on_when_a_clock_has_gone_back(redis: RedisServer, unready: Callable[[Scaling], End]) -> None:
    with redis.client() as client:
        client.xadd(KEY, {"e": "from the future"}, id="9000000000000-65533")
    end = unready(at(port=redis.port)).until_ready()
    positions = [end.ask(Append, LOG, b"%d" % number, b"", 0) for number in range(5)]
    assert positions == sorted(set(positions))
    for number, position in enumerate(positions):
        assert [int(entry) for _, entry in end.ask(Read, LOG, position, False).entries] == [*range(number + 1, 5)]


def test_positions_grow_on_when_a_log_is_deleted(redis: RedisServer, unready: Callable[[Scaling], End]) -> None:
    end = unready(at(port=redis.port)).until_ready()
    positions = [0]
    with redis.client() as client:
        for _ in range(50):
            while end.ask(Append, "app/another", b"", b"", 0) >> 16 == positions[-1] >> 16:
                """Once in a millisecond."""
            positions.append(end.ask(Append, LOG, b"before", b"", 0))
            client.flushall()
            positions += [end.ask(Append, LOG, b"after", b"", 0) for _ in range(2)]
    assert positions == sorted(set(positions))


def test_a_log_goes_when_nothing_has_been_written_for_long(
    redis: RedisServer, unready: Callable[[Scaling], End]
) -> None:
    end = unready(at(port=redis.port)).until_ready()
    end.ask(Join, LOG, "ann", b"", b"joined")
    with redis.client() as client:
        assert 0 < client.pttl("reverb:{app/a}:log") <= 1000 * Scaling.log_seconds
        client.pexpire("reverb:{app/a}:log", 1)
    end.until(lambda _: end.ask(Read, LOG, 0, True).last == 0)
    assert end.ask(Look, LOG).members == [("ann", b"")]


# --- descriptors and threads -----------------------------------------------------------------------------------------


def test_the_descriptor_says_when_there_is_something_to_take(redis: RedisServer) -> None:
    store = RedisStore(at(port=redis.port), logging.getLogger("tests.store"))

    def taken(wanted: type) -> None:
        deadline = 100
        while not any(isinstance(report, wanted) for report in store.take()):
            assert select.select([store], [], [], 20)[0]
            deadline -= 1
            assert deadline

    taken(Ready)
    store.order([Follow(LOG), Append(1, LOG, b"x", b"", 0)])
    taken(Entry)
    store.close()


def test_large_pages_come_in_pieces(redis: RedisServer, unready: Callable[[Scaling], End]) -> None:
    end = unready(at(port=redis.port, log_length=10_000)).until_ready()
    end.order(*(Append(1000 + number, LOG, bytes(20_000), b"", 0) for number in range(PAGE)))
    assert len(end.ask(Read, LOG, 0, False).entries) == PAGE


def test_closing_ends_the_thread_whatever_it_does(redis: RedisServer) -> None:
    log = Lines().logger
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        stores = [RedisStore(at(port=redis.port), log), RedisStore(at(port=free_port()), log)]
        stores.append(RedisStore(at(port=deaf.getsockname()[1], patience=0.5), log))
        End(stores[0]).until_ready()
        End(stores[1]).until_lost()
        for store in stores * 2:
            store.close()
        for store in stores:
            store.order([Look(1, LOG)])
            assert store.take() == []
    eventually(lambda: set(threading.enumerate()) <= before)
    with redis.client() as client:
        eventually(lambda: len(client.client_list()) == 1)


# --- ways to a Redis -------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_said_and_tried_again(
    tmp_path: Path, unready: Callable[[Scaling], End], lines: Lines
) -> None:
    with RedisServer(tmp_path, "--requirepass", "another") as server:
        end = unready(at(port=server.port, password=SECRET))
        assert "invalid username-password pair" in end.until_lost()
        with server.client(password="another") as client:
            client.config_set("requirepass", SECRET)
            end.until_ready()
            assert works(end)
    assert lines.count("invalid username-password pair") == 1
    assert lines.count(SECRET) == 0


def test_no_password_where_one_is_wanted(tmp_path: Path, unready: Callable[[Scaling], End]) -> None:
    with RedisServer(tmp_path, "--requirepass", SECRET) as server:
        assert "Authentication required" in unready(at(port=server.port)).until_lost()


def test_a_password_that_redis_quotes_is_not_told(
    tmp_path: Path, unready: Callable[[Scaling], End], lines: Lines
) -> None:
    with RedisServer(tmp_path, "--rename-command", "AUTH", "another") as server:
        reason = unready(at(port=server.port, password=SECRET)).until_lost()
        assert re.fullmatch("unknown command ['`]AUTH['`]", reason)
    assert lines.count(SECRET) == 0


DECISION = (Path(__file__).parents[2] / "docs/decisions/redis.md").read_text()
#: What a user has to be allowed, as the documentation says.
RULES = DECISION.split("```")[1].split()
CLUSTER_RULES = DECISION.split("for a cluster `")[1].split("`")[0].split()


@pytest.mark.parametrize("by_url", [True, False])
def test_a_user_who_may_do_no_more_than_is_needed(
    tmp_path: Path, unready: Callable[[Scaling], End], lines: Lines, by_url: bool
) -> None:
    with RedisServer(tmp_path) as server:
        server.do("ACL", "SETUSER", "ann", f">{SECRET}", *RULES)
        place = at(port=server.port, username="ann", password=SECRET, database=3)
        if by_url:
            place = at(url=f"redis://ann:{SECRET}@127.0.0.1:{server.port}/3")
        end = unready(place).until_ready()
        assert works(end)
        assert end.ask(Append, LOG, b"entry", b"cached", 60) < end.ask(Join, LOG, "ann", b"", b"joined")
        end.ask(Leave, LOG, "ann", b"left")
        assert end.ask(Read, LOG, 0, True).cached == (b"cached", 60)
        end.ask(Index, "p", LOG)
        end.order(Unindex("p", LOG), Unfollow(LOG))
        assert end.ask(Logs, "p") == []
        assert end.ask(Admit, "p", "app", 0, 1, 1) == (1, 0)
        end.ask(Arrive, "p", 60.0)
        assert end.ask(Renew, "p", 60.0)
        end.ask(Count, "p", "app", 1, 1, {"a": 1})
        assert end.ask(Tally, "app") == Sum(1, 1, 1, 1)
        assert end.ask(Subscriptions, "app", "a") == 1
        assert end.ask(Channels, "app", "") == {"a": 1}
        end.ask(Bury, "p")
        assert end.ask(ListParties) == {}
        server.do("ACL", "SETUSER", "ann", "-subscribe")
        end.order(Follow("app/b"))
        assert "NOPERM" in end.until_lost()
    assert lines.count(SECRET) == 0


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    files = {name: str(tmp_path / name) for name in ("ca.pem", "server.pem")}
    port = free_port()
    words = ("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", files["ca.pem"])
    words += ("--tls-cert-file", files["server.pem"], "--tls-key-file", files["server.pem"])
    # Who tries in vain stops before the server does: when that resets a connection, Python forgets to close it.
    with RedisServer(tmp_path, *words), closing(RedisHosts(at(port=port))) as hosts:
        end = hosts.unready(at(url=f"rediss://localhost:{port}", ca_file=files["ca.pem"])).until_ready()
        assert works(end)
        entries = [bytes([number]) * 100_000 for number in range(60)]
        end.order(*(Append(1000 + number, "app/b", entry, b"", 0) for number, entry in enumerate(entries)))
        page = end.ask(Read, "app/b", 0, False)
        assert [entry for _, entry in page.entries] == entries
        assert "certificate" in hosts.unready(at(host="tls://localhost", port=port)).until_lost()
        other = hosts.unready(at(host="tls://127.0.0.1", port=port, ca_file=files["ca.pem"]))
        assert "certificate" in other.until_lost()


@pytest.mark.parametrize("scheme", ["", "unix://"])
def test_a_unix_socket(tmp_path: Path, unready: Callable[[Scaling], End], scheme: str) -> None:
    path = str(tmp_path / "redis.sock")
    with RedisServer(tmp_path, "--unixsocket", path):
        place = at(url=f"unix://{path}") if scheme else at(host=path)
        assert works(unready(place).until_ready())
        assert described(place.redis) == f"Redis at {path}"


def test_sentinels_say_who_the_master_is_now(tmp_path: Path, unready: Callable[[Scaling], End]) -> None:
    with Sentinels(in_directory(tmp_path), replicas=1, sentinels=1, silent_ms=500) as group:
        (master, replica), (sentinel,) = group.servers, group.sentinels
        hosts = f"127.0.0.1:{free_port()}", f"127.0.0.1:{sentinel.port}"  # of the first nobody is there
        settings = at(sentinels=hosts, sentinel_master=SERVICE, patience=1)
        url = at(url=f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}", patience=1)
        unknown = unready(at(sentinels=hosts[1:], sentinel_master="another"))
        assert "no master of the name another" in unknown.until_lost()
        sentinel.do("ACL", "SETUSER", "ann", "on", f">{SECRET}", "allcommands", "allchannels")
        own = {"sentinels": hosts, "sentinel_master": SERVICE, "sentinel_username": "ann"}
        assert "username-password" in unready(at(**own, sentinel_password="guessed")).until_lost()
        users = at(**own, sentinel_password=SECRET)
        ends = [unready(place).until_ready() for place in (settings, url, users)]
        for end in ends:
            assert works(end)
            end.ask(Join, LOG, "ann", b"", b"joined")
        with replica.client() as client:
            eventually(lambda: client.exists("reverb:{app/a}:members"))
        master.stop()
        for end in ends:
            end.until_lost()
            end.until_ready(2, within=40)
            assert works(end)
            assert end.ask(Look, LOG).members == [("ann", b"")]


def test_a_cluster_whose_masters_change(tmp_path: Path, unready: Callable[[Scaling], End]) -> None:
    with RedisCluster(in_directory(tmp_path), silent_ms=1000) as cluster:
        for server in cluster.servers:
            server.do("ACL", "SETUSER", "ann", f">{SECRET}", *RULES, *CLUSTER_RULES, "&reverb")
        first, second = cluster.masters()[:2]
        end = unready(at(port=first.port, cluster=True, username="ann", password=SECRET)).until_ready()
        other = unready(at(url=f"redis://127.0.0.1:{second.port}", cluster=True)).until_ready()
        logs = [f"app/{number}" for number in range(50)]

        def all_work() -> None:
            for each in (end, other):
                each.order(Listen())
                for log in logs:
                    each.follow(log)
            said = other.reports.count(Said(b"word"))
            end.order(Say(b"word"))
            other.until(lambda reports: reports.count(Said(b"word")) > said)
            heard = {log: len(other.heard(log)) for log in logs}
            for log in logs:
                assert end.ask(Append, log, b"x", b"", 0) == other.until_heard(log, heard[log] + 1)[-1].position
            end.ask(Arrive, "p", 60.0)
            end.ask(Count, "p", "app", 1, 1, {"a": 1})
            assert other.ask(Tally, "app") == Sum(1, 1, 1, 1)
            assert other.ask(Channels, "app", "") == {"a": 1}
            end.ask(Bury, "p")
            assert other.ask(Tally, "app") == Sum(0, 0, 0, 0)

        all_work()
        end.follow("app/empty")
        cluster.move("{app/empty}")
        assert "another node" in end.until_lost()
        end.until_ready(2)
        other.order(Look(1000, "app/empty"))
        other.until_lost()
        other.until_ready(2)
        all_work()
        replica = cluster.replica_of(cluster.masters()[-1])
        replica.do("CLUSTER", "FAILOVER")  # both remain
        eventually(lambda: replica in cluster.masters())
        for each in (end, other):
            each.order(*(Append(1000, log, b"", b"", 0) for log in logs))
            each.until_lost(2)
            each.until_mended()
        all_work()
        eventually(cluster.is_whole)
        losses = [len(each.losses) for each in (end, other)]
        first.stop()  # one end has been told of no other
        for each, before in zip((end, other), losses, strict=True):
            each.until_lost(before + 1)
            each.until_mended(within=40)
        all_work()


def test_a_cluster_that_is_none(redis: RedisServer, unready: Callable[[Scaling], End]) -> None:
    assert "cluster support disabled" in unready(at(port=redis.port, cluster=True)).until_lost()


def test_redis_py_is_new_enough() -> None:
    assert int(redis_py.__version__.split(".")[0]) >= 5
