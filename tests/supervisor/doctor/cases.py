"""Machines that are made up: a folder is their /proc, another one their control group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from resonate.supervisor.doctor.case import Case, Machine, Resident
from resonate.supervisor.doctor.findings import Finding, Level

from resonate.settings import App, Server, Settings

APP = App(app_id="1", key="key", secret="hunter2")
#: 2026-01-01, as a clock tells it.
NOW = 1_767_225_600.0
GOOD: Mapping[str, str] = {
    "sys/fs/file-nr": "1000\t0\t9000000\n",
    "sys/net/core/somaxconn": "4096\n",
    "sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
    "meminfo": "MemTotal:  8000000 kB\nMemAvailable:  4000000 kB\n",
}


def written(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def machine(folder: Path, files: Mapping[str, str] = {}, **fields: Any) -> Machine:
    """A good one, but for these files of its /proc (`proc/...`) and control group (`cgroup/...`)."""
    written(folder / "proc", GOOD)
    written(folder, files)
    usual = Machine(
        proc=folder / "proc",
        cgroup=folder / "cgroup",
        open_files=(100_000, 100_000),
        cores=2,
        clock=lambda: NOW,
        user=1000,
    )
    return replace(usual, **fields)


def case(machine: Machine, app: Mapping[str, Any] = {}, incumbent: Resident | None = None, **server: Any) -> Case:
    """`app` is what differs in the only app, `server` what differs in the server's settings."""
    settings = Settings(server=Server(**server), apps=(replace(APP, **app),))
    residents = [incumbent] if incumbent else []
    return Case(machine=machine, settings=settings, residents=residents, incumbent=incumbent)


def levels(found: Iterable[Finding]) -> list[str]:
    """The levels of all findings, those that are bad with a reason and a remedy."""
    found = list(found)
    for finding in found:
        bad = finding.level in (Level.WARNING, Level.PROBLEM)
        assert not bad or (finding.why and finding.remedy), finding
        assert "hunter2" not in repr(finding)
    return [finding.level.value for finding in found]


def only(found: Iterable[Finding]) -> Finding:
    """The only finding."""
    (finding,) = found = list(found)
    levels(found)
    return finding
