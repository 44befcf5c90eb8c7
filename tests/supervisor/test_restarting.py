"""Restarts of a master, with the smallest of workers: the process stays, all else is new."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from resonate.supervisor.control import ask, converse
from resonate.supervisor.restarting import MOST_WAITING

from resonate.bus.directory import RunDirectory
from tests.supervisor.running import ROOT, Running, Start, gone, worker_of
from tests.supervisor.test_master import HAND_DOWN
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.server import BIN

PATIENCE_S = 60
#: What a lingering worker says that it has, once it accepts nobody any more.
LINGERING = 7


def restart(running: Running, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "resonate"), "restart", "--run-dir", str(running.directory), *words],
        cwd=running.directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def configure(running: Running, **values: Any) -> None:
    (running.directory / "reload.json").write_text(json.dumps(values))


def control(running: Running) -> Path:
    (directory,) = RunDirectory.masters(str(running.directory))
    return directory.control


def pids(running: Running) -> set[int]:
    """Of all but the master."""
    return {entry["pid"] for entry in running.status()["processes"]} - {running.process.pid}


def inheritable(running: Running) -> set[int]:
    """Descriptors that a program which the master executes would find open."""
    found = set()
    for info in Path(f"/proc/{running.process.pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # of a client that has just gone
            (flags,) = re.findall(r"^flags:\s+0([0-7]+)$", info.read_text(), re.MULTILINE)
            if not int(flags, 8) & os.O_CLOEXEC:
                found.add(int(info.name))
    return found


def asked(running: Running, **more: Any) -> Iterator[dict[str, Any]]:
    """Ask as the command does."""
    return converse(control(running), {"command": "restart", **more}, lambda: PATIENCE_S)


def until(answers: Iterator[dict[str, Any]], phase: str) -> None:
    while next(answers)["phase"] != phase:
        pass


def restarted(running: Running) -> bool:
    *_, last = asked(running)
    return bool(last["ok"])


def test_everybody_is_new_but_the_master(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(PATIENCE_S)
        running = start(workers=2, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}).ready()
        before, address, path = pids(running), running.address(), control(running)
        done = restart(running)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"restarted in \d+\.\d s: 2 workers serve\n", done.stdout)
        assert all(gone(pid) for pid in before)
        assert len(pids(running)) == 3
        assert running.address() == address  # of which the kernel had chosen the port
        assert not path.exists()
        assert inheritable(running) == {0, 1, 2}
        told = [notified.recv(4096).decode().splitlines() for _ in range(3)]
        assert [lines[0] for lines in told] == ["READY=1", "RELOADING=1", "READY=1"]
        assert told[1][2] == "STATUS=restarting"
    assert "ERROR" not in running.log()
    assert running.end() == 0
    assert {file.name for file in running.directory.iterdir()} == {"log"}


def test_who_connects_meanwhile_waits_and_is_served(start: Start) -> None:
    """Also in the queue of a socket whose slot the next program has not."""
    running = start(workers=3, mode="lingering").ready()
    old, address = set(running.so_many(3)), running.address()
    configure(running, workers=1)
    answers = asked(running)
    until(answers, "stopping")
    eventually(lambda: [entry["connections"] for entry in running.status()["processes"]].count(LINGERING) == 3)
    waiting = [socket.create_connection(address, timeout=PATIENCE_S) for _ in range(30)]
    (running.directory / "go").touch()
    slots, served = zip(*map(worker_of, waiting), strict=True)
    until(answers, "done")
    (new,) = running.so_many(1)
    assert set(slots) == {0}
    assert set(served) == {new}
    assert new not in old


def test_what_cannot_be_started_changes_nothing(start: Start, tmp_path: Path) -> None:
    """The check is done by what is on the disk by now: a configuration, and a package."""
    for name in ("resonate", "supervisor", "tests/support", "tests/supervisor"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "resonate" / "supervisor").symlink_to(tmp_path / "supervisor")
    running = start(env={"PYTHONPATH": str(tmp_path)}).ready()
    before = pids(running)
    configure(running, drain_timeout=-1)
    done = restart(running)
    assert done.returncode == 1
    assert "not restarted: drain_timeout = -1: must be 0 or more" in done.stderr
    assert "the restart is refused, nothing changes: drain_timeout = -1" in running.log()
    configure(running)
    (tmp_path / "resonate" / "bus" / "process.py").write_text("import a_module_that_is_not_there\n")
    *_, told = asked(running)
    assert told["reason"] == "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    assert pids(running) == before
    assert worker_of(running.connect())[1] in before


def test_an_address_stays_or_another_is_taken_up(start: Start) -> None:
    running = start(host="unix:socket").ready()
    path, port = running.directory / "socket", free_port()
    inode = path.stat().st_ino
    assert restarted(running)
    assert path.stat().st_ino == inode
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert worker_of(client)[1] in pids(running)
    configure(running, host="127.0.0.1", port=port)
    assert restarted(running)
    assert running.address() == ("127.0.0.1", port)
    assert worker_of(running.connect())[1] in pids(running)
    assert not path.exists()


def test_a_stop_is_a_stop_also_during_a_restart(start: Start) -> None:
    running = start(mode="lingering").ready()
    answers = asked(running)
    until(answers, "stopping")
    running.send(signal.SIGTERM)
    assert next(answers) == {"ok": False, "reason": "the server is stopping"}
    (running.directory / "go").touch()
    assert running.process.wait(PATIENCE_S) == 0
    assert "Restarting: Master" not in running.log()


def test_who_asks_meanwhile_waits_for_the_same_restart(start: Start) -> None:
    running = start().ready()
    before, path = pids(running), control(running)
    assert list(asked(running, check=True))[-1] == {"ok": True, "phase": "checked"}
    assert pids(running) == before
    all_asked = [asked(running) for _ in range(MOST_WAITING)]
    for answers in all_asked:
        assert next(answers)["phase"] == "checking"
    assert ask(path, "restart", PATIENCE_S) == {"ok": False, "reason": "too many wait for a restart"}
    assert [list(answers)[-1]["ok"] for answers in all_asked] == [True] * MOST_WAITING
    assert running.log().count("Restarting: Master") == 1


def test_a_signal_that_comes_while_the_next_program_starts_is_not_lost(start: Start) -> None:
    """And a socket of systemd's stays."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        passing = [sys.executable, "-c", HAND_DOWN, str(given.fileno())]
        running = start(words=passing, descriptors=[given.fileno()], host="::9").ready()
        answers = asked(running)
        until(answers, "starting")
        running.send(signal.SIGHUP)
        running.logged("reload 2 done")
        assert running.address() == given.getsockname()
        assert worker_of(running.connect())[1] in pids(running)
        assert running.end() == 0
