"""Forking workers, and what is said of a process that has gone."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final

from gunicorn import util
from resonate.supervisor import signals
from resonate.supervisor.application import Application
from resonate.supervisor.listeners import Listeners
from resonate.supervisor.process import Place
from resonate.supervisor.roster import Exit, Spawn

from resonate.server.scoreboard import Row, Scoreboard

#: A worker that could not boot. gunicorn's arbiter knows the number.
BOOT_ERROR: Final = 3


class Workers:
    """The forks of this process. `close_others` closes, in the child, what only the master should hold.

    `apps` are what the workers of each generation serve.
    """

    def __init__(
        self,
        apps: dict[int, Application],
        log: Any,
        listeners: Listeners,
        scoreboard: Scoreboard,
        close_others: Callable[[], None],
    ) -> None:
        self.apps = apps
        self._log = log
        self._listeners = listeners
        self._scoreboard = scoreboard
        self._close_others = close_others
        self._workers: dict[int, Any] = {}
        self._age = 0

    def fork(self, spawn: Spawn, sharded: bool) -> int:
        """Returns the new worker's pid; in the worker, does not return. Raises OSError.

        `sharded`: the shards are processes, although this worker may be the only one.
        """
        worker = self._made(spawn.place)
        worker.sharded = sharded
        try:
            with signals.stop_signals_held():
                pid = os.fork()
                if pid == 0:
                    self._live(worker)
        except OSError:
            worker.tmp.close()
            raise
        worker.pid = pid
        self._workers[pid] = worker
        return pid

    def heartbeats(self) -> Iterator[tuple[int, float]]:
        """(pid, when it was heard last, by the monotonic clock) of those that have been heard at all."""
        now = time.monotonic()
        for pid, worker in self._workers.items():
            heard_at = worker.tmp.last_update()
            if heard_at <= now:  # before the first time it is when the file was made, by the clock on the wall
                yield pid, heard_at

    def reported(self, pid: int) -> Row:
        """What that worker has said last."""
        return self._scoreboard.row(self._workers[pid].row)

    def name_heir(self, pid: int, heir: int) -> None:
        """Let that worker read who takes its connections; 0 for nobody."""
        self._scoreboard.name_heir(self._workers[pid].row, heir)

    def forget(self, pid: int) -> None:
        """It has been reaped."""
        worker = self._workers.pop(pid)
        self._scoreboard.clear(worker.row)
        worker.tmp.close()

    def _made(self, place: Place) -> Any:
        row = self._free_row()
        self._age += 1
        app = self.apps[place.generation]
        cfg = app.cfg
        sockets = list(self._listeners.sockets(place.slot))
        worker = cfg.worker_class(self._age, os.getpid(), sockets, app, cfg.timeout / 2.0, cfg, self._log)
        worker.slot, worker.generation = place.slot, place.generation
        worker.scoreboard, worker.row = self._scoreboard, row
        return worker

    def _free_row(self) -> int:
        taken = {worker.row for worker in self._workers.values()}
        for row in range(self._scoreboard.rows):
            if row not in taken:
                return row
        raise OSError(errno.EAGAIN, "there are too many workers that have not gone yet")

    def _live(self, worker: Any) -> None:
        """The life of a child, as in gunicorn's spawn_worker; ends in SystemExit.

        The signals that stop it are held back until its own handlers are there (the hook post_worker_init), since the
        handlers that it is born with are the master's.
        """
        worker.pid = os.getpid()
        try:
            for sibling in self._workers.values():
                sibling.tmp.close()
            self._listeners.keep_only(worker.slot)
            self._close_others()
            util._setproctitle(f"worker [{worker.cfg.proc_name}]")
            self._log.info("Booting worker with pid: %s", worker.pid)
            worker.init_process()
            sys.exit(0)
        except SystemExit:
            raise
        except BaseException as error:
            self._log.exception("Exception in worker process")
            print(error, file=sys.stderr, flush=True)
            sys.exit(1 if worker.booted else BOOT_ERROR)
        finally:
            self._bury(worker)

    def _bury(self, worker: Any) -> None:
        self._log.info("Worker exiting (pid: %s)", worker.pid)
        try:
            worker.tmp.close()
            worker.cfg.worker_exit(self, worker)
        except Exception:
            self._log.warning("Exception during worker exit:\n%s", traceback.format_exc())


def obituary(gone: Exit, status: int) -> tuple[int, str] | None:
    """(level, text) to log of a process, by what `waitpid` has said; None when it has left as it should."""
    name = f"{gone.process.role.value.capitalize()} (pid:{gone.process.pid})"
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return _killed(gone, name, -code)
    if code != 0:
        return logging.ERROR, f"{name} exited with code {code}.{_next(gone)}"
    return None if gone.expected else (logging.WARNING, f"{name} has left by itself.{_next(gone)}")


def ending(status: int) -> str:
    """The same in a few words, to stand in a sentence."""
    code = os.waitstatus_to_exitcode(status)
    return f"was sent {_signal_name(-code)}" if code < 0 else f"exited with code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _killed(gone: Exit, name: str, number: int) -> tuple[int, str]:
    text = f"{name} was sent {_signal_name(number)}!"
    if gone.killed and number == signal.SIGKILL:
        return logging.WARNING, f"{text} It did not end in time."
    if number == signal.SIGKILL:
        return logging.ERROR, f"{text} Perhaps out of memory?{_next(gone)}"
    if gone.expected and number == signal.SIGTERM:
        return logging.INFO, text
    return logging.WARNING, text + _next(gone)


def _next(gone: Exit) -> str:
    """What follows a death in a row of them."""
    return f" It ends again and again; next attempt in {gone.retry_in_s:.0f} s." if gone.retry_in_s else ""
