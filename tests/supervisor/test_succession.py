"""One master follows another, with processes: SIGUSR2."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from resonate.supervisor.control import ask

from resonate.bus.directory import RunDirectory, identity
from tests.supervisor.running import Running, Start, worker_of
from tests.supervisor.test_master import HAND_DOWN
from tests.support.eventually import eventually
from tests.support.ports import free_port


def master(running: Running) -> int:
    """The one in charge."""
    pid: int = running.status()["pid"]
    return pid


def usr2(running: Running, **values: Any) -> int:
    """Have the master in charge started anew, with this configuration; the pid of the new one."""
    (running.directory / "reload.json").write_text(json.dumps(values))
    before = running.log()
    os.kill(master(running), signal.SIGUSR2)
    found = eventually(lambda: re.search(r"a new master starts \(pid:(\d+)\)", running.log()[len(before) :]))
    return int(found[1])


def control(running: Running) -> Path:
    return next(running.directory.glob("resonate-*")) / "control.sock"


def lives(pid: int) -> bool:
    try:
        identity(pid)
    except ProcessLookupError:
        return False
    return True


def said(running: Running, words: str) -> None:
    """Wait for that in the log, which all masters have together."""
    eventually(lambda: words in running.log())


def gone(*pids: int) -> None:
    """Wait until they have."""
    eventually(lambda: not any(lives(pid) for pid in pids))


def workers(running: Running) -> list[tuple[int, int, str]]:
    """Slot, generation and state of each that the master in charge has."""
    found = (entry for entry in running.status()["processes"] if entry["role"] == "worker")
    return [(entry["slot"], entry["generation"], entry["state"]) for entry in found]


def serve(running: Running, generation: int, count: int = 1) -> None:
    """Wait until so many workers of that generation are there, and a shard, and no others."""
    expected = [(slot, generation, "ready") for slot in range(count)]
    eventually(lambda: workers(running) == expected and len(running.pids("shard")) == 1)
    assert worker_of(running.connect())[1] in running.pids("worker")


def everybody(running: Running) -> list[int]:
    """The master in charge, and its processes."""
    return [entry["pid"] for entry in running.status()["processes"]]


def nothing_is_left(running: Running, *pids: int) -> None:
    gone(*pids)
    eventually(lambda: not list(running.directory.glob("resonate-*")))


# --- as it should go -------------------------------------------------------------------------------------------------


def test_another_master_follows(start: Start) -> None:
    count = 2
    running = start(workers=count).ready()
    address, path, before = running.address(), running.status()["run_dir"], everybody(running)
    new = usr2(running, workers=count)
    assert running.process.wait(20) == 0
    serve(running, 2, count)
    assert (master(running), running.address(), running.status()["run_dir"]) == (new, address, path)
    gone(*before)
    left = everybody(running)
    os.kill(new, signal.SIGTERM)
    nothing_is_left(running, *left)
    assert "ERROR" not in running.log()
    assert "Traceback" not in running.log()


def test_its_shards_know_of_other_hosts_what_those_before_them_knew(start: Start) -> None:
    running = start(scaling={"enabled": True, "lease": 20}).ready()
    (before,) = running.pids("shard")
    usr2(running, scaling={})
    assert running.process.wait(20) == 0
    serve(running, 2)
    (after,) = running.pids("shard")
    assert after != before
    assert b"--scaled" in Path(f"/proc/{after}/cmdline").read_bytes()
    assert running.log().count("scaling stays as it is until the server is started again") == 1


def test_again_and_a_reload_after_that_and_nobody_who_connects_meanwhile_is_refused(start: Start) -> None:
    running = start(workers=2).ready()
    target = running.address()
    for generation, count in ((2, 3), (3, 2)):
        old = master(running)
        new = usr2(running, workers=count)

        def done() -> bool:
            for _ in range(20):
                worker_of(socket.create_connection(target, timeout=20))  # raises when it is cut
            return not lives(old)  # noqa: B023 - called at once

        eventually(done, every=0)
        serve(running, generation, count)
        assert master(running) == new
    os.kill(new, signal.SIGHUP)
    serve(running, 4, 2)


def test_meanwhile_nothing_else_is_begun(start: Start) -> None:
    running = start(mode="lingering").ready()
    running.send(signal.SIGHUP)
    said(running, "reload 2: promoted")
    running.send(signal.SIGUSR2)
    said(running, "a new master starts when all is at rest")
    running.send(signal.SIGUSR2)
    said(running, "no new master is started: one is under way")
    running.send(signal.SIGHUP)
    said(running, "not reloaded: one master is about to follow another")
    running.send(signal.SIGTTIN)
    said(running, "the number of workers stays")
    (running.directory / "reload.json").write_text("{}")
    (running.directory / "go").touch()
    assert running.process.wait(20) == 0
    serve(running, 3)


def test_another_address(start: Start) -> None:
    running = start().ready()
    before, path = running.address(), running.directory / "s"
    usr2(running, host=f"unix:{path}", workers=2)
    assert running.process.wait(20) == 0
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert worker_of(client)[1] in running.pids("worker")
    eventually(lambda: refused(before))
    old = master(running)
    usr2(running, host=f"unix:{path}")  # the same one: its path must outlive the old master
    gone(old)
    eventually(lambda: workers(running) == [(0, 3, "ready")])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert worker_of(client)[1] in running.pids("worker")
    left = everybody(running)
    os.kill(left[0], signal.SIGTERM)
    nothing_is_left(running, *left)
    assert not path.exists()


def test_another_port_of_the_metrics(start: Start) -> None:
    before, after = free_port(), free_port()
    running = start(metrics_port=before).ready()
    usr2(running, metrics_port=after)
    assert running.process.wait(20) == 0
    eventually(lambda: refused(("127.0.0.1", before)))
    assert not refused(("127.0.0.1", after))


def refused(target: tuple[str, int]) -> bool:
    try:
        socket.create_connection(target, timeout=20).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_socket_of_systemd_and_what_it_is_told(start: Start, tmp_path: Path) -> None:
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
        assert notified.recv(1000).startswith(b"READY=1")
        new = usr2(running, host="::8")
        assert notified.recv(1000).decode() == f"MAINPID={new}"
        assert notified.recv(1000).startswith(b"READY=1")
        assert running.process.wait(20) == 0
        serve(running, 2)
        assert running.address() == given.getsockname()


# --- a new master that fails changes nothing -------------------------------------------------------------------------


FAILURES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"worker_timeout": 0}, "worker_timeout"),
    ({"mode": "broken"}, "a defect"),
    ({"mode": "crash", "workers": 2}, "exited with code 1 before all were ready"),
    ({"mode": "hanging", "health_timeout": 1}, "after 1 s 1 of 1 are not ready"),
)


def test_a_new_master_that_cannot_serve_changes_nothing(start: Start) -> None:
    running = start().ready()
    path, before = running.status()["run_dir"], running.pids("worker")
    for count, (values, words) in enumerate(FAILURES, 1):
        new = usr2(running, **values)
        eventually(lambda: running.log().count("this one serves on as before") == count)  # noqa: B023
        assert words in running.log()
        gone(new)
        serve(running, 1)
        assert (running.pids("worker"), master(running)) == (before, running.process.pid)
        assert list(running.directory.glob("resonate-*")) == [Path(path)]
    assert running.end() == 0
    nothing_is_left(running)


def test_a_new_master_that_is_ended_before_it_is_ready_changes_nothing(start: Start) -> None:
    running = start().ready()
    before = running.pids("worker")
    for count, number in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
        new = usr2(running, mode="hanging", health_timeout=60)
        eventually(lambda: running.log().count("Booting worker") == 1 + count)  # noqa: B023 - called at once
        os.kill(new, number)
        eventually(lambda: running.log().count("this one serves on as before") == count)  # noqa: B023
        serve(running, 1)
        assert running.pids("worker") == before
    usr2(running)
    assert running.process.wait(20) == 0
    serve(running, 2)


def test_a_new_master_that_hangs_is_killed(start: Start) -> None:
    running = start(health_timeout=1).ready()
    new = usr2(running, health_timeout=1)
    os.kill(new, signal.SIGSTOP)
    said(running, "takes too long, and is killed")
    said(running, "this one serves on as before")
    serve(running, 1)


def test_as_process_1_of_a_container_it_stays(start: Start) -> None:
    words = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no process namespace can be made here")
    running = start(words=words).ready()
    inner = int(Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text())
    os.kill(inner, signal.SIGUSR2)
    said(running, "no new master is started: this one is process 1")
    assert "SIGHUP renews the workers" in running.log()


# --- deaths in the middle --------------------------------------------------------------------------------------------


def handing_over(start: Start) -> tuple[Running, int]:
    """The new master serves, and a worker of the old one has not gone yet."""
    running = start(mode="lingering").ready()
    new = usr2(running, mode="")
    said(running, "has given way: this one serves")
    assert master(running) == new
    return running, new


def test_a_new_master_that_is_killed_when_it_serves_is_followed_by_the_old_one(start: Start) -> None:
    running, new = handing_over(start)
    os.kill(new, signal.SIGKILL)
    said(running, "this one serves again")
    eventually(lambda: (0, 2, "ready") in workers(running))
    old, heir = (entry for entry in running.status()["processes"] if entry["role"] == "worker")
    assert (old["generation"], old["heir"]) == (1, heir["pid"])
    assert master(running) == running.process.pid
    (running.directory / "go").touch()
    serve(running, 2)


def test_an_old_master_that_is_killed_when_it_has_given_way(start: Start) -> None:
    running, new = handing_over(start)
    running.process.kill()
    said(running, "the old master has gone")
    serve(running, 2)
    left = everybody(running)
    os.kill(new, signal.SIGTERM)
    nothing_is_left(running, *left)


def test_an_old_master_that_is_killed_before(start: Start) -> None:
    running = start().ready()
    before = everybody(running)
    new = usr2(running, mode="hanging", health_timeout=60)
    eventually(lambda: running.log().count("Booting worker") == 2)
    running.process.kill()
    said(running, "the old master has ended: this one serves")
    # The shard of the old one may have found nobody and taken the directory with it: it is made anew.
    eventually(lambda: RunDirectory.masters(str(running.directory)))
    eventually(lambda: control(running).exists())
    assert master(running) == new
    gone(*before)
    (running.directory / "reload.json").write_text("{}")
    os.kill(new, signal.SIGHUP)
    serve(running, 3)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_new_master_that_is_told_to_stop_twice_before_it_is_ready_does_not_stop_the_old_one(start: Start) -> None:
    running = start().ready()
    new = usr2(running, mode="hanging", health_timeout=60)
    eventually(lambda: running.log().count("Booting worker") == 2)
    (heir,) = children(new)
    os.kill(heir, signal.SIGSTOP)  # it cannot go yet
    os.kill(new, signal.SIGTERM)
    said(running, "the new master goes, nothing changes")
    os.kill(new, signal.SIGTERM)
    eventually(lambda: running.log().count("Handling signal: term") == 2)
    os.kill(heir, signal.SIGKILL)
    said(running, "this one serves on as before")
    serve(running, 1)
    assert master(running) == running.process.pid


@pytest.mark.parametrize("whose", ["old", "new"])
def test_a_stop_in_the_middle_stops_both(start: Start, whose: str) -> None:
    running, new = handing_over(start)
    pids = [*everybody(running), running.process.pid]
    os.kill(running.process.pid if whose == "old" else new, signal.SIGTERM)
    (running.directory / "go").touch()
    assert running.process.wait(20) == 0
    nothing_is_left(running, *pids)
    assert "serves again" not in running.log()


def test_draining_in_the_middle_drains_both(start: Start) -> None:
    running = start().ready()
    (old,) = running.pids("worker")
    os.kill(old, signal.SIGSTOP)  # it is told to go, and cannot yet
    usr2(running)
    said(running, "has given way: this one serves")
    (new,) = running.pids("worker")
    assert ask(control(running), "stop", 20)["ok"]
    gone(new)
    os.kill(old, signal.SIGCONT)
    assert running.process.wait(20) == 0
    said(running, f"worker {old} drains")
    said(running, f"worker {new} drains")


def test_a_stop_before_the_new_one_is_ready_stops_both(start: Start) -> None:
    running = start().ready()
    before = everybody(running)
    new = usr2(running, mode="hanging", health_timeout=60)
    eventually(lambda: running.log().count("Booting worker") == 2)
    assert running.end() == 0
    nothing_is_left(running, new, *before)
