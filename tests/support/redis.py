"""A Redis server of its own, of Debian's package."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from types import TracebackType

import redis

from tests.support.eventually import eventually
from tests.support.server import free_port


class RedisServer:
    """A context manager that leaves no process behind; `start` again after `stop` has lost all keys."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        words = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        with (self.directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(words, cwd=self.directory, stdout=log, stderr=log)
        eventually(self._answers)
        return self

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def set(self, name: str, value: str | bytes, database: int = 1) -> None:
        """As an application would."""
        with redis.Redis(port=self.port, db=database) as client:
            client.set(name, value)

    def get(self, name: str, database: int = 1) -> bytes | None:
        with redis.Redis(port=self.port, db=database) as client:
            found: bytes | None = client.get(name)
            return found

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
