"""Starts shards where no master does: under gunicorn's own one, the workers see to it among themselves."""

from __future__ import annotations

import fcntl
import os
import time
from logging import Logger
from typing import Final

from resonate.bus.directory import RunDirectory
from resonate.bus.spawn import spawn
from resonate.scaling import Scaling

#: How long a shard may take to appear before it is started once more, in seconds.
PATIENCE_S: Final = 5.0


class ShardStarter:
    """One worker at a time starts a shard: who holds the lock. Even two would do no harm, for there is one seat."""

    def __init__(
        self,
        directory: RunDirectory,
        timeout_s: float,
        log_format: str,
        scaling: Scaling,
        cache_ttl: int,
        log: Logger,
    ) -> None:
        self._directory = directory
        self._timeout_s = timeout_s
        self._log_format = log_format
        self._scaling = scaling
        self._cache_ttl = cache_ttl
        self._log = log
        self._locks: dict[int, int] = {}
        self._children: dict[int, int] = {}  # pid -> number of the shard
        self._again_at: dict[int, float] = {}

    def start(self, index: int) -> None:
        """That shard is not there. Harmless when repeated."""
        now = time.monotonic()
        if now < self._again_at.get(index, 0.0) or not self._locked(index):
            return
        self._again_at[index] = now + PATIENCE_S
        try:
            pid = spawn(self._directory, index, self._timeout_s, self._log_format, self._scaling, self._cache_ttl)
            self._children[pid] = index
        except OSError as error:
            self._log.error("shard %d cannot be started: %s", index, error)
            if index in self._locks:  # another worker may have more luck
                os.close(self._locks.pop(index))

    def beat(self) -> None:
        """A second has passed: let go of the locks of shards that have come, and bury those that have died."""
        for index in list(self._locks):
            if self._directory.shard(index) is not None:
                os.close(self._locks.pop(index))
        for pid in list(self._children):
            try:
                gone, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                gone, status = pid, 0
            if gone:
                index = self._children.pop(pid)
                self._again_at.pop(index, None)
                if status:
                    code = os.waitstatus_to_exitcode(status)
                    self._log.error("shard %d (pid %d) has ended: %s", index, pid, code)

    def _locked(self, index: int) -> bool:
        """Whether it is for this worker to start it; also where no file can be made: then the seat must do."""
        if index in self._locks:
            return True
        try:
            lock = os.open(self._directory.file(f"start-{index}"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._locks[index] = lock
        return True
