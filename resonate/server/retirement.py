"""How a worker goes that has been told to: it hands its connections over if there is an heir, and waits for one that is
about to come.

Who that may be depends on the master. Ours names the heir. gunicorn's own starts new workers and tells the old ones to
go without waiting: so these look for themselves whether there are younger ones.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum, auto
from logging import Logger
from math import inf
from pathlib import Path
from typing import Final, Protocol

import gevent

from resonate.bus.directory import identity, pid_of
from resonate.server.draining import Draining, lasting, stranded
from resonate.server.line import Sender
from resonate.server.scoreboard import Scoreboard
from resonate.server.service import Service

#: Seconds between two looks for an heir.
LOOK_S: Final = 0.1
#: How long nobody may be there, in seconds, before a worker that has seen younger ones boot believes that none will
#: come. gunicorn's master starts another within a second, and one that cannot boot takes its time.
LONELY_S: Final = 5.0
#: How long heirs may be full, in seconds, before connections are sent away that could go on there.
FULL_S: Final = 1.0
#: How long to wait until everybody has heard of the last things, in seconds.
SETTLE_S: Final = 5.0


class Heirs(Protocol):
    """Who may take connections over.

    `lonely_s` is how long nobody may be there before somebody who has been waited for is given up, in seconds, and this
    worker serves on; infinite where it is to go in any case.
    """

    @property
    def lonely_s(self) -> float: ...

    def candidates(self) -> list[str]:
        """Those who are there or about to come, by name."""

    def stopping(self) -> bool:
        """Whether nobody will come, as when the whole server stops."""


class NoHeirs:
    """Nobody."""

    lonely_s = 0.0

    def candidates(self) -> list[str]:
        """Nobody."""
        return []

    def stopping(self) -> bool:
        """There never is anybody."""
        return True


class NamedHeir:
    """The one that the master has written on the scoreboard. It names another when that one has died, as soon as there
    is one.
    """

    lonely_s = inf

    def __init__(self, scoreboard: Scoreboard, row: int, master: int) -> None:
        self._scoreboard = scoreboard
        self._row = row
        self._master = master

    def candidates(self) -> list[str]:
        """That one, if it lives."""
        pid = self._scoreboard.row(self._row).heir
        return _named([pid]) if pid else []

    def stopping(self) -> bool:
        """Then the master names nobody any more. Where it has died, whom it has named is the last one."""
        if not self._scoreboard.row(self._row).heir:
            return True
        return os.getppid() != self._master and not self.candidates()


class YoungerSiblings:
    """The `most` workers that the same master has started last; also those that are still booting.

    There may be more that are younger: those are about to be told to go as well. `stopping` says whether the master has
    been told to stop.
    """

    lonely_s = LONELY_S

    def __init__(self, master: int, most: int, stopping: Callable[[], bool]) -> None:
        self._master = master
        self._most = most
        self._stopping = stopping
        self._own = _age(identity(os.getpid()))

    def candidates(self) -> list[str]:
        """Those of them that are younger than this one, the oldest first."""
        try:
            text = Path(f"/proc/{self._master}/task/{self._master}/children").read_text()
        except OSError:
            return []
        younger = [name for name in _named(map(int, text.split())) if _age(name) > self._own]
        return sorted(younger, key=_age)[-self._most :]

    def stopping(self) -> bool:
        """Also when the master has died: it starts nobody any more."""
        return self._stopping() or os.getppid() != self._master


def _named(pids: Iterable[int]) -> list[str]:
    names = []
    for pid in pids:
        with suppress(OSError):
            names.append(f"w-{identity(pid)}")
    return names


def _age(name: str) -> tuple[int, int]:
    """Start time, and pid where that is the same."""
    pid, start = name.split("-")[-2:]
    return int(start), int(pid)


class _Outcome(Enum):
    DONE = auto()
    AGAIN = auto()
    ALONE = auto()


class Retirement:
    """`alive` is called now and then: the master is to see that this worker lives."""

    def __init__(self, service: Service, heirs: Heirs, alive: Callable[[], None], log: Logger) -> None:
        self._service = service
        self._heirs = heirs
        self._alive = alive
        self._log = log
        self._turn = 0
        self._draining: Draining | None = None  # since nobody is accepted here any more
        self._full_since = inf
        self._waited = heirs.lonely_s == inf  # an heir is to come: it has been named, or seen when it was not ready
        self._leaving: set[str] = set()  # who has been told to go too is no heir, also where it stays

    def run(self, timeout_s: float) -> bool:
        """Returns when all that could be handed over has been, or there is nobody to take it.

        False where those who were to come have not, so that this worker should serve on.

        `timeout_s` is how long that which cannot go may take to come to its end, from when an heir has been found.
        WebSockets among it are sent away in that time.
        """
        try:
            return self._run(timeout_s)
        finally:
            if self._draining is not None:
                self._draining.end()

    def _run(self, timeout_s: float) -> bool:
        lonely_since = time.monotonic()
        while True:
            self._breathe()
            if self._heirs.stopping():
                return True
            outcome = self._attempt(timeout_s)
            if outcome is _Outcome.DONE:
                self._settle()
                if not self._service.busy:
                    return True
            elif outcome is _Outcome.AGAIN:
                lonely_since = time.monotonic()
            elif not self._waited:
                return True
            elif (lonely_s := time.monotonic() - lonely_since) > self._heirs.lonely_s:
                return self._draining is not None
            elif self._heirs.lonely_s == inf and lonely_s > timeout_s:  # before the master loses its patience
                return True
            if self._draining is not None and self._draining.over:
                return True
            gevent.sleep(LOOK_S)

    def _breathe(self) -> None:
        """What has to be done all the time."""
        self._alive()
        if self._draining is not None:
            full = time.monotonic() - self._full_since > FULL_S
            self._draining.step(lasting if full else stranded)

    def _attempt(self, timeout_s: float) -> _Outcome:
        candidates = [heir for heir in self._heirs.candidates() if heir not in self._leaving]
        self._turn += 1  # several that go at a time should not all choose the same one
        start = (self._turn + os.getpid()) % max(1, len(candidates))
        for heir in candidates[start:] + candidates[:start]:
            sender = self._service.sender(heir, "retirement")
            said = sender.connect()
            if said in ("ready", "full"):
                self._begin(timeout_s)
            if said == "ready":
                try:
                    return self._hand_over(sender, heir)
                finally:
                    sender.close()
            if said == "full":
                self._full_since = min(self._full_since, time.monotonic())
            if said == "leaving":
                self._leaving.add(heir)
            self._waited = self._waited or said in ("", "wait", "full")
        return _Outcome.ALONE if self._leaving.issuperset(candidates) else _Outcome.AGAIN

    def _begin(self, timeout_s: float) -> None:
        """An heir has been found: nobody is accepted here any more."""
        if self._draining is None:
            self._service.finish_accepting()
            self._draining = Draining(self._service.context, timeout_s)

    def _hand_over(self, sender: Sender, heir: str) -> _Outcome:
        before, began = len(self._service.context.reactor.transports), time.monotonic()
        done = sender.hand_over(self._goes_on)
        took_s = time.monotonic() - began
        if done or sender.moved:
            pid = pid_of(heir)
            self._log.info("handed %d of %d connections over to pid %d in %.2f s", sender.moved, before, pid, took_s)
        self._full_since = min(self._full_since, began) if sender.full and not sender.moved else inf
        self._waited = True
        return _Outcome.DONE if done else _Outcome.AGAIN

    def _goes_on(self) -> bool:
        self._breathe()
        if self._heirs.stopping():  # they go themselves
            return False
        return self._draining is not None and not self._draining.over

    def _settle(self) -> None:
        """A shard that died now would have to be told of it again."""
        until = time.monotonic() + SETTLE_S
        while not self._service.settled and time.monotonic() < until:
            self._alive()
            self._service.hasten()
            gevent.sleep(LOOK_S)
