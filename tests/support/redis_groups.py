"""Redis servers that belong together: a master with replicas and sentinels, and a Redis Cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.eventually import eventually
from tests.support.redis import PATIENCE_S, RedisServer

#: A server of that name, with those arguments of `RedisServer`; it is started here.
Make = Callable[..., RedisServer]
#: What sentinels call what they watch.
SERVICE: Final = "resonate"
SENTINELS: Final = 3
#: A sentinel waits so many milliseconds for one that is silent, and a failover may take as long before the next.
_SENTINEL_MS: Final = {"down-after-milliseconds": 1000, "failover-timeout": 5000}
#: The same in a cluster.
_CLUSTER_MS: Final = 2000


class Group:
    """A context manager that leaves no process behind."""

    def __init__(self, make: Make) -> None:
        self.servers: list[RedisServer] = []
        self._make = make

    def __enter__(self) -> Group:
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
    """A master with replicas, and three sentinels that watch it as SERVICE."""

    def __init__(self, make: Make, replicas: int = 2) -> None:
        super().__init__(make)
        self.sentinels: list[RedisServer] = []
        self._replicas = replicas

    def stop(self) -> None:
        super().stop()
        for server in self.sentinels:
            server.stop()

    def _gather(self) -> None:
        master = self._start("master")
        for number in range(self._replicas):
            self._start(f"replica-{number}", ("--replicaof", f"{master.address} {master.port}"))
        for number in range(SENTINELS):
            sentinel = self._make(f"sentinel-{number}", "--sentinel", file="sentinel.conf")
            sentinel.directory.mkdir(parents=True, exist_ok=True)
            lines = [f"monitor {SERVICE} {master.address} {master.port} 2"]
            lines += [f"{key} {SERVICE} {value}" for key, value in _SENTINEL_MS.items()]
            (sentinel.directory / "sentinel.conf").write_text("".join(f"sentinel {line}\n" for line in lines))
            self.sentinels.append(sentinel.start())
        eventually(lambda: all(map(self._complete, self.sentinels)), PATIENCE_S)

    def _complete(self, sentinel: RedisServer) -> bool:
        with sentinel.client() as client:
            state = client.sentinel_master(SERVICE)
        return bool(state["num-slaves"] == self._replicas and state["num-other-sentinels"] == SENTINELS - 1)


class RedisCluster(Group):
    """Masters, and a replica of each, which takes the place of one that is silent."""

    def __init__(self, make: Make, masters: int = 3) -> None:
        super().__init__(make)
        self._size = 2 * masters

    def _gather(self) -> None:
        for number in range(self._size):
            self._start(f"node-{number}", ("--cluster-enabled", "yes", "--cluster-node-timeout", str(_CLUSTER_MS)))
        nodes = [f"{each.address}:{each.port}" for each in self.servers]
        words = ["redis-cli", "--cluster", "create", *nodes, "--cluster-replicas", "1", "--cluster-yes"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        eventually(lambda: all(map(self._complete, self.servers)), PATIENCE_S)

    def _complete(self, node: RedisServer) -> bool:
        with node.client() as client:
            state, nodes = client.execute_command("CLUSTER INFO"), client.execute_command("CLUSTER NODES")
        masters = sum("master" in each["flags"] for each in nodes.values())
        return bool(state["cluster_state"] == "ok" and len(nodes) == 2 * masters == self._size)


def _is_master(server: RedisServer) -> bool:
    once = Retry(NoBackoff(), 0)  # what waits here for one that is dead keeps whoever asks from all else
    try:
        with server.client(retry=once) as client:
            return bool(client.info("replication")["role"] == "master")
    except redis.ConnectionError:
        return False
