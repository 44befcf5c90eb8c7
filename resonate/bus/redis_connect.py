"""Making the connections to Redis. All of it blocks, `patience` seconds at each step: it has a thread of its own."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

import redis
from redis.exceptions import ResponseError

from resonate.bus import redis_scripts as scripts
from resonate.bus.redis_connection import Connection, locate
from resonate.bus.redis_link import Made
from resonate.bus.redis_orders import Orders
from resonate.bus.resp import plain
from resonate.errors import ResonateError
from resonate.scaling import Scaling

#: Slots of a cluster.
SLOTS: Final = 16384
#: Nodes of a cluster. To each master there are two connections.
MOST_NODES: Final = 1000
#: Seconds to the next attempt: at first, and at most. Each time it is twice as long, and up to half of it is left out.
FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 1.0
#: What has held so long, in seconds, was no failed attempt.
STEADY_S: Final = 5.0


def connect(scaling: Scaling, nodes: Sequence[tuple[str, int]] = ()) -> Made:
    """All connections, with the scripts known to each node. Raises ResonateError, redis.RedisError, OSError.

    `nodes` of a cluster that have been there before are asked where the one that is configured is not there.
    """
    options = locate(scaling.redis, scaling.patience)
    with _Closing(scaling.patience) as opened:
        if scaling.redis.cluster:
            return _to_cluster(opened, options, [(options["host"], options["port"]), *nodes])
        first = opened.add(options)
        _prepare(first)
        first.ask(*Orders(scaling, sharded=False).probe)  # it takes writes: it is a master, and has room
        return Made([(first, opened.add(options))])


def _to_cluster(opened: _Closing, options: dict[str, Any], seeds: Sequence[tuple[str, int]]) -> Made:
    masters, slots, sharded, nodes = _topology(opened.patience_s, options, seeds)
    pairs = []
    for host, port in masters:
        there = {**options, "host": host, "port": port}
        pairs.append((opened.add(there), opened.add(there)))
        _prepare(pairs[-1][0])
    return Made(pairs, slots, sharded, nodes)


class _Closing:
    """Connections that are closed where there is a failure."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._made: list[Connection] = []

    def add(self, options: dict[str, Any]) -> Connection:
        """Make one more."""
        self._made.append(Connection(options, self.patience_s))
        return self._made[-1].connect()

    def __enter__(self) -> _Closing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            for made in self._made:
                made.close()


def _prepare(node: Connection) -> None:
    for script in scripts.ALL:
        node.ask("SCRIPT", "LOAD", script.text)


def _has_sharded_channels(node: Connection) -> bool:
    """Redis 6 has none: there a message goes to all nodes of a cluster."""
    try:
        return bool(node.ask("COMMAND", "INFO", "SPUBLISH")[0])
    except ResponseError:  # who may not ask has a Redis that is newer
        return True


class _Topology(NamedTuple):
    """`slots` has the index of a master for each slot; `nodes` are masters and replicas."""

    masters: list[tuple[str, int]]
    slots: list[int]
    sharded: bool
    nodes: list[tuple[str, int]]


def _topology(patience_s: float, options: dict[str, Any], seeds: Sequence[tuple[str, int]]) -> _Topology:
    """What the first node says that knows. Raises the failure of the first that was asked."""
    failures: list[Exception] = []
    for host, port in dict.fromkeys(seeds):
        seed = Connection({**options, "host": host, "port": port}, patience_s)
        try:
            answer = seed.connect().ask("CLUSTER", "SLOTS")
            return _understood(answer, host, _has_sharded_channels(seed))
        except (redis.RedisError, ResonateError, OSError) as error:
            failures.append(error)
        finally:
            seed.close()
    raise failures[0]


def _understood(answer: list[Any], asked: str, sharded: bool) -> _Topology:
    masters: dict[tuple[str, int], int] = {}
    nodes: dict[tuple[str, int], None] = {}
    slots = [-1] * SLOTS
    for first, last, *owners in answer:
        # A node may not know how it is reached.
        found = [(asked if host in (None, b"", b"?") else host.decode(), port) for host, port, *_ in owners]
        index = masters.setdefault(found[0], len(masters))
        nodes |= dict.fromkeys(found)
        slots[first : last + 1] = [index] * (last + 1 - first)
    if -1 in slots or len(slots) != SLOTS:
        raise ResonateError("Redis Cluster: not all slots have a node")
    if len(nodes) > MOST_NODES:
        raise ResonateError("Redis Cluster: there are too many nodes")
    return _Topology(list(masters), slots, sharded, list(nodes))


class Keeper:
    """The thread: it connects when it is asked to, until it has, and otherwise says that time passes.

    What it has made, or why it could not, is in `outcomes`; `tell` is called then, and every `tick` seconds.
    """

    def __init__(self, scaling: Scaling, tick: float, tell: Callable[[], None]) -> None:
        self.outcomes: SimpleQueue[Made | str] = SimpleQueue()
        self._scaling = scaling
        self._tick = tick
        self._tell = tell
        self._nodes: Sequence[tuple[str, int]] = ()  # of a cluster, as they were at last
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redis", daemon=True)

    def start(self) -> None:
        """Begin, by connecting."""
        self._wanted.set()
        self._thread.start()

    def again(self) -> None:
        """What was made is of no use any more."""
        self._wanted.set()

    def close(self, within: float) -> None:
        """Ask the thread to end, and wait for it so many seconds at most."""
        self._closing.set()
        self._wanted.set()
        if self._thread.ident is not None:
            self._thread.join(within)

    def _run(self) -> None:
        wait = FIRST_WAIT_S
        made_at = 0.0
        while not self._closing.is_set():
            if not self._wanted.wait(self._tick):
                self._tell()
                continue
            if time.monotonic() - made_at > STEADY_S:
                wait = FIRST_WAIT_S
            else:
                self._closing.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311 - to spread many hosts
                wait = min(2 * wait, LONGEST_WAIT_S)
            if self._closing.is_set():
                break
            self._wanted.clear()
            self._attempt()
            made_at = time.monotonic()
        self.forget()

    def forget(self) -> None:
        """Close what was made and has not been taken."""
        with suppress(Empty):
            while True:
                outcome = self.outcomes.get_nowait()
                if isinstance(outcome, Made):
                    outcome.close()

    def _attempt(self) -> None:
        try:
            made = connect(self._scaling, self._nodes)
        except Exception as error:
            self.outcomes.put(_told(error))
            self._wanted.set()
        else:
            self._nodes = made.nodes
            self.outcomes.put(made)
        self._tell()


def _told(error: Exception) -> str:
    """Why not. redis-py's texts have addresses, Redis's have reasons; neither has a password."""
    if isinstance(error, redis.RedisError | ResonateError | OSError):
        return plain(str(error)) or type(error).__name__
    return "what answers there is no Redis that we know"
