"""What is examined: settings, a machine, and the servers of ours that run on it."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resonate.bus.directory import RunDirectory, pid_of
from resonate.settings import Server, Settings

#: As many as there are: no limit.
UNLIMITED: Final = sys.maxsize


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`open_files` are the soft and the hard limit of this process; `cores` those that it may use; `clock` tells the
    seconds since 1970; `user` is who runs this.
    """

    proc: Path
    cgroup: Path
    open_files: tuple[int, int]
    cores: int
    clock: Callable[[], float]
    user: int

    @classmethod
    def here(cls) -> Machine:
        """The one that this runs on."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(
            proc=Path("/proc"),
            cgroup=Path("/sys/fs/cgroup"),
            open_files=(_unlimited(soft), _unlimited(hard)),
            cores=len(os.sched_getaffinity(0)),
            clock=time.time,
            user=os.geteuid(),
        )

    def kernel(self, name: str) -> list[int]:
        """The numbers of a kernel parameter such as `net/core/somaxconn`; none where it cannot be read."""
        return _numbers(self.proc / "sys" / name)

    def group(self, name: str) -> list[int]:
        """Those of the control group, such as `memory.max`; none where there is no limit. Only the numbers count."""
        return _numbers(self.cgroup / name)


@dataclass(frozen=True, kw_only=True)
class Resident:
    """A server of ours that runs here: its run directory, its master, and all of its processes."""

    path: Path
    master: int
    processes: frozenset[int]

    @classmethod
    def all(cls, server: Server) -> list[Resident]:
        """Those whose run directories are where the settings say."""
        return [cls._of(found, server.bus_shards) for found in RunDirectory.masters(server.run_dir)]

    @classmethod
    def _of(cls, directory: RunDirectory, shards: int) -> Resident:
        names = [directory.master, *directory.workers(), *map(directory.shard, range(shards))]
        pids = frozenset(pid_of(name) for name in names if name is not None)
        return cls(path=directory.path, master=pid_of(directory.master), processes=pids)


@dataclass(frozen=True, kw_only=True)
class Case:
    """`incumbent` is the one of the `residents` that listens where the settings say, if any does."""

    machine: Machine
    settings: Settings
    residents: Sequence[Resident] = ()
    incumbent: Resident | None = None

    @property
    def wanted(self) -> int | None:
        """How many connections all apps may have together; None when that is not limited."""
        limits = [app.max_connections for app in self.settings.apps]
        return None if None in limits else sum(limit for limit in limits if limit is not None)


def _unlimited(limit: int) -> int:
    return UNLIMITED if limit == resource.RLIM_INFINITY else limit


def _numbers(path: Path) -> list[int]:
    try:
        words = path.read_text().split()
    except OSError:
        return []
    return [int(word) for word in words] if all(word.isascii() and word.isdigit() for word in words) else []
