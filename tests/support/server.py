"""Starts the real server as a process of its own, on a free port and in a private directory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tests.support.balancer import Balancer
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.shared_redis import scaling

ONE_APP: dict[str, object] = {"app_id": "app1", "key": "key1", "secret": "secret1"}
BIN = Path(sys.executable).parent
#: How long a server may take until it answers, in seconds.
READY_S: Final = 30
#: How variables begin that would configure a server.
OURS = ("REVERB_", "RESONATE_", "REDIS_", "CACHE_", "APP_NAME")


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
#: Connections by which all workers are most likely met, for each of them.
LOOKS: Final = 6
SHARDS = os.environ.get("TEST_SHARDS", "1")
#: How many of them are one `Server`, behind a balancer: the suites hold for several hosts, too.
HOSTS = int(os.environ.get("TEST_HOSTS", "1"))


def _environment() -> dict[str, str]:
    """This process's, without what would configure the server."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    root = str(Path(__file__).parents[2])
    numbers = {"RESONATE_WORKERS": WORKERS, "RESONATE_BUS_SHARDS": SHARDS}
    return {"PYTHONPATH": root, **clean, **numbers, "PYTHONUNBUFFERED": "1"}


class Server:
    """A running server; a context manager that leaves no process behind.

    `command` None means `resonate start`; otherwise the words after the interpreter's directory, such as
    ``["gunicorn", "-k", "resonate.worker", "--bind", "127.0.0.1:{port}", "resonate:app"]``. `prefix` comes before it,
    as `Node.prefix` does, and `host` and `port` are where it listens.

    With TEST_HOSTS it is several servers that share a Redis, unless `command` says how it is started: `port` is that of
    the balancer before them, `peers` are all but the first, and what is done to it is done to all of them.
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
        host: str = "127.0.0.1",
        port: int = 0,
        prefix: Sequence[str] = (),
    ) -> None:
        self.port = self._own_port = port or free_port()
        self.host = host
        self.directory = directory
        workers = {**_environment(), **(env or {})}["RESONATE_WORKERS"] if command is None else "1"
        self._looks = LOOKS * int(workers) if workers.isdigit() and workers != "1" else 1
        self.scheme = scheme
        self.up = up
        self.peers: list[Server] = []
        self._balancer: Balancer | None = None
        self._env = {**_environment(), **(env or {})}
        several = command is None and HOSTS > 1
        settings = {"metrics_port": 0, **({"scaling": scaling()} if several else {}), **(server or {})}
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "resonate.toml").write_text(configuration(apps, settings))
        words = command or ["resonate", "start", "--host", host, "--port", "{port}"]
        self._words = [word.replace("{port}", str(self.port)) for word in [*words, *arguments]]
        self._words = [*prefix, str(BIN / self._words[0]), *self._words[1:]]
        self.process = self._started()
        if several:
            more: dict[str, Any] = {"apps": apps, "server": settings, "env": env, "up": up, "scheme": scheme}
            paths = [directory / f"host-{number}" for number in range(2, HOSTS + 1)]
            self.peers = [Server(path, command=[*words, *arguments], **more) for path in paths]

    def _started(self) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                self._words,
                cwd=self.directory,
                env=self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def restart(self) -> None:
        """Start it again with the same words and settings, after it has ended."""
        assert self.process.poll() is not None
        self.process = self._started()
        eventually(self._ready, within=READY_S)

    def __enter__(self) -> Server:
        try:
            for each in (self, *self.peers):
                eventually(each._ready, within=READY_S)
            if self.peers:
                self.port = free_port()
                self._balancer = Balancer(self.port, [f"{each.host}:{each._own_port}" for each in (self, *self.peers)])
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
        return all(self._says_so() for _ in range(self._looks))

    def _says_so(self) -> bool:
        """Whether a worker, of those that there are, is ready."""
        try:
            with socket.create_connection((self.host, self._own_port), timeout=5) as probe:
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
        """Everything that it has written so far."""
        return "".join((each.directory / "log").read_text(errors="replace") for each in (self, *self.peers))

    def workers(self) -> list[int]:
        """Process ids of the children of the master."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in found]

    def send_signal(self, sig: int) -> None:
        """Signal the master."""
        for each in (self, *self.peers):
            if each.process.poll() is None:
                each.process.send_signal(sig)

    def stop(self, sig: int = signal.SIGTERM, within: float = 40) -> int:
        """Signal the master, wait until it has gone, and return its exit status."""
        self.send_signal(sig)
        try:
            return max(each.process.wait(within) for each in (self, *self.peers))
        finally:
            self.kill()

    def kill(self) -> None:
        """End whatever is left of the process group."""
        for each in (self, *self.peers):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.process.pid, signal.SIGKILL)
            each.process.wait()
        if self._balancer is not None:
            self._balancer.stop()
