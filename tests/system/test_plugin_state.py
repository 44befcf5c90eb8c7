"""What is kept of a connection in one worker is there in the next, after a real hand-over."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import noting
from tests.support.client import Client
from tests.support.cluster import linked, workers_of
from tests.support.eventually import eventually
from tests.support.rest import Rest
from tests.support.server import Server

OWN = ["python", "-m", noting.NAME, "{port}"]
STOCK = ["gunicorn", "-k", f"{noting.NAME}.Stock", "-w", "2", "--bind", "127.0.0.1:{port}"]
STOCK += [f"{noting.NAME}:application"]


def found(server: Server, client: Client) -> Any:
    """The pid of the worker that has this client, and what is noted there."""

    def asked() -> Any:
        with closing(Rest(server.host, server.port)) as rest:
            rest.connection.request("GET", "/")
            return json.loads(rest.connection.getresponse().read()).get(client.socket_id)

    return eventually(asked)


@pytest.mark.parametrize(
    ("command", "number"),
    [(STOCK, signal.SIGHUP), (OWN, signal.SIGHUP), (OWN, signal.SIGUSR2)],
    ids=["gunicorn-HUP", "own-HUP", "own-USR2"],
)
def test_it_is_there_in_the_heir(tmp_path: Path, command: list[str], number: signal.Signals) -> None:
    with Server(tmp_path, command=command) as server:
        eventually(lambda: len(linked(server)) >= 2)
        with Client(server.host, server.port).established() as client:
            first, names, good = found(server, client)
            assert (names, good) == (["bad", "good"], {"by": first, "text": "löbby"})
            old = workers_of(server)
            server.process.send_signal(number)
            eventually(lambda: workers_of(server) and not set(old) & set(workers_of(server)), within=60)
            second, names, good = found(server, client)
            assert second not in old
            assert (names, good) == (["good"], {"by": first, "text": "löbby"})
            assert client.barrier() == []
        said = "the state that the plugin 'bad' keeps of 1 connections is not handed over: it is no JSON"
        assert said in server.log()
        assert noting.SECRET not in server.log()
