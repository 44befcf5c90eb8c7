"""Looks from a worker for `php artisan reverb:restart`, where Laravel's cache is configured to be in Redis."""

from __future__ import annotations

from collections.abc import Callable
from logging import Logger
from typing import TYPE_CHECKING, Final

import gevent

from resonate.bus.directory import RunDirectory
from resonate.errors import ResonateError
from resonate.settings import Server

if TYPE_CHECKING:
    from resonate.bus.restart_watch import RestartWatch

#: Seconds between two looks, and at most after failures.
LOOK_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0


def watch_restarts(
    server: Server, directory: RunDirectory, act: Callable[[], None], serving: Callable[[], bool], log: Logger
) -> None:
    """Begin, if it is configured. `act` has the master restart; a worker that is not `serving` leaves it to others.

    Redis may be away: it is said once, tried again, and nobody else notices.
    """
    if not server.watches_restarts:
        return
    from resonate.bus.restart_key import RestartKey  # who has no Redis does not carry its library
    from resonate.bus.restart_watch import RestartWatch

    key = RestartKey(server)

    def acting() -> None:
        log.warning("asked to restart, by the restart key in Redis")
        act()

    gevent.spawn(_Watching(RestartWatch(directory, key, acting), serving, log).run)


class _Watching:
    def __init__(self, watch: RestartWatch, serving: Callable[[], bool], log: Logger) -> None:
        self._watch = watch
        self._serving = serving
        self._log = log
        self._leads = False
        self._pause_s = LOOK_S  # longer when something is wrong

    def run(self) -> None:
        while True:
            try:
                self._look()
            except (ResonateError, OSError, ValueError) as error:
                self._failed(error)
            except Exception:
                self._log.exception("the restart key is not watched any more")
                return
            gevent.sleep(self._pause_s)

    def _look(self) -> None:
        if not self._serving():
            self._watch.leave()
            self._leads = False
            return
        if not self._watch.lead():
            return
        self._watch.look()
        if not self._leads:
            self._leads = True
            key = self._watch.key
            self._log.info("watching the restart key of Laravel in %s: %s", key.place, ", ".join(key.names))
        if self._pause_s > LOOK_S:
            self._pause_s = LOOK_S
            self._log.info("the restart key can be watched again")

    def _failed(self, error: Exception) -> None:
        if self._pause_s == LOOK_S:
            self._log.warning("the restart key cannot be watched: %s; it is tried again", error)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
