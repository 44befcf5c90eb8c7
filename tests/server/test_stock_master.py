"""What of ours runs in gunicorn's own master."""

from __future__ import annotations

import errno
import itertools
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from resonate.bus.directory import RunDirectory
from resonate.scaling import Scaling
from resonate.server.service import Shared
from resonate.server.stock_master import LONGEST_PAUSE_S, Flag, StockMaster, pause_s


class Config:
    """As much of gunicorn's as is looked at."""

    workers = 2

    def __init__(self) -> None:
        self.ended: list[int] = []

    def set(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def on_exit(self, server: Any) -> None:
        self.ended.append(0)

    def child_exit(self, server: Any, worker: Any) -> None:
        self.ended.append(worker.age)


@dataclass
class Worker:
    age: int
    cfg: Config
    served: Flag = field(default_factory=Flag)


class Arbiter:
    """As much of gunicorn's as is used."""

    def __init__(self, ours: StockMaster) -> None:
        self.ours, self.cfg = ours, Config()
        self.log = logging.getLogger("arbiter")
        self.num_workers = 2
        self.WORKERS: dict[int, Worker] = {}
        self.ages = itertools.count(1)
        self.exhausted = False
        self.spawn(2)

    def spawn_worker(self) -> None:
        if self.exhausted:
            raise BlockingIOError(errno.EAGAIN, "no more processes")
        worker = Worker(next(self.ages), self.cfg)
        self.ours.spawns(worker)
        self.WORKERS[worker.age] = worker

    def spawn(self, count: int) -> None:
        for _ in range(count):
            self.spawn_worker()

    def hup(self) -> None:
        self.cfg = Config()
        self.spawn(self.num_workers)

    def ends(self, age: int, served: bool = False) -> None:
        worker = self.WORKERS.pop(age)
        if served:
            worker.served.hoist()
        self.cfg.child_exit(self, worker)

    @property
    def ages_there(self) -> list[int]:
        return sorted(self.WORKERS)


@pytest.fixture
def ours(tmp_path: Path) -> StockMaster:
    directory = tmp_path / "run"
    directory.mkdir()
    return StockMaster(Shared(RunDirectory(directory), None, 1, Scaling()), signals=())


@pytest.fixture
def arbiter(ours: StockMaster) -> Arbiter:
    return Arbiter(ours)


def test_a_worker_that_dies_while_none_has_been_told_to_go_is_left_to_gunicorn(arbiter: Arbiter) -> None:
    arbiter.ends(1)
    assert arbiter.ages_there == [2]


def test_an_heir_that_dies_is_followed_by_another_as_long_as_it_takes(arbiter: Arbiter) -> None:
    arbiter.hup()
    for age in range(3, 20):
        arbiter.ends(age)
        assert arbiter.ages_there == [1, 2, age + 1, age + 2]
    assert arbiter.ours.failures == 17


def test_old_ones_that_have_gone_are_not_followed_by_others(arbiter: Arbiter) -> None:
    arbiter.hup()
    arbiter.ends(1, served=True)
    arbiter.ends(2, served=True)
    assert arbiter.ages_there == [3, 4]


def test_heirs_of_a_reload_before_the_last_are_not_followed_by_others(arbiter: Arbiter) -> None:
    arbiter.hup()
    arbiter.hup()
    arbiter.ends(3)
    arbiter.ends(4)
    assert arbiter.ages_there == [1, 2, 5, 6]


def test_one_that_has_served_ends_the_row_of_failures_and_a_reload_begins_a_new_one(arbiter: Arbiter) -> None:
    for end in (lambda: arbiter.ends(5, served=True), arbiter.hup):
        arbiter.hup()
        arbiter.ends(max(arbiter.WORKERS))
        assert arbiter.ours.failures > 0
        end()
        assert arbiter.ours.failures == 0


def test_nobody_is_started_any_more_when_it_stops(arbiter: Arbiter) -> None:
    arbiter.hup()
    called: list[int] = []
    arbiter.ours.stop(lambda number, frame: called.append(number), 15, None)
    assert arbiter.ours.stopping
    assert called == [15]
    arbiter.ends(3)
    assert arbiter.ages_there == [1, 2, 4]


def test_a_fork_that_fails_ends_nothing(arbiter: Arbiter, caplog: pytest.LogCaptureFixture) -> None:
    arbiter.hup()
    arbiter.exhausted = True
    arbiter.ends(3)
    assert arbiter.ages_there == [1, 2, 4]
    assert "no more processes" in caplog.text


def test_the_hooks_of_the_user_are_called_too(arbiter: Arbiter) -> None:
    for _ in range(2):
        arbiter.ends(arbiter.ages_there[-1])
        assert len(arbiter.cfg.ended) == 1
        arbiter.hup()
    arbiter.cfg.on_exit(arbiter)
    assert arbiter.cfg.ended == [0]
    assert not arbiter.ours.shared.directory.path.exists()


def test_a_flag_is_seen_by_the_other_process() -> None:
    flag, other = Flag(), Flag()
    pid = os.fork()
    if not pid:
        flag.hoist()
        os._exit(0)
    os.waitpid(pid, 0)
    assert (bool(flag), bool(other)) == (True, False)


@pytest.mark.parametrize("workers", [1, 4])
def test_pauses(workers: int) -> None:
    pauses = [pause_s(failures * workers, workers) for failures in range(9)]
    assert pauses == [0, 1, 2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert pause_s(10**6, workers) == LONGEST_PAUSE_S
    assert pause_s(workers - 1, workers) == 0
