"""Starts the real server as a process of its own, on a free port and in a private directory."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.support.eventually import eventually

ONE_APP: dict[str, object] = {"app_id": "app1", "key": "key1", "secret": "secret1"}
BIN = Path(sys.executable).parent
#: How variables begin that would configure a server.
OURS = ("REVERB_", "RESONATE_", "REDIS_", "CACHE_", "APP_NAME")


#: Ports that the kernel gives to nobody by itself: another test's client would take one before a server has it.
PORTS: Final = range(10_000, 32_000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def toml(value: object) -> str:
    """A TOML inline value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return repr(value) if isinstance(value, int | float) else '"' + str(value).replace("\\", "\\\\") + '"'


def configuration(apps: Sequence[Mapping[str, object]], server: Mapping[str, object]) -> str:
    """The text of a resonate.toml with these apps and these keys below `servers.reverb`."""
    lines = ["[servers.reverb]", *(f"{key} = {toml(value)}" for key, value in server.items())]
    lines += ["[apps]", 'provider = "config"', f"apps = {toml(list(apps))}"]
    return "\n".join(lines) + "\n"


#: With how many workers and shards `resonate start` runs, where a test does not say: the suites hold for any number.
WORKERS = os.environ.get("TEST_WORKERS", "1")
SHARDS = os.environ.get("TEST_SHARDS", "1")


def _environment() -> dict[str, str]:
    """This process's, without what would configure the server."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    root = str(Path(__file__).parents[2])
    numbers = {"RESONATE_WORKERS": WORKERS, "RESONATE_BUS_SHARDS": SHARDS}
    return {"PYTHONPATH": root, **clean, **numbers, "PYTHONUNBUFFERED": "1"}


class Server:
    """A running server; a context manager that leaves no process behind.

    `command` None means `resonate start`; otherwise the words after the interpreter's directory, such as
    ``["gunicorn", "-k", "resonate.worker", "--bind", "127.0.0.1:{port}", "resonate:app"]``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        apps: Sequence[Mapping[str, object]] = (ONE_APP,),
        server: Mapping[str, object] | None = None,
        command: Sequence[str] | None = None,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        up: str = "/up",
        scheme: str = "http",
    ) -> None:
        self.port = free_port()
        self.host = "127.0.0.1"
        self.directory = directory
        self.scheme = scheme
        self.up = up
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "resonate.toml").write_text(configuration(apps, {"metrics_port": 0, **(server or {})}))
        words = command or ["resonate", "start", "--host", "127.0.0.1", "--port", "{port}"]
        words = [word.replace("{port}", str(self.port)) for word in [*words, *arguments]]
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(BIN / words[0]), *words[1:]],
                cwd=directory,
                env={**_environment(), **(env or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def __enter__(self) -> Server:
        try:
            eventually(self._ready, within=30)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()}")
        try:
            with socket.create_connection((self.host, self.port), timeout=5) as probe:
                if self.scheme == "https":
                    return True
                probe.sendall(f"GET {self.up} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
                return b" 200 " in probe.recv(4096)
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    def log(self) -> str:
        """Everything that the process has written so far."""
        return (self.directory / "log").read_text(errors="replace")

    def workers(self) -> list[int]:
        """Process ids of the children of the master."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in found]

    def stop(self, sig: int = signal.SIGTERM, within: float = 40) -> int:
        """Signal the master, wait until it has gone, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(within)
        finally:
            self.kill()

    def kill(self) -> None:
        """End whatever is left of the process group."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
