"""The old master's side of a succession; see succession.py."""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import dataclass
from typing import Any, Final

from resonate.supervisor import errands
from resonate.supervisor.children import ending
from resonate.supervisor.control import Line
from resonate.supervisor.premises import ADDRESS, METRICS_ADDRESS, SHARED
from resonate.supervisor.succession import NAME, Office, Told
from resonate.supervisor.wire import Wire

from resonate.version import PROTOCOL, VERSION

#: Added to what the new master may take, before it is killed, in seconds.
MARGIN_S: Final = 3.0
#: How long it may take to end when it has said that it does, or cannot be talked to, in seconds.
END_S: Final = 5.0
#: The process that a container is: it must not end.
INIT: Final = 1


@dataclass
class _Junior:
    """A new master. It is killed if it is not done with what it does `until` then."""

    pid: int
    wire: Wire
    told: Told
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
        self._junior = _Junior(pid, wire, Told(workers), now + health_s + MARGIN_S)
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
            "scaling": app.shared.scaling.plain(),
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
