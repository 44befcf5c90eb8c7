"""Limits of a machine, as they are judged."""

from __future__ import annotations

from pathlib import Path

import pytest
from resonate.supervisor.doctor import capacity
from resonate.supervisor.doctor.case import UNLIMITED, Resident

from resonate.server.descriptors import KEPT, KEPT_FOR_SHARD
from tests.supervisor.doctor.cases import case, levels, machine, only

#: What a worker has beside its clients, with one shard.
BESIDE = KEPT + KEPT_FOR_SHARD + capacity.OWN


# --- open files ------------------------------------------------------------------------------------------------------


def test_enough_open_files(tmp_path: Path) -> None:
    finding = only(capacity.open_files(case(machine(tmp_path))))
    assert finding.level.value == "ok"
    assert f"about {100_000 - BESIDE:,} clients" in finding.what


def test_without_a_limit_there_is_no_number_of_clients(tmp_path: Path) -> None:
    here = machine(tmp_path, open_files=(UNLIMITED, UNLIMITED))
    assert only(capacity.open_files(case(here))).what.startswith("no limit of open files")


def test_few_open_files_are_a_warning_and_the_remedy_is_a_command(tmp_path: Path) -> None:
    here = machine(tmp_path, open_files=(1024, 1_048_576))
    finding = only(capacity.open_files(case(here)))
    assert finding.level.value == "warning"
    assert finding.what.startswith("1,024 open files")
    assert "ulimit -n 65536" in finding.remedy
    assert "LimitNOFILE=65536" in finding.remedy
    assert "root" not in finding.remedy


def test_a_hard_limit_needs_root(tmp_path: Path) -> None:
    finding = only(capacity.open_files(case(machine(tmp_path, open_files=(1024, 4096)))))
    assert "root only: the hard limit is 4,096" in finding.remedy


@pytest.mark.parametrize(("workers", "level"), [(1, "problem"), (2, "ok")])
def test_what_max_connections_promises_must_fit(tmp_path: Path, workers: int, level: str) -> None:
    here = machine(tmp_path, open_files=(15_000 + BESIDE, 100_000))
    found = capacity.open_files(case(here, {"max_connections": 30_000}, workers=workers))
    assert levels(found) == [level]


def test_the_limit_of_the_server_that_runs_is_the_one_that_counts(tmp_path: Path) -> None:
    text = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096      files\n"
    here = machine(tmp_path, {"proc/77/limits": text})
    resident = Resident(path=tmp_path, master=77, processes=frozenset({77}))
    finding = only(capacity.open_files(case(here, incumbent=resident)))
    assert (finding.level.value, "pid 77" in finding.what) == ("warning", True)


def test_files_of_the_whole_machine(tmp_path: Path) -> None:
    here = machine(tmp_path, {"proc/sys/fs/file-nr": "90 0 100"})
    ours, all_files = capacity.open_files(case(here))
    assert levels([ours, all_files]) == ["ok", "warning"]
    assert all_files.remedy == "sysctl -w fs.file-max=200"


# --- the kernel ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "level"), [("128", "warning"), ("2048", "ok"), ("", "note")])
def test_accept_queue(tmp_path: Path, size: str, level: str) -> None:
    here = machine(tmp_path, {"proc/sys/net/core/somaxconn": size})
    assert levels(capacity.queue(case(here))) == [level]


def test_a_port_that_the_kernel_may_give_away(tmp_path: Path) -> None:
    finding = only(capacity.local_ports(case(machine(tmp_path), port=40_000)))
    assert finding.level.value == "warning"
    assert "ip_local_reserved_ports=40000" in finding.remedy


def test_more_clients_than_a_proxy_has_ports(tmp_path: Path) -> None:
    assert levels(capacity.local_ports(case(machine(tmp_path), {"max_connections": 30_000}))) == ["warning"]
    assert levels(capacity.local_ports(case(machine(tmp_path), {"max_connections": 20_000}))) == ["ok"]
    assert levels(capacity.local_ports(case(machine(tmp_path), port=40_000, host="unix:/run/r.sock"))) == []


# --- memory and cores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "level"), [(None, "ok"), (100_000, "ok"), (1_000_000, "warning")])
def test_memory(tmp_path: Path, most: int | None, level: str) -> None:
    assert levels(capacity.memory(case(machine(tmp_path), {"max_connections": most}))) == [level]


def test_memory_of_a_container(tmp_path: Path) -> None:
    here = machine(tmp_path, {"cgroup/memory.max": "104857600\n", "cgroup/memory.current": "52428800\n"})
    finding = only(capacity.memory(case(here, {"max_connections": 100_000})))
    assert finding.level.value == "warning"
    assert "50.0 MiB are available" in finding.what


def test_memory_that_cannot_be_read(tmp_path: Path) -> None:
    assert levels(capacity.memory(case(machine(tmp_path, {"proc/meminfo": ""})))) == ["note"]


@pytest.mark.parametrize(("workers", "level"), [(1, "note"), (2, "ok"), (3, "warning")])
def test_cores(tmp_path: Path, workers: int, level: str) -> None:
    assert levels(capacity.cores(case(machine(tmp_path), workers=workers))) == [level]


@pytest.mark.parametrize(("quota", "level"), [("max 100000\n", "ok"), ("150000 100000\n", "warning")])
def test_cores_of_a_container(tmp_path: Path, quota: str, level: str) -> None:
    finding = only(capacity.cores(case(machine(tmp_path, {"cgroup/cpu.max": quota}), workers=2)))
    assert finding.level.value == level
    assert finding.remedy in ("", "RESONATE_WORKERS=1")
