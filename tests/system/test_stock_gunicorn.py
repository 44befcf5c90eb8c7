"""`gunicorn -k resonate.worker resonate:app`: the stock master with our worker."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.cluster import shards_of
from tests.support.eventually import eventually
from tests.support.rest import Rest
from tests.support.server import ONE_APP, Server, configuration, free_port

Start = Callable[..., Server]
WORKER = ("gunicorn", "-k", "resonate.worker")
IDLE_APP = {"app_id": "app2", "key": "key2", "secret": "secret1", "ping_interval": 1}
TCP = (*WORKER, "--bind", "127.0.0.1:{port}")


def works(server: Server, key: str = "key1") -> bool:
    """Connect, subscribe, publish, receive."""
    rest = Rest(server.host, server.port)
    with Client(server.host, server.port, f"/app/{key}") as client, closing(rest):
        client.established().subscribed("news")
        assert rest.publish("news", "e", "x").status == 200
        return bool(client.event() == {"event": "e", "data": "x", "channel": "news"})


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """gunicorn with a worker time-out of 2 s, shared by the tests that leave it as it is."""
    command = [*TCP, "--timeout", "2", "resonate:app"]
    with Server(tmp_path_factory.mktemp("stock"), command=command, apps=[ONE_APP, IDLE_APP]) as running:
        yield running


def test_serves(stock: Server) -> None:
    assert works(stock)


def test_the_workers_heartbeat_satisfies_the_master(stock: Server) -> None:
    """A worker that did not beat for 2 s would be killed; four pings, a second apart, outlast that."""
    before = stock.workers()
    with Client(stock.host, stock.port, "/app/key2") as client:
        client.established()
        for _ in range(4):
            assert client.event() == {"event": "pusher:ping"}
            client.send("pusher:pong")
        assert client.barrier() == []
    assert stock.workers() == before
    assert "WORKER TIMEOUT" not in stock.log()


def test_the_default_application_is_the_start_page(stock: Server) -> None:
    with socket.create_connection((stock.host, stock.port), timeout=20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert plain.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_stopping(start: Start) -> None:
    server = start(command=[*TCP, "resonate:app"])
    with Client(server.host, server.port) as client:
        client.established()
        server.process.send_signal(signal.SIGTERM)
        assert client.closed() == 4200
        assert server.process.wait(30) == 0
    assert "Traceback" not in server.log()


def test_a_worker_that_was_killed_is_replaced(start: Start) -> None:
    server = start(command=[*TCP, "resonate:app"])
    (first,) = server.workers()
    with Client(server.host, server.port) as client:
        client.established().subscribed("news")
        os.kill(first, signal.SIGKILL)
        assert client.closed() == 1006
    eventually(lambda: server.workers() not in ([], [first]))
    eventually(lambda: attempt(server))
    assert server.stop() == 0


def test_one_worker_with_other_hosts_has_a_shard_beside_it_that_stays(start: Start) -> None:
    """What it is told of them is what the master has read, not what a worker reads at a reload."""
    scaling = {"enabled": True, "patience": 0.5, "server": {"port": free_port()}}  # there is no Redis
    server = start(command=[*TCP, "resonate:app"], server={"scaling": scaling})
    (before,), (shard,) = server.workers(), shards_of(server)
    (server.directory / "resonate.toml").write_text(configuration([ONE_APP], {"metrics_port": 0}))
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(server.workers()) == 1 and server.workers() != [before])
    eventually(lambda: "scaling stays as it is until the server is started again" in server.log())
    assert shards_of(server) == [shard]
    os.kill(shard, signal.SIGKILL)
    (another,) = eventually(lambda: [pid for pid in shards_of(server) if pid != shard])
    assert b"--scaled" in Path(f"/proc/{another}/cmdline").read_bytes()
    assert server.stop() == 0


def attempt(server: Server) -> bool:
    """Whether it works; the new worker may not listen yet."""
    try:
        return works(server)
    except OSError:
        return False


# --- options ---------------------------------------------------------------------------------------------------------


class UnixClient(Client):
    """The same client over a unix socket: only how it connects differs."""

    def __init__(self, path: Path) -> None:
        self.secret, self.socket_id, self.buffer = "secret1", "", b""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.socket.sendall(
            b"GET /app/key1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        while b"\r\n\r\n" not in self.buffer:
            self._fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.status = int(head.split(b" ", 2)[1])


@contextmanager
def launched(directory: Path, *words: str, **options: Any) -> Iterator[Server]:
    """A server that is not waited for: it listens elsewhere, or is expected to end."""
    server = Server(directory, command=[*WORKER, *words], **options)
    try:
        yield server
    finally:
        server.stop()


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with launched(tmp_path / "unix", "--bind", f"unix:{path}", "resonate:app") as server:

        def connected() -> UnixClient | None:
            try:
                return UnixClient(path)
            except OSError:
                return None

        client = eventually(connected)
        assert client is not None
        with client:
            client.established().subscribed("news")
            assert client.barrier() == []
            server.process.send_signal(signal.SIGTERM)
            assert client.closed() == 4200
        assert server.process.wait(30) == 0


def test_max_requests_is_ignored_with_a_warning(start: Start) -> None:
    server = start(command=[*TCP, "--max-requests", "2", "resonate:app"])
    assert "--max-requests is ignored" in server.log()
    before = server.workers()
    assert all(works(server) for _ in range(5))
    assert server.workers() == before


def test_configuration_file_of_gunicorn(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "gunicorn.conf.py"
    file.write_text('worker_class = "resonate.worker"\nworkers = 1\nraw_env = ["REVERB_APP_KEY=key9"]\n')
    server = start(command=["gunicorn", "--config", str(file), "--bind", "127.0.0.1:{port}", "resonate:app"])
    with Client(server.host, server.port, "/app/key9") as client:
        client.established()


def test_resonate_config(start: Start, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(configuration([{**ONE_APP, "key": "key2"}], {}))
    server = start(command=[*TCP, "resonate:app"], env={"RESONATE_CONFIG": str(other)})
    with Client(server.host, server.port, "/app/key2") as client:
        client.established()


# --- what it says when it cannot start -------------------------------------------------------------------------------


def refused(directory: Path, *words: str, **options: Any) -> str:
    """The line with which the start is refused; the rest of the log is gunicorn's own."""
    with launched(directory, "--bind", "127.0.0.1:{port}", *words, "resonate:app", **options) as server:
        assert server.process.wait(30) != 0
        log = server.log()
    assert "Traceback" not in log
    assert "hunter2" not in log
    (line,) = [line for line in log.splitlines() if "[CRITICAL]" in line or line.startswith("resonate: ")]
    return line


def test_bad_configuration(tmp_path: Path) -> None:
    line = refused(tmp_path, server={"prot": 5})
    assert "servers.reverb.prot" in line
    assert "resonate.toml" in line


def test_bad_variable(tmp_path: Path) -> None:
    line = refused(tmp_path, env={"REVERB_APP_PING_INTERVAL": "0"})
    assert "environment: REVERB_APP_PING_INTERVAL = '0'" in line


def test_missing_app(tmp_path: Path) -> None:
    assert "REVERB_APP_ID" in refused(tmp_path, apps=[])


def test_missing_certificate(tmp_path: Path) -> None:
    line = refused(tmp_path, server={"options": {"tls": {"local_cert": "cert.pem", "passphrase": "hunter2"}}})
    assert "cert.pem" in line


def test_secret_of_a_wrong_type(tmp_path: Path) -> None:
    assert "secret" in refused(tmp_path, apps=[{**ONE_APP, "secret": ["hunter2"]}])
