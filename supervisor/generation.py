"""Generations of workers, and how one follows another: the table of a reload; whose else there are. No I/O."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from resonate.supervisor.process import Limits, Place, Role

from resonate.settings import MAX_WORKERS

#: Slots: those that are wanted, and as many again in which retiring workers come to their end.
SLOTS: Final = 2 * MAX_WORKERS


def bounded(workers: int) -> int:
    """As many workers as there may be."""
    return min(max(workers, 1), MAX_WORKERS)


@dataclass
class Generation:
    """Workers that are started with the same settings. `slots` are those in which one is wanted."""

    number: int
    workers: int
    limits: Limits
    slots: set[int] = field(default_factory=set)

    @property
    def places(self) -> list[Place]:
        """Where they are wanted."""
        return [Place(Role.WORKER, slot, self.number) for slot in sorted(self.slots)]

    def assign(self, preferred: Iterable[int], avoided: Collection[int], own: Collection[int]) -> None:
        """Give up the highest slots, or take more: first of `preferred`, then such as are not `avoided`.

        In those of `own` somebody of this generation is: coming to an end, if the slot is not wanted.
        """
        while len(self.slots) > self.workers:
            self.slots.remove(max(self.slots))
        free = (slot for slot in range(SLOTS) if slot not in avoided)
        candidates = dict.fromkeys(itertools.chain(sorted(preferred), free))
        usable = (slot for slot in candidates if slot not in self.slots and slot not in own)
        self.slots.update(itertools.islice(usable, self.workers - len(self.slots)))


@dataclass(frozen=True)
class Neighbour:
    """Another master in the same run directory. `workers` are its ready ones: pid -> slot.

    `senior`: it was there before this one, and the shards are its own; otherwise they are ours.
    """

    senior: bool
    workers: Mapping[int, int] = field(default_factory=dict)


class Phase(Enum):
    """How far a reload is; the value is its name for people."""

    GATE = "gate"  # nobody old is touched until all heirs are ready
    HAND_OVER = "hand-over"  # the heirs serve, the old ones go
    DONE = "done"
    ROLLED_BACK = "rolled back"
    STOPPED = "stopped"


class Turn(Enum):
    """What moves it on; the value says why, for people."""

    PROMOTE = "all heirs are ready"
    FINISH = "the last old worker has gone"
    ROLL_BACK = "an heir has ended or cannot be started, or time is up"
    STOP = "the server stops"


#: What is missing here is a defect, and raises KeyError.
PHASES: Final[dict[Phase, dict[Turn, Phase]]] = {
    Phase.GATE: {
        Turn.PROMOTE: Phase.HAND_OVER,
        Turn.ROLL_BACK: Phase.ROLLED_BACK,
        Turn.STOP: Phase.STOPPED,
    },
    Phase.HAND_OVER: {Turn.FINISH: Phase.DONE, Turn.STOP: Phase.STOPPED},
    Phase.DONE: {},
    Phase.ROLLED_BACK: {},
    Phase.STOPPED: {},
}


@dataclass
class Reload:
    """`number` is that of the new generation; `reason` says why it has failed."""

    number: int
    began_at: float
    health_timeout_s: float
    phase: Phase = Phase.GATE
    reason: str = ""
    ended_at: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing will come of it any more."""
        return not PHASES[self.phase]

    @property
    def deadline(self) -> float:
        """When all heirs must be ready."""
        return self.began_at + self.health_timeout_s

    def take(self, turn: Turn, now: float, reason: str = "") -> None:
        """Move on."""
        self.phase = PHASES[self.phase][turn]
        if self.over:
            self.reason, self.ended_at = reason, now


@dataclass(frozen=True)
class Progress:
    """How far a reload is: heirs that are ready, of those wanted, and old workers that are left."""

    generation: int
    phase: Phase
    ready: int
    wanted: int
    old: int
