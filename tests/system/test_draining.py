"""Who cannot go on in another worker is sent away, one after another: else all would come back at once."""

from __future__ import annotations

import re
import selectors
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trustme

from tests.support.client import Client
from tests.support.cluster import Kind, processes, run_directory, workers_of
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.server import BIN, Server

CLIENTS = 40
DRAIN_S = 2
#: All at once is faster; a machine that is busy may let many arrive together that have been told one after another.
SPREAD_S = 0.5

_SENT = re.compile(r"sent (\d+) WebSockets away in ([\d.]+) s")


@contextmanager
def clients(server: Server, tls: ssl.SSLContext | None = None) -> Iterator[list[Client]]:
    """The oldest first."""
    with ExitStack() as stack:
        yield [stack.enter_context(Client(server.host, server.port, tls=tls).established()) for _ in range(CLIENTS)]


def sent_away(those: list[Client]) -> tuple[list[int], float]:
    """Wait until all have been closed with 4200: in which order, and how long it took from the first to the last."""
    with selectors.DefaultSelector() as selector:
        for number, client in enumerate(those):
            selector.register(client.socket, selectors.EVENT_READ, number)
        order: list[int] = []
        moments: list[float] = []
        while len(order) < len(those):
            ready = selector.select(30)
            assert ready, f"only {len(order)} have been closed"
            for key, _ in ready:
                selector.unregister(key.fileobj)
                assert those[key.data].closed() == 4200
                order.append(key.data)
                moments.append(time.monotonic())
    return order, moments[-1] - moments[0]


def one_after_another(order: list[int], took_s: float) -> bool:
    """The oldest first, as far as a client can tell, and not in one moment."""
    quarter, half = CLIENTS // 4, CLIENTS // 2
    return took_s > SPREAD_S and max(order[:quarter]) < half <= min(order[-quarter:])


@pytest.fixture
def secure(tmp_path: Path) -> tuple[dict[str, object], ssl.SSLContext]:
    """Settings of a server that ends TLS itself, and the context of its clients."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return {"options": {"tls": {"local_cert": cert, "local_pk": key}}}, context


def test_clients_of_tls_are_sent_away_in_a_reload(
    secure: tuple[dict[str, object], ssl.SSLContext], tmp_path: Path
) -> None:
    settings, context = secure
    port = free_port()
    options = {**settings, "drain_timeout": DRAIN_S, "metrics_port": port}
    with Server(tmp_path / "server", server=options, command=Kind("own", 1).command(1), scheme="https") as server:
        eventually(lambda: "Resonate is ready" in server.log())
        with clients(server, context) as those:
            old = workers_of(server)
            server.process.send_signal(signal.SIGHUP)
            order, took_s = sent_away(those)
        assert one_after_another(order, took_s), (took_s, order)
        with Client(server.host, server.port, tls=context) as again:
            again.established()
        eventually(lambda: not set(old) & set(processes(server)))
        assert f"sending {CLIENTS} WebSockets away, over 1.5 s" in server.log()
        assert _SENT.findall(server.log())[0][0] == str(CLIENTS)
        eventually(lambda: f"resonate_drained_total {CLIENTS}.0" in metrics(port))
        eventually(lambda: "reload 2 done" in server.log())  # its shard is inside again, and knows it too
        eventually(lambda: f"resonate_drained_total {CLIENTS}.0" in metrics(port))


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def test_a_drain_sends_everybody_away_one_after_another(start: Callable[..., Server]) -> None:
    server = start(server={"drain_timeout": DRAIN_S}, command=Kind("own", 1).command(2))
    eventually(lambda: "Resonate is ready" in server.log())
    with clients(server) as those:
        command = [str(BIN / "resonate"), "reload", "--drain", "--run-dir", str(run_directory(server))]
        draining = subprocess.Popen(command, cwd=server.directory, stdout=subprocess.PIPE, text=True)
        _, took_s = sent_away(those)
    assert draining.communicate(timeout=30)[0].startswith("drained in ")
    assert draining.returncode == 0
    assert took_s > SPREAD_S
    assert server.process.wait(30) == 0


def test_a_stop_sends_everybody_away_at_once(start: Callable[..., Server]) -> None:
    """Nobody else here could take them, and whoever stops a server waits for it."""
    server = start(server={"drain_timeout": 30})
    with clients(server) as those:
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        sent_away(those)
    assert server.process.wait(30) == 0
    assert time.monotonic() - began < 15
