"""Kills a worker and adds one, and looks on while connections move until all workers have about the same: under load.

    python tests/bench/balance.py [--clients 5000] [--channels 200] [--rate 500] [--workers 4]
                                  [--master own|gunicorn] [--shards 1] [--off] [--log]

Clients of the worker that was killed come back by themselves; all others may notice nothing: no disconnect, no event
lost, doubled or out of order, no presence edge but those of the killed. Exit status 1 when anything was noticed.
With --off nothing may move.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

ROOT: Final = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # run as a script

from resonate.server.balancer import LOOK_EVERY_S  # noqa: E402
from tests.bench.reload import PUBLISHERS, Listener, Load, Publisher, Tally  # noqa: E402
from tests.support.cluster import Crowd, Kind, Stage, cluster, holders, kill, settled, workers_of  # noqa: E402
from tests.support.ports import free_port  # noqa: E402
from tests.support.server import BIN, Server  # noqa: E402

#: Seconds between two looks at the processes: they cost the load generator something.
LOOK_S: Final = 0.25
#: After so many seconds all workers have looked twice, and what they have decided is done.
TWO_LOOKS_S: Final = 2 * LOOK_EVERY_S + 2


class Witness(Listener):
    """Comes back where its worker was killed. What the others see of that is no mistake."""

    def __init__(self, crowd: Crowd, tally: Tally, channel: str, user: str) -> None:
        super().__init__(crowd, tally, channel, user)
        self.load: Killing | None = None

    def heard(self, event: dict[str, Any]) -> None:
        if self.load is not None and event["event"].startswith("pusher_internal:member"):
            data = event["data"]
            if (json.loads(data) if isinstance(data, str) else data)["user_id"] in self.load.doomed_users:
                return
        super().heard(event)

    def gone(self) -> None:
        if self.load is not None and self.user in self.load.doomed_users:
            self.load.come_back(self)
        else:
            super().gone()


class Killing(Load):
    """The clients of `victim` are known before it dies: nobody else may notice."""

    listener = Witness

    def open(self) -> None:
        super().open()
        where = holders(self.server, [peer.socket for peer in self.listeners])
        (self.victim, _), *_ = Counter(pid for pid in where if pid is not None).most_common()
        doomed = [peer for peer, pid in zip(self.listeners, where, strict=True) if pid == self.victim]
        self.doomed_users = {peer.user for peer in doomed}
        for peer in self.listeners:
            peer.load = self  # type: ignore[attr-defined]
        living = [peer for peer in self.listeners if peer.user not in self.doomed_users]
        self.talkers = {peer.channel: peer for peer in reversed(living)}
        self.publishing = self.guests = False
        self.until(self._publishers_live)
        self.publishing, self.began = True, time.monotonic()

    def _publishers_live(self) -> bool:
        """Who publishes does so to others."""
        where = holders(self.server, [publisher.socket for publisher in self.publishers])
        for publisher, pid in zip(list(self.publishers), where, strict=True):
            if pid == self.victim:
                self.publishers.remove(publisher)
                publisher.leave()
        missing = PUBLISHERS - len(self.publishers)
        self.publishers += [Publisher(self.crowd, self.tally) for _ in range(missing)]
        return not missing and None not in where

    def come_back(self, peer: Witness) -> None:
        """As its library would."""
        again = Witness(self.crowd, self.tally, peer.channel, peer.user)
        again.load = self
        self.listeners[self.listeners.index(peer)] = again

    @property
    def back(self) -> bool:
        return all(peer.stage is Stage.ESTABLISHED and peer.subscribed for peer in self.listeners)

    def by_worker(self) -> list[int]:
        """How many of the clients each worker has."""
        counts = Counter(holders(self.server, [peer.socket for peer in self.listeners]))
        return sorted(counts[pid] for pid in workers_of(self.server))


def even(counts: list[int]) -> bool:
    """Whether they differ by at most a fifth of their mean."""
    return bool(counts) and (max(counts) - min(counts)) * len(counts) * 5 <= sum(counts)


class Sight:
    """Whether connections are spread evenly. First by the number of open files, which costs little to see."""

    def __init__(self, load: Killing) -> None:
        self._load = load
        self._next = 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + LOOK_S
        files = [len(os.listdir(f"/proc/{pid}/fd")) for pid in workers_of(self._load.server)]
        return even(files) and even(self._load.by_worker())


def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Everything; what has been found."""
    kind = Kind(options.master, options.shards)
    app = {"app_id": "app1", "key": "key1", "secret": "secret1", "accept_client_events_from": "members"}
    keys = {"run_dir": str(directory), "metrics_port": free_port(), "balance": not options.off}
    with cluster(directory, kind, options.workers, apps=[app], server=keys) as server, Crowd(server) as crowd:
        load = Killing(server, crowd, options)
        load.open()
        load.until(lambda: False, within=1.0)
        found = {"before": load.by_worker(), **_strike(server, load, options)}
        load.close()
        found |= _seen(load) | {"counted": counted(keys["metrics_port"]), "status": status(directory)}
        if load.tally.wrong and options.log:
            print(server.log(), file=sys.stderr)
    return found


def _strike(server: Server, load: Killing, options: argparse.Namespace) -> dict[str, Any]:
    """Kill one, and have one more. Times are seconds from there."""
    began = time.monotonic()
    kill(load.victim)
    server.process.send_signal(signal.SIGTTIN)
    if not load.until(lambda: load.back and settled(server, options.workers + 1, options.shards)):
        load.tally.note("return", "not all clients or workers are back")
    back_s, struck = time.monotonic() - began, load.by_worker()
    load.until(lambda: False, within=1.0)
    calm = len(load.tally.latencies)
    load.guests = True
    if options.off:
        load.until(lambda: False, within=TWO_LOOKS_S)
    elif not load.until(Sight(load)):
        load.tally.note("balance", f"still {load.by_worker()}")
    even_s = time.monotonic() - began
    load.until(lambda: False, within=1.0)
    return {
        "struck": struck,
        "after": load.by_worker(),
        "back_s": round(back_s, 1),
        "even_s": round(even_s, 1),
        "latency_ms_then": load.latency_ms(calm),
    }


def _seen(load: Killing) -> dict[str, Any]:
    return {
        "wrong": dict(load.tally.wrong),
        "examples": load.tally.examples,
        "killed": len(load.doomed_users),
        "deliveries": load.tally.deliveries,
        "guests": load.tally.arrivals,
        "latency_ms_all": load.latency_ms(),
        "moves": [line.partition("balance: ")[2] for line in load.server.log().splitlines() if "balance: " in line],
    }


def counted(port: object) -> dict[str, int]:
    """The connections that have changed their worker, by the reason, as the server counts them."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'^resonate_connections_handed_over_total{reason="(\w+)"} ([0-9.]+)', text, re.MULTILINE)
    return {reason: int(float(count)) for reason, count in found}


def status(directory: Path) -> list[int]:
    """The connections of each worker, as `resonate status` tells; nothing where gunicorn's master is not asked."""
    words = [str(BIN / "resonate"), "status", "--json", "--run-dir", str(directory)]
    done = subprocess.run(words, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    masters = json.loads(done.stdout or "{}").get("masters", [])
    return sorted(each["connections"] for master in masters for each in master["processes"] if each["role"] == "worker")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, value in (("clients", 5000), ("channels", 200), ("rate", 500), ("workers", 4), ("shards", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--master", choices=["own", "gunicorn"], default="own")
    parser.add_argument("--off", action="store_true", help="with balance = false")
    parser.add_argument("--log", action="store_true", help="print the server's log when something was noticed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = run(options, Path(directory))
    print(json.dumps(found, indent=1))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
