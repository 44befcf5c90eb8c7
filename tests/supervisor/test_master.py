"""The master as a process, with the smallest of workers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.supervisor.running import Running, Start, gone, worker_of
from tests.support.eventually import eventually

#: What systemd does before it starts a service: its socket becomes descriptor 3.
HAND_DOWN = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def replaced(running: Running, role: str, victim: int, of: int) -> None:
    """Wait until there are `of` processes of a role, and another in the victim's place."""
    eventually(lambda: len(pids := running.pids(role)) == of and victim not in pids)


# --- begin and end ---------------------------------------------------------------------------------------------------


def test_one_worker_needs_no_shard(start: Start) -> None:
    running = start().ready()
    assert [entry["role"] for entry in running.status()["processes"]] == ["master", "worker"]
    assert worker_of(running.connect())[1] in running.pids("worker")
    assert running.end() == 0
    assert list(running.directory.iterdir()) == [running.directory / "log"]


@pytest.mark.parametrize("to_all", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_end_of_several(start: Start, number: signal.Signals, to_all: bool) -> None:
    running = start(workers=2).ready()
    pids = [entry["pid"] for entry in running.status()["processes"]]
    assert len(pids) == 4
    if to_all:
        os.killpg(running.process.pid, number)
        assert running.process.wait(30) == 0
    else:
        assert running.end(number) == 0
    assert all(gone(pid) for pid in pids)
    assert "Traceback" not in running.log()
    assert "ERROR" not in running.log()
    assert list(running.directory.iterdir()) == [running.directory / "log"]


def test_a_signal_to_stop_that_comes_while_workers_boot_is_not_lost(start: Start) -> None:
    for _ in range(5):
        running = start()
        eventually(lambda: "Booting worker" in running.log(), every=0.001)  # noqa: B023 - called at once
        os.killpg(running.process.pid, signal.SIGTERM)
        assert running.process.wait(15) == 0, running.log()


def test_losing_patience(start: Start) -> None:
    running = start(mode="stubborn").ready()
    running.send(signal.SIGINT)
    running.logged("Handling signal: int")
    assert running.end(signal.SIGINT, within=15) == 0
    assert "did not end in time" in running.log()


def test_a_port_that_is_taken(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = start(port=taken.getsockname()[1])
        assert running.process.wait(30) == 2
    (line,) = running.log().splitlines()
    assert "another process listens there" in line
    assert list(running.directory.iterdir()) == [running.directory / "log"]


# --- deaths ----------------------------------------------------------------------------------------------------------


def test_the_queue_of_a_worker_that_is_killed_is_served_by_the_next(start: Start) -> None:
    running = start().ready()
    (victim,) = running.pids("worker")
    os.kill(victim, signal.SIGSTOP)
    with running.connect() as waiting:
        os.kill(victim, signal.SIGKILL)
        assert worker_of(waiting)[1] != victim
    running.logged("Perhaps out of memory?")
    assert running.end() == 0


@pytest.mark.parametrize("role", ["worker", "shard"])
def test_who_is_killed_is_replaced_at_once(start: Start, role: str) -> None:
    running = start(workers=2).ready()
    victim, *rest = running.pids(role)
    others = {entry["pid"] for entry in running.status()["processes"]} - {victim}
    os.kill(victim, signal.SIGKILL)
    replaced(running, role, victim, 1 + len(rest))
    assert others < {entry["pid"] for entry in running.status()["processes"]}
    assert running.end() == 0


def test_a_crash_loop_backs_off_and_can_be_stopped(start: Start) -> None:
    running = start(mode="crash")
    running.logged("next attempt in 2 s")
    assert running.log().count("exited with code 1") == 3
    assert running.end() == 0


def test_a_worker_that_hangs_is_replaced(start: Start) -> None:
    running = start(worker_timeout=1).ready()
    (victim,) = running.pids("worker")
    os.kill(victim, signal.SIGSTOP)
    replaced(running, "worker", victim, 1)
    assert f"WORKER TIMEOUT (pid:{victim})" in running.log()
    assert "out of memory" not in running.log()


def test_nobody_outlives_a_master_that_is_killed(start: Start) -> None:
    running = start(workers=2).ready()
    pids = [entry["pid"] for entry in running.status()["processes"]]
    running.process.kill()
    running.process.wait()
    eventually(lambda: all(gone(pid) for pid in pids))


# --- the number of workers -------------------------------------------------------------------------------------------


def test_more_workers_and_fewer(start: Start) -> None:
    running = start().ready()
    running.send(signal.SIGTTIN)
    both = running.so_many(2)
    eventually(lambda: running.pids("shard"))
    eventually(lambda: worker_of(running.connect())[1] == both[1])
    running.send(signal.SIGTTOU)
    assert running.so_many(1) == both[:1]
    assert running.pids("shard")
    assert {worker_of(running.connect())[1] for _ in range(20)} == set(both[:1])
    running.send(signal.SIGTTOU)
    running.logged("stays 1")
    assert running.end() == 0


def test_no_connection_is_lost_while_the_number_changes(start: Start) -> None:
    running = start(workers=3).ready()
    target = running.address()
    answered = 0

    def settled(workers: int) -> bool:
        nonlocal answered
        for _ in range(50):
            worker_of(socket.create_connection(target, timeout=20))  # raises when it is cut
            answered += 1
        states = [entry["state"] for entry in running.status()["processes"] if entry["role"] == "worker"]
        return states == ["ready"] * workers

    for number, counts in [(signal.SIGTTOU, (2, 1)), (signal.SIGTTIN, (2, 3)), (signal.SIGTTOU, (2, 1))]:
        before = running.log()
        for count in counts:
            running.send(number)  # one at a time: the kernel holds one of a kind
            eventually(lambda: f"{count} workers from now on" in running.log()[len(before) :])  # noqa: B023
        eventually(lambda: settled(counts[-1]), every=0)  # noqa: B023 - called at once
    assert answered >= 150


# --- files, signals, sockets -----------------------------------------------------------------------------------------


def test_a_run_directory_that_is_removed_is_made_anew(start: Start) -> None:
    running = start(workers=2).ready()
    path = Path(running.status()["run_dir"])
    shutil.rmtree(path)
    eventually(lambda: (path / "control.sock").exists())
    assert len(running.so_many(2)) == 2
    assert path.stat().st_mode & 0o777 == 0o700
    assert running.log().count("made anew") >= 1
    assert running.end() == 0


def test_a_run_directory_that_cannot_be_made_is_complained_of_once(start: Start) -> None:
    running = start().ready()
    path = Path(running.status()["run_dir"])
    shutil.rmtree(path)
    path.write_text("in the way")
    running.logged("cannot be")
    path.unlink()
    running.logged("can be used again")
    assert running.log().count("[ERROR]") <= 2
    assert running.pids("worker")


def test_other_signals_end_nothing(start: Start) -> None:
    running = start().ready()
    pids = running.pids("worker")
    for number, words in [
        (signal.SIGUSR1, "Handling signal: usr1"),
        (signal.SIGWINCH, "Handling signal: winch"),
    ]:
        running.send(number)
        running.logged(words)
    assert worker_of(running.connect())[1] in pids
    assert running.end() == 0


def test_a_unix_socket_for_all(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    running = start(host=f"unix:{path}", workers=2).ready()
    assert f"ready at unix:{path}" in running.log()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert int(client.recv(100).split()[1]) in running.pids("worker")
    assert running.end() == 0
    assert not path.exists()


def test_a_socket_of_systemd_and_its_notifications(start: Start, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as given,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(20)
        passing = [sys.executable, "-c", HAND_DOWN, str(given.fileno())]
        running = start(
            words=passing, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}, descriptors=[given.fileno()], host="::9"
        )
        told = notified.recv(1000).decode()
        port = given.getsockname()[1]
        assert told == f"READY=1\nSTATUS=ready at http://127.0.0.1:{port}"
        assert running.address() == ("127.0.0.1", port)
        assert worker_of(running.connect())[1] in running.pids("worker")
        assert running.end() == 0
        assert notified.recv(1000).startswith(b"STOPPING=1")
        socket.create_connection(("127.0.0.1", port)).close()  # it is systemd's, and stays
