"""Load from outside for a server that speaks the Pusher protocol; one JSON object with what it cost.

    python tests/bench/load.py fanout  --port P --pid PID --subs 1000 --cpu 1
    python tests/bench/load.py fanout  --port P --pid PID --subs 100 --publishers 8 --cpu 1
    python tests/bench/load.py publish --port P --pid PID --cpu 1
    python tests/bench/load.py connect --port P --pid PID --conns 8000 --subscribe --cpu 1

PID is the server's first process; processor time and memory are those of it and its children. Publishers work in a
closed loop: each sends the next request when the last one has been answered. One epoll loop does everything, so that
the load costs no more than one core.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script

from tests.support.client import Client, frame
from tests.support.load import cpu_s, memory
from tests.support.rest import signed

CHANNEL: Final = "bench"
HANDSHAKE: Final = (
    b"GET /app/key1?protocol=7 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
#: Handshakes under way at a time, and connections from one source address.
WINDOW: Final = 64
PER_ADDRESS: Final = 10_000
#: How long the last frames may take, in seconds, and how long connections settle before they count as idle.
LAST_FRAMES_S: Final = 20
SETTLE_S: Final = 3


class Usage(NamedTuple):
    """What the server has used so far, and the time at which that was."""

    at: float
    cpu_s: float
    memory: int


def usage(pid: int) -> Usage:
    """Of a process and its children, by /proc."""
    processes = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    return Usage(time.perf_counter(), sum(map(cpu_s, processes)), sum(map(memory, processes)))


def publish_request(channel: str, size: int) -> bytes:
    """A signed `POST /events` with `size` bytes of data."""
    body = json.dumps({"name": "bench", "channels": [channel], "data": "x" * size}).encode()
    target = signed("POST", "/apps/app1/events", body)
    return f"POST {target} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def dial(port: int, source: str = "127.0.0.1") -> socket.socket:
    """A connection without delays."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((source, 0))
    sock.settimeout(20)
    sock.connect(("127.0.0.1", port))
    return sock


class Loop:
    """Readers on one epoll, called with what has come for them."""

    def __init__(self) -> None:
        self._poller = select.epoll()
        self._readers: dict[int, tuple[socket.socket, Callable[[bytes], None]]] = {}

    def add(self, sock: socket.socket, reader: Callable[[bytes], None]) -> None:
        """Call `reader` with the bytes of `sock` from now on."""
        sock.setblocking(False)
        self._readers[sock.fileno()] = (sock, reader)
        self._poller.register(sock, select.EPOLLIN)

    def turn(self, within: float) -> None:
        """Wait for the next bytes, and hand them out."""
        for descriptor, _ in self._poller.poll(within):
            sock, reader = self._readers[descriptor]
            data = sock.recv(262144)
            if not data:
                raise SystemExit("the server has closed a connection")
            reader(data)


class Publishers:
    """Keep-alive connections that publish in a closed loop until `stopped`."""

    def __init__(self, loop: Loop, port: int, count: int, request: Callable[[int], bytes]) -> None:
        self.answered = self.failed = 0
        self.under_way = count
        self.stopped = False
        self._request = request
        for _ in range(count):
            self._start(loop, dial(port))

    def _start(self, loop: Loop, sock: socket.socket) -> None:
        def answered(data: bytes) -> None:  # an answer is short: it comes in one piece
            self.answered += 1
            self.failed += not data.startswith(b"HTTP/1.1 200 ")
            if self.stopped:
                self.under_way -= 1
            else:
                sock.send(self._request(self.answered))

        loop.add(sock, answered)
        sock.send(self._request(0))


def fanout(options: argparse.Namespace) -> dict[str, Any]:
    """Publish to one channel with many subscribers, and count what each of them gets."""
    request = publish_request(CHANNEL, options.size)
    clients = [Client("127.0.0.1", options.port).established() for _ in range(options.subs)]
    for client in clients:
        client.subscribed(CHANNEL)
    first = dial(options.port)
    first.sendall(request)
    sizes = {len(client.text()) for client in clients}  # all frames are alike: from here on counting bytes is enough
    assert len(sizes) == 1
    payload = sizes.pop()
    size = payload + (2 if payload < 126 else 4)
    loop, received = Loop(), 0

    def count(data: bytes) -> None:
        nonlocal received
        received += len(data)

    for client in clients:
        loop.add(client.socket, count)
    before = usage(options.pid)
    publishers = Publishers(loop, options.port, options.publishers, lambda number: request)
    while time.perf_counter() < before.at + options.seconds:
        loop.turn(0.1)
    publishers.stopped = True
    until = time.perf_counter() + LAST_FRAMES_S
    while time.perf_counter() < until and (
        publishers.under_way or received < publishers.answered * options.subs * size
    ):
        loop.turn(0.1)
    after = usage(options.pid)
    delivered = received // size
    return {
        "subs": options.subs,
        "publishers": options.publishers,
        "published": publishers.answered,
        "http_errors": publishers.failed,
        "delivered": delivered,
        "lost": publishers.answered * options.subs - delivered,
        "delivered_per_s": round(delivered / (after.at - before.at)),
        "cpu_us_per_delivery": round((after.cpu_s - before.cpu_s) / max(delivered, 1) * 1e6, 2),
    }


def publish(options: argparse.Namespace) -> dict[str, Any]:
    """Publish to channels that nobody is on."""
    requests = [publish_request(f"void-{number}", options.size) for number in range(64)]
    loop, before = Loop(), usage(options.pid)
    publishers = Publishers(loop, options.port, options.conns or 32, lambda number: requests[number % 64])
    while time.perf_counter() < before.at + options.seconds:
        loop.turn(0.1)
    answered, after = publishers.answered, usage(options.pid)
    return {
        "requests_per_s": round(answered / (after.at - before.at)),
        "errors": publishers.failed,
        "cpu_us_per_request": round((after.cpu_s - before.cpu_s) / answered * 1e6, 1),
    }


def connect(options: argparse.Namespace) -> dict[str, Any]:
    """Open WebSockets as fast as one core can, then leave them alone."""
    count = options.conns or 8000
    net = f"127.{os.getpid() % 200 + 2}.{time.time_ns() // 1000 % 250 + 2}"  # with no ports of an earlier run
    before, sockets = usage(options.pid), []
    for index in range(count + WINDOW):
        if index < count:
            sockets.append(dial(options.port, f"{net}.{2 + index // PER_ADDRESS}"))
            sockets[-1].sendall(HANDSHAKE)
        if index >= WINDOW:
            _established(sockets[index - WINDOW], index if options.subscribe else None)
    if options.subscribe:
        for sock in sockets:
            _read_until(sock, b"subscription_succeeded")
    opened = usage(options.pid)
    time.sleep(SETTLE_S)
    quiet = usage(options.pid)
    time.sleep(options.seconds)
    after = usage(options.pid)
    return {
        "conns": count,
        "connects_per_s": round(count / (opened.at - before.at)),
        "cpu_us_per_connect": round((opened.cpu_s - before.cpu_s) / count * 1e6, 1),
        "kb_per_conn": round((quiet.memory - before.memory) / count / 1024, 2),
        "idle_cpu_cores": round((after.cpu_s - quiet.cpu_s) / (after.at - quiet.at), 4),
    }


def _established(sock: socket.socket, number: int | None) -> None:
    """Finish a handshake; with a number, subscribe to one of a thousand channels."""
    _read_until(sock, b"connection_established")
    if number is not None:
        text = f'{{"event":"pusher:subscribe","data":{{"channel":"idle-{number % 1000}"}}}}'
        sock.sendall(frame(text.encode(), mask=bytes(4)))


def _read_until(sock: socket.socket, mark: bytes) -> None:
    data = b""
    while mark not in data:
        received = sock.recv(65536)
        if not received:
            raise SystemExit(f"closed before {mark!r} came: {data!r}")
        data += received


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("case", choices=["fanout", "publish", "connect"])
    for name, default in (("port", 8080), ("pid", 0), ("subs", 1000), ("publishers", 1), ("conns", 0), ("size", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--subscribe", action="store_true")
    parser.add_argument("--cpu", type=int, help="the core for this program")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    measure = {"fanout": fanout, "publish": publish, "connect": connect}[options.case]
    print(json.dumps({"case": options.case, **measure(options)}))


if __name__ == "__main__":
    main()
