"""A Redis server of its own, of Debian's package; several that belong together are in `redis_groups`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import redis

from resonate.scaling import Redis, Scaling
from tests.support.eventually import eventually
from tests.support.ports import free_port


def at(*, prefix: str = "reverb", patience: float = 2.0, log_length: int = 10_000, **told: Any) -> Scaling:
    """Settings of hosts that meet in the Redis of which that is told."""
    return Scaling(prefix=prefix, patience=patience, lease=3600, log_length=log_length, redis=Redis(**told))


#: How long it may take to answer, in seconds.
PATIENCE_S: Final = 60.0


class RedisServer:
    """A context manager that leaves no process behind; `start` again after `stop` has lost all keys, unless it `keeps`.

    `prefix` are words before the command, such as `Node.prefix`, `options` words after it; `file` is a configuration in
    the directory.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        address: str = "127.0.0.1",
        port: int = 0,
        prefix: Sequence[str] = (),
        keeps: bool = False,
        file: str = "",
    ) -> None:
        self.directory = directory
        self.address, self.port = address, port or free_port()
        command = ["redis-server", file] if file else ["redis-server"]
        words = [*command, "--bind", address, "--port", str(self.port), "--protected-mode", "no", "--save", ""]
        words += ["--repl-diskless-sync-delay", "0"]
        self._words = [*prefix, *words, *(("--appendonly", "yes") if keeps else ()), *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(self._words, cwd=self.directory, stdout=log, stderr=log)
        try:
            eventually(self._answers, PATIENCE_S)
        except AssertionError:
            self.stop()
            raise
        return self

    def _answers(self) -> bool:
        try:
            socket.create_connection((self.address, self.port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True

    def stop(self) -> None:
        """At once, as by kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wipe(self) -> None:
        """Forget on disk, too, what there was; while it is stopped."""
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)

    def freeze(self) -> None:
        """It keeps its connections, and says nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def cpu_s(self) -> float:
        """The processor time that it has used, in seconds."""
        with self.client() as client:
            info = client.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def client(self, database: int = 0, **options: object) -> redis.Redis:
        """A client of redis-py; the caller closes it."""
        return redis.Redis(self.address, self.port, database, socket_timeout=PATIENCE_S, **options)  # type: ignore[arg-type]

    def do(self, *words: object) -> object:
        """One command, without a password."""
        with self.client() as client:
            return client.execute_command(*words)

    def set(self, name: str, value: str | bytes, database: int = 1) -> None:
        """As an application would."""
        with self.client(database) as client:
            client.set(name, value)

    def get(self, name: str, database: int = 1) -> bytes | None:
        with self.client(database) as client:
            found: bytes | None = client.get(name)
            return found

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
