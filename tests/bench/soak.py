"""Churn for a long time: does memory come back, and does every event arrive?  `make soak`

    python tests/bench/soak.py [--minutes 20] [--visitors 4]

Visitors connect in pairs, subscribe to every kind of channel, publish over REST, exchange client events, and leave in
every way there is. Failures are: an event that does not arrive, a REST call that is refused, a server that dies or logs
a traceback, a channel or a connection that is still counted at the end, and memory that at the end is more than 5 %
over that of minute 2. Exit status 1 then.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script

from tests.support.client import CLOSE, Client, frame
from tests.support.eventually import eventually
from tests.support.load import cpu_s, descriptors, memory
from tests.support.rest import Rest
from tests.support.server import Server

MIB: Final = 1024 * 1024
#: Cached events run out during the soak; their channels repeat, so that the cache has a size to settle at.
SETTINGS: Final = {"cache_ttl": 30, "drain_timeout": 1}
CACHE_SLOTS: Final = 100
#: After this many rounds a visitor opens a new REST connection.
REST_ROUNDS: Final = 20
#: A run with more failures than this is stopped: the rest would say the same.
FAILURES: Final = 10
#: How much memory may grow between minute 2 (or a fifth of a shorter run) and the end, in percent.
GROWTH: Final = 5.0
WARM_UP_S: Final = 120.0
#: Each end of the comparison is the median of the samples of this time, in seconds.
STRETCH_S: Final = 60.0


class Visitor(threading.Thread):
    """Makes rounds until told to stop; every wait in them has a deadline. `counts` is what it has seen."""

    def __init__(self, index: int, server: Server, stop: threading.Event, failures: list[str]) -> None:
        super().__init__(name=f"visitor-{index}")
        self.counts: Counter[str] = Counter()
        self._index, self._server, self._stop_event, self._failures = index, server, stop, failures
        self._rest = Rest(server.host, server.port)

    def run(self) -> None:
        """Round after round; a failure is noted, and the next round begins afresh."""
        number = 0
        while not self._stop_event.is_set():
            number += 1
            try:
                self._round(number)
                self.counts["rounds"] += 1
            except Exception as error:
                self._failures.append(f"{self.name}, round {number}: {type(error).__name__}: {error}"[:500])
                self._renew_rest()
                if len(self._failures) > FAILURES:
                    self._stop_event.set()
            if number % REST_ROUNDS == 0:
                self._renew_rest()
        self._rest.close()

    def _renew_rest(self) -> None:
        self._rest.close()
        self._rest = Rest(self._server.host, self._server.port)

    def _round(self, number: int) -> None:
        tag, slot = f"{self._index}-{number}", f"{self._index}-{number % CACHE_SLOTS}"
        channels = [f"{kind}-{tag}" for kind in ("news", "private", "private-encrypted", "presence")]
        channels += [f"{kind}-{slot}" for kind in ("cache", "private-cache", "presence-cache")]
        with self._connect() as ann, self._connect() as bob:
            for channel in channels:
                self._join(ann, channel, "ann")
            for channel in channels:
                self._join(bob, channel, "bob")
            self._expect(ann, [("pusher_internal:member_added", name) for name in channels if "presence" in name])
            self._publish(tag, channels, ann, bob)
            self._whisper(tag, channels, ann, bob)
            self._leave(number, bob)
            self._expect(ann, [("pusher_internal:member_removed", name) for name in channels if "presence" in name])
            self._leave(number // 3, ann)

    def _connect(self) -> Client:
        self.counts["connections"] += 1
        return Client(self._server.host, self._server.port).established()

    def _join(self, client: Client, channel: str, user: str) -> None:
        """Subscribe, and read all that comes with it."""
        presence = channel.startswith("presence")
        data = client.subscribed(channel, {"user_id": user, "user_info": {"name": user}} if presence else None)
        if presence:
            expected = ["ann", "bob"] if user == "bob" else ["ann"]
            assert data["presence"]["ids"] == expected, (channel, data)
        if "cache" in channel:
            event = client.event()
            assert event["channel"] == channel, event
            assert event["event"] in ("order", "pusher:cache_miss", "client-whisper"), event

    def _expect(self, client: Client, events: list[tuple[str, str]]) -> None:
        """These (name, channel) must come next, in any order among each other, and each once."""
        found = []
        for _ in events:
            event = client.event()
            found.append((event["event"], event["channel"]))
        assert sorted(found) == sorted(events), (found, events)
        self.counts["delivered"] += len(found)

    def _publish(self, tag: str, channels: list[str], *readers: Client) -> None:
        answer = self._rest.call("POST", "/events", {"name": "order", "channels": channels, "data": tag})
        assert answer.status == 200, answer
        self.counts["published"] += 1
        for reader in readers:
            self._expect(reader, [("order", channel) for channel in channels])

    def _whisper(self, tag: str, channels: list[str], sender: Client, reader: Client) -> None:
        """Client events reach the other one, and not their sender."""
        private = [channel for channel in channels if channel.startswith(("private", "presence"))]
        for channel in private:
            sender.send("client-whisper", {"tag": tag}, channel=channel)
        self._expect(reader, [("client-whisper", channel) for channel in private])
        assert sender.barrier() == []

    def _leave(self, number: int, client: Client) -> None:
        """With a close frame, without a word, with a reset, or by closing one side only."""
        way = number % 4
        if way == 0:
            client.send_raw(frame(b"\x03\xe8", CLOSE))
            assert client.closed() == 1000
        elif way == 1:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif way == 2:
            client.socket.shutdown(socket.SHUT_WR)
            assert client.closed() == 1006
        client.close()


class Sample(NamedTuple):
    """`at` is seconds from the beginning, `memory` the worker's anonymous memory in MiB."""

    at: float
    memory: float
    cpu_s: float
    descriptors: int


class Outcome(NamedTuple):
    """What a run has shown; it went well when there are no failures."""

    seconds: float
    counts: dict[str, int]
    memory_early: float
    memory_end: float
    growth_percent: float
    failures: list[str]


def soak(seconds: float, visitors: int, every: float, *, growth: float = GROWTH, verbose: bool = False) -> Outcome:
    """Run the churn against a server of its own; a sample is taken each `every` seconds."""
    with tempfile.TemporaryDirectory() as directory, Server(Path(directory), server=SETTINGS) as server:
        stop, failures = threading.Event(), list[str]()
        threads = [Visitor(index, server, stop, failures) for index in range(visitors)]
        for thread in threads:
            thread.start()
        try:
            samples = _watch(server, threads, stop, seconds, every, verbose)
        except OSError as error:  # the worker has gone, and its /proc with it
            failures.append(f"the worker has died: {error}")
            samples = [Sample(0, 0, 0, 0)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        failures += _leftovers(server)
    early, end = _compared(samples)
    grown = (end / early - 1) * 100 if early else 0.0
    if grown > growth:
        failures.append(f"memory has grown by {grown:.1f} %")
    counts = sum((thread.counts for thread in threads), Counter[str]())
    return Outcome(round(samples[-1].at, 1), dict(counts), round(early, 2), round(end, 2), round(grown, 2), failures)


def _watch(
    server: Server, threads: list[Visitor], stop: threading.Event, seconds: float, every: float, verbose: bool
) -> list[Sample]:
    (worker,) = server.workers()
    began, samples = time.monotonic(), list[Sample]()
    if verbose:
        print("| seconds | rounds | delivered | memory MiB | CPU s | descriptors |\n|---|---|---|---|---|---|")
    while not stop.wait(min(every, max(0.1, began + seconds - time.monotonic()))):
        at = time.monotonic() - began
        samples.append(Sample(at, memory(worker) / MIB, cpu_s(worker), descriptors(worker)))
        if verbose:
            rounds, delivered = (sum(thread.counts[name] for thread in threads) for name in ("rounds", "delivered"))
            last = samples[-1]
            print(f"| {at:.0f} | {rounds} | {delivered} | {last.memory:.2f} | {last.cpu_s:.1f} | {last.descriptors} |")
            sys.stdout.flush()
        if at >= seconds:
            break
    return samples or [Sample(0, 0, 0, 0)]


def _compared(samples: list[Sample]) -> tuple[float, float]:
    """Memory early and at the end, each the median of a stretch of samples: cached events come and go."""
    length = samples[-1].at
    warm, stretch = min(WARM_UP_S, length / 5), min(STRETCH_S, length / 5)
    early = [sample.memory for sample in samples if warm <= sample.at <= warm + stretch]
    end = [sample.memory for sample in samples if sample.at >= length - stretch]
    return median(early or [samples[0].memory]), median(end)


def _leftovers(server: Server) -> list[str]:
    """What should not be there once all visitors have gone."""
    if server.process.poll() is not None:
        return ["the server has died"]
    rest, found = Rest(server.host, server.port), []
    for path, expected in (("/connections", {"connections": 0}), ("/channels", {"channels": {}})):
        last: list[Any] = []

        def empty(path: str = path, expected: object = expected, last: list[Any] = last) -> bool:
            last[:] = [rest.call("GET", path).json()]
            return bool(last[0] == expected)

        try:
            eventually(empty, within=20)
        except AssertionError:
            found.append(f"{path} at the end: {str(last[0])[:300]}")
    rest.close()
    if "Traceback" in server.log():
        found.append("the log has a traceback: " + server.log().partition("Traceback")[2][:2000])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--visitors", type=int, default=4, help="pairs of clients at a time (default 4)")
    options = parser.parse_args()
    outcome = soak(options.minutes * 60, options.visitors, 10.0, verbose=True)
    print(json.dumps({"case": "soak", **outcome._asdict()}))
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
