"""A roster and the processes that it decides about, for tests that play their lives."""

from __future__ import annotations

from typing import Any

from resonate.supervisor.actions import Action, Kill, Spawn
from resonate.supervisor.process import Limits, Place, Process, Role, State
from resonate.supervisor.roster import Roster

GRACEFUL_S = 35.0
TIMEOUT_S = 30.0
HEALTH_S = 10.0
LIMITS = Limits(graceful_timeout_s=GRACEFUL_S, worker_timeout_s=TIMEOUT_S)


class World:
    """A roster, and processes that do as they are told: spawned at once, dead when the test says so."""

    def __init__(self, workers: int = 1, shards: int = 1, *, sharded: bool = False) -> None:
        self.roster = Roster(workers, shards, LIMITS, sharded=sharded)
        self.now = 1000.0
        self.pids = iter(range(100, 10**6))

    def due(self, after: float = 0.0) -> list[Action]:
        """What is to be done `after` seconds, the spawns being done."""
        self.now += after
        actions = self.roster.due(self.now)
        for action in actions:
            if isinstance(action, Spawn):
                self.roster.spawned(action, next(self.pids), self.now)
        return actions

    def kills(self, after: float = 0.0) -> list[Kill]:
        return [action for action in self.due(after) if isinstance(action, Kill)]

    def spawns(self, after: float = 0.0) -> list[tuple[Role, int]]:
        return [action.place[:2] for action in self.due(after) if isinstance(action, Spawn)]

    def pid(self, role: Role, slot: int, generation: int = 1) -> int:
        place = Place(role, slot, generation)
        (found,) = (process.pid for process in self.roster.processes.values() if process.place == place)
        return found

    def worker(self, slot: int = 0, generation: int = 1) -> int:
        return self.pid(Role.WORKER, slot, generation)

    def dies(self, pid: int) -> Any:
        return self.roster.exited(pid, self.now)

    def boots(self) -> None:
        for pid in list(self.roster.processes):
            self.roster.ready(pid, self.now)
            self.roster.heard(pid, self.now)

    def running(self) -> World:
        """All have booted."""
        self.due()
        self.boots()
        self.due()
        return self

    def workers(self, state: State | None = None) -> list[Process]:
        found = (process for process in self.roster.processes.values() if process.role is Role.WORKER)
        return [process for process in found if state in (None, process.state)]

    def reload(self, **wanted: Any) -> World:
        """Its heirs have been asked for, and are starting."""
        self.roster.begin_reload(self.now, HEALTH_S, **wanted)
        self.due()
        return self
