"""This worker among the others: alone with its shard inside it, or one of several on the bus."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from logging import Logger
from typing import Any

from resonate.bus.client import BusLink, Receiver
from resonate.bus.directory import RunDirectory, alive, identity
from resonate.messages import Declaration, Inspect, ListChannels, Request, Standing
from resonate.server.link import WORKER, Link, LocalLink, Waiting, Way
from resonate.shard import Shard
from resonate.shard.ledger import NOTHING, Ledger

StartShard = Callable[[int], None]


class Membership:
    """Decides once, at the start, whether this worker is alone, and gives that up when another comes.

    `sharded` says that the shards are processes in any case, `start_shard` what to do about one that is not there.
    """

    def __init__(
        self,
        loop: Any,
        log: Logger,
        directory: RunDirectory,
        sharded: bool,
        shards: int,
        timeout_s: float,
        clock: Callable[[], float],
        start_shard: StartShard,
    ) -> None:
        self._loop = loop
        self._log = log
        self._directory = directory
        self._shards = shards
        self._timeout_s = timeout_s
        self._start_shard = start_shard
        self._receiver: Receiver | None = None
        self.name = f"w-{identity(os.getpid())}"
        self._clock = clock
        self._local: LocalLink | None = LocalLink(Shard(), clock)
        self._bus: BusLink | None = None
        self.link = Link(self._local)
        self._waiting: Waiting | None = None
        self._sharded = sharded
        self._trouble = ""

    def connect(self, receiver: Receiver) -> None:
        """What shards say goes to `receiver` from now on."""
        assert self._local is not None
        self._receiver = receiver
        self._local.connect(receiver.receive)
        self._appear()
        if self._sharded or self._accompanied():
            self._join(NOTHING)

    @property
    def alone(self) -> bool:
        """Whether the shard is inside this worker, and no other is there."""
        return self._local is not None

    @property
    def settled(self) -> bool:
        """Whether everybody has heard of everything that this worker has asked for."""
        return self._bus is None or self._bus.settled

    @property
    def holding(self) -> bool:
        """Whether requests wait for another number of shards."""
        return self._waiting is not None

    def hold(self, shards: int) -> None:
        """Send nothing any more: soon there will be so many shards."""
        if self._bus is not None and self._receiver is not None:
            self._bus.hold()
            self._waiting = Waiting(shards, self._receiver)
            self.link.change(self._waiting)

    def release(self) -> None:
        """There will not; what has waited is sent. Questions to all shards were to be answered by another number."""
        if self._bus is not None and self._waiting is not None:
            requests = [each for each in self._waiting.requests if not isinstance(each, Inspect | ListChannels)]
            self._go_on(self._bus, requests)
            self._bus.release()

    def reshard(self, shards: int) -> None:
        """There are so many now; 0: this worker is alone, and its shard is inside."""
        if self._bus is None or self._waiting is None or self._receiver is None:
            return
        for index in range(max(1, shards), self._shards):  # who is not there has no trouble
            self._receiver.receive([Standing(index, "")])
        self._shards = max(1, shards)
        requests = self._waiting.requests
        if shards:
            self._bus.reshard(shards)
            self._go_on(self._bus, requests)
        else:
            self._go_on(self._taken_in(self._bus, self._receiver), requests)

    def _taken_in(self, bus: BusLink, receiver: Receiver) -> LocalLink:
        """A shard inside this worker that holds what it holds."""
        shard = Shard()
        local = LocalLink(shard, self._clock)
        shard.declare(WORKER, bus.dissolve(), self._clock())
        local.connect(receiver.receive)
        self._bus, self._local = None, local
        self._appear()
        receiver.clogged = False
        receiver.receive([])  # who waits may be listened to
        return local

    def _go_on(self, way: Way, requests: Sequence[Request]) -> None:
        self._waiting = None
        self.link.change(way)
        for request in requests:
            way.send(request)

    def hasten(self) -> None:
        """Somebody waits until that is so."""
        if self._bus is not None:
            self._bus.hasten()

    def beat(self, counters: dict[str, Any]) -> None:
        """A second has passed; `counters` are what this worker has counted."""
        if self._local is not None:
            self._appear()
            if self._directory.shard(0) is not None:  # another worker has come, and waits for us
                self._try_to_join(self._local)
        if self._bus is not None:
            counters = {**counters, "undecodable": self._bus.undecodable, "successions": self._bus.successions}
        self.link.beat(counters)

    def _try_to_join(self, local: LocalLink) -> None:
        """What cannot be done now is tried again the next second."""
        try:
            self._join(local.declaration())
        except OSError as error:
            self._say(f"this worker cannot join the others: {error.strerror or error}")

    def _appear(self) -> None:
        """Be found by others: a worker that is alone has a file too."""
        trouble = self._directory.ensure()
        try:
            os.close(os.open(self._directory.file(self.name), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            trouble = trouble or f"{self._directory.path} cannot be written: {error.strerror}"
        self._say(trouble)

    def _say(self, trouble: str) -> None:
        """Once, until it is another."""
        if trouble and trouble != self._trouble:
            self._log.error("%s. Trying again each second", trouble)
        self._trouble = trouble

    def _accompanied(self) -> bool:
        others = [name for name in self._directory.workers() if name != self.name]
        return bool(others) or self._directory.shard(0) is not None

    def _join(self, past: Declaration) -> None:
        assert self._receiver is not None
        bus = BusLink(
            self._loop,
            self._log,
            self._directory,
            self.name,
            [Ledger(self.name, past if index == 0 else NOTHING) for index in range(self._shards)],
            self._timeout_s,
            self._receiver,
            self._start_shard,
        )
        self._local, self._bus = None, bus
        self.link.change(bus)

    def close(self) -> None:
        """The worker ends. The last one after its master leaves nothing behind."""
        self.link.close()
        if self._bus is not None and self._waiting is not None:
            self._bus.close()
        self._directory.forget(self.name)
        if not alive(self._directory.master) and not self._accompanied():
            self._directory.remove()
