"""Logs are read, and what is late is not taken for what is asked now."""

from __future__ import annotations

from typing import Any

from resonate.shard.cluster.appends import Appends
from resonate.shard.cluster.desk import Desk
from resonate.shard.cluster.entries import Seal
from resonate.shard.cluster.feed import PER_MS, State
from resonate.shard.cluster.following import Following, Log
from resonate.shard.cluster.parties import Parties
from resonate.shard.cluster.reading import Reading
from resonate.shard.cluster.shared import SharedShard
from resonate.shard.cluster.store import Arrived, Page, Read
from resonate.shard.cluster.waiting import Signal, Steps

NOW = 1000.0
POSITION = int(NOW * 1000) * PER_MS


class Others:
    """The store is asked whether it knows this party; it has not answered. Nobody here is a member."""

    def __init__(self) -> None:
        self.asked: list[Signal] = []

    def confirmed(self) -> Signal:
        self.asked.append(Signal())
        return self.asked[-1]

    def come_in(self) -> None:
        pass

    def rejoining(self, log: Log, now: float) -> Steps[None]:
        yield from ()


def test_an_earlier_page_is_not_taken_for_a_later_one() -> None:
    """Whether the store still knew this party is asked before a page is believed; meanwhile the log is read anew."""
    desk, others, parties = Desk(), Others(), Parties("here", 0, "s0-1", 10.0)
    following = Following(SharedShard("here"), Seal(None), parties, 0)
    double: Any = others
    reading = Reading(desk, following, Appends(1000, 10.0), double, double)
    desk.ready()
    following.arrived(Arrived(POSITION, 1), NOW)
    log = following.log("app", "presence-p", True, NOW)
    log.feed.position = POSITION

    def asked() -> int:
        following.begin(log)
        reading.followed(log.name)
        order = desk.orders[-1]
        assert isinstance(order, Read)
        return order.ref

    page = Page([], POSITION, [], None)
    earlier = asked()
    assert reading.answered(earlier, page, NOW)
    later = asked()
    others.asked[0].fire()
    assert log.feed.state is State.READING
    assert reading.answered(later, page, NOW)
    others.asked[1].fire()
    assert log.feed.state is State.LIVE
