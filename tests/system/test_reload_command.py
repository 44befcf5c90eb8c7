"""A reload of the real server: what changes by it, and what does not."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from tests.support.client import Client
from tests.support.cluster import shards_of, workers_of
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.rest import Rest
from tests.support.server import BIN, ONE_APP, Server, configuration

OTHER_APP = {"app_id": "app2", "key": "key2", "secret": "secret2"}


def configure(server: Server, text: str) -> None:
    (server.directory / "resonate.toml").write_text(text)


def reload(server: Server) -> subprocess.CompletedProcess[str]:
    words = [str(BIN / "resonate"), "reload", "--run-dir", str(server.directory)]
    return subprocess.run(words, cwd=server.directory, capture_output=True, text=True, timeout=90, check=False)


def settings(server: Server, **more: object) -> dict[str, object]:
    return {"metrics_port": 0, "run_dir": str(server.directory), **more}


@pytest.fixture
def server() -> Iterator[Server]:
    """With a run directory of its own; sockets lie in it, and their paths may not be long."""
    with tempfile.TemporaryDirectory(prefix="r") as name:
        directory = Path(name)
        with Server(directory, server={"run_dir": name}) as running:
            yield running


def test_a_new_app_is_served_after_a_reload(server: Server) -> None:
    configure(server, configuration([ONE_APP, OTHER_APP], settings(server)))
    done = reload(server)
    assert done.returncode == 0, done.stderr + server.log()
    with Client(server.host, server.port, "/app/key2") as client:
        client.established()
    assert "stays" not in server.log()


def test_a_signal_does_the_same(server: Server) -> None:
    configure(server, configuration([ONE_APP], settings(server, handshake_timeout=11)))
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reload 2 done" in server.log())
    with Client(server.host, server.port) as client:
        client.established()


def test_a_configuration_that_cannot_be_used_is_refused_and_nothing_changes(server: Server) -> None:
    before = server.workers()
    tls = {"options": {"tls": {"local_cert": "missing.pem"}}}
    for text, named in (
        ("[servers.reverb\n", "cannot be read"),
        (configuration([ONE_APP], settings(server, drain_timeout=-1)), "drain_timeout"),
        (configuration([ONE_APP], settings(server, **tls)), "missing.pem"),
    ):
        configure(server, text)
        done = reload(server)
        assert done.returncode == 1
        assert named in done.stderr
        assert named in server.log()
    assert server.workers() == before
    with Client(server.host, server.port) as client:
        client.established()


def test_from_several_shards_to_one_inside_and_out_again() -> None:
    with tempfile.TemporaryDirectory(prefix="r") as name:
        keys = {"run_dir": name, "metrics_port": 0, "workers": 1, "bus_shards": 3}
        env = {"RESONATE_BUS_SHARDS": "", "RESONATE_WORKERS": ""}
        with (
            Server(Path(name), server=keys, env=env) as server,
            Client(server.host, server.port).established() as client,
            closing(Rest(server.host, server.port)) as rest,
        ):
            channels = [f"chat-{number}" for number in range(8)]
            for channel in channels:
                client.subscribed(channel)
            configure(server, configuration([ONE_APP], {**keys, "bus_shards": 1}))
            assert reload(server).returncode == 0
            assert shards_of(server) == []
            server.process.send_signal(signal.SIGTTIN)
            eventually(lambda: len(workers_of(server)) == 2 and len(shards_of(server)) == 1)
            (shard,) = shards_of(server)
            eventually(lambda: server.log().count(f"linked to shard 0 (pid {shard})") == 2)
            for number in range(8):  # what it asks for from now on has one home, too
                client.subscribed(f"late-{number}")
            for channel in channels:
                assert rest.publish(channel, "hello", "{}").status == 200
            assert sorted(client.event()["channel"] for _ in channels) == channels


def test_metrics_on_another_port(server: Server) -> None:
    metrics = free_port()
    with Client(server.host, server.port).established() as client:
        client.subscribed("chat")
        configure(server, configuration([ONE_APP], settings(server, metrics_port=metrics)))
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "reload 2 done" in server.log())
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=20) as answer:
            assert b"resonate_connections" in answer.read()
        with closing(Rest(server.host, server.port)) as rest:
            assert rest.publish("chat", "hello", "{}").status == 200
        assert client.event()["event"] == "hello"


def test_a_renewed_certificate() -> None:
    authority = trustme.CA()
    with tempfile.TemporaryDirectory(prefix="r") as name:
        directory = Path(name)
        cert, key = directory / "cert.pem", directory / "key.pem"

        def renew() -> None:
            certificate = authority.issue_cert("127.0.0.1")
            certificate.cert_chain_pems[0].write_to_path(cert)
            certificate.private_key_pem.write_to_path(key)

        renew()
        tls = {"options": {"tls": {"local_cert": str(cert), "local_pk": str(key)}}}
        with Server(directory, server={"run_dir": name, **tls}, scheme="https") as server:
            trusting = ssl.create_default_context()
            authority.configure_trust(trusting)

            def shown() -> bytes | None:
                with (
                    socket.create_connection((server.host, server.port), timeout=20) as plain,
                    trusting.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
                ):
                    return secure.getpeercert(binary_form=True)

            eventually(lambda: "Resonate is ready" in server.log())
            before = shown()
            renew()
            assert shown() == before
            assert reload(server).returncode == 0
            assert shown() not in (before, None)


def test_where_the_server_is_is_known_although_the_configuration_is_broken(server: Server) -> None:
    configure(server, configuration([ONE_APP], settings(server, drain_timeout=-1)))
    env = {**os.environ, "RESONATE_RUN_DIR": str(server.directory)}
    words = [str(BIN / "resonate"), "reload"]
    done = subprocess.run(
        words, cwd=server.directory, env=env, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 1
    assert "not reloaded" in done.stderr
    assert done.stderr.count("drain_timeout") == 2  # of the command, and of the server
