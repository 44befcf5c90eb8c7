"""gunicorn's own master, as far as something of ours runs in it: it says when it stops, and tries again.

gunicorn tells its workers to go without a word why, and counts those that go as long as they live. So during a reload
nobody but us would see that a new worker is missing.
"""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Callable, Iterable
from functools import partial
from types import FrameType
from typing import Any, Final

from resonate.server.service import Shared

#: All three close the clients properly.
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
#: The pause before another try, in seconds: none before the first, then twice as long each time.
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0

Handler = Callable[[int, FrameType | None], Any] | int | None


class Flag:
    """Raised by one process and seen by another: one of them has been forked by the other since it was made."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, 1)

    def hoist(self) -> None:
        """For good."""
        self._page[0] = 1

    def __bool__(self) -> bool:
        return bool(self._page[0])


def pause_s(failures: int, workers: int) -> float:
    """How long to pause before another one of `workers` boots, after so many in a row that could not."""
    rounds = min(failures // max(1, workers), 10)  # they fail together
    return min(FIRST_PAUSE_S * 2 ** (rounds - 1), LONGEST_PAUSE_S) if rounds else 0.0


class StockMaster:
    """Made in the master before it forks; its workers have copies.

    `shared` is what else the master has made; it is told to stop by `signals`, whose handlers it takes over.
    """

    def __init__(self, shared: Shared, signals: Iterable[signal.Signals] = STOP_SIGNALS) -> None:
        self.shared = shared
        self._pid = os.getpid()
        self.failures = 0  # workers in a row that have ended before they had booted
        self._stopping = Flag()
        self._cfg: Any = None
        self._first = 1  # the age of the oldest worker of those who are to stay
        for number in signals:
            signal.signal(number, partial(self.stop, signal.getsignal(number)))

    def stop(self, theirs: Handler, number: int, frame: FrameType | None) -> None:
        """The handler of such a signal; what was there before is called, too."""
        if os.getpid() != self._pid:  # just forked, and without signal handlers of its own: it has nothing to end
            os._exit(0)
        self._stopping.hoist()
        if callable(theirs):
            theirs(number, frame)

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop. It may be long before it does anything about that: a reload blocks it."""
        return bool(self._stopping)

    def spawns(self, worker: Any) -> None:
        """A worker is about to be forked."""
        if worker.cfg is not self._cfg:  # it has been read anew: a reload begins with this worker
            self._cfg, self._first, self.failures = worker.cfg, worker.age, 0
            self._hook(worker.cfg)

    def _hook(self, cfg: Any) -> None:
        """gunicorn's hooks, beside what the user wants done then."""
        on_exit, child_exit = cfg.on_exit, cfg.child_exit

        def ended(server: Any) -> None:
            self.shared.directory.remove()
            on_exit(server)

        def worker_ended(server: Any, worker: Any) -> None:
            child_exit(server, worker)
            self._replace(server, worker)

        cfg.set("on_exit", ended)  # these are gone with the next reload, which makes a new configuration
        cfg.set("child_exit", worker_ended)

    def _replace(self, server: Any, worker: Any) -> None:
        """Start another one where gunicorn would not, because it counts those that have been told to go."""
        self.failures = 0 if worker.served else self.failures + 1
        if self.stopping or len(server.WORKERS) < server.num_workers:
            return
        present = sum(each.age >= self._first for each in server.WORKERS.values())
        for _ in range(server.num_workers - present):
            try:
                server.spawn_worker()
            except OSError as error:
                server.log.error("no worker can be started: %s. The old ones serve on; reload again", error)
                return
