"""SIGHUP of gunicorn where the new version of the hosted site cannot be imported: those that serve do so on."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.cluster import hup, kill, linked, processes, replaced, run_directory, workers_of
from tests.support.eventually import eventually
from tests.support.rest import Rest
from tests.support.server import Server

GOOD = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "1")])
    return [b"%d"]
"""
#: gunicorn's time-outs, in seconds.
TIMEOUT_S = 2


@contextmanager
def serving(directory: Path, text: str = GOOD % 1, *more: str) -> Iterator[Server]:
    """Two workers with this site."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "site_of_ours.py").write_text(text)
    words = ["gunicorn", "-k", "resonate.worker", "-w", "2", "--bind", "127.0.0.1:{port}", *more]
    command = [*words, "site_of_ours:application"]
    with Server(directory, command=command, up="/", env={"PYTHONDONTWRITEBYTECODE": "1"}) as server:
        eventually(lambda: len(linked(server)) >= 2)
        yield server


def change(server: Server, text: str) -> None:
    (server.directory / "site_of_ours.py").write_text(text)


def heard(client: Client, server: Server) -> bool:
    """Whether the client is told of an event that is published now."""
    with closing(Rest(server.host, server.port)) as rest:
        assert rest.publish("chat", "hello", "{}").status == 200
    return bool(client.event()["event"] == "hello")


def version(server: Server) -> bytes:
    with closing(Rest(server.host, server.port)) as rest:
        rest.connection.request("GET", "/")
        return rest.connection.getresponse().read()


def test_a_site_that_cannot_be_imported_costs_nothing(tmp_path: Path) -> None:
    """It is tried again, with pauses, until it can be: without another signal."""
    with serving(tmp_path) as server, Client(server.host, server.port).established() as client:
        client.subscribed("chat")
        old = workers_of(server)
        change(server, "raise SystemExit(3)")  # the status that would end gunicorn
        hup(server)
        eventually(lambda: server.log().count("the worker cannot start: SystemExit(3)") >= 4, within=60)
        assert 'site_of_ours.py", line 1, in <module>' in server.log()
        assert "in a row could not boot: the next try is in 1 s" in server.log()
        assert heard(client, server)
        assert set(old) <= set(workers_of(server))
        change(server, GOOD % 2)
        eventually(lambda: replaced(server, old, 2), within=60)
        assert heard(client, server)
        assert version(server) == b"2"


def test_a_site_that_can_be_imported_again_is_taken_by_the_next_reload(tmp_path: Path) -> None:
    with serving(tmp_path) as server, Client(server.host, server.port).established() as client:
        client.subscribed("chat")
        old = workers_of(server)
        change(server, "import os\nos._exit(7)")  # no word of it can be caught
        hup(server)
        eventually(lambda: server.log().count("exited with code 7") >= 2, within=60)
        change(server, GOOD % 2)
        hup(server)
        eventually(lambda: server.log().count("Hang up") == 2, within=60)
        eventually(lambda: replaced(server, old, 2), within=60)
        assert heard(client, server)


def test_a_site_that_hangs_while_it_is_imported(tmp_path: Path) -> None:
    """gunicorn kills it; and a stop waits neither for it nor for gunicorn, which is busy with the reload."""
    times = ["--timeout", str(TIMEOUT_S), "--graceful-timeout", str(TIMEOUT_S)]
    with serving(tmp_path, GOOD % 1, *times) as server, Client(server.host, server.port).established() as client:
        client.subscribed("chat")
        old = workers_of(server)
        change(server, "while True: pass")
        hup(server)
        eventually(lambda: server.log().count("the worker cannot start: SystemExit(1)") >= 2, within=60)
        assert "WORKER TIMEOUT" in server.log()
        assert heard(client, server)
        assert set(old) <= set(processes(server))


def test_a_stop_does_not_wait_for_a_site_that_hangs(tmp_path: Path) -> None:
    with serving(tmp_path, GOOD % 1, "--graceful-timeout", "60") as server:
        directory = run_directory(server)
        assert directory is not None
        with Client(server.host, server.port).established() as client:
            old = workers_of(server)
            change(server, "import time\ntime.sleep(1000)")
            hup(server)
            eventually(lambda: len(set(processes(server)) - set(old)) >= 2 + 2)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert client.closed() == 4200
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 30
        assert not directory.exists()


def test_a_first_start_that_fails_ends_gunicorn(tmp_path: Path) -> None:
    """One worker: where two fail in the same moment gunicorn itself trips over the second."""
    ended = pytest.raises(AssertionError, match="the server ended with 3")
    with ended, serving(tmp_path, "raise ValueError", "-w", "1"):
        pass
    assert "raise ValueError" in (tmp_path / "log").read_text()


def test_a_worker_that_is_killed_while_the_site_is_broken(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        victim, other = workers_of(server)
        change(server, "def other(): pass")
        kill(victim)
        eventually(lambda: server.log().count("the worker cannot start: AppImportError") >= 2, within=60)
        assert workers_of(server) == [other]
        assert version(server) == b"1"
        change(server, GOOD % 2)
        eventually(lambda: len(workers_of(server)) == 2, within=60)
