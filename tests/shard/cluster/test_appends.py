"""Entries wait for the store in order and within bounds, and until they have come back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from resonate.shard.cluster.appends import OVERHEAD, WINDOW, Appends
from resonate.shard.cluster.entries import Published

Refs = Iterator[int]


def waiting(most_bytes: int = 1_000_000, most_seconds: float = 60.0) -> Appends:
    return Appends(most_bytes, most_seconds)


def add(appends: Appends, number: int, log: str = "a", now: float = 0.0, keep_s: int = 0) -> Callable[[], object]:
    """What tells its position once it has one."""
    signal = appends.add(log, Published("w", number, b"payload", None, keep_s), b"%010d" % number, now)
    return lambda: signal.value


def ordered(appends: Appends, refs: Refs) -> list[int]:
    return [int(order.entry) for order in appends.orders(refs)]


def never(log: str, position: int) -> bool:
    return False


def always(log: str, position: int) -> bool:
    return True


def test_each_is_answered_whatever_the_order_between_logs() -> None:
    appends, refs = waiting(), itertools.count(1)
    first, second = add(appends, 1, "a"), add(appends, 2, "b")
    assert ordered(appends, refs) == [1, 2]
    assert appends.answered(2, 70, never)
    assert (first(), second()) == (None, 70)
    assert appends.answered(1, 71, never)
    assert not appends.answered(1, 71, never)
    assert (len(appends), appends.bytes) == (0, 0)


def test_what_was_ordered_when_the_store_was_lost_goes_first() -> None:
    appends, refs = waiting(), itertools.count(1)
    for number in (1, 2):
        add(appends, number)
    assert ordered(appends, refs) == [1, 2]
    appends.answered(1, 7, never)
    add(appends, 3)
    assert appends.lost() == []
    assert ordered(appends, refs) == [2, 3]


def test_what_has_not_come_back_may_be_lost_with_the_store() -> None:
    """So it is appended again, and the host that was told that it is done has it from itself."""
    appends, refs = waiting(), itertools.count(1)
    for number in (1, 2, 3, 4):
        add(appends, number)
    assert ordered(appends, refs) == [1, 2, 3, 4]
    for ref in (1, 2, 3):
        appends.answered(ref, ref, always)
    appends.heard(("a", "w", 1))
    assert [published.seq for _, published in appends.lost()] == [2, 3]
    assert ordered(appends, refs) == [2, 3, 4]
    for ref in (5, 6, 7):
        appends.heard(("a", "w", ref - 3))
        appends.answered(ref, ref, always)
    assert (len(appends), appends.bytes) == (0, 0)


def test_what_has_come_back_before_its_answer_is_in_the_log() -> None:
    appends, refs = waiting(), itertools.count(1)
    add(appends, 1)
    add(appends, 2)
    ordered(appends, refs)
    appends.heard(("a", "w", 1))
    assert appends.lost() == []
    assert ordered(appends, refs) == [2]


def test_what_will_not_come_back_is_not_waited_for() -> None:
    appends, refs = waiting(), itertools.count(1)
    for number, log in enumerate("aab", 1):
        add(appends, number, log)
    ordered(appends, refs)
    for ref in (1, 2, 3):
        appends.answered(ref, ref, always)
    appends.passed("a", 1)
    assert len(appends) == 2
    appends.passed("a")
    assert [published.seq for _, published in appends.lost()] == [3]


def test_no_more_are_ordered_at_a_time_than_a_window() -> None:
    appends, refs = waiting(10**9), itertools.count(1)
    for number in range(WINDOW + 5):
        add(appends, number)
    assert len(appends.orders(refs)) == WINDOW
    assert appends.orders(refs) == []
    appends.answered(1, 1, always)
    assert ordered(appends, refs) == [WINDOW]


def test_the_oldest_is_dropped_past_the_bound_of_bytes_or_of_age() -> None:
    appends = waiting(3 * (OVERHEAD + 10), 60.0)
    for second in range(5):
        add(appends, second, now=float(second))
    assert appends.bound(5.0) == 2
    assert appends.bound(5.0) == 0
    assert appends.bound(62.5) == 1
    assert ordered(appends, itertools.count(1)) == [3, 4]
    assert appends.dropped == 3


def test_only_what_is_kept_for_late_subscribers_carries_its_payload_twice() -> None:
    appends = waiting()
    add(appends, 1, keep_s=60)
    add(appends, 2)
    assert [(each.cached, each.keep_s) for each in appends.orders(itertools.count(1))] == [(b"payload", 60), (b"", 0)]
