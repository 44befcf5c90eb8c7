"""Starting workers, and what is said of a process that has gone.

The first generation is forked: it is of the code that the master has loaded. Heirs are executed, by the code that is on
the disk by then.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from gunicorn import util
from resonate.supervisor import errands, signals
from resonate.supervisor.actions import Spawn
from resonate.supervisor.application import Application
from resonate.supervisor.listeners import Listeners, Listening, socket_of
from resonate.supervisor.process import Exit, Role

from resonate.bus.directory import RunDirectory
from resonate.scaling import Scaling
from resonate.server.scoreboard import Row, Scoreboard
from resonate.server.service import Shared
from resonate.settings import Settings

NAME: Final = "work"
#: A worker that could not boot. gunicorn's arbiter knows the number.
BOOT_ERROR: Final = 3


@dataclass(frozen=True, kw_only=True)
class Post:
    """Where a worker stands: `row` is that of the scoreboard, `age` counts those before it, `master` is a pid.

    `sharded`: the shards are processes, although this worker may be the only one.
    """

    slot: int
    generation: int
    row: int
    age: int
    sharded: bool
    master: int


class Workers:
    """The workers of this process. `close_others` closes, in a fork, what only the master should hold.

    `apps` are what the workers of each generation serve, and on which sockets; `first` is this master's first one.
    """

    def __init__(
        self,
        apps: dict[int, Application],
        first: int,
        log: Any,
        scoreboard: Scoreboard,
        close_others: Callable[[], None],
    ) -> None:
        self.apps = apps
        self._first = first
        self._log = log
        self._scoreboard = scoreboard
        self._close_others = close_others
        self._rows: dict[int, int] = {}  # by pid
        self._age = 0

    def start(self, spawn: Spawn, sharded: bool) -> int:
        """Returns the new worker's pid; in a fork, does not return. Raises OSError."""
        slot, generation = spawn.place.slot, spawn.place.generation
        row = self._free_row()
        self._age += 1
        post = Post(
            slot=slot, generation=generation, row=row, age=self._age, sharded=sharded, master=os.getpid()
        )
        app = self.apps[generation]
        sockets = app.listeners.sockets(slot)
        with signals.held():
            pid = self._forked(app, post, sockets) if generation == self._first else self._executed(app, post, sockets)
        self._rows[pid] = row
        return pid

    @property
    def listeners(self) -> list[Listeners]:
        """The sockets of all generations; they are the same ones, unless a reload changes the address."""
        return list({id(app.listeners): app.listeners for app in self.apps.values()}.values())

    def drop(self, generations: Iterable[int]) -> None:
        """No more of these will be started. Sockets that only they had are closed: those that live have copies."""
        gone = [self.apps.pop(generation) for generation in generations]
        kept = {id(each) for app in self.apps.values() for each in (app.listeners, app.shared.metrics)}
        for app in gone:
            for each in (app.listeners, app.shared.metrics):
                if each is not None and id(each) not in kept:
                    each.close()

    def heartbeats(self) -> Iterator[tuple[int, float]]:
        """(pid, when it was heard last, by the monotonic clock) of those that have been heard at all."""
        for pid, row in self._rows.items():
            heard_at = self._scoreboard.heard_at(row)
            if heard_at is not None:
                yield pid, heard_at

    def reported(self, pid: int) -> Row:
        """What that worker has said last."""
        return self._scoreboard.row(self._rows[pid])

    def name_heir(self, pid: int, heir: int) -> None:
        """Let that worker read who takes its connections; 0 for nobody."""
        self._scoreboard.name_heir(self._rows[pid], heir)

    def forget(self, pid: int) -> None:
        """It has been reaped."""
        self._scoreboard.clear(self._rows.pop(pid))

    def _free_row(self) -> int:
        taken = set(self._rows.values())
        for row in range(self._scoreboard.rows):
            if row not in taken:
                return row
        raise OSError(errno.EAGAIN, "there are too many workers that have not gone yet")

    def _forked(self, app: Application, post: Post, sockets: list[Listening]) -> int:
        pid = os.fork()
        if pid == 0:
            self._keep_only(app, post.slot)
            self._close_others()
            _live(app, post, sockets, self._scoreboard, self._log)
        return pid

    def _keep_only(self, app: Application, slot: int) -> None:
        """In a child: what a copy of is left there listens for as long as that lives."""
        for listeners in self.listeners:
            if listeners is app.listeners:
                listeners.keep_only(slot)
            else:
                listeners.close_copies()
        for metrics in [other.shared.metrics for other in self.apps.values()]:
            if metrics is not None and metrics is not app.shared.metrics:
                metrics.close()

    def _executed(self, app: Application, post: Post, sockets: list[Listening]) -> int:
        shared = app.shared
        descriptors = [listening.fileno() for listening in sockets]
        metrics = None if shared.metrics is None else shared.metrics.fileno()
        letter = {
            "errand": NAME,
            "post": dataclasses.asdict(post),
            "settings": app.settings.plain(),
            "sockets": descriptors,
            "scoreboard": {"rows": self._scoreboard.rows, "descriptor": self._scoreboard.descriptor},
            "directory": str(shared.directory.path),
            "metrics": metrics,
            "shards": shared.shards,
            "scaling": shared.scaling.plain(),
        }
        others = [self._scoreboard.descriptor] if metrics is None else [self._scoreboard.descriptor, metrics]
        return errands.send(letter, descriptors + others)


def work(letter: Mapping[str, Any], application: Callable[[Settings], Application]) -> NoReturn:
    """The life of a worker that has been executed."""
    app = application(Settings.restored(letter["settings"]))
    metrics = None if letter["metrics"] is None else socket_of(letter["metrics"])
    scaling = Scaling.restored(letter["scaling"])
    app.shared = Shared(RunDirectory(Path(letter["directory"])), metrics, letter["shards"], scaling)
    log = app.cfg.logger_class(app.cfg)
    if app.debug:
        log.error_log.setLevel(logging.DEBUG)
    sockets = [Listening(socket_of(descriptor)) for descriptor in letter["sockets"]]
    scoreboard = Scoreboard(**letter["scoreboard"])
    os.set_inheritable(scoreboard.descriptor, False)
    _live(app, Post(**letter["post"]), sockets, scoreboard, log)


class _Heartbeat:
    """What gunicorn has a file in `worker_tmp_dir` for."""

    def __init__(self, scoreboard: Scoreboard, row: int) -> None:
        self._scoreboard = scoreboard
        self._row = row

    def notify(self) -> None:
        self._scoreboard.live(self._row)

    def fileno(self) -> int:
        return self._scoreboard.descriptor

    def close(self) -> None:
        pass


def _live(app: Application, post: Post, sockets: list[Listening], scoreboard: Scoreboard, log: Any) -> NoReturn:
    """The life of a worker, as in gunicorn's spawn_worker; ends in SystemExit.

    The signals that stop it are held back until its own handlers are there (the hook post_worker_init), since the
    handlers that it is born with are the master's, or none.
    """
    cfg = app.cfg
    worker: Any = None
    try:
        worker = cfg.worker_class(post.age, post.master, sockets, app, cfg.timeout / 2.0, cfg, log)
        worker.tmp.close()
        worker.tmp = _Heartbeat(scoreboard, post.row)
        worker.pid = os.getpid()
        worker.slot, worker.generation, worker.sharded = post.slot, post.generation, post.sharded
        worker.scoreboard, worker.row = scoreboard, post.row
        util._setproctitle(f"worker [{cfg.proc_name}]")
        log.info("Booting worker with pid: %s", worker.pid)
        worker.init_process()
        sys.exit(0)
    except SystemExit:
        raise
    except BaseException as error:
        log.exception("Exception in worker process")
        print(error, file=sys.stderr, flush=True)
        sys.exit(1 if worker is not None and worker.booted else BOOT_ERROR)
    finally:
        log.info("Worker exiting (pid: %s)", os.getpid())


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
    if gone.expected and gone.process.role is Role.SHARD:
        return logging.INFO, f"{name} was ended: others follow, or none is needed."
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
