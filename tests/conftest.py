"""Fixtures of the system tests: one server for a module, fresh clients for a test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.client import Client
from tests.support.rest import Rest
from tests.support.server import OURS, Server

# Whoever runs the tests may have exported what the README says: the servers of the tests are configured by the tests.
for _name in [name for name in os.environ if name.startswith(OURS)]:
    del os.environ[_name]

# A noisy machine is no reason to fail: nothing here depends on how long an example takes.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "long", deadline=None, suppress_health_check=list(HealthCheck), max_examples=20_000, stateful_step_count=70
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "any machine"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`resonate start` with one app (app1, key1, secret1) and defaults; shared by the tests of a module."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[..., Client]]:
    """Makes established clients of the module's server and closes them after the test."""
    clients: list[Client] = []

    def new(path: str = "/app/key1", headers: str = "") -> Client:
        clients.append(Client(server.host, server.port, path, headers).established())
        return clients[-1]

    yield new
    for client in clients:
        client.close()


@pytest.fixture
def rest(server: Server) -> Iterator[Rest]:
    """A REST connection to the module's server."""
    caller = Rest(server.host, server.port)
    yield caller
    caller.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts further servers with settings of their own; all are stopped after the test."""
    running: list[Server] = []

    def new(**options: object) -> Server:
        running.append(Server(tmp_path / f"server-{len(running)}", **options))  # type: ignore[arg-type]
        return running[-1].__enter__()

    yield new
    for server in running:
        server.stop()
