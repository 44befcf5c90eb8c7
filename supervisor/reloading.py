"""A reload, as the master does it: have the configuration read anew and heirs made with it, tell how it goes.

Who may live is decided by the roster, here it is only followed. One reload runs at a time; who asks for another
meanwhile gets one that begins after it, with the configuration as it is by then.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any, Final

from resonate.supervisor.application import Application
from resonate.supervisor.children import Workers
from resonate.supervisor.control import Line, Report
from resonate.supervisor.generation import Phase, Reload
from resonate.supervisor.premises import Premises
from resonate.supervisor.process import Limits
from resonate.supervisor.readiness import Readiness
from resonate.supervisor.reading import Found, Reading, Unreadable
from resonate.supervisor.resharding import Resharding
from resonate.supervisor.roster import Roster

from resonate.errors import ConfigurationError
from resonate.server.scoreboard import Scoreboard
from resonate.version import VERSION

#: What the master has made of these, no heir can change: the run directory, the logger.
FIXED: Final = ("run_dir", "log_format")
#: Who may wait for the end of a reload at a time; `status` is to be answered meanwhile.
MOST_WAITING: Final = 8
#: How long reading the configuration may take, in seconds; nobody waits for it.
READING_S: Final = 30.0
LONGEST_HEALTH_TIMEOUT_S: Final = 3600.0


@dataclass
class _Wish:
    """A reload that somebody has asked for; `health_timeout_s` None is that of the settings."""

    health_timeout_s: float | None = None
    reports: list[Report] = field(default_factory=list)

    def tell(self, line: Line) -> None:
        for report in self.reports:
            report.tell(line)

    def end(self, line: Line) -> None:
        for report in self.reports:
            report.end(line)


@dataclass
class _Seen:
    """What has been logged of the reload that runs."""

    reload: Reload
    wish: _Wish
    ready: set[int] = field(default_factory=set)
    old: set[int] = field(default_factory=set)
    promoted: bool = False
    connections: int = 0  # of the old workers, when they were told to go
    told: Line | None = None


class Reloading:
    """One at a time."""

    def __init__(
        self, log: Any, roster: Roster, workers: Workers, scoreboard: Scoreboard, readiness: Readiness
    ) -> None:
        self._log = log
        self._scoreboard = scoreboard
        self._roster = roster
        self._workers = workers
        self._readiness = readiness
        self._next: _Wish | None = None
        self._reading: tuple[_Wish, Reading] | None = None
        self._running: _Seen | None = None
        self._resharding: tuple[_Seen, Resharding] | None = None

    @property
    def app(self) -> Application:
        """What those who serve were started with."""
        return self._workers.apps[self._roster.serving.number]

    @property
    def busy(self) -> bool:
        """Whether one is under way."""
        return any(each is not None for each in (self._reading, self._running, self._resharding))

    # --- who asks ----------------------------------------------------------------------------------------------------

    def wish(self, health_timeout_s: float | None = None, report: Report | None = None) -> None:
        """Reload, now or after the one that runs; `report` is told how it goes."""
        if self.busy:
            self._log.info("a reload is under way: another one follows it")
        if self._next is None:
            self._next = _Wish()
        self._next.health_timeout_s = health_timeout_s or self._next.health_timeout_s
        if report is not None:
            self._next.reports.append(report)
            report.tell({"phase": "queued", "within_s": self._within_s(health_timeout_s)})

    def asked(self, request: Line) -> Line | Report:
        """Over the control socket; `health_timeout` may be in it, in seconds."""
        timeout = request.get("health_timeout")
        if timeout is not None and not (_number(timeout) and 0 < timeout <= LONGEST_HEALTH_TIMEOUT_S):
            return _failure(f"health_timeout must be more than 0, and {LONGEST_HEALTH_TIMEOUT_S:g} or less")
        if self._waiting() >= MOST_WAITING:
            return _failure("too many wait for a reload")
        report = Report()
        self.wish(timeout, report)
        return report

    def _waiting(self) -> int:
        wishes = [self._next, self._reading and self._reading[0], self._running and self._running.wish]
        return sum(not report.lost for wish in wishes if wish for report in wish.reports)

    def _within_s(self, health_timeout_s: float | None) -> float:
        """How long it may take once it has begun: to read, until heirs are ready, and until the old ones have gone."""
        health = health_timeout_s or self.app.settings.server.health_timeout
        return float(READING_S + health + self._roster.serving.limits.graceful_timeout_s)

    # --- each turn of the master's loop ------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Tell what has changed, and begin what waits."""
        if self._running is not None:
            self._follow(self._running, now)
        if self._reading is not None:
            self._follow_reading(*self._reading, now)
        if self._resharding is not None:
            self._follow_resharding(*self._resharding, now)
        if not self.busy and self._next is not None:
            wish, self._next = self._next, None
            if self._roster.stopping:
                wish.end(_failure("the server is stopping"))
            else:
                self._read(wish, now)

    def _read(self, wish: _Wish, now: float) -> None:
        """First of all."""
        self._readiness.reloading()
        try:
            self._reading = wish, Reading(now + READING_S)
        except OSError as error:
            self._refuse(wish, f"the configuration cannot be read: {error.strerror or error}")

    def _follow_reading(self, wish: _Wish, reading: Reading, now: float) -> None:
        if self._roster.stopping or now >= reading.until:
            reading.kill()

    def reaped(self, pid: int, status: int) -> bool:
        """A child of the master has ended: whether it was one that reads."""
        if self._reading is None or self._reading[1].pid != pid:
            return False
        (wish, reading), self._reading = self._reading, None
        if self._roster.stopping:  # for which it was killed
            reading.close()
            wish.end(_failure("the server is stopping"))
            return True
        try:
            self._begin(wish, self._candidate(reading.ended(status)), time.monotonic())
        except Unreadable as error:
            if error.said:
                self._log.error("reading the configuration: %s", error.said)
            self._refuse(wish, str(error))
        except ConfigurationError as error:
            self._refuse(wish, str(error))
        return True

    def _begin(self, wish: _Wish, app: Application, now: float) -> None:
        server = app.settings.server
        health = wish.health_timeout_s or server.health_timeout
        reload = self._roster.begin_reload(now, health, server.workers, limits(app))
        self._workers.apps[reload.number] = app
        old = self._roster.old_workers(reload.number)
        self._running = _Seen(reload, wish, old={process.pid for process in old})
        self._log.info("reload %d begins: %d workers beside the %d there are", reload.number, server.workers, len(old))
        self._tell(self._running)

    def _candidate(self, found: Found) -> Application:
        """What the heirs serve, and where. Raises ConfigurationError where nobody can listen."""
        if found.version != VERSION:
            self._log.info("version %s is on the disk: heirs are of it, the master stays %s", found.version, VERSION)
        for notice in found.settings.notices:
            self._log.warning("%s", notice)
        premises = Premises(self.app.settings.server, self.app.shared, self.app.listeners)
        settings, premises = premises.adapted(found.settings, FIXED, self._log)
        return self.app.successor(settings, premises.shared, premises.listeners)

    def _refuse(self, wish: _Wish, reason: str) -> None:
        self._log.error("the reload is refused, nothing changes: %s", reason)
        serving = self._roster.serving.number
        wish.end({**_failure(reason), "phase": "refused", "generation": serving, "took_s": 0.0})
        self._readiness.reloaded("the last reload was refused", self.app.settings)

    def _follow(self, seen: _Seen, now: float) -> None:
        reload = seen.reload
        self._follow_heirs(seen)
        if reload.phase in (Phase.HAND_OVER, Phase.DONE):
            self._follow_promotion(seen)
            self._follow_old_workers(seen)
        goes_on = reload.phase is Phase.DONE and not self._roster.stopping
        if not reload.over:
            self._tell(seen)
        elif not goes_on or self._shards_due() == self._roster.present_shards:
            self._running = None
            self._end(seen, now)
        elif self._roster.at_rest:  # else somebody of the new ones is leaving already
            self._running = None
            shards = self._shards_due()
            again = Resharding(self._roster, self._workers, self._scoreboard, self._log, shards, now)
            self._resharding = seen, again

    def _shards_due(self) -> int:
        """A worker that is alone needs none beside it, unless there are other hosts."""
        server = self.app.settings.server
        alone = server.bus_shards == 1 and self._roster.workers == 1 and not server.scaling.enabled
        return 0 if alone else server.bus_shards

    def _follow_resharding(self, seen: _Seen, resharding: Resharding, now: float) -> None:
        if resharding.over(now):
            self._resharding = None
            self._end(seen, now, resharding.failure)

    def _follow_heirs(self, seen: _Seen) -> None:
        if seen.promoted:
            return
        number, wanted = seen.reload.number, self._roster.workers
        for process in self._roster.ready_workers(number):
            if process.pid not in seen.ready:
                seen.ready.add(process.pid)
                self._log.info("reload %d: heir ready (pid:%d), %d of %d", number, process.pid, len(seen.ready), wanted)

    def _follow_promotion(self, seen: _Seen) -> None:
        if seen.promoted:
            return
        seen.promoted = True
        number = seen.reload.number
        self._workers.drop([age for age in self._workers.apps if age < number])
        self._readiness.names = self.app.listeners.names()
        seen.old = {process.pid for process in self._roster.old_workers(number)}
        seen.connections = self._connections(seen)
        old, connections = len(seen.old), seen.connections
        self._log.info("reload %d: promoted; %d old workers go, with %d connections", number, old, connections)

    def _follow_old_workers(self, seen: _Seen) -> None:
        left = {process.pid for process in self._roster.old_workers(seen.reload.number)}
        for pid in sorted(seen.old - left):
            self._log.info("reload %d: old worker (pid:%d) has gone", seen.reload.number, pid)
        seen.old = left

    def _end(self, seen: _Seen, now: float, failure: str = "") -> None:
        """`failure` says why there are as many shards as before."""
        reload, serving = seen.reload, self._roster.serving
        took_s = round(now - reload.began_at, 3)
        if reload.phase is Phase.DONE:
            self._log.info("reload %d done in %.1f s", reload.number, took_s)
        else:
            self._log.error("reload %d %s after %.1f s: %s", reload.number, reload.phase.value, took_s, reload.reason)
        if reload.phase is Phase.ROLLED_BACK:
            self._workers.drop([reload.number])
            self._log.error("generation %d serves on", serving.number)
        reason = f"the number of shards did not change: {failure}" if failure else reload.reason
        done = reload.phase is Phase.DONE and not failure
        result: Line = {"ok": done, "phase": reload.phase.value, "reason": reason}
        result |= {"generation": serving.number, "workers": serving.workers, "connections": seen.connections}
        seen.wish.end({**result, "took_s": took_s})
        if not self._roster.stopping:
            status = f"generation {serving.number}, the last reload was {reload.phase.value}"
            self._readiness.reloaded(status, self.app.settings)

    def _tell(self, seen: _Seen) -> None:
        """One line for each change."""
        progress = self._roster.progress(seen.reload)
        line = {**dataclasses.asdict(progress), "phase": progress.phase.value, "connections": self._connections(seen)}
        if line != seen.told:
            seen.told = line
            within_s = seen.reload.health_timeout_s + self._roster.serving.limits.graceful_timeout_s
            seen.wish.tell({**line, "within_s": within_s})

    def _connections(self, seen: _Seen) -> int:
        """That the old workers have."""
        return sum(self._workers.reported(it.pid).connections for it in self._roster.old_workers(seen.reload.number))


def limits(app: Application) -> Limits:
    """What the roster is to know of the settings."""
    return Limits(graceful_timeout_s=app.cfg.graceful_timeout, worker_timeout_s=app.settings.server.worker_timeout)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _failure(reason: str) -> Line:
    return {"ok": False, "reason": reason}
