"""Real processes around a run directory: shards, and bystanders that lend their names to workers and masters."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import zmq
from gevent.core import loop as gevent_loop

from resonate.bus.directory import RunDirectory, identity
from resonate.encoding import decode, encode
from resonate.messages import Event, Frame, Parcel, Present
from resonate.version import PROTOCOL
from tests.support.eventually import eventually

ROOT = Path(__file__).parents[2]
Value = TypeVar("Value")


class Bystander:
    """A process that does nothing: what it is named after lives as long as it does."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
        self._identity = identity(self._process.pid)

    @property
    def master(self) -> str:
        return f"m-{self._identity}"

    @property
    def worker(self) -> str:
        return f"w-{self._identity}"

    def die(self) -> None:
        self._process.kill()
        self._process.communicate()


class ShardProcess:
    """`python -m resonate.bus`; what it logs is kept."""

    def __init__(
        self, directory: RunDirectory, index: int, log: Path, timeout_s: float = 30, more: Sequence[str] = ()
    ) -> None:
        self._log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "resonate.bus", str(directory.path), str(index), str(timeout_s), "text"),
                    str(PROTOCOL),
                    *more,
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=stream,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class RawWorker:
    """A worker as a shard sees it: frames go out of one socket, and come into another."""

    def __init__(self, directory: RunDirectory, name: str) -> None:
        self.name = name
        self._directory = directory
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.bind(directory.address(name))
        self._outlet = self._context.socket(zmq.PUSH)

    def connect(self, name: str) -> None:
        """What is sent goes to that process."""
        self._outlet.connect(self._directory.address(name))

    def send(self, frame: Frame | bytes) -> None:
        self._outlet.send(frame if isinstance(frame, bytes) else encode(frame))

    @property
    def is_told(self) -> bool:
        """Whether a parcel is there."""
        return bool(self._inbox.poll(0))

    def receive(self) -> Parcel:
        """The next parcel."""
        if not self._inbox.poll(20_000):
            raise AssertionError(f"{self.name} is told nothing")
        parcel = decode(self._inbox.recv())
        assert isinstance(parcel, Parcel)
        return parcel

    def event(self) -> Event:
        """The next event; parcels with several are not looked for."""
        while True:
            for stamped in self.receive().events:
                (event,) = stamped.events
                return event

    def close(self) -> None:
        self._context.destroy(linger=0)


class Place:
    """A run directory with a living master, and all that a test starts in it. Nothing of it is left behind."""

    def __init__(self) -> None:
        self.above = Path(tempfile.mkdtemp(prefix="bus-"))  # pytest's own paths are too long for sockets
        self.closing: list[Callable[[], None]] = []
        self.master = self.bystander()
        self.directory = RunDirectory(self.above / f"resonate-0-{self.master.master[2:]}-00000000")
        self.directory.ensure()

    def own(self, master: Bystander) -> None:
        """As `RunDirectory.own` in that process."""
        self.directory.file("master").write_text(master.master)

    def bystander(self) -> Bystander:
        found = Bystander()
        self.closing.append(found.die)
        return found

    def shard(self, index: int = 0, timeout_s: float = 30, *more: str) -> ShardProcess:
        """A shard process, which may not be there yet; `more` are its options."""
        shard = ShardProcess(self.directory, index, self.above / f"log-{len(self.closing)}", timeout_s, more)
        self.closing.append(shard.kill)
        return shard

    def ready_shard(self, index: int = 0, timeout_s: float = 30) -> tuple[ShardProcess, str]:
        """A shard that can be reached, and its name."""
        shard = self.shard(index, timeout_s)
        name = eventually(lambda: self.directory.shard(index))
        assert name is not None
        return shard, name

    def worker(self, shard: str | None = None, of: Bystander | None = None) -> RawWorker:
        """A worker that is connected to a shard."""
        worker = RawWorker(self.directory, (of or self.bystander()).worker)
        self.closing.append(worker.close)
        if shard is not None:
            worker.connect(shard)
        return worker

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for close in reversed(self.closing):
            close()
        shutil.rmtree(self.above)


class Turns:
    """gevent's loop, which is turned only while a test waits for something. A callback that fails fails the test."""

    def __init__(self) -> None:
        self.loop = gevent_loop(default=False)
        self.loop.error_handler = self
        self._errors: list[BaseException] = []

    def handle_error(self, context: Any, kind: Any, value: BaseException, trace: Any) -> None:
        self._errors.append(value)

    def turn(self) -> None:
        self.loop.run(nowait=True)
        if self._errors:
            raise self._errors[0]

    def until(self, condition: Callable[[], Value]) -> Value:
        """Turn until it is so."""

        def turned() -> Value:
            self.turn()
            return condition()

        return eventually(turned)

    def close(self) -> None:
        self.loop.destroy()


class Receiver:
    """What a worker does with events, which is to keep them. It is `full` when the test says so."""

    def __init__(self) -> None:
        self.clogged = False
        self.room = 10**9
        self.events: list[Event] = []
        self.resume: Callable[[], None] | None = None

    @property
    def full(self) -> bool:
        return len(self.events) >= self.room

    def pause(self, resume: Callable[[], None]) -> None:
        self.resume = resume

    def receive(self, events: list[Event]) -> None:
        self.events += [event for event in events if not isinstance(event, Present)]  # no client is told of that
