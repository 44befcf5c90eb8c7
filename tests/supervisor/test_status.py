from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from resonate.supervisor import status
from resonate.supervisor.actions import Spawn
from resonate.supervisor.process import Limits
from resonate.supervisor.roster import Roster

from resonate import __version__
from resonate.server.scoreboard import Row


def overview() -> dict[str, Any]:
    roster = Roster(2, 1, Limits(graceful_timeout_s=1, worker_timeout_s=1))
    for pid, action in enumerate((action for action in roster.due(100.0) if isinstance(action, Spawn)), 501):
        roster.spawned(action, pid, 100.0)
    roster.ready(502, 101.0)
    return told_of(roster, {502: Row(ready=True, connections=17)})


def told_of(roster: Roster, rows: dict[int, Row]) -> dict[str, Any]:
    def reported(pid: int) -> Row:
        return rows.get(pid, Row())

    return status.overview(
        roster, reported, pid=500, started_at=99.0, now=4000.26, run_dir="/run/r", listening=["0.0.0.0:8080"]
    )


def test_what_the_master_tells() -> None:
    told = overview()
    processes = told.pop("processes")
    assert told == {
        "pid": 500,
        "version": __version__,
        "uptime_s": 3901.3,
        "run_dir": "/run/r",
        "listening": ["0.0.0.0:8080"],
        "workers_wanted": 2,
        "generation": 1,
    }
    seen = [(entry["role"], entry["slot"], entry["pid"], entry["connections"], entry["state"]) for entry in processes]
    assert seen == [
        ("master", None, 500, None, "running"),
        ("worker", 0, 502, 17, "ready"),
        ("worker", 1, 503, 0, "starting"),
        ("shard", 0, 501, None, "starting"),
    ]


def test_the_table() -> None:
    told = overview()
    for entry in told["processes"]:
        entry["memory_bytes"] = None if entry["role"] == "shard" else 33_000_000
    assert status.show([told], as_json=False).splitlines() == [
        f"resonate {__version__} at 0.0.0.0:8080, run directory /run/r",
        "ROLE    SLOT  GEN  PID     UPTIME  CONNECTIONS    MEMORY  STATE",
        "master     -    -  500  1 h 5 min            -  31.5 MiB  running",
        "worker     0    1  502  1 h 5 min           17  31.5 MiB  ready",
        "worker     1    1  503  1 h 5 min            0  31.5 MiB  starting",
        "shard      0    1  501  1 h 5 min            -         -  starting",
    ]
    assert json.loads(status.show([told, told], as_json=True)) == {"masters": [told, told]}


def test_both_generations_of_a_reload_are_shown() -> None:
    roster = Roster(1, 1, Limits(graceful_timeout_s=1, worker_timeout_s=1))
    pids = itertools.count(501)

    def turn(now: float) -> None:
        for action in roster.due(now):
            if isinstance(action, Spawn):
                pid = next(pids)
                roster.spawned(action, pid, now)
                roster.ready(pid, now)

    turn(100.0)
    roster.begin_reload(101.0, health_timeout_s=10)
    turn(101.0)
    gate = told_of(roster, {})
    turn(102.0)
    after = told_of(roster, {501: Row(connections=3)})
    fields = ("role", "slot", "generation", "pid", "state", "heir")
    assert [tuple(entry[name] for name in fields) for entry in gate["processes"]] == [
        ("master", None, None, 500, "reloading", None),
        ("worker", 0, 1, 501, "ready", None),
        ("worker", 0, 2, 503, "ready", None),
        ("shard", 0, 1, 502, "ready", None),
    ]
    assert after["generation"] == 2
    assert tuple(after["processes"][1][name] for name in fields) == ("worker", 0, 1, 501, "retiring", 503)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (59.9, "59 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (86_400 * 2 + 3600 * 7 + 59, "2 d 7 h")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert status.duration(seconds) == expected


def test_memory_of_a_process() -> None:
    own = status.memory(os.getpid())
    assert own is not None
    assert own > 1_000_000
    assert status.memory(2**22 + 1) is None


def test_masters_that_do_not_answer_are_complained_of(tmp_path: Path) -> None:
    complaints: list[str] = []
    assert status.collect([tmp_path / "control.sock"], complaints.append) == []
    assert len(complaints) == 1
    assert str(tmp_path) in complaints[0]
