"""A new master that cannot serve, with real clients: the full size of one that can is `make reload` with SIGUSR2."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from pathlib import Path

from resonate.bus.directory import RunDirectory, pid_of
from tests.support.client import Client
from tests.support.cluster import Kind, clients_on, cluster, kill, run_directory, workers_of
from tests.support.eventually import eventually
from tests.support.server import Server


def successor(server: Server) -> int:
    """Have the master in charge followed; the pid of the new one."""
    before = server.log()
    directory = run_directory(server)
    assert directory is not None
    os.kill(pid_of(RunDirectory(directory).master), signal.SIGUSR2)
    found = eventually(lambda: re.search(r"a new master starts \(pid:(\d+)\)", server.log()[len(before) :]))
    return int(found[1])


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

#: By then the master has seen that a worker is ready, in seconds.
SEEN_S = 2.0


def half_ready(server: Server) -> tuple[int, int]:
    """A new master with two workers, one of which was stopped before it was ready: it, and the other worker.

    That may come too late on a busy machine; then the next master is tried.
    """
    while True:
        new = successor(server)
        stopped = eventually(lambda: children(new)[1:], every=0.001)[0]  # noqa: B023 - called at once
        os.kill(stopped, signal.SIGSTOP)
        (other,) = set(children(new)) - {stopped}
        eventually(lambda: other in workers_of(server))  # noqa: B023
        if stopped not in workers_of(server):
            since = time.monotonic()  # a worker reports itself each second, and is seen to be ready then
            eventually(lambda: time.monotonic() > since + SEEN_S)  # noqa: B023
            return stopped, other
        os.kill(stopped, signal.SIGCONT)
        eventually(lambda: "the old master has gone" in server.log())


def test_what_workers_of_a_new_master_have_accepted_is_handed_to_those_of_the_old_one(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as private:
        keys = {"run_dir": private, "drain_timeout": 10}
        with cluster(tmp_path, Kind("own", 1), 2, server=keys) as server:
            before = workers_of(server)
            with Client(server.host, server.port).established() as there:
                there.subscribed("chat")
                stopped, ready = half_ready(server)
                (client,) = clients_on(server, ready)
                with client:
                    client.subscribed("chat")
                    kill(stopped)
                    eventually(lambda: "this one serves on as before" in server.log(), within=60)
                    eventually(lambda: len(workers_of(server)) == 2)
                    assert "before all were ready" in server.log()
                    for each, other in ((there, client), (client, there)):
                        each.send("pusher:ping")
                        assert each.event() == {"event": "pusher:pong"}
                        assert other.barrier() == []
                    assert "handed 1 of 1 connections over" in server.log()
                    assert set(before) & set(workers_of(server))
