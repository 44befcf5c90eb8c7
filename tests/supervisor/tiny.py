"""A master with the smallest of workers: it answers each connection with its slot and pid, and closes it.

`python -m tests.supervisor.tiny JSON`: keys of `servers.reverb`, and `mode`, which says how the workers misbehave. A
reload reads the same from the file `reload.json`, if there is one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from gunicorn.workers.base import Worker
from resonate.supervisor.application import Application
from resonate.supervisor.cli import fail
from resonate.supervisor.program import serve

from resonate.errors import ConfigurationError
from resonate.scaling import Scaling
from resonate.settings import App, Server, Settings


class Tiny(Worker):  # type: ignore[misc]
    """Serves until it is told to stop."""

    def run(self) -> None:
        mode = self.app.mode
        if mode == "crash":
            sys.exit(1)
        if mode == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while mode == "hanging" and self.alive:
            self.notify()
            time.sleep(0.05)
        waiting = [listening.sock for listening in self.sockets]
        self.scoreboard.report(self.row, ready=True, generation=self.generation)
        served = serving = 0
        while self.alive and os.getppid() == self.ppid:
            self.notify()
            served += self.accept(select.select(waiting, [], [], 0.05)[0])
            self.scoreboard.report(self.row, connections=served)
            if serving != self.scoreboard.serving:
                serving = self.scoreboard.serving
                self.log.info("generation %d sees that generation %d serves", self.generation, serving)
            if mode != "unmoved":
                self.scoreboard.reach(self.row, self.scoreboard.resharding[0])
        self.accept(waiting)
        if self.scoreboard.drained:
            print(f"worker {self.pid} drains", flush=True)
        while mode == "lingering" and not Path("go").exists() and os.getppid() == self.ppid:
            self.notify()
            self.scoreboard.report(self.row, connections=7)
            time.sleep(0.05)

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


class TinyApplication(Application):
    """Its workers are those; `mode` is what was read last."""

    def __init__(self, settings: Settings, debug: bool) -> None:
        self.mode = Source.mode if Source.mode is not None else Source.read().get("mode", "")
        super().__init__(settings, debug)

    def load_config(self) -> None:
        super().load_config()
        if self.mode == "broken":
            raise ValueError("a defect")
        self.cfg.set("worker_class", "tests.supervisor.tiny.Tiny")
        self.cfg.set("graceful_timeout", 20)


class Source:
    """Where settings are read from."""

    mode: str | None = None

    @classmethod
    def read(cls) -> dict[str, Any]:
        file = Path("reload.json")
        found: dict[str, Any] = json.loads(sys.argv[1]) | (json.loads(file.read_text()) if file.exists() else {})
        return found

    @classmethod
    def load(cls) -> Settings:
        values = cls.read()
        cls.mode = values.pop("mode", "")
        values["scaling"] = Scaling(**values.get("scaling", {}))
        return Settings(server=Server(**values), apps=(App(app_id="1", key="k", secret="s"),))


def main() -> None:
    try:
        serve(Source.load, lambda settings: TinyApplication(settings, False))
    except ConfigurationError as error:
        fail(error)


if __name__ == "__main__":
    sys.modules["tests.supervisor.tiny"] = sys.modules["__main__"]  # the class that has its mode
    main()
