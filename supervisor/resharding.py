"""Another number of shards, as the master has it made: see docs/flows/resharding.md."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from resonate.supervisor.children import Workers
from resonate.supervisor.process import Role, State
from resonate.supervisor.roster import Roster

from resonate.server.scoreboard import Scoreboard, Stage

#: How long it may take until nothing is under way between workers and shards, in seconds; clients wait for the last
#: part of it.
PATIENCE_S: Final = 5.0


class Resharding:
    """Under way from when it is made; ask `over` until it is. 0 `shards`: the only worker takes its shard in."""

    def __init__(
        self, roster: Roster, workers: Workers, scoreboard: Scoreboard, log: Any, shards: int, now: float
    ) -> None:
        self._roster = roster
        self._workers = workers
        self._scoreboard = scoreboard
        self._log = log
        self._shards = shards
        self._until = now + PATIENCE_S
        self._taking_part = self._present()
        self._stage = Stage.NONE
        self.failure = ""
        roster.reshard_soon()
        log.info("changing to %s", _named(shards))
        self._order(Stage.READY)

    def over(self, now: float) -> bool:
        """See how far it is, and go on. Until the old shards are told to go, it may be given up: nothing changes."""
        if self._stage in (Stage.READY, Stage.HOLD):
            self.failure = self._trouble(now)
            if self.failure:
                self._roster.reshard(self._roster.shards)
                self._order(Stage.NONE)
                self._log.error("no change to %s: %s; reload again", _named(self._shards), self.failure)
                return True
            if self._reached():
                self._go_on()
        elif not self._roster.clearing:
            if self._stage is Stage.NONE:
                self._order(Stage.MOVE)
            elif self._reached():
                self._order(Stage.NONE)
                self._log.info("the change to %s is done", _named(self._shards))
                return True
        return False

    def _go_on(self) -> None:
        if self._stage is Stage.READY:
            self._order(Stage.HOLD)
        else:
            self._stage = Stage.NONE  # nobody is told anything until the old shards have gone
            self._roster.reshard(self._shards)
            for app in self._workers.apps.values():  # for those who are started from now on
                app.shared = dataclasses.replace(app.shared, shards=max(1, self._shards))

    def _order(self, stage: Stage) -> None:
        self._stage = stage
        self._scoreboard.reshard(stage, self._shards)

    def _present(self) -> set[int]:
        found = self._roster.processes.values()
        return {process.pid for process in found if process.role is Role.WORKER and process.state is State.READY}

    def _reached(self) -> bool:
        """Whether all who take part, and live, are as far as they should be."""
        living = self._taking_part & self._roster.processes.keys()
        return all(self._workers.reported(pid).stage is self._stage for pid in living)

    def _trouble(self, now: float) -> str:
        if self._roster.stopping:
            return "the server stops"
        at_rest = self._roster.at_rest and not self._roster.unready
        if not at_rest or self._present() != self._taking_part:
            return "a process has come or gone meanwhile"
        if now >= self._until:
            return f"something was still under way after {PATIENCE_S:g} s"
        return ""


def _named(shards: int) -> str:
    return {0: "a shard inside the worker", 1: "1 shard"}.get(shards, f"{shards} shards")
