"""A process of the master's, from its start to its end: the table of what may follow what. No I/O."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

#: A worker may be silent for this long while it imports what it hosts, if `worker_timeout` is shorter.
BOOT_S: Final = 60.0


class Role(Enum):
    """What a process is; the value is its name for people."""

    WORKER = "worker"
    SHARD = "shard"


class State(Enum):
    """How far a process is in its life; the value is its name for people."""

    STARTING = "starting"
    READY = "ready"
    YIELDING = "yielding"  # gets no new connections, before it is told to go
    RETIRING = "retiring"  # has been told to go
    ABORTED = "aborted"  # was silent
    KILLED = "killed"
    GONE = "gone"


class Step(Enum):
    """What moves it on; the value says why, for people."""

    BOOT = "it has booted"
    YIELD = "it is not wanted, and nobody else has its slot"
    RETIRE = "it is not wanted (SIGTERM)"
    ABORT = "it is silent (SIGABRT)"
    KILL = "it has had its time (SIGKILL)"
    EXIT = "it has ended"


#: Any process may exit at any time; all else goes one way. What is missing here is a defect, and raises KeyError.
TRANSITIONS: Final[dict[State, dict[Step, State]]] = {
    State.STARTING: {
        Step.BOOT: State.READY,
        Step.YIELD: State.YIELDING,
        Step.RETIRE: State.RETIRING,
        Step.ABORT: State.ABORTED,
        Step.EXIT: State.GONE,
    },
    State.READY: {
        Step.YIELD: State.YIELDING,
        Step.RETIRE: State.RETIRING,
        Step.ABORT: State.ABORTED,
        Step.EXIT: State.GONE,
    },
    State.YIELDING: {Step.RETIRE: State.RETIRING, Step.ABORT: State.ABORTED, Step.EXIT: State.GONE},
    State.RETIRING: {Step.ABORT: State.ABORTED, Step.KILL: State.KILLED, Step.EXIT: State.GONE},
    State.ABORTED: {Step.KILL: State.KILLED, Step.EXIT: State.GONE},
    State.KILLED: {Step.EXIT: State.GONE},
    State.GONE: {},
}

SIGNALS: Final = {Step.RETIRE: signal.SIGTERM, Step.ABORT: signal.SIGABRT, Step.KILL: signal.SIGKILL}


class Place(NamedTuple):
    """Where a process stands: a worker's slot or a shard's number, and among whom. At most one is there."""

    role: Role
    slot: int
    generation: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds; from the settings that a process was started with."""

    graceful_timeout_s: float
    worker_timeout_s: float


@dataclass
class Process:
    """One that has been spawned and not yet reaped. `since` is when it came into its state.

    `heir` is the pid of the worker that its connections go to, now that it goes, or if its master dies; 0 for none.
    """

    place: Place
    pid: int
    limits: Limits
    started_at: float
    since: float
    state: State = State.STARTING
    heard_at: float | None = None
    heir: int = 0

    @property
    def role(self) -> Role:
        """What it is."""
        return self.place.role

    @property
    def slot(self) -> int:
        """A worker's slot, or a shard's number."""
        return self.place.slot

    @property
    def generation(self) -> int:
        """Among whom it was started."""
        return self.place.generation

    def take(self, step: Step, now: float) -> None:
        """Move on."""
        self.state, self.since = TRANSITIONS[self.state][step], now

    def silent(self, now: float) -> bool:
        """Whether it has given no sign of life for too long."""
        if self.role is Role.SHARD:  # the workers watch shards once they can talk to them
            return self.state is State.STARTING and now - self.started_at > BOOT_S
        timeout = self.limits.worker_timeout_s
        if self.heard_at is None:
            return now - self.started_at > max(timeout, BOOT_S)
        return now - self.heard_at > timeout


@dataclass(frozen=True)
class Exit:
    """A process has gone. `expected`: because it was told to. `retry_in_s`: when it is replaced; None: it is not."""

    process: Process
    expected: bool
    killed: bool
    retry_in_s: float | None
