"""A restart, as the master does it: check, stop everybody, and execute the program anew in its own place.

The process stays the same, for whoever watches it: systemd, supervisord, a container. So do the listening sockets: who
comes meanwhile waits in their queues. The check is done by the code that is on the disk by now, in a process of its
own: neither a configuration nor a package that cannot be used ends what serves.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, NoReturn

from resonate.supervisor import errands
from resonate.supervisor.application import Application
from resonate.supervisor.children import ending
from resonate.supervisor.control import Control, Line, Report
from resonate.supervisor.inheritance import Inheritance
from resonate.supervisor.listeners import socket_of
from resonate.supervisor.readiness import Readiness
from resonate.supervisor.reading import MOST_SAID
from resonate.supervisor.reloading import Reloading
from resonate.supervisor.roster import Roster

from resonate.bus.directory import RunDirectory
from resonate.settings import Settings

#: Errands: to take the place of the master, and to see whether one could.
NAME: Final = "restart"
CHECK: Final = "check"
#: How long the check may take, in seconds, and the next program until all of its workers are ready.
CHECK_S: Final = 30.0
BOOT_S: Final = 60.0
#: Who may wait for the end of a restart at a time; `status` is to be answered meanwhile.
MOST_WAITING: Final = 8
#: Characters that are told of why the check has failed.
LONGEST_REASON: Final = 500


class Stage(Enum):
    """How far it is; the value is its name for people."""

    IDLE = "serving"
    CHECKING = "checking"
    STOPPING = "stopping"


class _Check:
    """Under way from when it is made. Raises OSError when it cannot be."""

    def __init__(self, inheritance: Inheritance, until: float) -> None:
        self.until = until
        self._late = False
        self._complaint = errands.memory()
        try:
            self.pid = errands.send(_letter(CHECK, inheritance), [], stderr=self._complaint)
        except OSError:
            os.close(self._complaint)
            raise

    def look(self, now: float) -> None:
        """Have patience with it."""
        if now >= self.until and not self._late:
            self._late = True
            os.kill(self.pid, signal.SIGKILL)  # it is there: it has not been reaped

    def ended(self, status: int) -> str:
        """Why a start would fail, now that it has been reaped with this status; nothing if it would not."""
        said = errands.content(self._complaint, MOST_SAID).decode(errors="replace").strip()
        os.close(self._complaint)
        if status == 0:
            return ""
        if self._late:
            return f"the check has not ended within {CHECK_S:g} s"
        last = said.rpartition("\n")[2].strip().removeprefix("resonate: ")
        return last[:LONGEST_REASON] or f"the check {ending(status)}"


class Restarting:
    """One at a time. `inherited` is from the program before this one."""

    def __init__(
        self,
        log: Any,
        roster: Roster,
        control: Control,
        reloading: Reloading,
        readiness: Readiness,
        inherited: Inheritance,
    ) -> None:
        self._log = log
        self._roster = roster
        self._control = control
        self._reloading = reloading
        self._readiness = readiness
        self._stage = Stage.IDLE
        self._check: _Check | None = None
        self._began_at = inherited.began_at
        self._asking: list[Report] = []  # for a restart
        self._checking: list[Report] = []  # for the check alone
        self._returning = [Report() for _ in inherited.waiting]  # since before this program
        for descriptor, report in zip(inherited.waiting, self._returning, strict=True):
            control.adopt(socket_of(descriptor), report)

    # --- asking ------------------------------------------------------------------------------------------------------

    def asked(self, request: Line) -> Line | Report:
        """Over the control socket. With `check` only that is done. Who asks while it is under way waits with others."""
        if self._roster.stopping and not self.due:
            return _failure("the server is stopping")
        if sum(not report.lost for report in (*self._asking, *self._checking)) >= MOST_WAITING:
            return _failure("too many wait for a restart")
        check = request.get("check") is True
        if check and self.due:
            return {"ok": True, "phase": "checked"}
        report = Report()
        (self._checking if check else self._asking).append(report)
        if self._stage is Stage.IDLE:
            self._begin()
        self._tell(report)
        return report

    @property
    def busy(self) -> bool:
        """Whether one is under way, or being checked."""
        return self._stage is not Stage.IDLE

    @property
    def due(self) -> bool:
        """Whether the next program is to be executed once everybody has gone."""
        return self._stage is Stage.STOPPING

    def cancel(self) -> bool:
        """The server is to stop for good: whether it was to come back."""
        if not self.due:
            return False
        self._stage = Stage.IDLE
        self._end(_failure("the server is stopping"))
        return True

    def _tell(self, report: Report) -> None:
        within_s = self._roster.serving.limits.graceful_timeout_s if self.due else CHECK_S
        if not report.ended:
            report.tell({"phase": self._stage.value, "within_s": within_s})

    def _end(self, line: Line) -> None:
        for report in (*self._asking, *self._checking):
            report.end(line)
        self._asking, self._checking = [], []

    # --- each turn of the master's loop ------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Have patience with the check; and tell those who have waited since before this program that it serves."""
        if self._check is not None:
            self._check.look(now)
        if self._returning and not self._roster.stopping and not self._roster.unready:
            took_s = round(now - self._began_at, 3)
            self._log.info("restarted in %.1f s", took_s)
            for report in self._returning:
                report.end({"ok": True, "phase": "done", "workers": self._roster.workers, "took_s": took_s})
            self._returning = []

    def _begin(self) -> None:
        self._began_at = now = time.monotonic()
        self._stage = Stage.CHECKING
        try:
            self._check = _Check(self._inheritance(), now + CHECK_S)
        except OSError as error:
            self._refuse(f"the check cannot be started: {error.strerror}")

    def reaped(self, pid: int, status: int) -> bool:
        """A child of the master has ended: whether it was the check."""
        if self._check is None or pid != self._check.pid:
            return False
        check, self._check = self._check, None
        reason = check.ended(status)
        if reason:
            self._refuse(reason)
        else:
            self._passed()
        return True

    def _refuse(self, reason: str) -> None:
        self._stage = Stage.IDLE
        self._log.error("the restart is refused, nothing changes: %s", reason)
        self._end({**_failure(reason), "phase": "refused"})

    def _passed(self) -> None:
        self._stage = Stage.IDLE
        for report in self._checking:
            report.end({"ok": True, "phase": "checked"})
        self._checking = []
        if self._roster.stopping:
            self._end(_failure("the server is stopping"))
        elif self._asking:
            self._stop()

    def _stop(self) -> None:
        self._log.info("restarting: closing the connections")
        self._stage = Stage.STOPPING
        self._readiness.restarting()
        self._roster.stop(time.monotonic())
        for report in self._asking:
            self._tell(report)

    # --- the end of this program -------------------------------------------------------------------------------------

    def execute(self, directory: RunDirectory) -> NoReturn:
        """Everybody has gone: go on as the next program, with the listening sockets and those who wait."""
        for report in self._asking:
            report.tell({"phase": "starting", "within_s": BOOT_S})
        waiting = [sock for sock in map(self._control.part_with, self._asking) if sock is not None]
        self._control.close()
        directory.remove()
        listeners = self._reloading.app.listeners
        inheritance = dataclasses.replace(
            self._inheritance(),
            listening=tuple(listeners.hand_down()),
            waiting=tuple(sock.fileno() for sock in waiting),
        )
        self._log.info("Restarting: Master")
        try:
            errands.become(_letter(NAME, inheritance), [*inheritance.listening, *inheritance.waiting])
        except OSError as error:
            self._log.critical("%s cannot be executed: %s", sys.executable, error.strerror)
            listeners.close()
            sys.exit(1)

    def _inheritance(self) -> Inheritance:
        app = self._reloading.app
        server, foreign = app.settings.server, app.listeners.handed_down
        return Inheritance(host=server.host, port=server.port, foreign=foreign, began_at=self._began_at)


def check(
    letter: Mapping[str, Any], load: Callable[[], Settings], application: Callable[[Settings], Application]
) -> NoReturn:
    """The life of the process that checks: whatever is wrong is raised."""
    app = application(load())
    server = app.settings.server
    Inheritance.of(letter).check_address(server)
    RunDirectory.check(server.run_dir)
    app.cfg.worker_class  # noqa: B018 - imported by being looked at
    app.load()
    import resonate.bus.process  # noqa: F401 - what a shard runs

    sys.exit(0)


def _letter(errand: str, inheritance: Inheritance) -> dict[str, Any]:
    return {"errand": errand, **dataclasses.asdict(inheritance)}


def _failure(reason: str) -> Line:
    return {"ok": False, "reason": reason}
