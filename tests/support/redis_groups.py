"""Redis servers that belong together: a master with replicas and sentinels, and a Redis Cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.redis import PATIENCE_S, RedisServer

#: A server of that name, with those arguments of `RedisServer`; it is started here.
Make = Callable[..., RedisServer]
#: What sentinels call what they watch.
SERVICE: Final = "resonate"
#: So many milliseconds a failover may take before the next begins.
_FAILOVER_MS: Final = 5000


def in_directory(directory: Path) -> Make:
    """Servers below it."""
    return lambda name, *words, **options: RedisServer(directory / name, *words, **options)


class Group:
    """A context manager that leaves no process behind."""

    def __init__(self, make: Make) -> None:
        self.servers: list[RedisServer] = []
        self._make = make

    def __enter__(self) -> Self:
        try:
            self._gather()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def _gather(self) -> None:
        """Start all, and wait until they have found each other."""
        raise NotImplementedError

    def masters(self) -> list[RedisServer]:
        """Those that are masters now and answer."""
        return [server for server in self.servers if _is_master(server)]

    def _start(self, name: str, options: Sequence[str] = ()) -> RedisServer:
        self.servers.append(self._make(name, *options).start())
        return self.servers[-1]


class Sentinels(Group):
    """A master, the first of `servers`, with replicas, and sentinels that watch it as SERVICE.

    They give up one that has been silent for `silent_ms`.
    """

    def __init__(self, make: Make, replicas: int = 2, sentinels: int = 3, silent_ms: int = 1000) -> None:
        super().__init__(make)
        self.sentinels: list[RedisServer] = []
        self._replicas, self._number, self._silent_ms = replicas, sentinels, silent_ms

    def stop(self) -> None:
        super().stop()
        for server in self.sentinels:
            server.stop()

    def _gather(self) -> None:
        master = self._start("master")
        for number in range(self._replicas):
            self._start(f"replica-{number}", ("--replicaof", f"{master.address} {master.port}"))
        for number in range(self._number):
            sentinel = self._make(f"sentinel-{number}", "--sentinel", file="sentinel.conf")
            sentinel.directory.mkdir(parents=True, exist_ok=True)
            lines = [f"monitor {SERVICE} {master.address} {master.port} {self._number // 2 + 1}"]
            lines += [f"down-after-milliseconds {SERVICE} {self._silent_ms}"]
            lines += [f"failover-timeout {SERVICE} {_FAILOVER_MS}"]
            (sentinel.directory / "sentinel.conf").write_text("".join(f"sentinel {line}\n" for line in lines))
            self.sentinels.append(sentinel.start())
        eventually(lambda: all(map(self._complete, self.sentinels)), PATIENCE_S)

    def _complete(self, sentinel: RedisServer) -> bool:
        with sentinel.client() as client:
            state = client.sentinel_master(SERVICE)
        return bool(state["num-slaves"] == self._replicas and state["num-other-sentinels"] == self._number - 1)


class RedisCluster(Group):
    """Masters, and a replica of each, which takes the place of one that has been silent for `silent_ms`."""

    def __init__(self, make: Make, masters: int = 3, silent_ms: int = 2000) -> None:
        super().__init__(make)
        self._masters, self._silent_ms = masters, silent_ms

    def _gather(self) -> None:
        for number in range(2 * self._masters):
            words = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(self._silent_ms)]
            self._start(f"node-{number}", [*words, "--cluster-port", str(free_port())])
        nodes = [f"{each.address}:{each.port}" for each in self.servers]
        words = ["redis-cli", "--cluster", "create", *nodes, "--cluster-replicas", "1", "--cluster-yes"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        eventually(self.is_whole, PATIENCE_S)

    def is_whole(self) -> bool:
        """Whether all nodes find that all is well, and that each master has a replica."""
        return all(map(self._finds_all, self.servers))

    def _finds_all(self, node: RedisServer) -> bool:
        with node.client() as client:
            state, nodes = client.execute_command("CLUSTER INFO"), client.execute_command("CLUSTER NODES")
        replicas = sum("slave" in each["flags"] and each["connected"] for each in nodes.values())
        return bool(state["cluster_state"] == "ok" and replicas == self._masters)

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


def _is_master(server: RedisServer) -> bool:
    once = Retry(NoBackoff(), 0)  # what waits here for one that is dead keeps whoever asks from all else
    try:
        with server.client(retry=once) as client:
            return bool(client.info("replication")["role"] == "master")
    except redis.RedisError:
        return False
