"""Which processes should live: the desired and the actual, reconciled. No I/O; times are seconds of a steady clock.

The edge tells what happened (`spawned`, `ready`, `heard`, `exited`, ...) and asks with `due` what is to be done now.
What it was asked to spawn, and did not, it is asked for again: nothing here waits for an answer.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, TypeAlias

from resonate.settings import MAX_WORKERS

#: A life shorter than this is a quick death; the first is followed by a new process at once, the others by a pause.
QUICK_DEATH_S: Final = 10.0
LONGEST_PAUSE_S: Final = 30.0
#: The same for a shard: without it nobody is served.
LONGEST_SHARD_PAUSE_S: Final = 2.0
#: Between the last new connection and SIGTERM: handshakes under way come to their end, and are accepted.
YIELD_S: Final = 1.0
#: From SIGABRT to SIGKILL, and from a shard's SIGTERM to SIGKILL.
ABORT_GRACE_S: Final = 1.0
SHARD_GRACE_S: Final = 3.0
#: What remains of a stop after a second SIGINT or SIGQUIT.
HURRY_S: Final = 2.0
#: A worker may be silent for this long while it imports what it hosts, if `worker_timeout` is shorter.
BOOT_S: Final = 60.0
#: Slots: those that are wanted, and as many again in which retiring workers come to their end.
SLOTS: Final = 2 * MAX_WORKERS
#: There is one until a reload makes heirs.
GENERATION: Final = 1


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
    """What moves it on."""

    BOOT = auto()
    YIELD = auto()
    RETIRE = auto()
    ABORT = auto()
    KILL = auto()
    EXIT = auto()


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

_SIGNALS: Final = {Step.RETIRE: signal.SIGTERM, Step.ABORT: signal.SIGABRT, Step.KILL: signal.SIGKILL}

#: A worker's slot or a shard's number.
Place: TypeAlias = tuple[Role, int]


@dataclass
class Process:
    """One that has been spawned and not yet reaped. `since` is when it came into its state."""

    role: Role
    slot: int
    generation: int
    pid: int
    started_at: float
    since: float
    state: State = State.STARTING
    heard_at: float | None = None

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self.role, self.slot

    def take(self, step: Step, now: float) -> None:
        """Move on."""
        self.state, self.since = TRANSITIONS[self.state][step], now


# --- what is to be done ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spawn:
    """Start a process; `spawned` or `failed` is expected."""

    role: Role
    slot: int
    generation: int


@dataclass(frozen=True)
class Kill:
    """Send a signal."""

    pid: int
    signal: signal.Signals


@dataclass(frozen=True)
class Steer:
    """New connections go to the workers in these slots."""

    slots: frozenset[int]


@dataclass(frozen=True)
class Release:
    """Nobody will accept on this slot's socket any more: close it."""

    slot: int


Action: TypeAlias = Spawn | Kill | Steer | Release


@dataclass(frozen=True)
class Exit:
    """A process has gone. `expected`: because it was told to. `retry_in_s`: when it is replaced; None: it is not."""

    process: Process
    expected: bool
    killed: bool
    retry_in_s: float | None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds; from the settings."""

    graceful_timeout_s: float
    worker_timeout_s: float


@dataclass
class _Backoff:
    """Of one place."""

    longest_s: float
    quick_deaths: int = 0
    not_before: float = float("-inf")

    def died(self, lived_s: float, now: float) -> float:
        """Note a death; returns the pause before the next life."""
        self.quick_deaths = self.quick_deaths + 1 if lived_s < QUICK_DEATH_S else 0
        pause = min(2.0 ** (self.quick_deaths - 2), self.longest_s) if self.quick_deaths > 1 else 0.0
        self.not_before = now + pause
        return pause


@dataclass
class Roster:
    """`workers` and `shards` are how many are wanted. One worker has its shard inside; see `sharded`."""

    workers: int
    shards: int
    limits: Limits
    processes: dict[int, Process] = field(default_factory=dict)
    restarts: dict[Role, int] = field(default_factory=lambda: dict.fromkeys(Role, 0))
    sharded: bool = False  # whether shards are processes: from two workers or shards on, and then for ever
    _slots: set[int] = field(default_factory=set)  # of the workers that are wanted
    _open: set[int] = field(default_factory=set)  # slots that have a socket
    _steered: frozenset[int] | None = None
    _backoffs: dict[Place, _Backoff] = field(default_factory=dict)
    _stop_by: float | None = None  # when workers that have not gone are killed; None: not stopping

    def __post_init__(self) -> None:
        self.resize(self.workers)

    # --- what happened -----------------------------------------------------------------------------------------------

    def resize(self, workers: int) -> int:
        """So many workers from now on, as far as the bounds allow; returns how many."""
        self.workers = min(max(workers, 1), MAX_WORKERS)
        self.sharded = self.sharded or self.workers > 1 or self.shards > 1
        return self.workers

    def stop(self, now: float) -> None:
        """Everybody goes: first the workers, within their `graceful_timeout_s`, then the shards."""
        if self._stop_by is None:
            self._stop_by = now + self.limits.graceful_timeout_s

    def hurry(self, now: float) -> None:
        """A stop that takes too long for someone."""
        if self._stop_by is not None:
            self._stop_by = min(self._stop_by, now + HURRY_S)

    def spawned(self, spawn: Spawn, pid: int, now: float) -> Process:
        """It has been done."""
        process = Process(spawn.role, spawn.slot, spawn.generation, pid, started_at=now, since=now)
        self.processes[pid] = process
        return process

    def failed(self, spawn: Spawn, now: float) -> float:
        """It could not be done; returns the seconds until it is tried again."""
        return self._backoff((spawn.role, spawn.slot)).died(0.0, now)

    def ready(self, pid: int, now: float) -> None:
        """It has booted."""
        process = self.processes.get(pid)
        if process is not None and process.state is State.STARTING:
            process.take(Step.BOOT, now)

    def heard(self, pid: int, at: float) -> None:
        """A worker's last sign of life."""
        if pid in self.processes:
            self.processes[pid].heard_at = at

    def exited(self, pid: int, now: float) -> Exit | None:
        """It has gone; None when it was none of ours."""
        process = self.processes.pop(pid, None)
        if process is None:
            return None
        expected, killed = process.state in (State.RETIRING, State.KILLED), process.state is State.KILLED
        process.take(Step.EXIT, now)
        if process.place not in self._wanted():
            self._backoffs.pop(process.place, None)
            return Exit(process, expected, killed, None)
        self.restarts[process.role] += 1
        pause = self._backoff(process.place).died(now - process.started_at, now)
        return Exit(process, expected, killed, pause)

    # --- what is so --------------------------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop_by is not None

    @property
    def over(self) -> bool:
        """Stopped, and nobody is left."""
        return self.stopping and not self.processes

    @property
    def unready(self) -> list[Place]:
        """What is wanted and has no process that is ready."""
        ready = {process.place for process in self.processes.values() if process.state is State.READY}
        return [place for place in self._wanted() if place not in ready]

    # --- what to do --------------------------------------------------------------------------------------------------

    def due(self, now: float) -> list[Action]:
        """What is to be done now, in this order."""
        self._assign_slots()
        return [*self._steer(), *self._moves(now), *self._releases(), *self._spawns(now)]

    def _assign_slots(self) -> None:
        """The highest slot is given up first. A new worker takes one in which nobody is coming to an end."""
        while len(self._slots) > self.workers:
            self._slots.remove(max(self._slots))
        taken = self._slots | self._occupied()
        free = (slot for slot in range(SLOTS) if slot not in taken)
        self._slots.update(itertools.islice(free, self.workers - len(self._slots)))

    def _steer(self) -> Iterator[Steer]:
        """New connections wait in the queue of a slot whose worker boots; so they go to others while there are any."""
        if self.stopping:
            return
        ready, starting = (self._slots & self._occupied(state) for state in (State.READY, State.STARTING))
        slots = frozenset(ready or starting or self._slots)
        if slots != self._steered:
            self._steered = slots
            yield Steer(slots)

    def _moves(self, now: float) -> Iterator[Kill]:
        wanted = set(self._wanted())
        for process in self.processes.values():
            step = self._next_step(process, process.place in wanted, now)
            if step is not None:
                process.take(step, now)
            if step in _SIGNALS:
                yield Kill(process.pid, _SIGNALS[step])

    def _next_step(self, process: Process, wanted: bool, now: float) -> Step | None:
        lasts_s = now - process.since
        match process.state:
            case State.STARTING | State.READY if not wanted:
                return Step.RETIRE if self.stopping or process.role is Role.SHARD else Step.YIELD
            case State.YIELDING if self.stopping or lasts_s >= YIELD_S:
                return Step.RETIRE
            case State.RETIRING if now >= self._killed_at(process):
                return Step.KILL
            case State.ABORTED if lasts_s >= ABORT_GRACE_S:
                return Step.KILL
            case State.STARTING | State.READY | State.YIELDING | State.RETIRING if self._silent(process, now):
                return Step.ABORT
        return None

    def _killed_at(self, process: Process) -> float:
        """When a retiring process has had its time."""
        if process.role is Role.SHARD:
            return process.since + SHARD_GRACE_S
        by = process.since + self.limits.graceful_timeout_s
        return by if self._stop_by is None else min(by, self._stop_by)

    def _silent(self, process: Process, now: float) -> bool:
        if process.role is Role.SHARD:  # the workers watch shards once they can talk to them
            return process.state is State.STARTING and now - process.started_at > BOOT_S
        timeout = self.limits.worker_timeout_s
        if process.heard_at is None:
            return now - process.started_at > max(timeout, BOOT_S)
        return now - process.heard_at > timeout

    def _releases(self) -> Iterator[Release]:
        for slot in sorted(self._open - self._slots - self._occupied()):
            self._open.remove(slot)
            yield Release(slot)

    def _spawns(self, now: float) -> Iterator[Spawn]:
        occupied = {process.place for process in self.processes.values()}
        for role, slot in self._wanted():
            if (role, slot) not in occupied and now >= self._backoff((role, slot)).not_before:
                if role is Role.WORKER:
                    self._open.add(slot)
                yield Spawn(role, slot, GENERATION)

    def _wanted(self) -> list[Place]:
        """Shards first: workers look for them. In a stop they are needed as long as there are workers."""
        shards = self.sharded and (not self.stopping or bool(self._occupied()))
        slots: Collection[int] = () if self.stopping else sorted(self._slots)
        return [
            *((Role.SHARD, index) for index in range(self.shards if shards else 0)),
            *((Role.WORKER, slot) for slot in slots),
        ]

    def _occupied(self, state: State | None = None) -> set[int]:
        """Slots of the workers that live, or that are in this state."""
        workers = (process for process in self.processes.values() if process.role is Role.WORKER)
        return {process.slot for process in workers if state in (None, process.state)}

    def _backoff(self, place: Place) -> _Backoff:
        if place not in self._backoffs:
            self._backoffs[place] = _Backoff(LONGEST_SHARD_PAUSE_S if place[0] is Role.SHARD else LONGEST_PAUSE_S)
        return self._backoffs[place]
