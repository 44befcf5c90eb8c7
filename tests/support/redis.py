"""A Redis server of its own, of Debian's package."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final

import redis

from tests.support.eventually import eventually
from tests.support.ports import free_port

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


class Sentinel:
    """A master, its replica, and a Sentinel that makes the latter the former's successor."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        self._directory = directory
        self.port = free_port()

    def __enter__(self) -> Sentinel:
        for name in ("master", "replica"):
            (self._directory / name).mkdir()
        self.master = self._stack.enter_context(RedisServer(self._directory / "master"))
        follows = ("--replicaof", "127.0.0.1", str(self.master.port))
        self.replica = self._stack.enter_context(RedisServer(self._directory / "replica", *follows))
        with self.replica.client() as client:
            eventually(lambda: client.info("replication")["master_link_status"] == "up")
        configuration = self._directory / "sentinel.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {self.master.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        )
        with (self._directory / "sentinel.log").open("ab") as log:
            process = subprocess.Popen(["redis-server", str(configuration), "--sentinel"], stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        with redis.Redis(port=self.port) as client:
            eventually(lambda: self._knows_replica(client))
        return self

    def _knows_replica(self, client: redis.Redis) -> bool:
        try:
            return bool(client.sentinel_slaves("main"))
        except redis.RedisError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class RedisCluster:
    """Three masters, each with a replica; `servers` are all six."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        self._directory = directory
        self.servers: list[RedisServer] = []

    def __enter__(self) -> RedisCluster:
        for number in range(6):
            directory = self._directory / f"node-{number}"
            directory.mkdir()
            bus = str(free_port())
            words = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", bus)
            self.servers.append(self._stack.enter_context(RedisServer(directory, *words)))
        addresses = [f"127.0.0.1:{server.port}" for server in self.servers]
        made = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(made, check=True, capture_output=True, timeout=60)
        eventually(lambda: all(self.is_whole(server) for server in self.servers))
        return self

    def is_whole(self, server: RedisServer) -> bool:
        """Whether a node finds that all is well, and that each master has a replica."""
        with server.client() as client:
            info = client.execute_command("CLUSTER INFO")
            nodes = client.execute_command("CLUSTER NODES")
        linked = [node for node in nodes.values() if "slave" in node["flags"] and node["connected"]]
        return bool(info["cluster_state"] == "ok" and len(linked) == 3)

    def masters(self) -> list[RedisServer]:
        """Those that are masters now, and can be asked."""
        found = []
        for server in self.servers:
            try:
                with server.client() as client:
                    if client.info("replication")["role"] == "master":
                        found.append(server)
            except redis.RedisError:
                pass
        return found

    def owner(self, key: str) -> RedisServer:
        """The master that has a key, or would have it."""
        for master in self.masters():
            try:
                master.do("EXISTS", key)
            except redis.ResponseError:
                continue
            return master
        raise AssertionError(f"nobody has {key}")

    def move(self, key: str) -> None:
        """Give the slot of a key, in which there are none, to another master."""
        source = self.owner(key)
        target = next(master for master in self.masters() if master is not source)
        slot = source.do("CLUSTER", "KEYSLOT", key)
        names = {server: server.do("CLUSTER", "MYID") for server in (source, target)}
        target.do("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        for server in (target, source):
            server.do("CLUSTER", "SETSLOT", slot, "NODE", names[target])

    def replica_of(self, master: RedisServer) -> RedisServer:
        """Its replica."""
        for server in self.servers:
            with server.client() as client:
                if client.info("replication").get("master_port") == master.port:
                    return server
        raise AssertionError(f"{master.port} has no replica")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
