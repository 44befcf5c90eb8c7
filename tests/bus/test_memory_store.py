"""What a model does to the store in memory: connections break and are mended, and reports are kept back."""

from __future__ import annotations

from resonate.shard.cluster.store import (
    Append,
    Arrive,
    Entry,
    Follow,
    Followed,
    ListParties,
    Look,
    Lost,
    Page,
    Ready,
    Reply,
)
from tests.support.memory_store import MemoryStore


def test_ready_and_lost_take_turns() -> None:
    end = MemoryStore().end()
    end.lose()
    end.mend()
    end.lose(reason="why")
    assert end.take(0.0) == [Lost("why")]
    end.mend()
    end.lose()
    assert end.take(0.0) == []  # it has been said
    end.mend()
    end.mend()
    assert end.take(0.0) == [Ready()]
    end.lose()
    end.mend()
    reports = end.take(0.0)
    assert [type(report) for report in reports] == [Lost, Ready]


def test_nobody_knows_what_has_been_done_of_the_last_orders() -> None:
    store = MemoryStore()
    end, other = store.end(), store.end()
    end.take(0.0)
    other.take(0.0)
    end.order([Follow("a"), Append(1, "a", b"one", b"", 0), Append(2, "a", b"two", b"", 0)])
    end.lose(done=2)
    end.order([Append(3, "a", b"three", b"", 0)])  # it does not know yet
    end.mend()
    end.order([Append(4, "a", b"four", b"", 0)])
    assert [type(report) for report in end.take(0.0)] == [Lost, Ready]
    end.order([Look(5, "a"), Append(6, "a", b"five", b"", 0)])
    assert end.take(0.0) == [Reply(5, Page([], 1, [], None)), Reply(6, 2)]  # and it follows nothing


def test_what_is_heard_and_what_is_answered_are_kept_back_apart() -> None:
    end = MemoryStore().end()
    end.take(0.0)
    end.order([Follow("a"), Append(1, "a", b"x", b"", 0), Append(2, "a", b"y", b"", 0)])
    assert end.take(0.0, orders=0) == []
    assert end.step(0.0)
    assert end.take(0.0, orders=1, heard=0) == [Reply(1, 1)]
    assert end.take(0.0, heard=1) == [Followed("a"), Reply(2, 2)]
    assert end.take(0.0) == [Entry("a", 1, b"x"), Entry("a", 2, b"y")]
    assert not end.step(0.0)


def test_positions_grow_on_when_all_is_forgotten() -> None:
    store = MemoryStore()
    end = store.end()
    end.take(0.0)
    end.order([Append(1, "a", b"x", b"kept", 60), Arrive(2, "p", 9.0)])
    end.take(0.0)
    store.wipe()
    end.order([Look(3, "a"), ListParties(4), Append(5, "a", b"y", b"", 0)])
    assert end.take(0.0) == [Reply(3, Page([], 0, [], None)), Reply(4, {}), Reply(5, 2)]


def test_time_goes_on_by_what_ends_are_told() -> None:
    store = MemoryStore(log_s=10.0)
    end = store.end()
    end.take(5.0)
    end.order([Append(1, "a", b"x", b"kept", 2), Arrive(2, "p", 3.0)])
    end.take(5.0)
    end.order([Look(3, "a"), ListParties(4)])
    last = 5000 << 16
    assert end.take(6.5) == [Reply(3, Page([], last, [], (b"kept", 1))), Reply(4, {"p": True})]
    end.order([Look(5, "a"), ListParties(6)])
    assert end.take(15.0) == [Reply(5, Page([], 0, [], None)), Reply(6, {"p": False})]
