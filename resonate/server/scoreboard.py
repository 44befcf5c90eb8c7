"""What workers let the master see: a few numbers in memory that all of them share, without a message or a lock."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Final

_FIELD: Final = 8  # bytes; an aligned store of 8 is one instruction, so a reader sees the old value or the new one
_COLUMNS: Final = 4  # of a row, the last one unused: rows do not straddle two cache lines
_READY, _CONNECTIONS, _GENERATION = range(3)
_WORKER_RESTARTS, _SHARD_RESTARTS = range(2)


@dataclass(frozen=True)
class Row:
    """A worker as it has reported itself."""

    ready: bool = False
    connections: int = 0
    generation: int = 0


@dataclass(frozen=True)
class Restarts:
    """Processes that had to be replaced since the master started."""

    workers: int = 0
    shards: int = 0


class Scoreboard:
    """One row for each of `slots` worker slots and one for the master.

    To be made before the forks: the mapping is anonymous, so children share it and it takes no space on a disk. Each
    field has one writer: the worker in that slot while it lives, the master before and after.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        memory = mmap.mmap(-1, (slots + 1) * _COLUMNS * _FIELD)
        self._cells = memoryview(memory).cast("q")
        self._common = slots * _COLUMNS

    def report(
        self, slot: int, *, ready: bool | None = None, connections: int | None = None, generation: int | None = None
    ) -> None:
        """The worker in `slot` says how it is; None leaves a field as it was. IndexError: there is no such slot."""
        start = self._start(slot)
        for column, value in ((_CONNECTIONS, connections), (_GENERATION, generation), (_READY, ready)):
            if value is not None:
                self._cells[start + column] = int(value)

    def row(self, slot: int) -> Row:
        """What the worker in `slot` has said last. IndexError: there is no such slot."""
        start = self._start(slot)
        ready, connections, generation = self._cells[start : start + 3]
        return Row(bool(ready), connections, generation)

    def clear(self, slot: int) -> None:
        """The master forgets a worker that has gone."""
        self.report(slot, ready=False, connections=0, generation=0)

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

    def _start(self, slot: int) -> int:
        if not 0 <= slot < self.slots:
            raise IndexError(f"no slot {slot} of {self.slots}")
        return slot * _COLUMNS
