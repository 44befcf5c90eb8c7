"""How a worker looks at the figures, and what it gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gevent
import pytest

from resonate.counters import Snapshot
from resonate.messages import HandedOver
from resonate.server.balance import Figure
from resonate.server.balancer import GIVE_S, LOOK_EVERY_S, Balancer
from resonate.server.moving import RECENT_S, Movers
from tests.server.support import World
from tests.server.test_replies import UPGRADE

FIGURES = [Figure("w-1-1", 300, False, False), Figure("w-2-1", 90, False, False), Figure("w-3-1", 90, False, False)]


class Line:
    """Takes connections to another worker, as Sender does."""

    def __init__(self, worker: Worker, taker: str) -> None:
        self._worker = worker
        self._taker = taker
        self.closed = False

    def connect(self) -> str:
        return self._worker.answer

    def give(self, most: int, goes_on: Callable[[], bool]) -> int:
        assert self._worker.balancer.giving
        if goes_on():
            self._worker.given[self._taker] = most
            return most
        return 0

    def close(self) -> None:
        self.closed = True


class Worker:
    """One that has these figures, looks when it is told to, and gives nothing away in truth."""

    def __init__(self, world: World, name: str, every_s: float) -> None:
        self.world = world
        self.snapshots: list[Snapshot] | None = [figure._asdict() for figure in FIGURES]
        self.fit, self.answer, self.late_s = True, "ready", 0.0
        self.looks: list[float] = []
        self.given: dict[str, int] = {}
        self.lines: list[Line] = []
        self.movers = Movers(world.context, 1)
        context = replace(world.context, collect=self._collect)
        make: Any = self._line
        self.balancer = Balancer(context, self.movers, name, make, lambda: self.fit, every_s)

    def _collect(self, done: Callable[[list[Snapshot] | None], None]) -> None:
        self.looks.append(time.monotonic())
        gevent.sleep(self.late_s)
        done(self.snapshots)

    def _line(self, taker: str) -> Line:
        self.lines.append(Line(self, taker))
        return self.lines[-1]

    def look(self) -> dict[str, int]:
        """What it gives to whom."""
        self.given = {}
        self.balancer._look()
        assert not self.balancer.giving
        assert all(line.closed or self.answer != "ready" for line in self.lines)
        return self.given


@contextmanager
def working(name: str = "w-1-1", every_s: float = LOOK_EVERY_S) -> Iterator[Worker]:
    world = World()
    worker = Worker(world, name, every_s)
    try:
        yield worker
    finally:
        worker.balancer.close()
        world.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    with working() as made:
        yield made


def test_who_has_more_gives_its_part(worker: Worker) -> None:
    assert worker.look() == {}, "the first look"
    assert worker.look() == {"w-2-1": 70, "w-3-1": 70}


def test_the_others_give_nothing() -> None:
    with working("w-2-1") as worker:
        worker.look()
        assert worker.look() == {}
        assert len(worker.looks) == 2


@pytest.mark.parametrize("answer", ["wait", "leaving", ""])
def test_who_does_not_take_gets_nothing(answer: str, worker: Worker) -> None:
    worker.look()
    worker.answer = answer
    assert worker.look() == {}


def test_a_worker_that_goes_or_is_alone_does_not_even_look(worker: Worker) -> None:
    worker.fit = False
    worker.look()
    assert worker.looks == []


def test_who_has_just_moved_says_so_until_all_figures_are_new(worker: Worker) -> None:
    world = worker.world
    world.open()
    world.say(UPGRADE)
    assert not worker.movers.moving
    worker.movers.depart("w-2-1", [world.transport.protocol])
    assert worker.movers.moving
    worker.movers.handed_over(HandedOver(1, 0, True, []))
    for _ in range(RECENT_S):
        assert worker.movers.moving
        assert worker.look() == {}
        world.reactor.wheel.advance()
    assert worker.looks == []
    assert not worker.movers.moving


def test_a_look_without_figures_is_none(worker: Worker) -> None:
    """The shards do not answer."""
    worker.look()
    figures, worker.snapshots = worker.snapshots, None
    assert worker.look() == {}
    worker.snapshots = figures
    assert worker.look() == {}, "all of them seem to be new"
    assert worker.look() != {}


def test_figures_that_come_too_late_are_not_acted_upon(worker: Worker) -> None:
    worker.look()
    worker.late_s = GIVE_S + 0.05
    assert worker.look() == {}


def test_looks_are_at_moments_of_the_clock() -> None:
    with working(every_s=0.1) as worker:
        worker.balancer.start()
        with gevent.Timeout(10):
            while len(worker.looks) < 3:
                gevent.sleep(0.01)
        moments = [int(look / 0.1) for look in worker.looks]
        assert moments == sorted(set(moments)), "never twice for one moment"


def test_a_failure_is_not_the_last_look(caplog: pytest.LogCaptureFixture) -> None:
    with working(every_s=0.05) as worker:
        worker.snapshots = 1  # type: ignore[assignment]
        worker.balancer.start()
        with gevent.Timeout(10):
            while caplog.text.count("connections could not be balanced") < 2:
                gevent.sleep(0.01)
