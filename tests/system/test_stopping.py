"""What may hold up a stop, and what may not; and how long idle connections are kept."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.client import Client
from tests.support.server import Server

LAZY = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def connection(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=20)


def read_answer(sock: socket.socket) -> bytes:
    """One answer with a body of two bytes, such as the site's."""
    data = b""
    while not data.partition(b"\r\n\r\n")[2][1:]:
        got = sock.recv(4096)
        assert got, data
        data += got
    return data


def test_half_a_request_does_not_hold_up_the_stop(start: Callable[..., Server]) -> None:
    server = start(server={"drain_timeout": 30})
    with connection(server) as half, Client(server.host, server.port).established() as client:
        half.sendall(b"POST /apps/app1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        client.barrier()
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15
        assert client.closed() == 4200


def test_a_handshake_that_comes_during_a_stop_is_sent_away_at_once(start: Callable[..., Server]) -> None:
    """It may come back: a restart has somebody there by then."""
    server = start(server={"drain_timeout": 30})
    with connection(server) as late, Client(server.host, server.port).established() as client:
        head = b"GET /app/key1?protocol=7 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        late.sendall(head)
        client.barrier()
        server.process.send_signal(signal.SIGTERM)
        assert client.closed() == 4200
        late.sendall(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        data = b""
        while got := late.recv(4096):
            data += got
        assert (4200).to_bytes(2, "big") + b"Server is restarting" in data
        client.close()
        late.close()
        assert server.process.wait(15) == 0


def test_a_body_that_the_site_does_not_read_does_not_end_the_connection(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    """It has been told that the connection stays: a proxy would send its next request on it."""
    directory = tmp_path / "server-0"
    directory.mkdir()
    (directory / "lazy.py").write_text(LAZY)
    server = start(command=["gunicorn", "-k", "resonate.worker", "--bind", "127.0.0.1:{port}", "lazy:application"])
    with connection(server) as sock:
        for _ in range(3):
            sock.sendall(b"POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
            assert read_answer(sock).endswith(b"ok")


def test_keep_alive_of_gunicorn_holds(start: Callable[..., Server]) -> None:
    command = ["gunicorn", "-k", "resonate.worker", "--keep-alive", "1", "--bind", "127.0.0.1:{port}", "resonate:app"]
    server = start(command=command, server={"handshake_timeout": 60})
    with connection(server) as sock:
        sock.sendall(b"GET /up HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b'{"health":"OK"}' in sock.recv(4096)
        assert sock.recv(4096) == b""  # and not after the handshake's time, or 75 s
