"""The new master's side of a succession; see succession.py."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from resonate.supervisor.application import Application
from resonate.supervisor.control import Line
from resonate.supervisor.generation import Neighbour, Phase
from resonate.supervisor.listeners import Listeners, socket_of
from resonate.supervisor.premises import SHARED, Premises
from resonate.supervisor.process import Role
from resonate.supervisor.roster import Roster
from resonate.supervisor.succession import Office, Told
from resonate.supervisor.wire import Wire

from resonate.bus.directory import RunDirectory
from resonate.errors import ConfigurationError
from resonate.scaling import Scaling
from resonate.server.service import Shared
from resonate.version import PROTOCOL, VERSION

#: A process that ends closes its end of the wire first; after so many seconds it is not the parent any more.
PARTING_S: Final = 1.0


class Stage(Enum):
    """How far a new master is."""

    WAITING = auto()  # for its workers to be ready
    READY = auto()  # they are, and the old master knows
    SERVING = auto()  # it has given way
    ALONE = auto()  # it has gone
    WITHDRAWN = auto()  # they will not be: the old master serves on


class Heritage:
    """What the old master has passed to this process. Raises ConfigurationError where nothing can be made of it."""

    def __init__(self, letter: Mapping[str, Any]) -> None:
        if letter["protocol"] != PROTOCOL:
            raise ConfigurationError(
                "SIGUSR2", f"version {VERSION} cannot follow {letter['version']}, which runs: restart the server"
            )
        metrics = None if letter["metrics"] is None else socket_of(letter["metrics"])
        self.master: int = letter["master"]  # its pid
        self.wire = socket_of(letter["wire"])
        self.server: Mapping[str, Any] = letter["server"]
        directory, scaling = RunDirectory(Path(letter["directory"])), Scaling.restored(letter["scaling"])
        self.shared = Shared(directory, metrics, self.server["bus_shards"], scaling)
        self.listeners = Listeners.restored(letter["listeners"])
        self.generation: int = letter["generation"]
        self.restarts = {Role(name): count for name, count in letter["restarts"]}
        self.workers: dict[int, int] = dict(letter["workers"])


class Accession:
    """The new master's side. `furnish` and `join` come first, then `begin`."""

    def __init__(self, heritage: Heritage) -> None:
        self._heritage = heritage
        self._told = Told({})
        self._cut_at: float | None = None  # when the wire has ended, and the old master was not known to have gone
        self.stage = Stage.WAITING

    def furnish(self, app: Application, log: Any) -> Application:
        """The application with what the old master has, as far as the configuration has not changed.

        Raises ConfigurationError.
        """
        heritage = self._heritage
        server = dataclasses.replace(app.settings.server, **heritage.server)
        present = Premises(server, heritage.shared, heritage.listeners)
        settings, premises = present.adapted(app.settings, SHARED, log)
        return app.successor(settings, premises.shared, premises.listeners)

    def join(self, roster: Roster, health_timeout_s: float) -> None:
        """Our first workers are heirs."""
        heritage = self._heritage
        roster.restarts.update(heritage.restarts)
        senior = Neighbour(senior=True, workers=heritage.workers)
        roster.join(senior, heritage.generation, heritage.listeners.slots, time.monotonic(), health_timeout_s)

    def begin(self, office: Office, health_timeout_s: float) -> None:
        """Talk to the old master."""
        self._office = office
        self._wire = Wire(self._heritage.wire, office.selector, office.log, self._heard, self._ended)
        self._wire.say("starting", within_s=health_timeout_s)

    def look(self, now: float) -> None:
        """In each turn of the loop."""
        if self.stage is Stage.ALONE:
            return
        if self._cut_at is not None:
            self._look_at_parent(self._cut_at, now)
            return
        office = self._office
        self._wire.flush()
        self._told.renew(self._wire, office.ready_workers())
        reload = office.roster.reload
        if self.stage is Stage.WAITING and reload is not None:
            if reload.phase in (Phase.HAND_OVER, Phase.DONE):
                self.stage = Stage.READY
                self._wire.say("ready")
            elif reload.phase is Phase.ROLLED_BACK:
                self.stage = Stage.WITHDRAWN
                within_s = office.roster.serving.limits.graceful_timeout_s
                self._wire.say("failed", reason=reload.reason, within_s=within_s)

    def _heard(self, line: Line) -> None:
        match line["say"]:
            case "workers":
                self._office.roster.meet(dict(line["workers"]))
            case "yours":
                self.stage = Stage.SERVING
                self._office.take()
                self._office.log.info("the old master (pid:%d) has given way: this one serves", os.getppid())
            case "stop":
                self._office.stop(line["drain"])

    def _ended(self) -> None:
        """The wire has: the old master goes, or one of them could make nothing of what the other has said."""
        self._cut_at = time.monotonic()

    def _look_at_parent(self, cut_at: float, now: float) -> None:
        """While the old master lives it kills this one, which it cannot talk to: see `Abdication.reaped`."""
        if os.getppid() != self._heritage.master:
            self._bereaved()
        elif self.stage in (Stage.WAITING, Stage.READY) and now >= cut_at + PARTING_S:
            self.stage = Stage.WITHDRAWN
            self._office.log.error("the old master lives, but cannot be talked to: it serves on")
            self._office.roster.withdraw("the old master cannot be talked to", now)

    def _bereaved(self) -> None:
        """The old master has gone; or it has been killed before its time."""
        stage, office = self.stage, self._office
        self.stage = Stage.ALONE
        if stage is not Stage.SERVING:
            office.take()
            office.log.error("the old master has ended: this one serves")
        else:
            office.log.info("the old master has gone")
        office.bereaved()
        self._close_unused()

    def _close_unused(self) -> None:
        """Sockets of the old master that the configuration does not name any more."""
        shared, heritage = self._office.reloading.app.shared, self._heritage
        if heritage.listeners not in self._office.workers.listeners:
            heritage.listeners.close()
        if heritage.shared.metrics is not None and heritage.shared.metrics is not shared.metrics:
            heritage.shared.metrics.close()

    @property
    def accompanied(self) -> bool:
        """Whether the old master is there."""
        return self.stage is not Stage.ALONE

    @property
    def in_charge(self) -> bool:
        """Whether this one is asked, and has the run directory."""
        return self.stage in (Stage.SERVING, Stage.ALONE)

    def stop(self) -> bool:
        """Somebody wants this master to stop. False where the old one serves on: then it only does not follow it."""
        if self.stage in (Stage.WAITING, Stage.WITHDRAWN):
            self._office.roster.withdraw("it was told to stop", time.monotonic())
            return False
        if self.stage is not Stage.ALONE:
            self._wire.say("stop", drain=self._office.drained())
        return True

    def leave(self) -> None:
        """The last thing before this master ends, with the old one there."""
        self.look(time.monotonic())  # it may be news that it goes
        for listeners in self._office.workers.listeners:
            if listeners is not self._heritage.listeners:  # of an address that only we have
                listeners.close()
        self._heritage.listeners.close_copies()
        self._wire.close()

    def close_in_child(self) -> None:
        """Close a child's copies."""
        if self.stage is Stage.ALONE:
            return
        self._wire.close_in_child()
        if self._heritage.listeners not in self._office.workers.listeners:
            self._heritage.listeners.close_copies()
        metrics = self._heritage.shared.metrics
        if metrics is not None and metrics is not self._office.reloading.app.shared.metrics:
            metrics.close()
