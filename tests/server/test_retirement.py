"""How a worker that has been told to go waits for its heir."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from resonate.server.retirement import NamedHeir, Retirement
from resonate.server.scoreboard import Scoreboard
from tests.server.support import LOG, World

WITHIN_S = 20


class Worker:
    """One with a connection that can go, whose master is this process's parent unless another one is given."""

    def __init__(self, world: World, master: int) -> None:
        self.board = Scoreboard(1)
        self.heard: list[str] = []
        self.looks = 0
        self.began = False
        self.context = world.context
        self.busy, self.settled = True, True
        service: Any = self
        self._retirement = Retirement(service, NamedHeir(self.board, 0, master), self._alive, LOG)

    def retire(self, timeout_s: float = 60) -> Any:
        return gevent.spawn(self._retirement.run, timeout_s)

    def _alive(self) -> None:
        self.looks += 1

    # --- the service, and what sends ---------------------------------------------------------------------------------

    def sender(self, heir: str, reason: str) -> Any:
        self.heard.append(heir)
        return SimpleNamespace(
            connect=lambda: "ready", hand_over=self._hand_over, close=lambda: None, full=False, moved=0
        )

    def _hand_over(self, goes_on: Callable[[], bool]) -> bool:
        """As where what is left cannot go."""
        self.began = True
        while goes_on():
            gevent.sleep(0.01)
        return True

    def finish_accepting(self) -> None:
        pass


def until(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(WITHIN_S):
        while not condition():
            gevent.sleep(0.01)


def dead() -> int:
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def test_whose_heir_has_died_waits_for_the_next_one(world: World) -> None:
    worker = Worker(world, os.getppid())
    worker.board.name_heir(0, dead())
    retiring = worker.retire()
    until(lambda: worker.looks > 3)
    assert not retiring.dead
    worker.board.name_heir(0, os.getpid())
    until(lambda: worker.began)
    worker.board.name_heir(0, 0)
    assert retiring.get(timeout=WITHIN_S) is True


def test_a_stop_ends_a_hand_over(world: World) -> None:
    worker = Worker(world, os.getppid())
    worker.board.name_heir(0, os.getpid())
    retiring = worker.retire()
    until(lambda: worker.began)
    worker.board.name_heir(0, 0)
    assert retiring.get(timeout=WITHIN_S) is True


@pytest.mark.parametrize("named", [True, False])
def test_without_master_and_heir_nobody_is_waited_for(world: World, named: bool) -> None:
    worker = Worker(world, dead() if named else os.getppid())
    worker.board.name_heir(0, dead() if named else 0)
    assert worker.retire().get(timeout=WITHIN_S) is True
    assert worker.heard == []
