"""What breaks in the middle of a reload of `resonate start`, and what may be noticed of it.

The manual (docs/operations/reload.md) says who has to reconnect. Everybody else must notice nothing, and hear exactly
once that those have left.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.support.cluster import Stage, kill, processes, run_directory, shards_of, workers_of
from tests.support.disk import tiny_disk, use_up_files

if TYPE_CHECKING:
    from tests.bench.reload import Load

#: Connections that may be under way between two workers.
UNDER_WAY: Final = 200
#: More sockets than an heir opens for itself when connections begin to come.
SOME: Final = 30
#: Seconds of such a step.
STEP_S: Final = 0.001
#: How long a fault, or what follows from it, may take in seconds.
PATIENCE_S: Final = 60.0
#: What clients are told when their server goes.
RESTARTING: Final = 4200

_BOOTING: Final = re.compile(r"Booting worker with pid: (\d+)")


class Scene:
    """A reload under way. Its methods wait, while the load goes on."""

    def __init__(self, load: Load) -> None:
        self.load, self.server = load, load.server
        self.old = workers_of(self.server)
        self.share = len(load.listeners) // len(self.old)
        self.bare = sum(map(sockets, self.old)) // len(self.old) - self.share  # sockets of a worker without clients

    def hup(self) -> None:
        self.server.process.send_signal(signal.SIGHUP)

    def wait(self, found: Callable[[], int]) -> int:
        """The first pid that is found."""
        assert self.load.until(lambda: bool(found()), within=PATIENCE_S), self.server.log()
        return found()

    def held_back(self, pid: int, reached: Callable[[int], bool]) -> int:
        """Let a process go on by small steps until its connections are so many; it stays frozen. How many those are.

        It would take it milliseconds only to take hundreds.
        """
        freeze(pid)
        self.said("promoted")
        deadline = time.monotonic() + PATIENCE_S
        while not reached(self.held(pid)) and time.monotonic() < deadline:
            kill(pid, signal.SIGCONT)
            time.sleep(STEP_S)
            freeze(pid)
            self.load.turn()
        assert reached(self.held(pid)), self.server.log()
        return self.held(pid)

    def held(self, pid: int) -> int:
        """About how many connections it has."""
        return sockets(pid) - self.bare

    def booting(self) -> int:
        """The first of those that have been started since, or nobody."""
        started = map(int, _BOOTING.findall(self.server.log()))
        return next((pid for pid in started if pid not in self.old), 0)

    def heir(self) -> int:
        """The first that is ready, before it is promoted."""
        self.said("heir ready")
        return int(self.server.log().partition("heir ready (pid:")[2].partition(")")[0])

    def said(self, *words: str) -> bool:
        """Whether any of these come in the log."""
        return self.load.until(lambda: any(each in self.server.log() for each in words), within=PATIENCE_S)

    def replaced(self) -> bool:
        """Wait until there are only new workers, as many as before."""
        return self.load.until(self._replaced, within=PATIENCE_S)

    def _replaced(self) -> bool:
        there = set(workers_of(self.server))
        settled = "done in" in self.server.log() and len(there) == len(self.old)
        return settled and not there & set(self.old) and not set(self.old) & set(processes(self.server))


def sockets(pid: int) -> int:
    """How many a process has open. Other files may be places that it keeps for connections."""
    found = 0
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found += os.readlink(entry.path).startswith("socket:")
    return found


def freeze(pid: int) -> None:
    """Stop it, and wait until it does nothing any more."""
    kill(pid, signal.SIGSTOP)
    while state(pid) not in "TZX":
        pass


def state(pid: int) -> str:
    """As the kernel calls it, in a letter."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _starting(scene: Scene) -> int:
    scene.hup()
    kill(scene.wait(scene.booting))
    return 0


def _frozen(scene: Scene) -> int:
    """It is stopped as soon as somebody has come to it: so the shards have counted more for it than it will get."""
    scene.hup()
    victim = scene.heir()
    count = scene.held_back(victim, lambda held: held > SOME)
    scene.load.until(lambda: False, within=1.0)
    kill(victim)
    return count + UNDER_WAY


def _half(scene: Scene) -> int:
    scene.hup()
    victim = scene.heir()
    count = scene.held_back(victim, lambda held: held >= scene.share // 2)
    kill(victim)
    return count + UNDER_WAY


def _old(scene: Scene) -> int:
    scene.hup()
    scene.heir()
    victim = scene.old[-1]
    count = scene.held_back(victim, lambda held: held <= scene.share // 2)
    kill(victim)
    return count + UNDER_WAY


def _shard(scene: Scene) -> int:
    """While an heir has some, and others are under way."""
    scene.hup()
    heir = scene.heir()
    scene.held_back(heir, lambda held: held > SOME)
    for pid in shards_of(scene.server):
        kill(pid)
    kill(heir, signal.SIGCONT)
    return 0


def _master(scene: Scene) -> int:
    """The same."""
    scene.hup()
    heir = scene.heir()
    scene.held_back(heir, lambda held: held > SOME)
    scene.load.publishing = scene.load.guests = False
    kill(scene.server.process.pid)
    scene.server.process.wait()
    kill(heir, signal.SIGCONT)
    return len(scene.load.listeners)


def _configuration(scene: Scene) -> int:
    file = scene.server.directory / "resonate.toml"
    file.write_text(file.read_text().replace("drain_timeout = 10", "drain_timeout = -1"))
    scene.hup()
    return 0


def _disk(scene: Scene) -> int:
    directory = run_directory(scene.server)
    assert directory is not None
    use_up_files(directory.parent)
    scene.hup()
    return 0


def _done(scene: Scene) -> bool:
    return scene.replaced()


def _unchanged(scene: Scene) -> bool:
    """Those serve on who did before."""
    said = scene.said("rolled back", "the reload is refused, nothing changes")
    alone = scene.load.until(lambda: workers_of(scene.server) == scene.old, within=PATIENCE_S)
    return said and alone


def _over(scene: Scene) -> bool:
    """All processes have left, and so all clients have gone."""
    load = scene.load
    return load.until(
        lambda: not processes(scene.server) and all(peer.stage is Stage.CLOSED for peer in load.listeners),
        within=PATIENCE_S,
    )


class Fault(NamedTuple):
    """`breaks` lets it happen, and returns how many clients may be cut off by it; `follows` is what has to follow."""

    breaks: Callable[[Scene], int]
    follows: Callable[[Scene], bool]
    on_tiny_disk: bool = False

    @contextmanager
    def place(self) -> Iterator[dict[str, str]]:
        """Settings of the server for it."""
        if self.on_tiny_disk:
            with tiny_disk() as disk:
                yield {"run_dir": str(disk)}
        else:
            yield {}

    def happen(self, load: Load) -> float:
        """Reload, let it happen, and see what follows; how long that took, in seconds."""
        scene, began = Scene(load), time.monotonic()
        load.cut = self.breaks(scene)
        if not self.follows(scene):
            load.tally.note("reload", "what should follow has not")
        load.until(lambda: False, within=1.0)
        return time.monotonic() - began

    def excuse(self, load: Load) -> dict[str, Any]:
        """Take from the tally what had to be noticed: no more clients than could be are cut off, and how it is said."""
        wrong = load.tally.wrong
        gone = [peer for peer in load.listeners if peer.stage is Stage.CLOSED]
        codes = {peer.code for peer in gone}
        if len(gone) <= load.cut and codes <= {1006, RESTARTING}:
            del wrong["disconnect"]
        if load.cut and self.follows is not _over:  # they were connected to that process, too
            del wrong["REST"], wrong["refused"]
        if self.follows is _over and codes == {RESTARTING}:
            del wrong["REST"], wrong["refused"]
        return {"cut off": len(gone), "at most": load.cut, "codes": sorted(codes)}


FAULTS: Final = {
    "heir-starts": Fault(_starting, _unchanged),
    "heir-frozen": Fault(_frozen, _done),
    "heir-half": Fault(_half, _done),
    "old-half": Fault(_old, _done),
    "shard": Fault(_shard, _done),
    "master": Fault(_master, _over),
    "configuration": Fault(_configuration, _unchanged),
    "disk": Fault(_disk, _unchanged, on_tiny_disk=True),
}
