"""Workers that have accepted somebody, and have to go before all of their generation are ready."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from resonate.bus.directory import RunDirectory, pid_of
from tests.support.client import Client
from tests.support.cluster import Kind, clients_on, cluster, hup, kill, run_directory, workers_of
from tests.support.eventually import eventually
from tests.support.server import Server


class Way(NamedTuple):
    """To have new workers: by which signal, and what the log says when they serve, or when they will not."""

    number: signal.Signals
    done: str
    failed: str


WAYS = (
    Way(signal.SIGHUP, "done in", r"generation \d+ serves on"),
    Way(signal.SIGUSR2, "the old master has gone", "this one serves on as before"),
)


def master_of(server: Server) -> int:
    """The one in charge."""
    directory = run_directory(server)
    assert directory is not None
    return pid_of(RunDirectory(directory).master)


def begin(server: Server, number: signal.Signals) -> int:
    """Signal the master in charge; the pid of the one that starts the new workers."""
    before, master = server.log(), master_of(server)
    os.kill(master, number)
    if number is signal.SIGHUP:
        return master
    found = eventually(lambda: re.search(r"a new master starts \(pid:(\d+)\)", server.log()[len(before) :]))
    return int(found[1])


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def two_workers(directory: Path) -> Iterator[Server]:
    with (
        tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as private,
        cluster(directory, Kind("own", 1), 2, server={"run_dir": private, "drain_timeout": 10}) as server,
    ):
        yield server


def half_ready(server: Server, way: Way) -> tuple[int, int, int]:
    """Two new workers, one of which was stopped before it was ready: their master, it, and the other one.

    That may come too late on a busy machine; then others are tried.
    """
    while True:
        finished, before = server.log().count(way.done), children(master_of(server))
        master = begin(server, way.number)

        def both() -> list[int]:
            new = [child for child in children(master) if child not in before]  # noqa: B023 - called at once
            return new if len(new) == 2 else []

        stopped, other = eventually(both, every=0.001)
        os.kill(stopped, signal.SIGSTOP)
        eventually(lambda: other in workers_of(server))  # noqa: B023
        if stopped not in workers_of(server):
            return master, stopped, other
        os.kill(stopped, signal.SIGCONT)
        eventually(lambda: server.log().count(way.done) > finished)  # noqa: B023


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.number.name)
def test_what_new_workers_have_accepted_is_handed_to_the_old_ones(tmp_path: Path, way: Way) -> None:
    """Also by one that nobody has seen to be ready."""
    with two_workers(tmp_path) as server, Client(server.host, server.port).established() as there:
        there.subscribed("chat")
        _, stopped, ready = half_ready(server, way)
        before = set(workers_of(server)) - {ready}
        (client,) = clients_on(server, ready)
        kill(stopped)
        with client:
            client.subscribed("chat")
            eventually(lambda: re.search(way.failed, server.log()), within=60)
            eventually(lambda: set(workers_of(server)) == before)
            assert "before all were ready" in server.log()
            for each in (there, client):
                each.send("pusher:ping")
                assert each.event() == {"event": "pusher:pong"}
                assert each.barrier() == []
            assert re.search(r"handed [1-9]\d* of \d+ connections over", server.log())


def test_a_new_master_that_is_killed_before_it_serves_disconnects_nobody(tmp_path: Path) -> None:
    """Its workers know to whom they turn."""
    with two_workers(tmp_path) as server:
        master, stopped, ready = half_ready(server, WAYS[1])
        before = set(workers_of(server)) - {ready}
        (client,) = clients_on(server, ready)
        with client:
            client.subscribed("chat")
            kill(master)
            kill(stopped)
            eventually(lambda: "this one serves on as before" in server.log())
            eventually(lambda: set(workers_of(server)) == before)
            client.send("pusher:ping")
            assert client.event() == {"event": "pusher:pong"}
            assert client.barrier() == []


def test_what_workers_of_gunicorn_have_accepted_goes_on_to_those_that_follow_at_once(tmp_path: Path) -> None:
    with cluster(tmp_path, Kind("gunicorn", 1), 2, "--graceful-timeout", "20") as server:
        for _ in range(2):
            before = workers_of(server)
            hup(server)
            new = eventually(lambda: [pid for pid in workers_of(server) if pid not in before])[0]  # noqa: B023
            (client,) = clients_on(server, new)
            with client:
                hup(server)
                client.subscribed("chat")
                eventually(lambda: not {*before, new} & set(workers_of(server)), within=60)  # noqa: B023
                client.send("pusher:ping")
                assert client.event() == {"event": "pusher:pong"}
