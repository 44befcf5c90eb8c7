"""One master follows another (SIGUSR2): the old one executes the new one, and gives way when it is ready to serve.

The old master stays what it is until all workers of the new one are ready. Then it parts with the control socket and
the run directory, and wants no workers any more: each hands its connections over to one of the new master's. When the
last has gone it ends. Its shards serve on until those of the new master take their seats.

Each side finds out by itself that the other has gone: the old one is the parent, the new one sees the end of the wire.
Which processes should live meanwhile the roster knows.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from resonate.supervisor.children import Workers
from resonate.supervisor.control import Control
from resonate.supervisor.readiness import Readiness
from resonate.supervisor.reloading import Reloading
from resonate.supervisor.roster import Roster
from resonate.supervisor.wire import Wire

from resonate.bus.directory import RunDirectory

#: The errand of a new master.
NAME: Final = "succeed"


@dataclass(frozen=True)
class Office:
    """What a master holds that another takes over."""

    log: Any
    roster: Roster
    workers: Workers
    reloading: Reloading
    readiness: Readiness
    directory: RunDirectory
    control: Control
    selector: selectors.BaseSelector
    stop: Callable[[bool], None]  # whether clients are to be sent away one after another
    drained: Callable[[], bool]  # whether that was said here

    def take(self) -> None:
        """This master is the one that is asked. What cannot be written now is tried again each second."""
        try:
            self.directory.own()
            if self.control.lost:
                self.control.open()
        except OSError as error:
            self.log.error("the run directory cannot be taken over: %s", error)

    def bereaved(self) -> None:
        """The other master has gone. Who serves now serves what those did who served here last."""
        app = self.reloading.app
        self.roster.bereaved(time.monotonic())
        self.workers.apps[self.roster.serving.number] = app

    def ready_workers(self) -> dict[int, int]:
        """Of those that serve: pid -> slot."""
        ready = self.roster.ready_workers(self.roster.serving.number)
        return {process.pid: process.slot for process in ready}


class Told:
    """Who serves here, as the other master knows it."""

    def __init__(self, workers: dict[int, int]) -> None:
        self._workers = workers

    def renew(self, wire: Wire, workers: dict[int, int]) -> None:
        if workers != self._workers:
            self._workers = workers
            wire.say("workers", workers=list(workers.items()))
