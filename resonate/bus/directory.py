"""The run directory of one master: who is there, and where each is reached.

A process is named by its role, pid and start time (`w-812-5551234`, `s0-813-5551240`), which no other process ever is.
Its inbox is the file of that name. Only the directory's owner may enter.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from resonate.errors import ConfigurationError

_PREFIX: Final = "resonate"
_WORKER: Final = re.compile(r"w-[1-9][0-9]{0,8}-[0-9]{1,18}", re.ASCII)
_MASTER: Final = re.compile(r"m-[1-9][0-9]{0,8}-[0-9]{1,18}", re.ASCII)
#: What a path of a unix socket may have (107 bytes), less the longest name in the directory.
LONGEST_PATH: Final = 107 - 40


def identity(pid: int) -> str:
    """The pid and start time of a living process. Raises ProcessLookupError, or OSError where it cannot be told."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"no process {pid}") from None
    fields = line.rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return f"{pid}-{fields[19]}"


def alive(name: str) -> bool:
    """Whether the process of this name lives; where it cannot be told (no file can be opened) it is not buried."""
    pid, _, start = name.partition("-")[2].partition("-")
    try:
        return identity(int(pid)) == f"{pid}-{start}"
    except (ProcessLookupError, ValueError):
        return False
    except OSError:
        return True


def is_worker(name: str) -> bool:
    """Whether this is how a worker is named."""
    return _WORKER.fullmatch(name) is not None


def pid_of(name: str) -> int:
    """The process id in a name."""
    return int(name.split("-")[1])


class RunDirectory:
    """`path` is the directory. Its name says who has made it: `resonate-UID-PID-START-RANDOM` of a master.

    Whose it is the file `master` in it says; without one, it is still that master's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, parent: str | None) -> RunDirectory:
        """Make one for this process, the master, in `parent` or among the temporary files. Those of dead masters go.

        Raises ConfigurationError.
        """
        path = cls.new_path(parent)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            for old in cls._below(path.parent):
                if not alive(old.master):
                    old.remove()
            path.mkdir(mode=0o700)
        except OSError as error:
            raise _unusable(path.parent, error) from None
        return cls(path)

    @classmethod
    def check(cls, parent: str | None) -> None:
        """Whether `create` would succeed. Raises ConfigurationError."""
        above = cls.new_path(parent).parent
        try:
            above.mkdir(mode=0o700, exist_ok=True)
            os.rmdir(tempfile.mkdtemp(dir=above))
        except OSError as error:
            raise _unusable(above, error) from None

    @classmethod
    def new_path(cls, parent: str | None) -> Path:
        """What this process would call one in `parent`, or among the temporary files. Raises ConfigurationError."""
        try:
            above = Path(parent or tempfile.gettempdir()).absolute()
            name = f"{_PREFIX}-{os.geteuid()}-{identity(os.getpid())}-{secrets.token_hex(4)}"
        except OSError as error:
            raise ConfigurationError("run_dir", f"cannot be made: {error.strerror or error}", value=parent) from None
        if len(os.fsencode(above / name)) > LONGEST_PATH:
            most = LONGEST_PATH - len(name) - 1
            raise ConfigurationError("run_dir", f"must have {most} bytes or less: sockets lie in it", value=str(above))
        return above / name

    @classmethod
    def masters(cls, parent: str | None) -> list[RunDirectory]:
        """The directories of the masters that live, among those of this user; for root, of all users in `parent`."""
        anyone = parent is not None and os.geteuid() == 0  # anybody may put things among the temporary files
        return [found for found in cls._below(Path(parent or tempfile.gettempdir()), anyone) if alive(found.master)]

    @classmethod
    def _below(cls, above: Path, anyone: bool = False) -> Iterator[RunDirectory]:
        for path in sorted(above.glob(f"{_PREFIX}-*-*-*-*")):
            try:
                found = path.lstat()
            except FileNotFoundError:  # its master is just leaving
                continue
            ours = anyone or found.st_uid == os.geteuid()
            if ours and stat.S_ISDIR(found.st_mode) and path.name.count("-") == 4:
                yield cls(path)

    @property
    def master(self) -> str:
        """The master's name."""
        with suppress(OSError):
            name = self.file("master").read_text()
            if _MASTER.fullmatch(name):
                return name
        _, _, pid, start, _ = self.path.name.split("-")
        return f"m-{pid}-{start}"

    def own(self) -> None:
        """This process is the master from now on. Raises OSError where that cannot be written."""
        name = f"m-{identity(os.getpid())}"
        if name != self.master:
            written = self.file(f"{name}.new")
            written.write_text(name)
            written.replace(self.file("master"))  # who reads it sees the old one or this one

    def host_id(self) -> str:
        """What this host is called among others: 16 hex digits, made by whoever asks first.

        It outlives shards and workers, but not the directory. Raises OSError.
        """
        path = self.file("host")
        with suppress(FileNotFoundError):
            return path.read_text()
        made = self.file(f"host-{identity(os.getpid())}")
        made.write_text(secrets.token_hex(8))
        with suppress(FileExistsError):  # another process has been faster
            os.link(made, path)
        made.unlink()
        return path.read_text()

    @property
    def control(self) -> Path:
        """The master's control socket."""
        return self.path / "control.sock"

    def file(self, name: str) -> Path:
        """The inbox of a process."""
        return self.path / name

    def line(self, name: str) -> Path:
        """Where a worker takes connections in from others."""
        return self.path / f"h-{name.removeprefix('w-')}"

    def address(self, name: str) -> str:
        """The same, as ØMQ wants it."""
        return f"ipc://{self.path / name}"

    def seat(self, index: int) -> str:
        """The abstract address that only one living shard of this number holds."""
        return f"\0{self.path}/s{index}"

    def workers(self) -> list[str]:
        """The workers that live."""
        return [name for name in self._names("w-") if alive(name)]

    def shard(self, index: int) -> str | None:
        """The living shard of this number, if it can be reached."""
        return next((name for name in self._names(f"s{index}-") if alive(name)), None)

    def sweep(self) -> None:
        """Remove the files of processes that have ended."""
        for name in (*self._names("w-"), *self._names("h-"), *self._names("s")):
            if name.count("-") == 2 and not alive(name):
                self.forget(name)

    def forget(self, name: str) -> None:
        """Remove the file of a process, if that can be done: it says no more than that there may be one."""
        with suppress(OSError):
            self.file(name).unlink()

    def ensure(self) -> str:
        """Make it anew if it has vanished; why it could not be made, or nothing."""
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            return f"the run directory {self.path} cannot be made: {error.strerror}"
        return ""

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _names(self, prefix: str) -> list[str]:
        try:
            return [entry.name for entry in os.scandir(self.path) if entry.name.startswith(prefix)]
        except OSError:
            return []


def _unusable(above: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError("run_dir", f"cannot be used: {error.strerror}", value=str(above))
