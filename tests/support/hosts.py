"""Several hosts that share a Redis, each with a network of its own: what a test may do to them and to the wires.

Where this process may not make namespaces they are servers on 127.0.0.1, and what cuts a wire skips the test.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import pytest

from tests.support.balancer import Balancer
from tests.support.cluster import processes
from tests.support.eventually import eventually
from tests.support.load import cpu_s
from tests.support.network import Network, Node, refused
from tests.support.ports import free_port
from tests.support.redis import RedisServer
from tests.support.redis_groups import SERVICE, Group, RedisCluster, Sentinels
from tests.support.server import ONE_APP, Server

#: How long all hosts may take until they have found Redis, in seconds.
PATIENCE_S: Final = 60.0
#: How long a host may take to say how it is, in seconds.
UP_S: Final = 5.0
GROUPS: Final[dict[str, type[Group]]] = {"sentinels": Sentinels, "cluster": RedisCluster}


class Hosts:
    """A context manager that leaves nothing behind. `redis` is one server, or `group` holds several.

    `store` says which Redis: "one", "sentinels" or "cluster". With `distant` the hosts reach the one by a wire that can
    be made long.
    """

    redis: RedisServer
    group: Group

    def __init__(
        self,
        directory: Path,
        number: int = 2,
        *,
        workers: int = 2,
        store: str = "one",
        distant: bool = False,
        apps: Sequence[Mapping[str, object]] = (ONE_APP,),
        server: Mapping[str, object] | None = None,
        scaling: Mapping[str, object] | None = None,
    ) -> None:
        self.directory, self.workers = directory, workers
        self.servers: list[Server] = []
        self._number, self._store, self._distant = number, store, distant
        self._apps, self._settings, self._scaling = apps, dict(server or {}), dict(scaling or {})
        self._network: Network | None = None
        self._redis_node: Node | None = None
        self._nodes: list[Node] = []
        self._runs = Path(tempfile.mkdtemp(prefix="rh-"))  # the path of a socket has to be short
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Hosts:
        with self._stack:
            self._stack.callback(shutil.rmtree, self._runs, ignore_errors=True)
            if not refused():
                self._network = self._stack.enter_context(Network())
                self._redis_node = self._network.add()
            where = self._start_store()
            for number in range(self._number):
                server = self._stack.enter_context(self._server(number, where))
                self.servers.append(server)
            self.rejoined()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.thaw()
        for server in self.servers:  # nothing is proved by their slow farewell
            server.kill()
        self._stack.close()

    # How they are made

    def _make(self, name: str, *words: str, **options: Any) -> RedisServer:
        node = self._redis_node
        place = {} if node is None else {"address": node.address, "prefix": node.prefix}
        return RedisServer(self.directory / name, *words, **place, **options)

    def _start_store(self) -> dict[str, object]:
        """Settings below `scaling.server`, by which hosts find it."""
        if self._store != "one":
            self.group = self._stack.enter_context(GROUPS[self._store](self._make))
            return self._found_by(self.group)
        self.redis = self._stack.enter_context(self._make("redis", keeps=True))
        where: dict[str, object] = {"host": self.redis.address, "port": self.redis.port}
        if self._distant:
            where["port"] = port = free_port()
            prefix = self._redis_node.prefix if self._redis_node else ()
            target = f"{self.redis.address}:{self.redis.port}"
            self.wire = self._stack.enter_context(Balancer(port, [target], host=self.redis.address, prefix=prefix))
        return where

    def _found_by(self, group: Group) -> dict[str, object]:
        if isinstance(group, Sentinels):
            seats = [f"{each.address}:{each.port}" for each in group.sentinels]
            return {"sentinels": seats, "sentinel_master": SERVICE}
        node = group.servers[-1]
        return {"cluster": True, "host": node.address, "port": node.port}

    def _server(self, number: int, where: Mapping[str, object]) -> Server:
        place: dict[str, Any] = {}
        if self._network is not None:
            self._nodes.append(node := self._network.add())
            place = {"host": node.address, "prefix": node.prefix}
        run = self._runs / str(number)
        run.mkdir()
        settings = {"run_dir": str(run), "scaling": {"enabled": True, "server": dict(where), **self._scaling}}
        words = ["resonate", "start", "--host", place.get("host", "127.0.0.1"), "--port", "{port}"]
        return Server(
            self.directory / f"host-{number}",
            command=[*words, "--workers", str(self.workers)],
            apps=self._apps,
            server={**settings, **self._settings},
            **place,
        )

    # How they are

    def living(self) -> list[Server]:
        return [server for server in self.servers if server.process.poll() is None]

    def degraded(self) -> list[Server]:
        """Those alive that serve on their own, as they say."""
        return [server for server in self.living() if says(server).get("scaling") == "degraded"]

    def rejoined(self) -> None:
        """Wait until nobody is on its own."""
        eventually(lambda: not self.degraded(), PATIENCE_S)

    def cpu_s(self, server: Server) -> float:
        """The processor time that all processes of a host have used, in seconds."""
        return sum(map(cpu_s, processes(server)))

    # What can be done to Redis, and to wires

    def thaw(self) -> None:
        if self._store == "one":
            self.redis.thaw()

    def cut(self, server: Server, *, out: bool = True, back: bool = True) -> None:
        """Nothing gets through between a host and Redis, or only in one direction. Its clients still reach it."""
        host, redis = self._ends(server)
        if out:
            host.mute(redis)
        if back:
            redis.mute(host)

    def heal(self, server: Server) -> None:
        host, redis = self._ends(server)
        host.unmute(redis)
        redis.unmute(host)

    def _ends(self, server: Server) -> tuple[Node, Node]:
        if self._redis_node is None:
            pytest.skip(f"a wire cannot be cut: {refused()}")
        return self._nodes[self.servers.index(server)], self._redis_node


def says(server: Server) -> dict[str, Any]:
    """What a host answers at /up; nothing while it does not answer."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=UP_S)
    try:
        connection.request("GET", server.up)
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found
    except (OSError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
