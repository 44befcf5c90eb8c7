"""Reloads with processes, and the command that asks for them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from resonate.supervisor import reload_command
from resonate.supervisor.control import converse
from resonate.supervisor.reloading import MOST_WAITING

from resonate.bus.directory import RunDirectory
from tests.supervisor.running import ROOT, Running, Start, gone, worker_of
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.server import BIN


def reload(running: Running, **values: Any) -> None:
    """Ask by a signal, with this configuration."""
    (running.directory / "reload.json").write_text(json.dumps(values))
    running.send(signal.SIGHUP)


def workers(running: Running) -> list[tuple[int, int, str]]:
    """Slot, generation and state of each."""
    found = (entry for entry in running.status()["processes"] if entry["role"] == "worker")
    return [(entry["slot"], entry["generation"], entry["state"]) for entry in found]


def serves(running: Running, generation: int, count: int) -> None:
    """Wait until there are so many workers of that generation and no others."""
    eventually(lambda: workers(running) == [(slot, generation, "ready") for slot in range(count)])


def command(directory: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "resonate"), "reload", *words],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(asked: subprocess.Popen[str], status: int) -> str:
    """What a command has said, once it has ended with this status."""
    out, err = asked.communicate(timeout=60)
    assert asked.returncode == status, out + err
    assert "Traceback" not in err
    return (err if status else out).strip()


def control(running: Running) -> Path:
    (directory,) = RunDirectory.masters(str(running.directory))
    return directory.control


def asked(running: Running, **request: Any) -> list[dict[str, Any]]:
    return list(converse(control(running), {"command": "reload", **request}, lambda: 60))


# --- by signal -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_every_worker_is_followed_by_another(start: Start, count: int) -> None:
    running = start(workers=count).ready()
    before = running.pids("worker")
    running.send(signal.SIGHUP)
    running.logged("reload 2 done in")
    serves(running, 2, count)
    assert not set(before) & set(running.pids("worker"))
    log = running.log()
    steps = ["reload 2 begins", f"{count} of {count}", "reload 2: promoted", f"(pid:{before[0]}) has gone", "done in"]
    places = [log.index(step) for step in steps]
    assert places == sorted(places)
    assert running.end() == 0
    assert "ERROR" not in log


def test_a_worker_that_is_alone_again_takes_its_shard_in(start: Start) -> None:
    running = start().ready()
    assert running.pids("shard") == []
    for generation in 2, 3:
        running.send(signal.SIGHUP)
        running.logged(f"reload {generation} done in")
        serves(running, generation, 1)
        assert running.pids("shard") == []
    running.send(signal.SIGTTIN)
    serves(running, 3, 2)
    eventually(lambda: len(running.pids("shard")) == 1)


def test_nobody_who_connects_meanwhile_is_refused(start: Start) -> None:
    running = start(workers=2).ready()
    target = running.address()
    for generation, count in ((2, 2), (3, 3), (4, 2), (5, 1)):
        reload(running, workers=count)

        def done() -> bool:
            for _ in range(20):
                worker_of(socket.create_connection(target, timeout=20))  # raises when it is cut
            return f"reload {generation} done" in running.log()  # noqa: B023 - called at once

        eventually(done, every=0)
        serves(running, generation, count)


def test_an_heir_that_exits_changes_nothing(start: Start) -> None:
    running = start(workers=2).ready()
    before = running.pids("worker")
    reload(running, mode="crash", workers=3)
    running.logged("reload 2 rolled back")
    running.logged("generation 1 serves on")
    assert "exited with code 1 before all were ready" in running.log()
    serves(running, 1, 2)
    assert running.pids("worker") == before
    reload(running, mode="", workers=2)
    serves(running, 3, 2)
    assert running.end() == 0


def test_an_heir_that_does_not_get_ready_changes_nothing(start: Start) -> None:
    running = start(health_timeout=1).ready()
    before = running.pids("worker")
    reload(running, mode="hanging", health_timeout=1)
    running.logged("after 1 s 1 of 1 are not ready")
    serves(running, 1, 1)
    assert running.pids("worker") == before


def test_a_configuration_that_cannot_be_used_changes_nothing(start: Start) -> None:
    running = start().ready()
    before = running.pids("worker")
    reload(running, worker_timeout=0)
    running.logged("the reload is refused, nothing changes")
    assert "worker_timeout" in running.log()
    (running.directory / "reload.json").write_text("{")
    running.send(signal.SIGHUP)
    running.logged("the configuration cannot be read")
    reload(running, mode="broken")
    running.logged("a defect")
    assert running.pids("worker") == before
    assert (asked(running)[-1]["ok"], asked(running)[-1]["phase"]) == (False, "refused")
    assert workers(running) == [(0, 1, "ready")]


def test_what_cannot_change_stays_and_is_said(start: Start) -> None:
    running = start().ready()
    reload(running, log_format="json", run_dir="/elsewhere")
    serves(running, 2, 1)
    for words in ("run_dir stays", "log_format stays text until"):
        assert words in running.log()
    assert worker_of(running.connect())[1] in running.pids("worker")


def test_one_worker_with_other_hosts_never_takes_its_shard_in(start: Start) -> None:
    """And what the shard was started with stays, also for one that is started after a reload."""
    scaling = {"enabled": True, "secret": "hunter2-and-hunter2"}
    running = start(scaling=scaling).ready()
    (before,) = running.pids("shard")
    reload(running, scaling=scaling)
    running.logged("reload 2 done")
    serves(running, 2, 1)
    assert "scaling stays" not in running.log()
    for generation, other in (3, {}), (4, {**scaling, "lease": 30}):
        reload(running, scaling=other)
        running.logged(f"reload {generation} done")
        serves(running, generation, 1)
    assert running.pids("shard") == [before]
    assert running.log().count("scaling stays as it is until") == 2
    os.kill(before, signal.SIGKILL)
    (after,) = eventually(lambda: [pid for pid in running.pids("shard") if pid != before])
    assert b"--scaled" in Path(f"/proc/{after}/cmdline").read_bytes()
    assert "hunter2" not in running.log()


def test_scaling_is_taken_up_by_a_restart_alone(start: Start) -> None:
    running = start().ready()
    reload(running, scaling={"enabled": True})
    running.logged("scaling stays as it is until the server is started again")
    serves(running, 2, 1)
    eventually(lambda: running.pids("shard") == [])


def test_another_number_of_shards(start: Start) -> None:
    running = start(workers=2).ready()
    before = running.pids("shard")
    for generation, shards in (2, 3), (3, 1):
        reload(running, workers=2, bus_shards=shards)
        running.logged(f"the change to {shards} shard")
        running.logged(f"reload {generation} done")
        eventually(lambda: len(running.pids("shard")) == shards)  # noqa: B023 - called at once
        serves(running, generation, 2)
        assert not set(before) & set(running.pids("shard"))
        assert "It did not end in time" not in running.log()
    assert running.end() == 0
    assert "ERROR" not in running.log()


def test_the_number_of_shards_stays_where_a_worker_dies_meanwhile(start: Start) -> None:
    running = start(workers=2, mode="").ready()
    reload(running, workers=2, bus_shards=2, mode="unmoved")
    running.logged("changing to 2 shards")
    os.kill(running.pids("worker")[0], signal.SIGKILL)
    running.logged("no change to 2 shards: a process has come or gone meanwhile")
    serves(running, 2, 2)
    assert len(running.pids("shard")) == 1


def test_another_address(start: Start) -> None:
    running = start(workers=2).ready()
    before, port = running.address(), free_port()
    reload(running, port=port, workers=2)
    running.logged("reload 2 done")
    assert running.address() == ("127.0.0.1", port)
    assert worker_of(running.connect())[1] in running.pids("worker")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(before, timeout=20)
    path = running.directory / "s"
    reload(running, host=f"unix:{path}", workers=2)
    running.logged("reload 3 done")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert worker_of(client)[1] in running.pids("worker")
    reload(running, port=port, workers=3)
    running.logged("reload 4 done")
    assert not path.exists()
    assert worker_of(running.connect())[1] in running.pids("worker")


def test_metrics_whose_port_was_taken_are_tried_again_by_the_next_reload(start: Start) -> None:
    running = start().ready()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        target = taken.getsockname()
        reload(running, metrics_port=target[1])
        running.logged("metrics are not served")
        running.logged("reload 2 done")
    running.send(signal.SIGHUP)
    running.logged("reload 3 done")
    socket.create_connection(target, timeout=20).close()


def test_another_host_and_the_same_port(start: Start) -> None:
    running = start(port=free_port()).ready()
    _, port = running.address()
    reload(running, host="0.0.0.0", port=port)
    running.logged("reload 2 done")
    assert running.address() == ("0.0.0.0", port)
    assert worker_of(running.connect())[1] in running.pids("worker")


def test_a_file_that_is_no_socket_is_not_replaced_by_one(start: Start) -> None:
    running = start().ready()
    file = running.directory / "precious"
    file.write_text("theirs")
    reload(running, host=f"unix:{file}")
    running.logged("that file is no socket")
    assert file.read_text() == "theirs"
    assert worker_of(running.connect())[1] in running.pids("worker")


def test_an_address_that_is_taken_changes_nothing(start: Start) -> None:
    running = start().ready()
    before = running.address()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        reload(running, port=taken.getsockname()[1])
        running.logged("another process listens there")
    assert workers(running) == [(0, 1, "ready")]
    assert running.address() == before
    reload(running, port=free_port(), mode="crash")
    running.logged("reload 2 rolled back")
    assert running.address() == before
    assert worker_of(running.connect())[1] in running.pids("worker")


def test_an_address_that_is_not_taken_up_is_free_again_although_a_worker_was_replaced_meanwhile(start: Start) -> None:
    running = start().ready()
    port = free_port()
    reload(running, port=port, mode="hanging", health_timeout=60)
    eventually(lambda: len(workers(running)) == 2)
    (victim,) = running.pids("worker")
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: [pid for pid in running.pids("worker") if pid != victim])
    heir = next(entry["pid"] for entry in running.status()["processes"] if entry["state"] == "starting")
    os.kill(heir, signal.SIGKILL)
    running.logged("reload 2 rolled back")

    def refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=20).close()
        except ConnectionRefusedError:
            return True
        return False

    eventually(refused)
    serves(running, 1, 1)


def test_one_that_is_asked_for_meanwhile_follows(start: Start) -> None:
    running = start(mode="lingering").ready()
    reload(running, mode="", workers=1)
    running.logged("reload 2: promoted")
    reload(running, mode="", workers=2)
    running.logged("another one follows it")
    (running.directory / "go").touch()
    serves(running, 3, 2)


def test_a_server_that_could_not_begin_can_be_put_right(start: Start) -> None:
    running = start(mode="crash")
    running.logged("next attempt in")
    reload(running, mode="")
    running.ready()
    serves(running, 2, 1)


def test_a_stop_in_the_middle(start: Start) -> None:
    running = start(workers=2, health_timeout=60).ready()
    reload(running, mode="hanging", health_timeout=60)
    eventually(lambda: len(workers(running)) == 4)
    pids = [entry["pid"] for entry in running.status()["processes"]]
    assert running.end() == 0
    assert "reload 2 stopped after" in running.log()
    assert all(gone(pid) for pid in pids)


def test_a_stop_while_the_configuration_is_read_is_no_failure(start: Start) -> None:
    running = start().ready()
    os.mkfifo(running.directory / "reload.json")  # nobody writes: it is read for ever
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    before = len(children.read_text().split())
    running.send(signal.SIGHUP)
    eventually(lambda: len(children.read_text().split()) > before)
    assert running.end() == 0
    assert "refused" not in running.log()


def test_a_crash_of_an_old_worker_before_the_heirs_are_ready(start: Start) -> None:
    running = start(workers=2, health_timeout=60).ready()
    reload(running, mode="hanging", health_timeout=60, workers=2)
    eventually(lambda: len(workers(running)) == 4)
    victim = running.pids("worker")[1]
    os.kill(victim, signal.SIGKILL)
    expected = [(0, 1, "ready"), (0, 2, "starting"), (1, 1, "ready"), (1, 2, "starting")]
    eventually(lambda: victim not in running.pids("worker") and workers(running) == expected)
    assert "rolled back" not in running.log()


def test_an_heir_that_is_killed_after_the_promotion_is_replaced_and_named(start: Start) -> None:
    running = start(mode="lingering").ready()
    (old,) = running.pids("worker")
    reload(running, mode="")
    running.logged("reload 2: promoted")

    def heir() -> int:
        return next(entry["heir"] for entry in running.status()["processes"] if entry["pid"] == old)

    victim = heir()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: heir() != victim)
    assert [heir()] == running.pids("worker")
    (running.directory / "go").touch()
    running.logged("reload 2 done in")
    serves(running, 2, 1)


def test_workers_see_who_serves(start: Start) -> None:
    running = start(workers=2, health_timeout=60).ready()
    running.logged("generation 1 sees that generation 1 serves")
    reload(running, mode="crash", workers=2)
    running.logged("reload 2 rolled back")
    assert "that generation 2 serves" not in running.log()
    reload(running, workers=2)
    running.logged("generation 3 sees that generation 3 serves")


def test_one_more_in_the_middle(start: Start) -> None:
    running = start(mode="lingering").ready()
    reload(running, mode="")
    running.logged("reload 2: promoted")
    running.send(signal.SIGTTIN)
    (running.directory / "go").touch()
    running.logged("reload 2 done in")
    serves(running, 2, 2)


def test_systemd_is_told_when_a_reload_begins_and_when_it_is_over(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(30)
        running = start(env={"NOTIFY_SOCKET": str(tmp_path / "notify")}).ready()
        assert notified.recv(1000).startswith(b"READY=1")
        for values, status in (({}, "was done"), ({"worker_timeout": 0}, "was refused")):
            reload(running, **values)
            name, since, *_ = notified.recv(1000).decode().split("\n")
            assert name == "RELOADING=1"
            assert int(since.removeprefix("MONOTONIC_USEC=")) > 0
            told = notified.recv(1000).decode()
            assert told.startswith("READY=1\n")
            assert status in told


# --- over the control socket -----------------------------------------------------------------------------------------


def test_who_asks_is_told_how_it_goes(start: Start) -> None:
    running = start(workers=2).ready()
    *lines, result = asked(running)
    assert result.pop("took_s") > 0
    assert result == {
        "ok": True,
        "phase": "done",
        "reason": "",
        "generation": 2,
        "workers": 2,
        "connections": 0,
    }
    assert lines[0]["phase"] == "queued"
    ready = [line["ready"] for line in lines if line["phase"] == "gate"]
    assert ready == sorted(ready)
    assert ready[0] == 0
    old = [line["old"] for line in lines[1:]]
    assert old == sorted(old, reverse=True)
    assert old[0] == 2
    assert len({json.dumps(line) for line in lines}) == len(lines)


def test_who_asks_and_goes_away_disturbs_nothing(start: Start) -> None:
    running = start(mode="lingering").ready()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control(running)))
        client.sendall(b'{"command": "reload"}\n')
        assert client.recv(10)
    running.logged("reload 2: promoted")
    assert running.status()["generation"] == 2
    (running.directory / "go").touch()
    running.logged("reload 2 done in")
    serves(running, 2, 1)


def test_only_so_many_may_wait_and_the_status_is_told_all_the_same(start: Start) -> None:
    running = start(mode="lingering").ready()
    path = control(running)
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_WAITING):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
            client.sendall(b'{"command": "reload"}\n')
            assert client.recv(1)
        (refused,) = asked(running)
        assert refused == {"ok": False, "reason": "too many wait for a reload"}
        assert running.status()["processes"]
        (running.directory / "go").touch()
    serves(running, 3, 1)  # all that came during the first one had a second one together


@pytest.mark.parametrize("timeout", [0, -1, 1e9, "many", True, []])
def test_a_time_that_is_none_is_refused(start: Start, timeout: object) -> None:
    running = start().ready()
    (answer,) = asked(running, health_timeout=timeout)
    assert answer["ok"] is False
    assert workers(running) == [(0, 1, "ready")]


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_when_it_goes_well(start: Start) -> None:
    running = start(workers=2).ready()
    summary = said(command(running.directory, "--run-dir", str(running.directory)), 0)
    assert summary.startswith("reloaded in ")
    assert "generation 2, 2 workers" in summary
    serves(running, 2, 2)


def test_the_command_when_it_is_rolled_back(start: Start) -> None:
    running = start().ready()
    (running.directory / "reload.json").write_text(json.dumps({"mode": "hanging"}))
    words = said(command(running.directory, "--run-dir", str(running.directory), "--health-timeout", "0.5"), 1)
    assert "not reloaded: after 0.5 s 1 of 1 are not ready; generation 1 serves on" in words


def test_the_command_when_its_time_is_up(start: Start) -> None:
    running = start(mode="lingering").ready()
    words = said(command(running.directory, "--run-dir", str(running.directory), "--timeout", "2"), 1)
    assert "not finished within 2 s" in words
    (running.directory / "go").touch()
    running.logged("reload 2 done in")


def test_the_command_when_the_server_is_stopped_meanwhile(start: Start) -> None:
    running = start(health_timeout=60).ready()
    (running.directory / "reload.json").write_text(json.dumps({"mode": "hanging", "health_timeout": 60}))
    waiting = command(running.directory, "--run-dir", str(running.directory))
    running.logged("reload 2 begins")
    assert running.end() == 0
    assert said(waiting, 1).endswith("not reloaded: the server stops")


def test_draining(start: Start) -> None:
    running = start(workers=2).ready()
    assert said(command(running.directory, "--run-dir", str(running.directory), "--drain"), 0).startswith("drained in ")
    assert running.process.wait(20) == 0


def test_draining_takes_too_long(start: Start) -> None:
    running = start(mode="stubborn").ready()
    words = said(command(running.directory, "--run-dir", str(running.directory), "--drain", "--timeout", "0.5"), 1)
    assert "not drained within 0.5 s" in words


def test_no_server(tmp_path: Path) -> None:
    assert "no server runs here" in said(command(tmp_path, "--run-dir", str(tmp_path)), 1)


def test_several_servers(start: Start) -> None:
    first = start().ready()
    second = start(run_dir=str(first.directory)).ready()
    words = said(command(first.directory, "--run-dir", str(first.directory)), 1)
    one, other = RunDirectory.masters(str(first.directory))
    assert f"--run-dir {one.path}" in words
    assert f"--run-dir {other.path}" in words
    mine = next(found for found in (one, other) if found.master.split("-")[1] == str(second.process.pid))
    assert "generation 2" in said(command(first.directory, "--run-dir", str(mine.path)), 0)
    second.logged("reload 2 done")
    assert "reload" not in first.log()


def test_the_master_of_gunicorn_cannot_be_asked() -> None:
    with tempfile.TemporaryDirectory(prefix="r") as parent:  # a short path
        RunDirectory.create(parent)  # has no control socket
        for more, number in ([], "HUP"), (["--drain"], "TERM"):
            words = said(command(Path(parent), "--run-dir", parent, *more), 1)
            assert f"kill -{number} {os.getpid()}" in words


def test_progress_is_told(start: Start) -> None:
    running = start(workers=2).ready()
    told: list[str] = []
    summary = reload_command.reload(reload_command.master(str(running.directory)), None, None, told.append)
    assert summary.startswith("reloaded in")
    assert told[0] == "asked the server to reload"
    assert told[1] == "generation 2: 0 of 2 workers ready"
    assert told[-1].startswith("generation 2 serves; ")
