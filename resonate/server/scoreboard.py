"""What workers let the master see, and who inherits from whom: numbers in memory that all share, without a lock."""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_FIELD: Final = 8  # bytes; an aligned store of 8 is one instruction, so a reader sees the old value or the new one
_COLUMNS: Final = 8  # of a row, not all used: it fills a cache line
_READY, _CONNECTIONS, _GENERATION, _HEIR, _STAGE, _HEARD = range(6)
_WORKER_RESTARTS, _SHARD_RESTARTS, _RESHARD_STAGE, _SHARDS, _DRAINED, _SERVING = range(6)


class Stage(IntEnum):
    """How far all workers should be on the way to another number of shards, and how far one of them is."""

    NONE = 0
    READY = 1  # looks often
    HOLD = 2  # asks for nothing more, and everybody has heard of what was asked for
    MOVE = 3  # speaks with the new shards


@dataclass(frozen=True)
class Row:
    """A worker as it has reported itself. `heir` is the master's: the pid of who takes its connections, 0 for none."""

    ready: bool = False
    connections: int = 0
    generation: int = 0
    heir: int = 0
    stage: Stage = Stage.NONE


@dataclass(frozen=True)
class Restarts:
    """Processes that had to be replaced since the master started."""

    workers: int = 0
    shards: int = 0


class Scoreboard:
    """So many rows for workers, and one for the master.

    A row is a worker's for its life, whatever its slot: during a reload two workers are in one slot. Each field has one
    writer: the worker, or the master for the heir; before and after the worker's life the master.

    The memory has a `descriptor` and takes no space on a disk. Forks have it anyway; a child that is executed is given
    the descriptor, and makes a scoreboard of it.
    """

    def __init__(self, rows: int, descriptor: int | None = None) -> None:
        self.rows = rows
        size = (rows + 1) * _COLUMNS * _FIELD
        if descriptor is None:
            descriptor = os.memfd_create("scoreboard")
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        self._cells = memoryview(mmap.mmap(descriptor, size)).cast("q")
        self._common = rows * _COLUMNS

    def report(
        self, row: int, *, ready: bool | None = None, connections: int | None = None, generation: int | None = None
    ) -> None:
        """A worker says in its row how it is; None leaves a field as it was. IndexError: there is no such row."""
        start = self._start(row)
        for column, value in ((_CONNECTIONS, connections), (_GENERATION, generation), (_READY, ready)):
            if value is not None:
                self._cells[start + column] = int(value)

    def name_heir(self, row: int, pid: int) -> None:
        """The master says who takes that worker's connections, once it is told to go; 0 for nobody."""
        self._cells[self._start(row) + _HEIR] = pid

    def row(self, row: int) -> Row:
        """What has been said there last. IndexError: there is no such row."""
        start = self._start(row)
        ready, connections, generation, heir, stage = self._cells[start : start + _HEARD]
        return Row(bool(ready), connections, generation, heir, Stage(stage))

    def reach(self, row: int, stage: Stage) -> None:
        """A worker has come that far."""
        self._cells[self._start(row) + _STAGE] = stage

    def reshard(self, stage: Stage, shards: int) -> None:
        """The master says how far all should be, on the way to so many shards."""
        self._cells[self._common + _SHARDS] = shards
        self._cells[self._common + _RESHARD_STAGE] = stage

    @property
    def resharding(self) -> tuple[Stage, int]:
        """What the master has said."""
        stage = Stage(self._cells[self._common + _RESHARD_STAGE])
        return stage, self._cells[self._common + _SHARDS]

    def live(self, row: int) -> None:
        """A worker gives a sign of life."""
        self._cells[self._start(row) + _HEARD] = time.monotonic_ns()

    def heard_at(self, row: int) -> float | None:
        """When that was, by the monotonic clock in seconds, which all processes share; None before the first time."""
        return self._cells[self._start(row) + _HEARD] / 1e9 or None

    def clear(self, row: int) -> None:
        """The master forgets a worker that has gone."""
        self.report(row, ready=False, connections=0, generation=0)
        self.name_heir(row, 0)
        self.reach(row, Stage.NONE)
        self._cells[self._start(row) + _HEARD] = 0

    def connections(self) -> int:
        """Of all workers together."""
        return sum(self._cells[_CONNECTIONS : self._common : _COLUMNS])

    def record(self, restarts: Restarts) -> None:
        """The master says what it has replaced."""
        self._cells[self._common + _WORKER_RESTARTS] = restarts.workers
        self._cells[self._common + _SHARD_RESTARTS] = restarts.shards

    @property
    def restarts(self) -> Restarts:
        """What the master has replaced."""
        return Restarts(*self._cells[self._common : self._common + 2])

    def drain(self) -> None:
        """The master says that in the stop which follows clients are sent away one after another."""
        self._cells[self._common + _DRAINED] = 1

    @property
    def drained(self) -> bool:
        """Whether it has said so."""
        return bool(self._cells[self._common + _DRAINED])

    def serve(self, generation: int) -> None:
        """The master says which workers serve: those of that generation."""
        self._cells[self._common + _SERVING] = generation

    @property
    def serving(self) -> int:
        """Which it has said; 0 at first."""
        return self._cells[self._common + _SERVING]

    def _start(self, row: int) -> int:
        if not 0 <= row < self.rows:
            raise IndexError(f"no row {row} of {self.rows}")
        return row * _COLUMNS
