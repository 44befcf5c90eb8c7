"""The floor: what the kernel alone takes to send a frame to each of many loopback sockets.

    python tests/bench/floor.py [--subs 1000] [--rounds 300] [--size 190] [--cpu 0] [--load-cpu 1]

Prints one JSON object; `cpu_us_per_send` is what a server written in anything has to pay for a delivery.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import time


def read_all(port: int, connections: int, cpu: int | None, total: int) -> None:
    """The other end: connects, and reads until `total` bytes have come on all sockets together."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    poller, sockets = select.epoll(), {}
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(False)
        sockets[sock.fileno()] = sock
        poller.register(sock, select.EPOLLIN)
    while total > 0:
        for descriptor, _ in poller.poll(10):
            total -= len(sockets[descriptor].recv(262144))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("subs", 1000), ("rounds", 300), ("size", 190), ("cpu", 0), ("load-cpu", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    total = options.subs * options.rounds * options.size
    if os.fork() == 0:
        read_all(listener.getsockname()[1], options.subs, options.load_cpu, total)
        os._exit(0)
    os.sched_setaffinity(0, {options.cpu})
    sockets = [listener.accept()[0] for _ in range(options.subs)]
    for sock in sockets:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    frame = b"x" * options.size
    began = time.process_time()
    for _ in range(options.rounds):
        for sock in sockets:
            sock.send(frame)
        time.sleep(0.01)  # a publisher in a closed loop leaves such pauses
    spent = time.process_time() - began
    os.wait()
    print(
        json.dumps(
            {
                "case": "floor",
                "subs": options.subs,
                "cpu_us_per_send": round(spent / options.subs / options.rounds * 1e6, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
