"""Reloads of a whole server under load: no client notices. The full size is `make reload`."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.bench import reload
from tests.support.client import Client
from tests.support.cluster import Kind, cluster, hup, kill, linked, processes, replaced, shards_of, workers_of
from tests.support.eventually import eventually
from tests.support.rest import Rest
from tests.support.server import ONE_APP, Server, configuration


def found(directory: Path, **options: Any) -> dict[str, Any]:
    """What somebody has noticed, at a small size."""
    small = {"clients": 240, "channels": 24, "rate": 150, "reloads": 3, "workers": 2, "pause": 1.0, "log": True}
    return reload.run(argparse.Namespace(**{**small, "shards": 1, **options}), directory)


@pytest.mark.parametrize(("master", "shards"), [("own", 1), ("own", 2), ("gunicorn", 1)])
def test_nobody_notices(tmp_path: Path, master: str, shards: int) -> None:
    seen = found(tmp_path, master=master, shards=shards)
    assert seen["wrong"] == {}, seen["examples"]
    assert seen["deliveries"] > 1000
    assert seen["guests"] > 10


def test_nobody_notices_new_masters(tmp_path: Path) -> None:
    seen = found(tmp_path, master="own", shards=2, signal="USR2", reloads=2)
    assert seen["wrong"] == {}, seen["examples"]
    assert seen["reloads"] == 2
    assert seen["deliveries"] > 1000


def test_nobody_notices_another_number_of_shards(tmp_path: Path) -> None:
    seen = found(tmp_path, master="own", workers=3, reshard=[3, 2])
    assert seen["wrong"] == {}, seen["examples"]
    assert seen["reloads"] == 2
    assert seen["deliveries"] > 1000


@pytest.mark.parametrize("option", ["--preload", "--reuse-port"])
def test_nobody_notices_with(tmp_path: Path, option: str) -> None:
    """With --reuse-port it is said of those who are connected already."""
    seen = found(tmp_path, master="gunicorn", gunicorn=option, reloads=1, pause=0.0)
    if option == "--reuse-port":
        seen["wrong"].pop("refused", 0)
    assert seen["wrong"] == {}, seen["examples"]
    assert seen["reloads"] == 1


@pytest.mark.parametrize("master", ["own", "gunicorn"])
def test_a_single_worker_hands_over_too(tmp_path: Path, master: str) -> None:
    """Until then it has its shard inside."""
    command = Kind(master, 1).command(1)
    with (
        Server(tmp_path, command=command, env={"RESONATE_BUS_SHARDS": "1"}) as server,
        Client(server.host, server.port).established() as client,
    ):
        client.subscribed("chat")
        for _ in range(2):
            old = workers_of(server)
            hup(server)
            eventually(lambda: replaced(server, old, 1), within=60)  # noqa: B023 - it is called at once
            assert heard(client, server) == "hello"
            if master == "own":
                eventually(lambda: not shards_of(server), within=60)
                assert heard(client, server) == "hello"


@contextmanager
def gunicorn(directory: Path, workers: int = 2) -> Iterator[Server]:
    with cluster(directory, Kind("gunicorn", 1), workers, "--graceful-timeout", "20") as server:
        yield server


def heard(client: Client, server: Server) -> Any:
    """What the client is told of an event that is published now."""
    with closing(Rest(server.host, server.port)) as rest:
        assert rest.publish("chat", "hello", "{}").status == 200
    return client.event()["event"]


def test_a_worker_that_cannot_start_costs_nothing(tmp_path: Path) -> None:
    with gunicorn(tmp_path) as server, Client(server.host, server.port).established() as client:
        client.subscribed("chat")
        old, good = workers_of(server), (tmp_path / "resonate.toml").read_text()
        (tmp_path / "resonate.toml").write_text(configuration([ONE_APP], {"max_request_size": -1}))
        hup(server)
        eventually(lambda: server.log().count("the worker cannot start") >= 3, within=60)
        assert heard(client, server) == "hello"
        assert set(old) & set(processes(server))
        (tmp_path / "resonate.toml").write_text(good)
        hup(server)
        eventually(lambda: replaced(server, old, 2), within=60)
        assert heard(client, server) == "hello"


def test_an_app_that_has_gone_is_told_so(tmp_path: Path) -> None:
    other = {"app_id": "app2", "key": "key2", "secret": "secret2"}
    path = "/app/key2?protocol=7&client=js&version=8.4.0&flash=false"
    with (
        cluster(tmp_path, Kind("gunicorn", 1), 2, apps=[ONE_APP, other]) as server,
        Client(server.host, server.port).established() as stays,
        Client(server.host, server.port, path, secret="secret2").established() as goes,
    ):
        stays.subscribed("chat")
        goes.subscribed("chat")
        old = workers_of(server)
        (tmp_path / "resonate.toml").write_text(configuration([ONE_APP], {"metrics_port": 0}))
        hup(server)
        eventually(lambda: replaced(server, old, 2), within=60)
        assert goes.event()["event"] == "pusher:error"
        assert goes.closed() == 4001
        assert heard(stays, server) == "hello"


def test_a_stop_does_not_wait_for_heirs(tmp_path: Path) -> None:
    with gunicorn(tmp_path) as server, Client(server.host, server.port).established() as client:
        client.subscribed("chat")
        server.process.send_signal(signal.SIGTERM)
        assert client.closed() == 4200
        assert server.process.wait(20) == 0


def test_a_shard_dies_in_the_middle(tmp_path: Path) -> None:
    """The hand-over waits for its successor."""
    with gunicorn(tmp_path) as server, Client(server.host, server.port).established() as client:
        client.subscribed("chat")
        old = workers_of(server)
        hup(server)
        eventually(lambda: len(workers_of(server)) > 2, within=30)
        for pid in shards_of(server):
            kill(pid)
        eventually(lambda: replaced(server, old, 2), within=90)
        eventually(lambda: len(linked(server)) >= 2, within=30)
        assert heard(client, server) == "hello"


def test_what_has_begun_goes_on(tmp_path: Path) -> None:
    """Half a frame, a fragmented message, half a request: the rest of each comes to the heir."""
    with (
        gunicorn(tmp_path) as server,
        Client(server.host, server.port).established() as client,
        closing(Rest(server.host, server.port)) as rest,
    ):
        client.subscribed("chat")
        ping = b'{"event":"pusher:ping"}'
        client.socket.sendall(bytes([0x01, 0x80 | len(ping[:10])]) + b"\0\0\0\0" + ping[:10])
        client.socket.sendall(bytes([0x80, 0x80 | len(ping[10:])]) + b"\0\0")
        assert rest.publish("chat", "before", "{}").status == 200
        rest.connection.sock.sendall(b"GET /up HT")  # type: ignore[union-attr]
        assert client.event()["event"] == "before"
        old = workers_of(server)
        hup(server)
        eventually(lambda: replaced(server, old, 2), within=60)
        client.socket.sendall(b"\0\0" + ping[10:])
        assert client.event()["event"] == "pusher:pong"
        rest.connection.sock.sendall(b"TP/1.1\r\nHost: x\r\n\r\n")  # type: ignore[union-attr]
        assert rest.connection.sock.recv(4096).startswith(b"HTTP/1.1 200")  # type: ignore[union-attr]
        assert os.getpid() not in old
