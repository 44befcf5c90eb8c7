"""A master with the smallest of workers: it answers each connection with its slot and pid, and closes it.

`python -m tests.supervisor.tiny JSON`: keys of `servers.reverb`, and `mode`, which says how the workers misbehave.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from typing import Any

from gunicorn.workers.base import Worker
from resonate.supervisor.application import Application
from resonate.supervisor.cli import fail
from resonate.supervisor.master import Master

from resonate.errors import ConfigurationError
from resonate.settings import App, Server, Settings


class Tiny(Worker):  # type: ignore[misc]
    """Serves until it is told to stop."""

    mode = ""

    def run(self) -> None:
        if self.mode == "crash":
            sys.exit(1)
        if self.mode == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        waiting = [listening.sock for listening in self.sockets]
        self.scoreboard.report(self.slot, ready=True, generation=self.generation)
        served = 0
        while self.alive and os.getppid() == self.ppid:
            self.notify()
            served += self.accept(select.select(waiting, [], [], 0.05)[0])
            self.scoreboard.report(self.slot, connections=served)
        self.accept(waiting)

    def accept(self, waiting: list[Any]) -> int:
        served = 0
        for sock in waiting:
            try:
                while True:
                    with sock.accept()[0] as connection:
                        connection.sendall(f"{self.slot} {self.pid}".encode())
                    served += 1
            except BlockingIOError:
                continue
        return served

    def handle_quit(self, sig: int, frame: Any) -> None:
        self.alive = False


def main() -> None:
    values = json.loads(sys.argv[1])
    Tiny.mode = values.pop("mode", "")
    settings = Settings(server=Server(**values), apps=(App(app_id="1", key="k", secret="s"),))
    app = Application(settings, False)
    app.cfg.set("worker_class", "tests.supervisor.tiny.Tiny")
    app.cfg.set("graceful_timeout", 20)
    try:
        Master(app).run()
    except ConfigurationError as error:
        fail(error)


if __name__ == "__main__":
    sys.modules["tests.supervisor.tiny"] = sys.modules["__main__"]  # the class that has its mode
    main()
