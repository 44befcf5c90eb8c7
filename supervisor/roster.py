"""Which processes should live: the desired and the actual, reconciled. No I/O; times are seconds of a steady clock.

The edge tells what happened (`spawned`, `ready`, `heard`, `exited`, ...) and asks with `due` what is to be done now.
What it was asked to spawn, and did not, it is asked for again: nothing here waits for an answer.

Workers come in generations. One serves; during a reload there are its heirs beside it, until all of them are ready and
serve in its place, or one fails and all of them go. One rule is for everybody who goes, whatever the cause: whose slot
another one has is told at once, others yield first; and everybody bequeaths its connections to one that serves.

During a succession there is another master beside this one: a *neighbour*. The new one begins with nobody that serves,
and with heirs, as in a reload. When they are ready the old one gives way: it wants no workers any more, and those that
it has bequeath their connections to the neighbour's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, TypeAlias

from resonate.supervisor.actions import Action, Bequeath, Kill, Release, Spawn, Steer
from resonate.supervisor.backoff import Backoffs
from resonate.supervisor.generation import Generation, Neighbour, Progress, Reload, Turn, bounded
from resonate.supervisor.process import SIGNALS, Exit, Limits, Place, Process, Role, State, Step

#: Between the last new connection and SIGTERM: handshakes under way come to their end, and are accepted.
YIELD_S: Final = 1.0
#: From SIGABRT to SIGKILL, and from a shard's SIGTERM to SIGKILL.
ABORT_GRACE_S: Final = 1.0
SHARD_GRACE_S: Final = 3.0
#: What remains of a stop after a second SIGINT or SIGQUIT.
HURRY_S: Final = 2.0
#: Where nobody was before. That of shards changes only with their number: they outlive reloads.
FIRST: Final = 1

#: What one process does next, if anything.
Decider: TypeAlias = Callable[[Process, float], Step | None]


class Roster:
    """`workers` and `shards` are how many are wanted. One worker has its shard inside, unless `sharded`.

    `reload` is the one that is under way, or the last one; None before the first. `neighbour` is None but during a
    succession.
    """

    def __init__(self, workers: int, shards: int, limits: Limits, *, sharded: bool = False) -> None:
        self.shards = shards
        self.first = FIRST  # the number of our first generation
        self.serving = Generation(FIRST, bounded(workers), limits)
        self.processes: dict[int, Process] = {}
        self.restarts: dict[Role, int] = dict.fromkeys(Role, 0)
        #: Whether shards are processes: from two workers or shards on, also if one is an heir; and then for ever.
        self.sharded = sharded or self.serving.workers > 1 or shards > 1
        self.reload: Reload | None = None
        self.neighbour: Neighbour | None = None
        self._given_way: Generation | None = None  # who would serve if there were no neighbour
        self._heirs: Generation | None = None
        self._shards_generation = FIRST
        self._resharding = False
        self._open: set[int] = set()  # slots that have a socket
        self._steered: frozenset[int] | None = None
        self._backoffs = Backoffs()
        self._stop_by: float | None = None  # when workers that have not gone are killed; None: not stopping

    # --- another master ----------------------------------------------------------------------------------------------

    def join(
        self, senior: Neighbour, generation: int, sockets: Iterable[int], now: float, health_timeout_s: float
    ) -> Reload:
        """At the start, beside a master that is to be succeeded: our first workers are the heirs of its own.

        They are that generation; `sockets` are the slots that have one.
        """
        heirs = self.serving
        self.neighbour, self._open = senior, set(sockets)
        self.first, self.serving = generation, Generation(generation - 1, 0, heirs.limits)
        return self.begin_reload(now, health_timeout_s, heirs.workers)

    def accompany(self) -> None:
        """There is a master that may succeed this one: its workers need shards that they can reach."""
        self.neighbour, self.sharded = Neighbour(senior=False), True

    def meet(self, workers: Mapping[int, int]) -> None:
        """Those are the ready workers of the other master: pid -> slot."""
        if self.neighbour is not None:
            self.neighbour = Neighbour(self.neighbour.senior, workers)

    def give_way(self) -> None:
        """The other master serves from now on."""
        self._given_way, self.serving = self.serving, Generation(self.serving.number, 0, self.serving.limits)

    def withdraw(self, reason: str, now: float) -> None:
        """The other master serves on: our heirs go, if they are still waiting for each other."""
        if self._heirs is not None:
            self._roll_back(reason, now)

    def bereaved(self, now: float) -> None:
        """The other master has gone: what was its own is ours.

        Heirs serve, ready or not, since nobody else does. Where we had given way, or up, there is a new generation:
        those who were told to go cannot be told to stay.
        """
        self.neighbour = None
        if self.stopping:
            return
        if self._given_way is not None:
            given, self._given_way = self._given_way, None
            self.serving = Generation(self.next_generation, given.workers, given.limits, set(given.slots))
            self._steered = None
        elif not self.serving.workers and self._heirs is not None:
            self._promote(self._heirs, now)

    # --- what happened -----------------------------------------------------------------------------------------------

    def resize(self, workers: int) -> int:
        """So many workers from now on, as far as the bounds allow; returns how many.

        During a reload its heirs are as many, and those that serve become as many more or fewer: nothing is lost,
        whatever comes of it.
        """
        by = bounded(workers) - self.workers
        for generation in self._generations:
            generation.workers = bounded(generation.workers + by)
        self.sharded = self.sharded or self.workers > 1
        return self.workers

    def begin_reload(
        self, now: float, health_timeout_s: float, workers: int | None = None, limits: Limits | None = None
    ) -> Reload:
        """Have heirs beside those who serve, as many as `workers`; None leaves a thing as it is.

        They have `health_timeout_s` to become ready. Not while there is another reload, and not in a stop.
        """
        if self.stopping or self.reloading:
            raise RuntimeError("not now")
        number = self.next_generation
        self._heirs = Generation(number, bounded(workers or self.workers), limits or self.serving.limits)
        self.sharded = True  # heirs and those who serve work together, also where there is one of each
        self.reload = Reload(number, now, health_timeout_s)
        return self.reload

    def reshard_soon(self) -> None:
        """Nobody is started until `reshard`: who is there prepares for another number of shards."""
        self._resharding = True

    def reshard(self, shards: int) -> None:
        """So many shards from now on. If it is another number, they come when the present ones have gone.

        0: the only worker has its shard inside, until it is not the only one any more.
        """
        self._resharding = False
        if shards != self.shards:
            self.sharded, self.shards = shards > 0, max(1, shards)
            self._shards_generation += 1

    def stop(self, now: float) -> None:
        """Everybody goes: first the workers, within their `graceful_timeout_s`, then the shards."""
        if self._stop_by is not None:
            return
        self._stop_by = now + self.serving.limits.graceful_timeout_s
        self._heirs = None
        if self.reload is not None and not self.reload.over:
            self.reload.take(Turn.STOP, now, "the server stops")

    def hurry(self, now: float) -> None:
        """A stop that takes too long for someone."""
        if self._stop_by is not None:
            self._stop_by = min(self._stop_by, now + HURRY_S)

    def spawned(self, spawn: Spawn, pid: int, now: float) -> Process:
        """It has been done."""
        heirs = self._heirs
        limits = heirs.limits if heirs and spawn.place.generation == heirs.number else self.serving.limits
        process = Process(spawn.place, pid, limits, started_at=now, since=now)
        self.processes[pid] = process
        return process

    def failed(self, spawn: Spawn, now: float, why: str) -> float | None:
        """It could not be done; returns the seconds until it is tried again, or None: that was the end of a reload."""
        if self._is_heir(spawn.place):
            self._roll_back(f"worker {spawn.place.slot} cannot be started: {why}", now)
            return None
        return self._backoffs.died(spawn.place, 0.0, now)

    def ready(self, pid: int, now: float) -> None:
        """It has booted."""
        process = self.processes.get(pid)
        if process is not None and process.state is State.STARTING:
            process.take(Step.BOOT, now)

    def heard(self, pid: int, at: float) -> None:
        """A worker's last sign of life."""
        if pid in self.processes:
            self.processes[pid].heard_at = at

    def exited(self, pid: int, now: float, how: str = "has ended") -> Exit | None:
        """It has gone; None when it was none of ours.

        One that serves is replaced, also during a reload: by one of its own generation, with its settings, since the
        reload may yet be rolled back. One of the heirs is not: that is the end of the reload.
        """
        process = self.processes.pop(pid, None)
        if process is None:
            return None
        expected, killed = process.state in (State.RETIRING, State.KILLED), process.state is State.KILLED
        process.take(Step.EXIT, now)
        if self._is_heir(process.place):
            self._roll_back(f"worker {process.slot} (pid {pid}) {how} before all were ready", now)
        if process.place not in self.wanted:
            self._backoffs.forget(process.place)
            return Exit(process, expected, killed, None)
        self.restarts[process.role] += 1
        pause = self._backoffs.died(process.place, now - process.started_at, now)
        return Exit(process, expected, killed, pause)

    # --- how it stands -----------------------------------------------------------------------------------------------

    @property
    def workers(self) -> int:
        """How many are wanted; during a reload, how many heirs."""
        return self._generations[-1].workers

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop_by is not None

    @property
    def over(self) -> bool:
        """Stopped, and nobody is left; or another master serves. Then shards are left to it."""
        if self.stopping:
            return not self.processes
        return not any(generation.workers for generation in self._generations) and not self._workers

    @property
    def next_generation(self) -> int:
        """The number of those who are wanted next."""
        return max(self.serving.number, 0 if self.reload is None else self.reload.number) + 1

    @property
    def reloading(self) -> bool:
        """Whether a reload is under way."""
        return self.reload is not None and not self.reload.over

    @property
    def present_shards(self) -> int:
        """How many processes there are to be; 0: the only worker has its shard inside."""
        return self.shards if self.sharded else 0

    @property
    def clearing(self) -> bool:
        """Whether there are shards of another number, still."""
        return any(it.role is Role.SHARD and it.generation != self._shards_generation for it in self.processes.values())

    @property
    def at_rest(self) -> bool:
        """Whether every worker is where one is wanted: nobody is leaving."""
        wanted = set(self.wanted)
        return not self.reloading and all(process.place in wanted for process in self._workers)

    @property
    def unready(self) -> list[Place]:
        """What is needed to serve and has no process that is ready."""
        ready = {process.place for process in self.processes.values() if process.state is State.READY}
        heirs = () if self._heirs is None else self._heirs.places
        return [place for place in self.wanted if place not in ready and place not in heirs]

    def inheritors(self) -> dict[int, int]:
        """Who takes the connections of those who go, pid -> slot: those of ours that serve, or else the neighbour's."""
        if self.stopping:
            return {}
        if self.serving.workers or self.neighbour is None:
            ready = self.ready_workers(self.serving.number)
            return {process.pid: process.slot for process in ready if process.slot in self.serving.slots}
        return dict(self.neighbour.workers)

    def old_workers(self, generation: int) -> list[Process]:
        """Those that a generation replaces and that live."""
        return [process for process in self._workers if process.generation < generation]

    def ready_workers(self, generation: int) -> list[Process]:
        """Those of a generation."""
        return [it for it in self._workers if it.generation == generation and it.state is State.READY]

    def progress(self, reload: Reload) -> Progress:
        """How far that reload is."""
        ready, old = self.ready_workers(reload.number), self.old_workers(reload.number)
        return Progress(reload.number, reload.phase, len(ready), self.workers, len(old))

    # --- what to do --------------------------------------------------------------------------------------------------

    def due(self, now: float) -> list[Action]:
        """What is to be done now, in this order."""
        self._judge(now)
        self._assign_slots()
        return [*self._steer(), *self._moves(now), *self._releases(), *self._spawns(now)]

    def _judge(self, now: float) -> None:
        """Move a reload on, if it is time."""
        reload, heirs = self.reload, self._heirs
        if reload is None or reload.over:
            return
        if heirs is None:
            if not self.old_workers(reload.number):
                reload.take(Turn.FINISH, now)
            return
        ready = {process.slot for process in self.ready_workers(heirs.number)}
        if ready >= heirs.slots and len(heirs.slots) == heirs.workers:
            self._promote(heirs, now)
        elif now >= reload.deadline:
            missing = heirs.workers - len(ready & heirs.slots)
            self._roll_back(f"after {reload.health_timeout_s:g} s {missing} of {heirs.workers} are not ready", now)

    def _promote(self, heirs: Generation, now: float) -> None:
        assert self.reload is not None
        self.reload.take(Turn.PROMOTE, now)
        self.serving, self._heirs = heirs, None
        self._backoffs.forget_workers()

    def _roll_back(self, reason: str, now: float) -> None:
        if not self.serving.workers:
            self._given_way = self._heirs
        self._heirs = None
        if self.reload is not None:
            self.reload.take(Turn.ROLL_BACK, now, reason)

    def _assign_slots(self) -> None:
        """The highest slot is given up first. A new worker takes one in which nobody is coming to an end.

        Heirs are in the slots of those that they follow, as far as there are as many: they accept from the same socket.
        """
        all_wanted = set().union(self._neighbouring, *(generation.slots for generation in self._generations))
        occupied = {process.slot for process in self._workers}
        for generation in self._generations:
            own = {process.slot for process in self._workers if process.generation == generation.number}
            generation.assign(all_wanted, occupied, own)
            all_wanted |= generation.slots

    def _steer(self) -> Iterator[Steer]:
        """New connections wait in the queue of a slot whose worker boots; so they go to others while there are any: to
        such as are wanted, or else to those that go when one of these is ready.

        A slot that only heirs have gets none: they may have to go. One master decides: who has workers that serve.
        """
        if self.stopping or not self.serving.workers:
            return
        wanted = set(self.wanted)
        ready = [process for process in self._workers if process.state is State.READY]
        ours = [process for process in ready if process.place in wanted]
        booting = [it for it in self._workers if it.state is State.STARTING and it.place in wanted]
        found = ({process.slot for process in some} & self.serving.slots for some in (ours, ready, booting))
        slots = frozenset(next(filter(None, found), self.serving.slots))
        if slots != self._steered:
            self._steered = slots
            yield Steer(slots)

    def _moves(self, now: float) -> Iterator[Bequeath | Kill]:
        """Everybody moves on before it is said who inherits: an heir that is given up now is none."""
        wanted = set(self.wanted)
        steps: dict[int, Step] = {}
        deciders: tuple[Decider, ...] = (self._giving_up, partial(self._parting, wanted))
        for decide in deciders:
            for process in self.processes.values():
                step = decide(process, now)
                if step is not None:
                    process.take(step, now)
                    steps[process.pid] = step
        for process in self.processes.values():
            step = steps.get(process.pid)
            if process.state is State.RETIRING and (step is Step.RETIRE or process.heir):
                yield from self._bequeath(process)
            elif process.state in (State.STARTING, State.READY) and process.role is Role.WORKER:
                yield from self._provide(process)
            if step in SIGNALS:
                yield Kill(process.pid, SIGNALS[step])

    def _giving_up(self, process: Process, now: float) -> Step | None:
        """Of one that does not do as it should."""
        match process.state:
            case State.RETIRING if now >= self._killed_at(process):
                return Step.KILL
            case State.ABORTED if now - process.since >= ABORT_GRACE_S:
                return Step.KILL
            case State.STARTING | State.READY | State.YIELDING | State.RETIRING if process.silent(now):
                return Step.ABORT
        return None

    def _parting(self, wanted: set[Place], process: Process, now: float) -> Step | None:
        """Of one that is not wanted."""
        manned = process.slot in self.serving.slots or process.slot in self._neighbouring
        unwanted = process.place not in wanted
        match process.state:
            case State.STARTING | State.READY if unwanted and not (manned or self._at_once(process)):
                return Step.YIELD
            case State.STARTING | State.READY if unwanted and self._may_go(process):
                return Step.RETIRE
            case State.YIELDING if self.stopping or (now - process.since >= YIELD_S and self._may_go(process)):
                return Step.RETIRE
        return None

    def _at_once(self, process: Process) -> bool:
        return self.stopping or process.role is Role.SHARD

    def _may_go(self, process: Process) -> bool:
        """Who serves does so until there is somebody to inherit. Who boots may have accepted somebody, too."""
        return self._at_once(process) or bool(self.inheritors())

    def _bequeath(self, process: Process) -> Iterator[Bequeath]:
        """Name an heir for one that goes, or another one in place of one that does not serve any more.

        Until there is another the name stays: whose heir has died waits. In a stop there is nobody to wait for.
        """
        heirs = self.inheritors()
        if process.role is Role.SHARD or process.heir in heirs:
            return
        best = self._best(heirs, process)
        if best or self.stopping:
            yield from self._named(process, best)

    def _provide(self, process: Process) -> Iterator[Bequeath]:
        """A new master may be killed before it serves: so its workers know from the start to whom they turn then."""
        provided = self.neighbour is not None and self.neighbour.senior and not self.serving.workers
        heirs = self.inheritors() if provided else {}
        yield from self._named(process, process.heir if process.heir in heirs else self._best(heirs, process))

    def _named(self, process: Process, heir: int) -> Iterator[Bequeath]:
        if heir != process.heir:
            process.heir = heir
            yield Bequeath(process.pid, heir)

    def _best(self, heirs: Mapping[int, int], process: Process) -> int:
        """Who is in its slot, or has been named least; 0 where there is nobody."""
        bequests = Counter(it.heir for it in self.processes.values())
        return min(heirs, key=lambda heir: (heirs[heir] != process.slot, bequests[heir]), default=0)

    def _killed_at(self, process: Process) -> float:
        """When a retiring process has had its time."""
        if process.role is Role.SHARD:  # one that others follow is waited for by everybody
            return process.since + (0.0 if process.generation != self._shards_generation else SHARD_GRACE_S)
        by = process.since + process.limits.graceful_timeout_s
        return by if self._stop_by is None else min(by, self._stop_by)

    def _releases(self) -> Iterator[Release]:
        """A socket that two masters have is closed for both."""
        if self.neighbour is not None:
            return
        used = {process.slot for process in self._workers}
        for slot in sorted(self._open - used.union(*(generation.slots for generation in self._generations))):
            self._open.remove(slot)
            yield Release(slot)

    def _spawns(self, now: float) -> Iterator[Spawn]:
        if self._resharding or self.clearing:
            return
        occupied = {process.place for process in self.processes.values()}
        for place in self.wanted:
            if place not in occupied and now >= self._backoffs.not_before(place):
                if place.role is Role.WORKER:
                    self._open.add(place.slot)
                yield Spawn(place)

    # --- who ---------------------------------------------------------------------------------------------------------

    @property
    def _generations(self) -> list[Generation]:
        """Those that are wanted."""
        return [self.serving] if self._heirs is None else [self.serving, self._heirs]

    @property
    def wanted(self) -> list[Place]:
        """Shards first: workers look for them. In a stop they are needed as long as there are workers."""
        neighbour = self.neighbour
        needed = not self.stopping or bool(self._workers) or neighbour is not None
        shards = self.sharded and needed and not (neighbour is not None and neighbour.senior)
        places = [Place(Role.SHARD, index, self._shards_generation) for index in range(self.shards if shards else 0)]
        if not self.stopping:
            for generation in self._generations:
                places += generation.places
        return places

    @property
    def _neighbouring(self) -> set[int]:
        """Slots in which the other master has a worker."""
        return set() if self.neighbour is None else set(self.neighbour.workers.values())

    def _is_heir(self, place: Place) -> bool:
        return self._heirs is not None and place in self._heirs.places

    @property
    def _workers(self) -> list[Process]:
        return [process for process in self.processes.values() if process.role is Role.WORKER]
