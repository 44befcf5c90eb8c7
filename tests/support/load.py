"""Many connections, and one that measures how it fares meanwhile: both in processes of their own.

The tests hold the handles (`Watcher`, `Crowd`). The children run this module and end when their standard input is
closed, so that none survives a test that fails. In a process of its own the watcher's clock is not disturbed by the
test's work.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

from tests.support.client import Client
from tests.support.rest import Rest

ROOT: Final = Path(__file__).parents[2]
#: How long others may wait on a busy two-core machine before we call it harm, in seconds.
PATIENCE_S: Final = 5.0
#: Pause of the watcher between two rounds, in seconds.
PACE_S: Final = 0.02
#: Handshakes under way at a time, and connections from one source address (it has 28,000 ports).
WINDOW: Final = 64
PER_ADDRESS: Final = 10_000

_UPGRADE: Final = (
    b"GET /app/key1?protocol=7 HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def memory(pid: int) -> int:
    """The anonymous memory of a process in bytes, with its share of what it has in common with its master.

    Mapped files are left out: what they count depends on how many others have the same libraries open.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines[1:])}
    return sizes.get("Pss_Anon", sizes["Pss"])  # Linux before 5.4 has only the whole


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_s(pid: int) -> float:
    """The processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Child:
    """A process that runs this module until its standard input is closed."""

    def __init__(self, *words: str | int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.load", *map(str, words)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise AssertionError(f"{words} did not start:\n{self._process.communicate()[1]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        output = self._end()
        if error is None:
            self._finished(output)

    def _end(self) -> str:
        """Close its standard input; what it has printed since it was ready."""
        try:
            output, errors = self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"does not end: {self._process.communicate()}") from None
        assert self._process.returncode == 0, errors
        return output

    def _finished(self, output: str) -> None:
        """It has ended well, after a test that went well."""


class Report(NamedTuple):
    """What a watcher has seen: rounds, and the median and longest waits in milliseconds."""

    rounds: int
    ping_median: float
    ping_longest: float
    event_median: float
    event_longest: float


class Watcher(_Child):
    """An ordinary client: pings, publishes to itself over REST, and must never wait longer than PATIENCE_S."""

    def __init__(self, host: str, port: int, title: str) -> None:
        self._title = title
        super().__init__("watch", host, port)

    def __enter__(self) -> Watcher:
        return self

    def _finished(self, output: str) -> None:
        report = Report(**json.loads(output))
        print(f"{self._title}: {report}")
        assert report.rounds > 0
        assert max(report.ping_longest, report.event_longest) < PATIENCE_S * 1000, report


class Crowd(_Child):
    """`count` connections that say nothing: plain ones ("tcp"), or established WebSockets ("websocket")."""

    def __init__(self, host: str, port: int, kind: str, count: int) -> None:
        super().__init__("crowd", host, port, kind, count)

    def __enter__(self) -> Crowd:
        return self


# --- the children -----------------------------------------------------------------------------------------------------


def _told_to_end(within: float | None) -> bool:
    return bool(select.select([sys.stdin], [], [], within)[0])


def _watch(host: str, port: int) -> None:
    client, rest = Client(host, port).established(), Rest(host, port)
    client.subscribed("watched")
    pings: list[float] = []
    events: list[float] = []
    while not (pings and _told_to_end(PACE_S)):
        began = time.perf_counter()
        assert client.barrier() == []
        pings.append(time.perf_counter() - began)
        text = str(len(pings))
        began = time.perf_counter()
        assert rest.publish("watched", "tick", text).status == 200
        assert client.event()["data"] == text
        events.append(time.perf_counter() - began)
        if len(events) == 1:  # both connections are open
            print("ready", flush=True)
    waits = [round(value * 1000, 2) for series in (pings, events) for value in (_median(series), max(series))]
    print(json.dumps(Report(len(pings), *waits)._asdict()))


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _crowd(host: str, port: int, kind: str, count: int) -> None:
    sockets: list[socket.socket] = []
    for index in range(count):
        sock = socket.socket()
        sock.bind((f"127.{os.getpid() % 200 + 2}.{os.getpid() // 200 % 250}.{2 + index // PER_ADDRESS}", 0))
        sock.settimeout(60)
        sock.connect((host, port))
        sockets.append(sock)
        if kind == "websocket":
            sock.sendall(_UPGRADE)
            if index >= WINDOW:
                _established(sockets[index - WINDOW])
    if kind == "websocket":
        for sock in sockets[-WINDOW:]:
            _established(sock)
    print("ready", flush=True)
    _told_to_end(None)
    for sock in sockets:
        sock.close()


def _established(sock: socket.socket) -> None:
    data = b""
    while b"connection_established" not in data:
        received = sock.recv(4096)
        assert received, data
        data += received


def main(words: list[Any]) -> None:
    """`watch HOST PORT` or `crowd HOST PORT KIND COUNT`."""
    if words[0] == "watch":
        _watch(words[1], int(words[2]))
    else:
        _crowd(words[1], int(words[2]), words[3], int(words[4]))


if __name__ == "__main__":
    main(sys.argv[1:])
