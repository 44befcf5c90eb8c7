"""Whether somebody has asked for a restart, once for all processes of one master.

What the key has said is remembered in the run directory, so that workers may come and go: nothing is lost by a reload,
nothing happens twice. One worker looks; the kernel says who, by a lock that goes with its process.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from resonate.bus.directory import RunDirectory
from resonate.bus.restart_key import RestartKey, Values, compare

#: Bytes of a file that remembers; what is longer is none of ours.
LONGEST_MEMORY: Final = 4096


class RestartWatch:
    """`act` is called when somebody has asked: it raises OSError or ValueError where it should be tried again."""

    def __init__(self, directory: RunDirectory, key: RestartKey, act: Callable[[], None]) -> None:
        self.key = key
        self._memory = memory(directory)
        self._place = directory.file("restart-watch")
        self._act = act
        self._lead: int | None = None
        self._known: Values = {}  # in case that the file is removed

    def lead(self) -> bool:
        """Whether it is for this process to look; it stays so. Raises OSError where it cannot be told."""
        if self._lead is None:
            self._lead = _locked(self._place, os.O_CREAT)
        return self._lead is not None

    def look(self) -> None:
        """Look once. Raises RedisError, and what `act` raises; OSError where nothing can be remembered."""
        lock = _locked(self._memory, os.O_CREAT)
        if lock is None:  # somebody is just writing the key
            return
        try:
            remembered = _read(lock)
            before = remembered or self._known
            changed, known = compare(before, self.key.read())
            if known != remembered:  # first: what cannot be remembered would be done again and again
                _write(lock, known)
            if changed:
                self._acted(lock, before)
            self._known = known
        finally:
            os.close(lock)

    def _acted(self, lock: int, before: Values) -> None:
        try:
            self._act()
        except BaseException:
            _write(lock, before)
            raise

    def leave(self) -> None:
        """Let another process look."""
        self.key.close()
        if self._lead is not None:
            os.close(self._lead)
            self._lead = None


def memory(directory: RunDirectory) -> Path:
    """Where it is remembered."""
    return directory.file("restart-key")


@contextmanager
def unnoticed(directory: RunDirectory) -> Iterator[Callable[[Values], None] | None]:
    """Meanwhile nobody looks there, and what is given to the function is nothing new afterwards.

    None: somebody is looking just now. Where nobody has ever looked there is nothing to remember.
    """
    try:
        lock = _locked(memory(directory), 0)
    except FileNotFoundError:
        yield _forget
        return
    if lock is None:
        yield None
        return
    try:
        yield lambda values: _write(lock, {**(_read(lock) or {}), **values})
    finally:
        os.close(lock)


def _forget(values: Values) -> None:
    """The first look will find it."""


def _locked(path: Path, flags: int) -> int | None:
    """A descriptor with the lock; None when another one has it. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _read(descriptor: int) -> Values | None:
    """What was remembered; None when it is nothing of ours."""
    with suppress(ValueError, RecursionError):
        found = json.loads(os.pread(descriptor, LONGEST_MEMORY, 0))
        if isinstance(found, dict) and all(value is None or type(value) is int for value in found.values()):
            return found
    return None


def _write(descriptor: int, values: Values) -> None:
    data = json.dumps(values).encode()
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))
