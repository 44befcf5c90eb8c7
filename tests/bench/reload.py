"""Reloads a server again and again under load, and counts what no client may notice: `make reload`.

    python tests/bench/reload.py [--clients 5000] [--channels 200] [--rate 500] [--reloads 20] [--pause 2]
                                 [--master own|gunicorn] [--workers 4] [--shards 1] [--reshard 2 1]
                                 [--signal HUP|USR2] [--gunicorn=OPTIONS] [--fault NAME] [--log]

Every channel has two numbered streams: one comes through REST, and where the kind of channel allows it another from one
of its clients. Clients check each number, that nobody seems to join or leave a presence channel, and that their
connection stays. Others arrive and go all the time. Exit status 1 when anything was noticed.

With USR2 the master is followed by another one each time, and all of its processes. With a fault there is one reload,
in the middle of which something breaks: see faults.py. Then it is counted what the manual does not say about that.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # run as a script

from resonate.bus.directory import RunDirectory, pid_of  # noqa: E402
from tests.bench import faults  # noqa: E402
from tests.support.cluster import (  # noqa: E402
    Crowd,
    Kind,
    Peer,
    Stage,
    cluster,
    kill,
    linked,
    processes,
    run_directory,
    shards_of,
    workers_of,
)
from tests.support.eventually import eventually  # noqa: E402
from tests.support.rest import signed  # noqa: E402
from tests.support.server import Server, configuration  # noqa: E402

#: Kinds of channels, in turns; the last two carry client events too.
KINDS: Final = ("chat", "cache-news", "private-room", "presence-room")
APP: Final = {"app_id": "app1", "key": "key1", "secret": "secret1", "accept_client_events_from": "members"}
#: Seconds between two clients that come and go.
ARRIVALS_S: Final = 0.05
#: REST connections that publish.
PUBLISHERS: Final = 4
#: How long a reload, or the last events, may take in seconds.
PATIENCE_S: Final = 120.0


class Tally:
    """What has been noticed."""

    def __init__(self) -> None:
        self.wrong: Counter[str] = Counter()
        self.examples: list[str] = []
        self.deliveries = 0
        self.latencies: list[float] = []
        self.arrivals = 0
        self.doubtful: set[tuple[str, int]] = set()  # numbers that were published by REST, and not answered

    def note(self, what: str, example: str) -> None:
        self.wrong[what] += 1
        if self.wrong[what] <= 3:
            self.examples.append(f"{what}: {example}")


class Listener(Peer):
    """On one channel. `expected` is the next number of each stream."""

    def __init__(self, crowd: Crowd, tally: Tally, channel: str, user: str) -> None:
        super().__init__(crowd)
        self.tally = tally
        self.channel = channel
        self.user = user
        self.subscribed = False
        self.present = 0  # members that it has been told of
        self.watching = False  # from when on nothing may be noticed
        self.edges: Counter[str] = Counter()  # since then: who has joined or left
        self.expected: dict[str, int] = {}

    def established(self) -> None:
        self.subscribe(self.channel, self.user if self.channel.startswith("presence") else None)

    def heard(self, event: dict[str, Any]) -> None:
        name = event["event"]
        if name == "pusher_internal:subscription_succeeded":
            self.subscribed = True
            if self.channel.startswith("presence"):
                self.present += json.loads(event["data"])["presence"]["count"]
        elif name.startswith("pusher_internal:member"):
            self.present += 1
            if self.watching:
                self.edges[name.rpartition("_")[2] + " " + json.loads(event["data"])["user_id"]] += 1
        elif name in ("numbered", "client-numbered"):
            self.number(name, json.loads(event["data"]) if isinstance(event["data"], str) else event["data"])

    def number(self, stream: str, data: dict[str, Any]) -> None:
        number, expected = data["n"], self.expected.get(stream)
        self.tally.deliveries += 1
        self.tally.latencies.append(time.monotonic() - data["t"])
        if expected is not None and number != expected and not self._doubtful(stream, expected, number):
            what = "lost" if number > expected else "doubled or out of order"
            self.tally.note(what, f"{self.socket_id} on {self.channel} {stream}: {number} where {expected} was due")
        self.expected[stream] = max(number + 1, expected or 0)

    def _doubtful(self, stream: str, first: int, end: int) -> bool:
        """Whether none of those that are missing has to come."""
        numbers = range(first, end)
        return bool(numbers) and stream == "numbered" and all((self.channel, n) in self.tally.doubtful for n in numbers)

    def gone(self) -> None:
        self.tally.note("disconnect", f"{self.socket_id} on {self.channel}, code {self.code}")


class Guest(Peer):
    """Comes, subscribes, and goes."""

    def __init__(self, crowd: Crowd, tally: Tally) -> None:
        super().__init__(crowd)
        self.tally = tally

    def established(self) -> None:
        self.subscribe("lobby")

    def heard(self, event: dict[str, Any]) -> None:
        self.tally.arrivals += 1
        self.leave()

    def gone(self) -> None:
        self.tally.note("refused", f"a new connection has been closed, code {self.code}, error {self.error}")


class Publisher(Peer):
    """A keep-alive REST connection: one request at a time."""

    def __init__(self, crowd: Crowd, tally: Tally) -> None:
        super().__init__(crowd)
        self.tally = tally
        self._out = bytearray()
        self.stage = Stage.ESTABLISHED
        self.waiting: tuple[str, int] | None = None  # channel and number
        crowd.watch(self, False)

    def publish(self, channel: str, number: int, now: float) -> None:
        data = {"n": number, "t": now}
        body = json.dumps({"name": "numbered", "channels": [channel], "data": json.dumps(data)}).encode()
        head = f"POST {signed('POST', '/apps/app1/events', body)} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}"
        self.waiting = (channel, number)
        self._write(head.encode() + b"\r\nContent-Type: application/json\r\n\r\n" + body)

    def _read(self) -> None:
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.tally.note("REST", f"a connection was closed, waiting: {self.waiting is not None}")
            if self.waiting is not None:
                self.tally.doubtful.add(self.waiting)
            self._end()
            return
        self._in += data
        if b"\r\n\r\n" in self._in and self._in.endswith(b"}"):
            if not self._in.startswith(b"HTTP/1.1 200"):
                self.tally.note("REST", bytes(self._in[:80]).decode())
            self._in.clear()
            self.waiting = None


class Load:
    """All of it. `turn` is one step of everything, `listener` makes who listens."""

    listener: Callable[[Crowd, Tally, str, str], Listener] = Listener

    def __init__(self, server: Server, crowd: Crowd, options: argparse.Namespace) -> None:
        self.server, self.crowd = server, crowd
        self.tally = Tally()
        self.channels = [f"{KINDS[index % len(KINDS)]}-{index}" for index in range(options.channels)]
        self.listeners = [
            self.listener(crowd, self.tally, self.channels[index % options.channels], f"user-{index}")
            for index in range(options.clients)
        ]
        self.rate = options.rate
        self.sent: Counter[tuple[str, str]] = Counter()
        self.publishers: list[Publisher] = []
        self.talkers = {peer.channel: peer for peer in reversed(self.listeners)}
        self.began = self.arrived = time.monotonic()
        self.events = 0
        self.cut = 0  # clients that a fault may cut off
        self.publishing = self.guests = False

    def open(self) -> None:
        """Everybody is there, and watches from now on."""
        sizes = Counter(peer.channel for peer in self.listeners if peer.channel.startswith("presence"))
        self.crowd.until(
            lambda: all(peer.subscribed and peer.present == sizes[peer.channel] for peer in self.listeners),
            within=PATIENCE_S,
        )
        self.publishers = [Publisher(self.crowd, self.tally) for _ in range(PUBLISHERS)]
        for peer in self.listeners:
            peer.watching = True
        self.publishing = self.guests = True
        self.began = self.arrived = time.monotonic()

    def turn(self) -> None:
        now = time.monotonic()
        if self.publishing:
            self._publish(now)
        if self.guests and now - self.arrived > ARRIVALS_S:
            self.arrived = now
            Guest(self.crowd, self.tally)
        self.crowd.turn(0.002)

    def until(self, condition: Callable[[], bool], within: float = PATIENCE_S) -> bool:
        """Go on until that is so; False when it does not come."""
        deadline = time.monotonic() + within
        look_at = 0.0
        while time.monotonic() < deadline:
            self.turn()
            if time.monotonic() >= look_at:
                if condition():
                    return True
                look_at = time.monotonic() + 0.05
        return False

    def close(self) -> None:
        """The last events arrive."""
        self.publishing = self.guests = False
        if not self.until(self._complete, within=30.0):
            for peer in self.listeners:
                for stream, due in self._due(peer).items():
                    if peer.stage is not Stage.CLOSED and peer.expected.get(stream, due) < due:
                        self.tally.note("lost", f"{peer.socket_id}: the end of {stream} on {peer.channel}")
            for publisher in self.publishers:
                if publisher.waiting is not None and publisher.stage is not Stage.CLOSED:
                    self.tally.note("REST", "no answer")
            for socket_id, told, true in self.misjudged():
                self.tally.note("edge", f"{socket_id} was told {dict(told)}, and true is {dict(true)}")

    def misjudged(self) -> list[tuple[str, Counter[str], Counter[str]]]:
        """Whom something else was told than that those have left, once, who are no more on the channel."""
        true: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for peer in self.listeners:
            if peer.channel.startswith("presence") and peer.stage is Stage.CLOSED:
                true[peer.channel]["removed " + peer.user] += 1
        alive = (peer for peer in self.listeners if peer.stage is not Stage.CLOSED)
        return [(peer.socket_id, peer.edges, true[peer.channel]) for peer in alive if peer.edges != true[peer.channel]]

    def latency_ms(self, first: int = 0, end: int | None = None) -> dict[str, float]:
        """How long events have taken from their publisher to who listens; of the deliveries from `first` to `end`."""
        latencies = sorted(self.tally.latencies[first:end])
        return {
            name: round(latencies[int(len(latencies) * share)] * 1000, 1)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 0.999999))
        }

    def _publish(self, now: float) -> None:
        """As many as are due by now, on one channel after another: half of them by REST, half by clients."""
        due = int((now - self.began) * self.rate)
        while self.events < due:
            channel = self.channels[self.events // 2 % len(self.channels)]
            if self.events % 2 and channel.startswith(("private", "presence")):
                self._talk(channel, now)
            elif not self._rest(channel, now):
                self.began += 1 / self.rate  # the server is slower than that
            self.events += 1

    def _talk(self, channel: str, now: float) -> None:
        peer = self.talkers[channel]
        if peer.stage is Stage.ESTABLISHED:
            number = self.sent[channel, "client-numbered"]
            self.sent[channel, "client-numbered"] += 1
            peer.send("client-numbered", {"n": number, "t": now}, channel=channel)

    def _rest(self, channel: str, now: float) -> bool:
        """One publisher for each channel: those of several have no order."""
        index = self.channels.index(channel) % PUBLISHERS
        publisher = self.publishers[index]
        if publisher.stage is Stage.CLOSED:
            publisher = self.publishers[index] = Publisher(self.crowd, self.tally)
        if publisher.waiting is not None:
            return False
        number = self.sent[channel, "numbered"]
        self.sent[channel, "numbered"] += 1
        publisher.publish(channel, number, now)
        return True

    def _due(self, peer: Listener) -> dict[str, int]:
        streams = {stream: sent for (channel, stream), sent in self.sent.items() if channel == peer.channel and sent}
        talker = self.talkers.get(peer.channel)
        if talker is peer or (talker is not None and talker.stage is Stage.CLOSED):
            streams.pop("client-numbered", None)
        while (peer.channel, streams.get("numbered", 0) - 1) in self.tally.doubtful:
            streams["numbered"] -= 1
        return streams

    def _complete(self) -> bool:
        if any(each.waiting is not None and each.stage is not Stage.CLOSED for each in self.publishers):
            return False
        return (
            all(
                peer.stage is Stage.CLOSED or all(peer.expected.get(s, n) >= n for s, n in self._due(peer).items())
                for peer in self.listeners
            )
            and not self.misjudged()
        )


def master_of(server: Server) -> int | None:
    """The master in charge."""
    directory = run_directory(server)
    return None if directory is None else pid_of(RunDirectory(directory).master)


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """At the end, also where the master is not the one that was started."""
    yield
    pid = master_of(server)
    if pid is not None and pid != server.process.pid:
        kill(pid, signal.SIGTERM)
        eventually(lambda: run_directory(server) is None, within=PATIENCE_S)


def reload_once(load: Load, shards: int, workers: int, number: signal.Signals = signal.SIGHUP) -> float:
    """How long it took, in seconds, from the signal to the exit of the last old worker (with SIGUSR2: of every old
    process), and until there are so many shards.
    """
    master = master_of(load.server)
    assert master is not None
    old, began = set(workers_of(load.server)), time.monotonic()
    if number is signal.SIGUSR2:
        old = set(processes(load.server))
    os.kill(master, number)

    def done() -> bool:
        there = set(workers_of(load.server))
        replaced = len(there) == workers and not there & old and not old & set(processes(load.server))
        return replaced and len(shards_of(load.server)) == shards

    if not load.until(done):
        load.tally.note("reload", f"not over after {PATIENCE_S} s: {old} to {workers_of(load.server)}")
    load.until(lambda: len(linked(load.server)) >= workers, within=20)
    return time.monotonic() - began


def reloads(load: Load, options: argparse.Namespace) -> list[float]:
    """All of them; how long each took. `reshard` says how many shards there are to be after each."""
    took = []
    for shards in getattr(options, "reshard", ()) or [options.shards] * options.reloads:
        configure(load.server.directory, shards)
        number = signal.Signals[f"SIG{getattr(options, 'signal', 'HUP')}"]
        inside = options.master == "own" and options.workers == shards == 1 and number is signal.SIGHUP
        took.append(reload_once(load, 0 if inside else shards, options.workers, number))
        load.until(lambda: False, within=random.uniform(0, options.pause))
    return took


def settings(shards: int) -> dict[str, Any]:
    return {"drain_timeout": 10, "metrics_port": 0, "bus_shards": shards}


def configure(directory: Path, shards: int) -> None:
    """For the next reload."""
    (directory / "resonate.toml").write_text(configuration([APP], settings(shards)))


def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Everything; what has been found."""
    kind = Kind(options.master, options.shards)
    fault = faults.FAULTS.get(getattr(options, "fault", ""))
    more = getattr(options, "gunicorn", "").split()
    env = {"RESONATE_BUS_SHARDS": ""}  # the file says it
    with (
        fault.place() if fault else nullcontext({}) as place,
        cluster(
            directory, kind, options.workers, *more, apps=[APP], server=settings(kind.shards) | place, env=env
        ) as server,
        stopped(server),
        Crowd(server) as crowd,
    ):
        load = Load(server, crowd, options)
        load.open()
        load.until(lambda: False, within=1.0)
        took = [fault.happen(load)] if fault else reloads(load, options)
        load.close()
        excused = fault.excuse(load) if fault else {}
        found = {
            "wrong": dict(load.tally.wrong),
            "examples": load.tally.examples,
            "as documented": excused,
            "reloads": len(took),
            "reload_s": [round(seconds, 2) for seconds in took],
            "events": sum(load.sent.values()),
            "deliveries": load.tally.deliveries,
            "guests": load.tally.arrivals,
            "latency_ms": load.latency_ms(),
        }
        if load.tally.wrong and options.log:
            print(server.log(), file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, value in (("clients", 5000), ("channels", 200), ("rate", 500), ("reloads", 20), ("workers", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--reshard", type=int, nargs="*", default=[], help="reload to so many shards, in turn")
    parser.add_argument("--pause", type=float, default=2.0)
    parser.add_argument("--master", choices=["own", "gunicorn"], default="own")
    parser.add_argument("--signal", choices=["HUP", "USR2"], default="HUP")
    parser.add_argument("--gunicorn", default="", metavar="OPTIONS", help="more options for it: --gunicorn=--preload")
    parser.add_argument("--fault", choices=faults.FAULTS, default="", help="what breaks in the middle of one reload")
    parser.add_argument("--log", action="store_true", help="print the server's log when something was noticed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = run(options, Path(directory))
    print(json.dumps(found, indent=1))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
