"""The master: signals, children, sockets. What should live is decided by the roster; here it is done.

One loop. It waits for a signal, a client of the control socket or the next look at the clock, whichever comes first.
Nothing in it blocks. There is no thread, no gevent hub and no ZeroMQ context: none of them survives a fork.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from gunicorn import SERVER_SOFTWARE, util
from resonate.supervisor import status
from resonate.supervisor.abdication import Abdication
from resonate.supervisor.accession import Accession
from resonate.supervisor.actions import Action, Bequeath, Kill, Release, Spawn, Steer
from resonate.supervisor.application import Application
from resonate.supervisor.children import Workers, ending, obituary
from resonate.supervisor.control import Control, Line, Report
from resonate.supervisor.inheritance import NOTHING, Inheritance
from resonate.supervisor.process import Process, Role, State
from resonate.supervisor.readiness import Readiness
from resonate.supervisor.reloading import Reloading, limits
from resonate.supervisor.restarting import Restarting
from resonate.supervisor.roster import Roster
from resonate.supervisor.signals import Signals
from resonate.supervisor.succession import Office

from resonate.bus.directory import pid_of
from resonate.bus.spawn import spawn
from resonate.errors import ConfigurationError
from resonate.server.scoreboard import Restarts, Scoreboard
from resonate.server.service import share
from resonate.settings import MAX_WORKERS

#: The longest wait of the loop, and what it is while somebody boots or a reload is followed.
TURN_S: Final = 1.0
BUSY_TURN_S: Final = 0.05
#: Those that serve, their heirs, and as many again that have not come to their end yet.
ROWS: Final = 4 * MAX_WORKERS
#: Between looks at the files in the run directory.
DIRECTORY_LOOK_S: Final = 1.0
#: Why something is refused meanwhile.
IN_SUCCESSION: Final = "one master is about to follow another; ask again when one of them has gone"


class Master:
    """Serves what `app` holds. `run` is all there is to call. `accession` is of one that is to follow another."""

    def __init__(
        self, app: Application, inherited: Inheritance = NOTHING, accession: Accession | None = None
    ) -> None:
        os.environ["SERVER_SOFTWARE"] = SERVER_SOFTWARE
        self.inherited = inherited
        self.pid, self.started_at = os.getpid(), time.monotonic()
        self.log = app.cfg.logger_class(app.cfg)
        if app.debug:
            self.log.error_log.setLevel(logging.DEBUG)
        self.log.close_on_exec()
        self.accession = accession
        if accession is not None:
            app = accession.furnish(app, self.log)
        self.app, self.settings, self.cfg = app, app.settings, app.cfg
        server = app.settings.server
        self.roster = Roster(server.workers, server.bus_shards, limits(app), sharded=server.scaling.enabled)
        if accession is not None:
            accession.join(self.roster, server.health_timeout)
        self.scoreboard = Scoreboard(ROWS)
        self.selector = selectors.PollSelector()  # an epoll instance would be shared with the children
        self._directory_looked_at = 0.0
        self._directory_trouble = ""

    def run(self) -> NoReturn:
        """Serve until a signal ends it; exits the process. Raises ConfigurationError when it cannot begin."""
        self._open()
        try:
            while not self.roster.over:
                self._turn()
        except Exception:  # a worker's end is a SystemExit, which passes through here in the child
            self.log.exception("the master has failed")
            for pid in self.roster.processes:
                os.kill(pid, signal.SIGKILL)
            self._close()
            sys.exit(1)
        self._restart()
        self._close()
        self.log.info("Shutting down: Master")
        sys.exit(0)

    # --- begin and end -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self.accession is None:
            self.app.shared = share(self.settings, self.log)
        self.directory = self.app.shared.directory
        handlers = {"status": self._status, "reload": self._asked_to_reload, "stop": self._asked_to_stop}
        handlers["restart"] = self._asked_to_restart
        self.control = Control(self.directory.control, handlers, self.selector, time.monotonic)
        if self.accession is None:
            self._open_doors()
        self.signals = Signals([*self._on_signal, signal.SIGCHLD])
        self.selector.register(self.signals, selectors.EVENT_READ, lambda: None)
        first = self.roster.first
        apps = {self.roster.serving.number: self.app, first: self.app}
        self.workers = Workers(apps, first, self.log, self.scoreboard, self._close_in_child)
        self.readiness = Readiness(self.settings, self.log, self.app.listeners.names(), self.started_at)
        self.reloading = Reloading(self.log, self.roster, self.workers, self.scoreboard, self.readiness)
        self.restarting = Restarting(
            self.log, self.roster, self.control, self.reloading, self.readiness, self.inherited
        )
        office = Office(
            self.log,
            self.roster,
            self.workers,
            self.reloading,
            self.readiness,
            self.directory,
            self.control,
            self.selector,
            self._told_to_stop,
            lambda: self.scoreboard.drained,
        )
        self.abdication = Abdication(office)
        self._record_restarts()
        self.readiness.greet()
        if self.accession is not None:
            self.accession.begin(office, self.settings.server.health_timeout)
        util._setproctitle(f"master [{self.cfg.proc_name}]")

    def _open_doors(self) -> None:
        try:
            self._open_control()
            self.app.listeners = self.inherited.listen(self.settings.server)
        except ConfigurationError:
            self.control.close()
            self.directory.remove()
            raise

    def _open_control(self) -> None:
        path = self.directory.control
        try:
            self.control.open()
        except OSError as error:
            raise ConfigurationError("run_dir", f"no socket can be made there: {error}", value=str(path)) from None

    def _restart(self) -> None:
        """Go on as the next program, if everybody has gone for that and no signal says otherwise."""
        if not self.restarting.due:
            return
        self.signals.hold()
        for number in self.signals.taken():
            self._handle(number)
        if self.restarting.due:
            self.restarting.execute(self.directory)

    def _close(self) -> None:
        if self._in_charge:
            self.control.close()
        else:
            self.control.part()
        if self.abdication.accompanied:
            self.abdication.leave()
        elif self.accession is not None and self.accession.accompanied:
            self.accession.leave()
        else:
            self._close_listeners()
            self.directory.remove()

    @property
    def _in_charge(self) -> bool:
        """Whether this master is the one that is asked, and has the run directory."""
        return not self.abdication.given_way and (self.accession is None or self.accession.in_charge)

    @property
    def _in_succession(self) -> bool:
        """Whether another master is there, or about to be."""
        return self.abdication.busy or (self.accession is not None and self.accession.accompanied)

    def _close_listeners(self) -> None:
        for listeners in self.workers.listeners:
            listeners.close()

    def _close_in_child(self) -> None:
        self.control.close_in_child()
        self.abdication.close_in_child()
        if self.accession is not None:
            self.accession.close_in_child()
        self.selector.close()
        self.signals.close_in_child()

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._observe()
        self.control.tick()
        actions = self.roster.due(time.monotonic())
        self.scoreboard.serve(self.roster.serving.number)
        for action in actions:
            self._on_action[type(action)](self, action)
        if not self._in_succession:
            self.readiness.look(self.roster, time.monotonic())
        self.reloading.look(time.monotonic())
        self.restarting.look(time.monotonic())
        self.abdication.look(time.monotonic())
        if self.accession is not None:
            self.accession.look(time.monotonic())
        self._wait()
        for number in self.signals.taken():
            self._handle(number)
        self._reap()

    def _wait(self) -> None:
        booting = any(process.state is State.STARTING for process in self.roster.processes.values())
        busy = booting or self.reloading.busy or self._in_succession
        for key, _ in self.selector.select(BUSY_TURN_S if busy else TURN_S):
            key.data()

    def _observe(self) -> None:
        """See what nobody tells: heartbeats, who has booted, what has become of the files."""
        now = time.monotonic()
        for pid, heard_at in self.workers.heartbeats():
            self.roster.heard(pid, heard_at)
        for process in self.roster.processes.values():
            if process.state is State.STARTING and self._has_booted(process):
                self.roster.ready(process.pid, now)
        if now - self._directory_looked_at >= DIRECTORY_LOOK_S:
            self._directory_looked_at = now
            if self._in_charge:
                self._look_after_directory()

    def _has_booted(self, process: Process) -> bool:
        """A worker says so on the scoreboard; a shard has made its inbox."""
        if process.role is Role.WORKER:
            return self.workers.reported(process.pid).ready
        name = self.directory.shard(process.slot)
        return name is not None and pid_of(name) == process.pid

    def _look_after_directory(self) -> None:
        """Somebody may have removed it, or the disk may be full: said once, tried each second."""
        trouble = self.directory.ensure() or self._disowned()
        if not trouble and self.control.lost:
            try:
                self.control.open()
            except OSError as error:
                trouble = str(error)
            else:
                self.log.warning("files of the run directory %s had gone and are made anew", self.directory.path)
        if trouble and trouble != self._directory_trouble:
            self.log.error("the run directory cannot be used: %s", trouble)
        elif self._directory_trouble and not trouble:
            self.log.info("the run directory can be used again")
        self._directory_trouble = trouble

    def _disowned(self) -> str:
        """See to it that the directory says whose it is; why that cannot be written, or nothing."""
        try:
            self.directory.own()
        except OSError as error:
            return f"{self.directory.path} cannot be written: {error.strerror}"
        return ""

    # --- children ----------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, how = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if not any(each.reaped(pid, how) for each in (self.reloading, self.restarting, self.abdication)):
                self._gone(pid, how)

    def _gone(self, pid: int, how: int) -> None:
        gone = self.roster.exited(pid, time.monotonic(), ending(how))
        if gone is None:  # as process 1 of a container we are given orphans of others
            self.log.debug("Reaped unknown child process (pid:%s, status:%s)", pid, how)
            return
        if gone.process.role is Role.WORKER:
            self.workers.forget(pid)
        self._record_restarts()
        self.directory.sweep()  # of what it has left there
        said = obituary(gone, how)
        if said is not None:
            level, text = said
            self.log.log(level, "%s", text)

    def _record_restarts(self) -> None:
        restarts = self.roster.restarts
        self.scoreboard.record(Restarts(workers=restarts[Role.WORKER], shards=restarts[Role.SHARD]))

    def _spawn(self, action: Spawn) -> None:
        role, slot, _ = action.place
        if action.place not in self.roster.wanted:  # a failure just before has ended a reload
            return
        try:
            pid = self._spawn_shard(slot) if role is Role.SHARD else self.workers.start(action, self.roster.sharded)
        except OSError as error:
            why = error.strerror or str(error)
            pause_s = self.roster.failed(action, time.monotonic(), why)
            then = "" if pause_s is None else f"; next attempt in {pause_s:.0f} s"
            self.log.error("%s %d cannot be started: %s%s", role.value, slot, why, then)
            return
        self.roster.spawned(action, pid, time.monotonic())

    def _spawn_shard(self, index: int) -> int:
        server, scaling = self.reloading.app.settings.server, self.app.shared.scaling
        # One that is there already is an old master's: it serves until this one can.
        pid = spawn(
            self.directory,
            index,
            server.worker_timeout,
            server.log_format,
            scaling,
            server.cache_ttl,
            replace=True,
        )
        self.log.info("Booting shard %d with pid: %d", index, pid)
        return pid

    def _bequeath(self, action: Bequeath) -> None:
        self.workers.name_heir(action.pid, action.heir)

    def _kill(self, action: Kill) -> None:
        process = self.roster.processes[action.pid]
        if action.signal is signal.SIGABRT:
            self.log.critical("%s TIMEOUT (pid:%s)", process.role.value.upper(), action.pid)
        os.kill(action.pid, action.signal)  # it is there: it has not been reaped

    def _steer(self, action: Steer) -> None:
        for listeners in self.workers.listeners:
            listeners.steer(action.slots)

    def _release(self, action: Release) -> None:
        for listeners in self.workers.listeners:
            listeners.release(action.slot)

    _on_action: Final[dict[type[Action], Callable[[Master, Any], None]]] = {
        Spawn: _spawn,
        Bequeath: _bequeath,
        Kill: _kill,
        Steer: _steer,
        Release: _release,
    }

    # --- signals -----------------------------------------------------------------------------------------------------

    def _handle(self, number: signal.Signals) -> None:
        if number is signal.SIGCHLD:  # each turn reaps
            return
        self.log.info("Handling signal: %s", number.name.removeprefix("SIG").lower())
        self._on_signal[number](self, number)

    def _stop(self, number: signal.Signals) -> None:
        """The second time, people at a terminal have lost patience; a process manager that asks twice has not."""
        if not self.roster.stopping or self.restarting.cancel():
            self._wish_to_stop()
        elif number is not signal.SIGTERM:
            self.log.info("Quick shutdown requested")
            self.roster.hurry(time.monotonic())

    def _told_to_stop(self, drain: bool) -> None:
        """By the other master."""
        if not self.roster.stopping:
            if drain:
                self.scoreboard.drain()
            self._begin_stop()

    def _wish_to_stop(self) -> None:
        if self.accession is None or self.accession.stop():
            self._begin_stop()

    def _begin_stop(self) -> None:
        self.readiness.stopping()
        self._close_listeners()  # when the workers have closed theirs, connections are refused
        self.roster.stop(time.monotonic())
        self.abdication.stop()

    def _reload(self, number: signal.Signals) -> None:
        if self._in_succession:
            self.log.error("not reloaded: %s", IN_SUCCESSION)
        else:
            self.reloading.wish()

    def _succeed(self, number: signal.Signals) -> None:
        if self.restarting.busy:
            self.log.error("no new master is started: the server restarts")
        else:
            self.abdication.wish()

    def _resize(self, number: signal.Signals) -> None:
        if self._in_succession:
            self.log.warning("the number of workers stays: %s", IN_SUCCESSION)
            return
        before = self.roster.workers
        after = self.roster.resize(before + (1 if number is signal.SIGTTIN else -1))
        if before == after:
            self.log.warning("the number of workers stays %d", before)
        else:
            self.log.info("%d workers from now on", after)

    def _reopen_logs(self, number: signal.Signals) -> None:
        self.log.reopen_files()
        for process in self.roster.processes.values():
            if process.role is Role.WORKER and process.state is not State.STARTING:  # its handler may not be there yet
                os.kill(process.pid, number)

    def _ignore(self, number: signal.Signals) -> None:
        """A terminal has changed its size."""

    _on_signal: Final[dict[signal.Signals, Callable[[Master, signal.Signals], None]]] = {
        signal.SIGTERM: _stop,
        signal.SIGINT: _stop,
        signal.SIGQUIT: _stop,
        signal.SIGTTIN: _resize,
        signal.SIGTTOU: _resize,
        signal.SIGUSR1: _reopen_logs,
        signal.SIGHUP: _reload,
        signal.SIGUSR2: _succeed,
        signal.SIGWINCH: _ignore,
    }

    # --- the control socket ------------------------------------------------------------------------------------------

    def _status(self, request: Line) -> Line:
        return status.overview(
            self.roster,
            self.workers.reported,
            pid=self.pid,
            started_at=self.started_at,
            now=time.monotonic(),
            run_dir=str(self.directory.path),
            listening=self.readiness.names,
        )

    def _asked_to_reload(self, request: Line) -> Line | Report:
        if self._in_succession:
            return {"ok": False, "reason": IN_SUCCESSION}
        return self.reloading.asked(request)

    def _asked_to_restart(self, request: Line) -> Line | Report:
        if self._in_succession:
            return {"ok": False, "reason": IN_SUCCESSION}
        return self.restarting.asked(request)

    def _asked_to_stop(self, request: Line) -> Line:
        """Who asks here, rather than with a signal, has time. It is answered at once; who wants to know when it is over
        waits for this process to end.
        """
        if not self.roster.stopping or self.restarting.cancel():
            self.log.info("asked to drain: clients are sent away one after another")
            self.scoreboard.drain()
            self._wish_to_stop()
        return {"ok": True, "within_s": self.roster.serving.limits.graceful_timeout_s}
