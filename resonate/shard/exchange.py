"""A shard process without its sockets: frames in, frames out, and which workers have to be ended.

It bounds what waits: while a worker is slower than what comes, requests are put off; a worker for which too much waits
all the same is given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from resonate.encoding import EncodingError, decode, encode
from resonate.messages import Batch, Beat, Frame, Hello, Parcel, Request
from resonate.shard.cluster.cluster import Cluster
from resonate.shard.cluster.store import Order, Report
from resonate.shard.outbox import Outbox
from resonate.shard.sequencer import Delivery, Sequencer
from resonate.shard.shard import Shard

#: Requests that are done before what they lead to is encoded and counted.
STRIDE: Final = 64


class Exchange:
    """`name` and `expected` as in Sequencer, `is_worker` says whether somebody may be called so, `cluster` takes part
    for this shard among those of other hosts, if there may be any.

    Times are seconds of a clock that goes forward.

    What is to be sent gathers until `take`, which is to be called at the end of each turn.
    """

    def __init__(
        self,
        name: str,
        expected: Iterable[str],
        now: float,
        is_worker: Callable[[str], bool] = bool,
        cluster: Cluster | None = None,
    ) -> None:
        self._name = name
        self._is_worker = is_worker
        self._cluster = cluster
        self._shard = Shard() if cluster is None else cluster.shard
        self._sequencer = Sequencer(self._shard, name, expected, withheld=cluster is not None)
        self._outbox = Outbox()
        self._postponed: deque[Batch] = deque()
        self._unsealed = 0  # requests that have been done since the last parcels
        self._sealed = 0  # the place up to which everything is in parcels
        self._outgoing: list[tuple[str, bytes]] = []
        self._waiting: dict[str, int] = {}  # who waits until everybody has dealt with everything up to that place
        self._began = now
        self.counters = self._shard.counters
        self.counters |= dict.fromkeys(("requests", "frames_in", "frames_out", "undecodable", "workers_gone"), 0)

    @property
    def workers(self) -> frozenset[str]:
        """Who is there, or expected."""
        return self._sequencer.missing | self._sequencer.workers

    def failures(self) -> list[Exception]:
        """The defects met since this was last asked."""
        failures, self._sequencer.failures = self._sequencer.failures, []
        return failures

    # --- what happens ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> str:
        """A frame of a worker, whose name is returned. Raises EncodingError for what is none, to no other effect."""
        self.counters["frames_in"] += 1
        try:
            frame = decode(data)
            if isinstance(frame, Parcel) or not self._is_worker(frame.worker):
                raise EncodingError("it is of no worker")
            _RECEIVERS[type(frame)](self, frame, now)
        except EncodingError:
            self.counters["undecodable"] += 1
            raise
        return frame.worker

    def gone(self, worker: str, now: float) -> None:
        """A worker's process has ended. Harmless where nobody is called so."""
        if worker not in self.workers:
            return
        self.counters["workers_gone"] += 1
        self._outbox.leave(worker)
        self._waiting.pop(worker, None)
        self._outgoing = [(receiver, data) for receiver, data in self._outgoing if receiver != worker]
        self._postponed = deque(batch for batch in self._postponed if batch.worker != worker)
        self._sequencer.gone(worker, now)
        if self._cluster is not None:
            self._cluster.gone(worker, now)
        self._resume(now)

    def beat(self, now: float) -> None:
        """A second has passed: every worker hears that this shard lives, and how far everybody is."""
        self._shard.prune(now)
        self.counters["queue_bytes"] = self._outbox.waiting()
        if self._cluster is not None:
            self._cluster.beat(now)
            self.counters["scaling"] = self._cluster.figures()
        self._resume(now)
        self._seal(now)
        stable = self._stable()
        for worker in self._sequencer.workers:
            self._post(worker, Delivery(), stable, now)

    def given_up(self, now: float, timeout_s: float) -> dict[str, str]:
        """The workers that have to be ended, each with the reason."""
        waiting = self._outbox.waiting()
        found = dict.fromkeys(self._sequencer.broken, "a frame of it has been lost")
        for worker in self._outbox.overdrawn(self._sequencer.place, now):
            found[worker] = f"{waiting[worker]} bytes wait for it, and it does not read"
        if now - self._began > timeout_s:
            found |= dict.fromkeys(self._sequencer.missing, "it does not say what it holds")
        return found

    def take(self, now: float) -> list[tuple[str, bytes]]:
        """What is to be sent to whom, in order."""
        self._agree(now)
        self._seal(now)
        self._reassure(now)
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    # --- frames ------------------------------------------------------------------------------------------------------

    def _hello(self, hello: Hello, now: float) -> None:
        if hello.worker in self._sequencer.workers:
            raise EncodingError(f"{hello.worker} has said hello before")
        self._outbox.join(hello.worker, now)
        declaration = hello.declaration
        if self._cluster is None:
            self._sequencer.declare(hello.worker, declaration, now)
        else:
            asked = [] if self._cluster.released else declaration.requests
            self._sequencer.declare(hello.worker, replace(declaration, requests=asked), now)
            self._cluster.declare(hello.worker, declaration, now)
        self._seal(now)
        self._post(hello.worker, Delivery(), self._stable(), now)  # it waits to hear that it is known

    def _batch(self, batch: Batch, now: float) -> None:
        self._outbox.received(batch.worker, batch.received, now)
        self._postponed.append(batch)
        self._resume(now)

    def _beat(self, beat: Beat, now: float) -> None:
        self._outbox.received(beat.worker, beat.received, now)
        if beat.counters is not None and beat.worker in self._sequencer.workers:
            self._shard.report(beat.worker, beat.counters)
        self._resume(now)
        if beat.urgent and beat.worker in self._sequencer.workers:
            self._seal(now)
            stable = self._stable()
            self._waiting[beat.worker] = self._sealed
            for worker in self._sequencer.workers:
                self._post(worker, Delivery(), stable, now, urgent=True)

    def _resume(self, now: float) -> None:
        """Do what has been put off, as long as every worker that reads can follow."""
        while self._postponed and not self._outbox.congested(now):
            batch = self._postponed.popleft()
            worker, first, requests = batch.worker, batch.first, batch.requests
            if len(requests) > STRIDE:
                self._postponed.appendleft(replace(batch, first=first + STRIDE, requests=requests[STRIDE:]))
                requests = requests[:STRIDE]
            self.counters["requests"] += len(requests)
            if self._cluster is None:
                self._do(worker, first, requests, now)
            elif worker in self._sequencer.workers:
                self._cluster.stage(worker, first, requests, now)

    def _do(self, worker: str, first: int, requests: Sequence[Request], now: float) -> None:
        self._sequencer.requests(worker, first, requests, now)
        self._unsealed += len(requests)
        if self._unsealed >= STRIDE:
            self._seal(now)

    # --- other hosts -------------------------------------------------------------------------------------------------

    def report(self, reports: Iterable[Report], now: float) -> None:
        """What the store that all hosts share has said."""
        if self._cluster is not None:
            for report in reports:
                self._cluster.report(report, now)

    def orders(self) -> list[Order]:
        """What is to be ordered from it. To be called after `take`."""
        return [] if self._cluster is None else self._cluster.orders()

    def notices(self) -> list[str]:
        """What the operator should be told of it, since this was last asked."""
        return [] if self._cluster is None else self._cluster.notices()

    def _agree(self, now: float) -> None:
        """Do what other hosts have agreed to, and tell what follows from it."""
        cluster = self._cluster
        if cluster is None:
            return
        if not cluster.released and not self._recovered(cluster, now):
            return
        self._sequencer.announce(cluster.outgoing())
        for worker, first, requests in cluster.ready():
            self._do(worker, first, requests, now)
        cluster.handled(now)
        self._sequencer.announce(cluster.outgoing())

    def _recovered(self, cluster: Cluster, now: float) -> bool:
        if not self._sequencer.missing:
            cluster.resume(now)
        if not cluster.recovered:
            return False
        cluster.outcomes()
        self._sequencer.release(now)
        cluster.handled(now)
        cluster.release(now)
        return True

    def _seal(self, now: float) -> None:
        self._unsealed = 0
        stable = self._stable()  # before any of these parcels tells it: nobody has dealt with what is in them
        self._sealed = self._sequencer.place
        for worker, delivery in self._sequencer.take().items():
            self._post(worker, delivery, stable, now)

    def _reassure(self, now: float) -> None:
        """Tell those who wait, as soon as it is so."""
        if self._waiting:
            stable = self._stable()
            for worker in [worker for worker, place in self._waiting.items() if stable >= place]:
                del self._waiting[worker]
                self._post(worker, Delivery(), stable, now)

    def _stable(self) -> int:
        """The place up to which everybody has dealt with everything; -1 while not all have said what they hold."""
        return -1 if self._sequencer.recovering else self._outbox.stable(self._sealed)

    def _post(self, worker: str, delivery: Delivery, stable: int, now: float, urgent: bool = False) -> None:
        outbox = self._outbox
        number, (acks, marks, events) = outbox.next(worker), (delivery.acks, delivery.marks, delivery.events)
        data = encode(Parcel(self._name, number, stable, acks, marks, events, urgent))
        outbox.sent(worker, self._sequencer.place, len(data), now)
        self.counters["frames_out"] += 1
        self._outgoing.append((worker, data))


_RECEIVERS: Final[dict[type[Frame], Any]] = {Hello: Exchange._hello, Batch: Exchange._batch, Beat: Exchange._beat}
