"""One master follows another (SIGUSR2): the old one executes the new one, and gives way when it is ready to serve.

The old master stays what it is until all workers of the new one are ready. Then it parts with the control socket and
the run directory, and wants no workers any more: each hands its connections over to one of the new master's. When the
last has gone it ends. Its shards serve on until those of the new master take their seats.

Each side finds out by itself that the other has gone: the old one is the parent, the new one sees the end of the wire.
Which processes should live meanwhile the roster knows.
"""

from __future__ import annotations

import dataclasses
import math
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from resonate.supervisor import errands
from resonate.supervisor.application import Application
from resonate.supervisor.children import Workers, ending
from resonate.supervisor.control import Control, Line
from resonate.supervisor.generation import Phase
from resonate.supervisor.listeners import Listeners, socket_of
from resonate.supervisor.premises import ADDRESS, METRICS_ADDRESS, SHARED, Premises
from resonate.supervisor.process import Role
from resonate.supervisor.readiness import Readiness
from resonate.supervisor.reloading import Reloading
from resonate.supervisor.roster import Neighbour, Roster
from resonate.supervisor.wire import Wire

from resonate.bus.directory import RunDirectory
from resonate.errors import ConfigurationError
from resonate.server.service import Shared
from resonate.version import PROTOCOL, VERSION

NAME: Final = "succeed"
#: Added to what the new master may take, before it is killed, in seconds.
MARGIN_S: Final = 3.0
#: How long it may take to end when it has said that it does, or cannot be talked to, in seconds.
END_S: Final = 5.0
#: A process that ends closes its end of the wire first; after so many seconds it is not the parent any more.
PARTING_S: Final = 1.0
#: The process that a container is: it must not end.
INIT: Final = 1


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


class _Told:
    """Who serves here, as the other master knows it."""

    def __init__(self, workers: dict[int, int]) -> None:
        self._workers = workers

    def renew(self, wire: Wire, workers: dict[int, int]) -> None:
        if workers != self._workers:
            self._workers = workers
            wire.say("workers", workers=list(workers.items()))


# --- the old master --------------------------------------------------------------------------------------------------


@dataclass
class _Junior:
    """A new master. It is killed if it is not done with what it does `until` then."""

    pid: int
    wire: Wire
    told: _Told
    until: float
    serves: bool = False


class Abdication:
    """The old master's side. One new master at a time."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._wished = False
        self._junior: _Junior | None = None

    @property
    def busy(self) -> bool:
        """Whether a new master is there, or about to be."""
        return self._wished or self._junior is not None

    @property
    def accompanied(self) -> bool:
        """Whether a new master is there."""
        return self._junior is not None

    @property
    def given_way(self) -> bool:
        """Whether it serves in this one's place."""
        return self._junior is not None and self._junior.serves

    def wish(self) -> None:
        """Have a new master started, as soon as nobody is coming or going."""
        log, roster = self._office.log, self._office.roster
        if os.getpid() == INIT:
            log.error(
                "no new master is started: this one is process 1, with which its container ends. SIGHUP renews the "
                "workers; for a new version of Resonate start a new container"
            )
        elif roster.stopping or self.busy or roster.neighbour is not None:
            log.error("no new master is started: %s", "the server stops" if roster.stopping else "one is under way")
        else:
            self._wished = True
            if not self._at_rest:
                log.info("a new master starts when all is at rest: a reload is under way, or a worker is leaving")

    @property
    def _at_rest(self) -> bool:
        return not self._office.reloading.busy and self._office.roster.at_rest

    def look(self, now: float) -> None:
        """In each turn of the loop."""
        if self._wished and self._office.roster.stopping:
            self._wished = False
        if self._wished and self._at_rest:
            self._wished = False
            self._begin(now)
        junior = self._junior
        if junior is not None:
            junior.wire.flush()
            junior.told.renew(junior.wire, self._office.ready_workers())
            if now >= junior.until:
                junior.until = math.inf
                self._office.log.error("the new master (pid:%d) takes too long, and is killed", junior.pid)
                os.kill(junior.pid, signal.SIGKILL)  # it is there: it has not been reaped

    def _begin(self, now: float) -> None:
        office = self._office
        try:
            ours, theirs = Wire.pair()
        except OSError as error:
            self._cannot(error)
            return
        workers = office.ready_workers()
        listeners, metrics = office.reloading.app.listeners, office.reloading.app.shared.metrics
        descriptors = [theirs.fileno(), *listeners.descriptors, *(() if metrics is None else (metrics.fileno(),))]
        try:
            pid = errands.send(self._letter(theirs.fileno(), workers), descriptors)
        except OSError as error:
            ours.close()
            self._cannot(error)
            return
        finally:
            theirs.close()
        health_s = office.reloading.app.settings.server.health_timeout
        wire = Wire(ours, office.selector, office.log, self._heard, self._ended)
        self._junior = _Junior(pid, wire, _Told(workers), now + health_s + MARGIN_S)
        office.roster.accompany()
        office.log.info("a new master starts (pid:%d)", pid)

    def _cannot(self, error: OSError) -> None:
        self._office.log.error("no new master can be started, this one serves on: %s", error.strerror or error)

    def _letter(self, wire: int, workers: dict[int, int]) -> dict[str, Any]:
        office = self._office
        app, roster = office.reloading.app, office.roster
        return {
            "errand": NAME,
            "protocol": PROTOCOL,
            "version": VERSION,
            "master": os.getpid(),
            "wire": wire,
            "directory": str(office.directory.path),
            "metrics": None if app.shared.metrics is None else app.shared.metrics.fileno(),
            "listeners": app.listeners.plain(),
            "server": {name: getattr(app.settings.server, name) for name in (*SHARED, *ADDRESS, *METRICS_ADDRESS)}
            | {"bus_shards": app.shared.shards},
            "generation": roster.next_generation,
            "restarts": [(role.value, count) for role, count in roster.restarts.items()],
            "workers": list(workers.items()),
        }

    def _heard(self, line: Line) -> None:
        junior = self._junior
        if junior is None:
            return
        match line["say"]:
            case "starting":
                junior.until = time.monotonic() + line["within_s"] + MARGIN_S
            case "workers":
                self._office.roster.meet(dict(line["workers"]))
            case "ready":
                self._give_way(junior)
            case "failed":
                self._office.log.error("the new master goes, nothing changes: %s", line["reason"])
                junior.until = time.monotonic() + line["within_s"] + MARGIN_S
            case "stop":
                self._office.stop(line["drain"])

    def _give_way(self, junior: _Junior) -> None:
        office = self._office
        if office.roster.stopping:
            return
        workers = office.ready_workers()
        connections = sum(office.workers.reported(pid).connections for pid in workers)
        junior.serves, junior.until = True, math.inf
        office.control.part()
        office.roster.give_way()
        junior.wire.say("yours")
        office.log.info(
            "the new master (pid:%d) serves from now on; %d workers go, with %d connections",
            junior.pid,
            len(workers),
            connections,
        )

    def _ended(self) -> None:
        """Its end of the wire is closed: it ends, or has ended."""
        if self._junior is not None:
            self._junior.until = min(self._junior.until, time.monotonic() + END_S)

    def reaped(self, pid: int, status: int) -> bool:
        """A child of the master has ended: whether it was the new master."""
        junior = self._junior
        if junior is None or junior.pid != pid:
            return False
        self._junior = None
        junior.wire.close()
        office = self._office
        office.bereaved()
        if office.roster.stopping:
            return True
        what = f"the new master (pid:{pid}) {ending(status)}"
        if not junior.serves:
            office.log.error("%s: this one serves on as before", what)
        else:
            office.log.error("%s: this one serves again, with new workers", what)
        office.take()  # also where it has not given way: the new one may have taken it for dead
        return True

    def stop(self) -> None:
        """The server stops."""
        if self._junior is not None:
            self._junior.wire.say("stop", drain=self._office.drained())
            self._junior.until = time.monotonic() + self._office.roster.serving.limits.graceful_timeout_s + MARGIN_S

    def leave(self) -> None:
        """The last thing before this master ends in favour of the new one."""
        if self._junior is not None:
            for listeners in self._office.workers.listeners:
                listeners.close_copies()
            self._office.readiness.followed(self._junior.pid)
            self._junior.wire.close()

    def close_in_child(self) -> None:
        """Close a child's copies."""
        if self._junior is not None:
            self._junior.wire.close_in_child()


# --- the new master --------------------------------------------------------------------------------------------------


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
        self.shared = Shared(RunDirectory(Path(letter["directory"])), metrics, self.server["bus_shards"])
        self.listeners = Listeners.restored(letter["listeners"])
        self.generation: int = letter["generation"]
        self.restarts = {Role(name): count for name, count in letter["restarts"]}
        self.workers: dict[int, int] = dict(letter["workers"])


class Accession:
    """The new master's side. `furnish` and `join` come first, then `begin`."""

    def __init__(self, heritage: Heritage) -> None:
        self._heritage = heritage
        self._told = _Told({})
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
