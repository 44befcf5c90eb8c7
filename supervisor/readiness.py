"""What the operator is told at the start: where the server listens, that it is ready, or what it still waits for."""

from __future__ import annotations

import os
import time
from typing import Any, Final

from gunicorn import systemd
from resonate.supervisor import address
from resonate.supervisor.process import Place
from resonate.supervisor.roster import Roster

from resonate import __version__
from resonate.settings import Settings

#: When a start takes longer, it is said what is waited for.
PATIENCE_S: Final = 10.0


class Readiness:
    """Says once that all first processes are ready; `names` are where we listen."""

    def __init__(self, settings: Settings, log: Any, names: list[str], now: float) -> None:
        self._settings = settings
        self._log = log
        self.names = names
        self._complain_at = now + PATIENCE_S
        self._said = False

    def greet(self) -> None:
        """At the start."""
        self._log.info("Starting Resonate %s", __version__)
        for notice in self._settings.notices:
            self._log.warning("%s", notice)
        self._log.info("Listening at: %s (%d)", ", ".join(self.names), os.getpid())

    def look(self, roster: Roster, now: float) -> None:
        """Once in a while, until it is ready."""
        if self._said or roster.stopping:
            return
        missing = roster.unready
        if not missing:
            self._ready()
        elif now >= self._complain_at:
            self._complain_at = now + PATIENCE_S
            self._log.warning("waiting for %s to be ready", _listed(missing))

    def reloading(self) -> None:
        """A reload begins. The time is for systemd: what it has heard of us before is from before."""
        self._begins("reloading")

    def restarting(self) -> None:
        """The same; the next program says that it is ready."""
        self._begins("restarting")
        self._said = True

    def _begins(self, status: str) -> None:
        if not self._said:  # it is told that we are ready, first
            return
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        systemd.sd_notify(f"RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS={status}", self._log)

    def reloaded(self, status: str, settings: Settings) -> None:
        """It has come to its end, whatever it was; these settings hold. systemd wants to know no more than that."""
        self._settings = settings
        if self._said:
            systemd.sd_notify(f"READY=1\nSTATUS=ready at {self._url()}; {status}", self._log)

    def followed(self, pid: int) -> None:
        """This master goes, and another one serves. Only of the main process systemd believes it."""
        self._said = True
        systemd.sd_notify(f"MAINPID={pid}", self._log)

    def stopping(self) -> None:
        """At the end."""
        self._said = True
        systemd.sd_notify("STOPPING=1\nSTATUS=closing connections", self._log)

    def _ready(self) -> None:
        self._said = True
        keys = ", ".join(app.key for app in self._settings.apps)
        url = self._url()
        self._log.info("Resonate is ready at %s", url)
        self._log.info("App key: %s. Stop with Ctrl-C or SIGTERM (pid %d).", keys, os.getpid())
        systemd.sd_notify(f"READY=1\nSTATUS=ready at {url}", self._log)

    def _url(self) -> str:
        """As a client would write it: with the name that the operator has given to the server, if any."""
        server = self._settings.server
        name = self.names[0]
        if name.startswith(address.UNIX):
            return name + server.path
        scheme = "https" if server.tls is not None else "http"
        host, _, port = name.rpartition(":")
        if server.hostname:
            host = address.bracketed(server.hostname)
        elif host in ("0.0.0.0", "[::]"):  # noqa: S104 - compared, not bound
            host = "127.0.0.1"
        return f"{scheme}://{host}:{port}{server.path}"


def _listed(places: list[Place]) -> str:
    return ", ".join(f"{place.role.value} {place.slot}" for place in places)
