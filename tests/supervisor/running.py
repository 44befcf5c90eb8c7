"""The master as a process, with the smallest of workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resonate.supervisor.control import ask

from resonate.bus.directory import RunDirectory
from tests.support.eventually import eventually

ROOT = Path(__file__).parents[2]


class Running:
    """A master below `directory`, with these keys of `servers.reverb`."""

    def __init__(
        self,
        directory: Path,
        *,
        words: Sequence[str] = (),
        env: dict[str, str] | None = None,
        descriptors: Sequence[int] = (),
        **server: Any,
    ) -> None:
        self.directory = directory
        self.values = {"host": "127.0.0.1", "port": 0, "metrics_port": 0, "run_dir": str(directory), **server}
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*words, sys.executable, "-m", "tests.supervisor.tiny", json.dumps(self.values)],
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=descriptors,
            )

    def ready(self) -> Running:
        self.logged("Stop with Ctrl-C")
        return self

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def logged(self, words: str) -> None:
        eventually(lambda: words in self.log() or self._ended())

    def _ended(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"ended with {self.process.returncode}:\n{self.log()}")
        return False

    def status(self) -> dict[str, Any]:
        (directory,) = RunDirectory.masters(str(self.directory))
        return ask(directory.control, "status", 20)

    def pids(self, role: str) -> list[int]:
        """Of those that are ready, by slot."""
        return [
            entry["pid"] for entry in self.status()["processes"] if (entry["role"], entry["state"]) == (role, "ready")
        ]

    def so_many(self, workers: int) -> list[int]:
        """Once there are so many workers and no others."""

        def found() -> list[int]:
            states = [entry["state"] for entry in self.status()["processes"] if entry["role"] == "worker"]
            return self.pids("worker") if states == ["ready"] * workers else []

        return eventually(found)

    def address(self) -> tuple[str, int]:
        host, _, port = self.status()["listening"][0].rpartition(":")
        return host, int(port)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address(), timeout=20)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM, within: float = 30) -> int:
        self.send(number)
        return self.process.wait(within)

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def worker_of(sock: socket.socket) -> tuple[int, int]:
    """The slot and pid of the worker that answers."""
    with sock:
        slot, pid = sock.recv(100).split()
    return int(slot), int(pid)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


Start = Callable[..., Running]
