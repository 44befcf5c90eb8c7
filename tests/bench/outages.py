"""What breaks between hosts while streams flow, and what may be noticed of it: docs/flows/hosts.md says so."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from tests.bench.streams import CALLERS, Streams
from tests.support.cluster import Stage, hup, kill, replaced, shards_of, workers_of
from tests.support.hosts import Hosts

#: How long after its end everything may take to be as before, in seconds.
PATIENCE_S: Final = 60.0
#: The wire that is long, one way, in seconds: 200 ms to Redis and back.
LONG_S: Final = 0.1
#: How often Redis is emptied.
FLUSHES: Final = 5
#: Seconds after hosts have said that they are together again, that still count as outage: their queues leave.
AFTER_S: Final = 1.0


class Scene(NamedTuple):
    """The hosts, the load, and how long it lasts in seconds."""

    hosts: Hosts
    streams: Streams
    seconds: float

    def wait(self) -> None:
        self.streams.go_on(self.seconds)


def _none(scene: Scene) -> None:
    scene.wait()


def _redis_restart(scene: Scene) -> None:
    scene.hosts.redis.stop()
    scene.hosts.redis.start()
    scene.wait()


def _redis_wipe(scene: Scene) -> None:
    scene.hosts.redis.stop()
    scene.hosts.redis.wipe()
    scene.hosts.redis.start()
    scene.wait()


def _flushed(scene: Scene) -> None:
    """All keys are gone, and nobody is told: each host finds that out when it renews its lease."""
    for _ in range(FLUSHES):
        scene.hosts.redis.do("FLUSHALL")
        scene.streams.go_on(scene.seconds / FLUSHES)


def _redis_stop(scene: Scene) -> None:
    scene.hosts.redis.stop()
    scene.wait()
    _wants(scene, "every host says that it is degraded", scene.streams.alone == len(scene.hosts.servers))
    scene.hosts.redis.start()


def _redis_freeze(scene: Scene) -> None:
    scene.hosts.redis.freeze()
    scene.wait()
    _wants(scene, "every host says that it is degraded", scene.streams.alone == len(scene.hosts.servers))
    scene.hosts.redis.thaw()


def _cut(scene: Scene, **direction: bool) -> None:
    server = scene.hosts.servers[-1]
    scene.hosts.cut(server, **direction)
    scene.wait()
    _wants(scene, "the host that is cut off says so, and no other", scene.streams.alone == 1)
    scene.hosts.heal(server)


def _host_cut(scene: Scene) -> None:
    _cut(scene)


def _one_way(scene: Scene) -> None:
    """Redis does not hear it any more; what Redis says still comes."""
    _cut(scene, back=False)


def _other_way(scene: Scene) -> None:
    """Redis hears it, and it hears nothing."""
    _cut(scene, out=False)


def _latency(scene: Scene) -> None:
    scene.hosts.wire.delay(LONG_S)
    scene.wait()
    _wants(scene, "200 ms are no outage", scene.streams.alone == 0)
    scene.hosts.wire.delay(0)


def _host_kill(scene: Scene) -> None:
    """At once, and for good; its members leave when its lease has run out."""
    victim = scene.hosts.servers[-1]
    victim.kill()
    lost = [each for each in scene.streams.subscribers if each.server is victim]
    scene.streams.until(lambda: all(each.stage is Stage.CLOSED for each in lost), PATIENCE_S)
    began = time.monotonic()
    _wants(scene, "its members leave", scene.streams.until(scene.streams.agreed, PATIENCE_S))
    scene.streams.notes["members have left after_s"] = round(time.monotonic() - began, 1)
    scene.wait()


def _sentinel(scene: Scene) -> None:
    _master_dies(scene)


def _cluster(scene: Scene) -> None:
    _master_dies(scene)


def _master_dies(scene: Scene) -> None:
    """One of those that rule; another takes its place."""
    group, began = scene.hosts.group, time.monotonic()
    number = len(group.masters())
    group.masters()[0].stop()
    scene.streams.until(lambda: len(group.masters()) == number, PATIENCE_S)
    scene.streams.notes["another rules after_s"] = round(time.monotonic() - began, 1)
    scene.wait()


def _reload(scene: Scene) -> None:
    """All hosts at once."""
    old = {server.port: workers_of(server) for server in scene.hosts.servers}
    for server in scene.hosts.servers:
        hup(server)

    def done() -> bool:
        return all(replaced(server, old[server.port], scene.hosts.workers) for server in scene.hosts.servers)

    _wants(scene, "the reloads end", scene.streams.until(done, PATIENCE_S))
    scene.wait()


def _shard_kill(scene: Scene) -> None:
    """One of each host, at once; the workers tell their successors what they hold."""
    for server in scene.hosts.servers:
        for pid in shards_of(server):
            kill(pid, signal.SIGKILL)
    scene.wait()


def _wants(scene: Scene, what: str, so: bool) -> None:
    if not so:
        scene.streams.wrong("not so", what)


class Outage(NamedTuple):
    """`breaks` lets it happen and mends it. `seconds` is how long it lasts in full size.

    `place` are arguments of `Hosts`. `edges`: somebody may leave or come; `closes`: a host's clients are cut off;
    `together`: no host is ever on its own, so no answer is 202. `callers`: REST connections to each host; many are
    needed where an answer takes long.
    """

    breaks: Callable[[Scene], None]
    seconds: float = 20.0
    place: Mapping[str, Any] = {}
    edges: bool = False
    closes: bool = False
    together: bool = False
    callers: int = CALLERS


OUTAGES: Final = {
    "none": Outage(_none, together=True),
    "redis-restart": Outage(_redis_restart),
    "redis-wipe": Outage(_redis_wipe),
    "flushed": Outage(_flushed, 60.0, together=True),
    "redis-stop": Outage(_redis_stop, 60.0),
    "redis-freeze": Outage(_redis_freeze),
    "one-way": Outage(_one_way, 30.0, edges=True),
    "other-way": Outage(_other_way, 30.0, edges=True),
    "latency": Outage(_latency, place={"distant": True}, together=True, callers=160),
    "host-kill": Outage(_host_kill, place={"scaling": {"lease": 5}}, edges=True, closes=True, together=True),
    "host-cut": Outage(_host_cut, 30.0, edges=True),
    "sentinel": Outage(_sentinel, place={"store": "sentinels"}),
    "cluster": Outage(_cluster, place={"store": "cluster"}),
    "reload": Outage(_reload, together=True),
    "shard-kill": Outage(_shard_kill, together=True),
}


def happen(outage: Outage, scene: Scene) -> tuple[float, float]:
    """Let it happen, and wait until all is as before; from when to when that was."""
    streams, began = scene.streams, time.monotonic()
    outage.breaks(scene)
    streams.go_on(AFTER_S)
    if not streams.until(lambda: streams.alone == 0 and streams.agreed(), PATIENCE_S):
        streams.wrong("not so", "the hosts find together again, and who is present is known everywhere")
    streams.notes["outage_s"] = round(time.monotonic() - began, 1)
    streams.go_on(AFTER_S)
    ended = time.monotonic()
    streams.go_on(AFTER_S)
    _look_at_clients(outage, streams)
    return began, ended


def _look_at_clients(outage: Outage, streams: Streams) -> None:
    edges = sum(sum(each.edges.values()) for each in streams.subscribers)
    if edges and not outage.edges:
        streams.wrong("edge", f"{edges} times somebody has heard of coming or going, and nobody did")
    alive = {server.directory.name for server in streams.hosts.living()}
    for name, number in streams.closed.items():
        if name in alive or not outage.closes:
            streams.wrong("closed", f"{number} clients of {name}, codes {dict(streams.codes)}")
    usual = {"200"} | (set() if outage.together else {"202"}) | ({"closed", "closed, idle"} if outage.closes else set())
    strange = set(streams.answers) - usual
    for status in strange:
        streams.wrong("REST", f"{streams.answers[status]} answers: {status}")
