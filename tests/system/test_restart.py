"""A restart of the real server: clients come back to new processes of the same master; and the key in Redis."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from resonate.bus.directory import RunDirectory
from tests.support.client import TEXT, Client
from tests.support.eventually import eventually
from tests.support.redis import RedisServer
from tests.support.server import BIN, ONE_APP, Server, configuration

ROOT = Path(__file__).parents[2]
KEY = "my-shop-database-my-shop-cache-laravel:reverb:restart"


@pytest.fixture
def directory() -> Iterator[Path]:
    """Sockets lie in it, and their paths may not be long."""
    with tempfile.TemporaryDirectory(prefix="r") as name:
        yield Path(name)


@contextmanager
def restart(server: Server, env: Mapping[str, str]) -> Iterator[list[str]]:
    """Run the command meanwhile; afterwards the list has what it has printed and what it has complained of."""
    said: list[str] = []
    with subprocess.Popen(
        [str(BIN / "resonate"), "restart", "--run-dir", str(server.directory)],
        cwd=server.directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        yield said
        said += command.communicate(timeout=90)


def new_workers(server: Server, old: list[int]) -> bool:
    (master,) = RunDirectory.masters(str(server.directory))
    names = master.workers()
    return bool(names) and not {int(name.split("-")[1]) for name in names} & set(old)


def connected(server: Server) -> Client:
    return Client(server.host, server.port).established()


def returned(server: Server) -> Client:
    """As pusher-js: at once, and again if that meets a worker that is about to go as well."""

    def attempt() -> Client | None:
        client = Client(server.host, server.port)
        first = client.frame()
        if first.opcode == TEXT:
            return client
        assert first.code == 4200
        client.close()
        return None

    return eventually(attempt)


def test_by_the_key_and_by_the_command_once_each(directory: Path) -> None:
    redis = RedisServer(directory)
    env = {"CACHE_STORE": "redis", "APP_NAME": "My Shop", "REDIS_PORT": str(redis.port), "RESONATE_WORKERS": "2"}
    with Server(directory, server={"run_dir": str(directory)}, env=env) as server:
        eventually(lambda: "the restart key cannot be watched" in server.log())
        with redis:
            redis.set(KEY, "1764000000")  # it is old when it is first seen
            eventually(lambda: "the restart key can be watched again" in server.log())
            before = server.workers()
            with connected(server) as client:
                redis.set(KEY, "i:1764000060;")
                assert client.closed() == 4200
            with returned(server) as client:
                client.subscribed("news")
                assert new_workers(server, before)
                eventually(lambda: server.log().count("watching the restart key") == 2)
                with restart(server, env) as said:
                    assert client.closed() == 4200
                    client.close()
                assert said[0].startswith("restarted in "), said
            assert int(redis.get(KEY) or 0) > 1764000060  # for the servers of other hosts

            (directory / "resonate.toml").write_text(configuration([ONE_APP], {"drain_timeout": -1}))
            before = server.workers()
            with connected(server) as client:
                eventually(lambda: server.log().count("watching the restart key") == 3)
                redis.set(KEY, "1764000120")
                eventually(lambda: "the restart is refused, nothing changes" in server.log())
                assert client.barrier() == []
            assert server.workers() == before
            assert server.log().count("Restarting: Master") == 2
            assert server.log().count("by the restart key") == 2
        assert server.stop() == 0
    assert "Traceback" not in server.log()


def test_under_gunicorn_both_are_a_reload(directory: Path) -> None:
    with RedisServer(directory) as redis:
        env = {"CACHE_STORE": "redis", "APP_NAME": "My Shop", "REDIS_PORT": str(redis.port)}
        command = ["gunicorn", "-k", "resonate.worker", "-w", "1", "--bind", "127.0.0.1:{port}", "resonate:app"]
        with Server(directory, server={"run_dir": str(directory)}, command=command, env=env) as server:
            with connected(server) as client:
                eventually(lambda: "watching the restart key" in server.log())
                before = server.workers()
                redis.set(KEY, "1764000060")
                eventually(lambda: new_workers(server, before))
                assert client.barrier() == []
                with restart(server, env) as said:
                    pass
                assert f"gunicorn's master (pid {server.process.pid}) was told to reload" in said[0], said
                eventually(lambda: server.log().count("Handling signal: hup") == 2)
            assert server.log().count("by the restart key") == 1
