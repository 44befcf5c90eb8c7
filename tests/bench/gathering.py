"""The storm over several hosts: presence clients come and go on all of them, and one host dies for good.

What a storm holds one server to is held here for all: each client's list and edges, streams, and what REST says on
every host that lives. Once its lease has run out nobody of the dead host is left on any list.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.bench.storm import REST_S, STREAMS, TOLD, Options, Outcome, Publisher, Storm
from tests.support.cluster import Kind, Stage, settled
from tests.support.eventually import eventually
from tests.support.hosts import Hosts
from tests.support.server import Server

#: The lease of a party, and how long it may take on a busy machine until all have heard what follows; in seconds.
LEASE_S: Final = 10.0
SLACK_S: Final = 20.0


class Gathering(Storm):
    """One run against hosts, of which one is killed in the middle."""

    def __init__(self, hosts: Hosts, options: Options) -> None:
        super().__init__(hosts.servers[0], Kind("own", 1), options)
        self._hosts = hosts
        self.publishers = [
            Publisher(hosts.servers[index % len(hosts.servers)], channel) for index, channel in enumerate(STREAMS)
        ]
        self._middle = time.monotonic() + options.seconds / 2
        self._dead: Server | None = None
        self._died_at = 0.0
        self._ghosts: set[str] = set()  # users that were on the dead host alone, and never leave by themselves

    def server_of(self, number: int) -> Server:
        living = self._hosts.living()
        return living[number % len(living)]

    def edge(self, user: str) -> None:
        super().edge(user)
        if user in self._ghosts:
            self.counts["ghosts left after_ms"] = round((time.monotonic() - self._died_at) * 1000)

    def _storm(self) -> None:
        self._middle = time.monotonic() + self._options.seconds / 2
        super()._storm()

    def _somebody_dies(self) -> bool:
        if self._dead is not None or time.monotonic() < self._middle:
            return False
        victim = self._hosts.servers[-1]
        port = victim.port
        there = [each for each in self._visitors.values() if each.stage is not Stage.CLOSED and _port(each) == port]
        self._ghosts = {each.user for each in there if each.steady}
        victim.kill()
        self._dead, self._died_at = victim, time.monotonic()
        return True

    def _settled(self) -> bool:
        return all(settled(server, self._options.workers, 1) for server in self._hosts.living())

    def _end_streams(self) -> None:
        for publisher in self.publishers:
            publisher.stop()
        for publisher in self.publishers:
            if publisher._server is not self._dead:
                eventually(publisher.publish, within=REST_S)

    def _last_deaths(self) -> None:
        """It was one, and for good: what is left of it has gone by now."""
        left = self.counts["ghosts left after_ms"]
        if self._ghosts and not 0 < left < (LEASE_S + SLACK_S) * 1000:
            self.wrong(f"those of the dead host have left after {left} ms")

    def _look_at_rest(self, truth: dict[str, set[str]]) -> None:
        for server in self._hosts.living():
            self._server = server
            super()._look_at_rest(truth)


def _port(visitor: object) -> int:
    """Of the host that it is connected to."""
    with contextlib.suppress(OSError):
        return int(visitor.socket.getpeername()[1])  # type: ignore[attr-defined]
    return 0


def gathering(directory: Path, hosts: int, options: Options) -> Outcome:
    """A run against hosts of its own."""
    with Hosts(directory, hosts, workers=options.workers) as several:
        outcome = Gathering(several, options).run()
        for server in several.servers:
            if "Traceback" in server.log():
                outcome.violations.append("a traceback: " + server.log().partition("Traceback")[2][:2000])
        return outcome


def main(options: argparse.Namespace) -> int:
    wanted = Options(
        options.seconds or 120.0, options.workers, options.clients, options.users, "workers", seed=options.seed
    )
    with tempfile.TemporaryDirectory() as directory:
        outcome = gathering(Path(directory), options.hosts, wanted)
    for text in outcome.violations[:TOLD]:
        print(f"VIOLATION {text[:400]}")
    figures = {"case": "storm of hosts", "options": wanted._asdict(), **outcome.counts}
    print(json.dumps({**figures, "violations": len(outcome.violations)}))
    return 1 if outcome.violations else 0
