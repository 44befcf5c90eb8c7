"""Entries wait for the store in order and within bounds."""

from __future__ import annotations

import itertools

from resonate.shard.cluster.appends import OVERHEAD, WINDOW, Appends


def waiting(most_bytes: int = 1_000_000, most_seconds: float = 60.0) -> Appends:
    return Appends(most_bytes, most_seconds)


def entries(appends: Appends, refs: itertools.count[int]) -> list[bytes]:
    return [order.entry for order in appends.orders(refs)]


def test_each_is_answered_whatever_the_order_between_logs() -> None:
    appends, refs, heard = waiting(), itertools.count(1), []
    signals = [appends.add(log, b"entry", b"", 0, 0.0) for log in ("a", "b")]
    assert [order.ref for order in appends.orders(refs)] == [1, 2]
    assert appends.answered(2, 70)
    assert (signals[1].fired, signals[1].value, signals[0].fired) == (True, 70, False)
    assert appends.answered(1, 71)
    assert not appends.answered(1, 71)
    heard.append(len(appends))
    assert (heard, appends.bytes) == ([0], 0)


def test_what_was_ordered_when_the_store_was_lost_goes_first() -> None:
    appends, refs = waiting(), itertools.count(1)
    for entry in (b"1", b"2"):
        appends.add("a", entry, b"", 0, 0.0)
    assert entries(appends, refs) == [b"1", b"2"]
    appends.answered(1, 7)
    appends.add("a", b"3", b"", 0, 0.0)
    appends.lost()
    assert entries(appends, refs) == [b"2", b"3"]


def test_no_more_are_ordered_at_a_time_than_a_window() -> None:
    appends, refs = waiting(10**9), itertools.count(1)
    for number in range(WINDOW + 5):
        appends.add("a", b"%d" % number, b"", 0, 0.0)
    assert len(appends.orders(refs)) == WINDOW
    assert appends.orders(refs) == []
    appends.answered(1, 1)
    assert entries(appends, refs) == [b"%d" % WINDOW]


def test_the_oldest_is_dropped_past_the_bound_of_bytes_or_of_age() -> None:
    size = OVERHEAD + 10
    appends = waiting(3 * size, 60.0)
    for second in range(5):
        appends.add("a", b"%010d" % second, b"", 0, float(second))
    assert appends.bound(5.0) == 2
    assert appends.bound(5.0) == 0
    assert appends.bound(62.5) == 1
    assert entries(appends, itertools.count(1)) == [b"%010d" % 3, b"%010d" % 4]
    assert appends.dropped == 3


def test_only_what_is_kept_for_late_subscribers_carries_its_payload_twice() -> None:
    appends = waiting()
    appends.add("a", b"entry", b"payload", 60, 0.0)
    appends.add("a", b"entry", b"payload", 0, 0.0)
    assert [(order.cached, order.keep_s) for order in appends.orders(itertools.count(1))] == [
        (b"payload", 60),
        (b"", 0),
    ]
