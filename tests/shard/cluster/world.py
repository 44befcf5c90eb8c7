"""Hosts without sockets: workers with their ledgers, shards with their exchanges, one store in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from resonate.encoding import decode, encode
from resonate.messages import Beat, Event, Hello, Parcel, Request
from resonate.shard.cluster.cluster import Cluster, Terms
from resonate.shard.cluster.outside import Outside
from resonate.shard.exchange import Exchange
from resonate.shard.ledger import Ledger
from tests.support.memory_store import MemoryEnd, MemoryStore

#: Of a shard, unless a test says otherwise.
TERMS: dict[str, float] = {"lease_s": 10.0, "queue_bytes": 1 << 24, "queue_s": 60.0}


class Worker:
    """A worker's end. What the shard says is told to `hear`."""

    def __init__(self, name: str, hear: Callable[[Event], None]) -> None:
        self.name = name
        self.ledger = Ledger(name)
        self.inbox: deque[bytes] = deque()
        self.shard = ""  # the name of the one that it has said hello to
        self.hear = hear


class Host:
    """A shard and its workers. Pipes deliver in order; a death loses what is in them."""

    def __init__(self, name: str, store: MemoryStore, outside: Outside | None = None, **terms: float) -> None:
        self.name = name
        self._store = store
        self._terms = terms
        self._outside = outside
        self.workers: dict[str, Worker] = {}
        self._to_shard: deque[tuple[str, bytes]] = deque()
        self._generation = 0
        self.notices: list[str] = []
        self.start_shard(0.0)

    def start_shard(self, now: float) -> None:
        """A new shard; the one before has died, if there was one."""
        if self._generation:
            self.end.lose()
            self._to_shard.clear()
        self._generation += 1
        self.end: MemoryEnd = self._store.end()
        terms = Terms(self.name, 0, self.shard_name, 0, **{**TERMS, **self._terms})  # type: ignore[arg-type]
        self.cluster = Cluster(terms, self._outside)
        self.exchange = Exchange(self.shard_name, list(self.workers), now, cluster=self.cluster)

    @property
    def shard_name(self) -> str:
        """Of the shard that is there."""
        return f"s0-{self._generation}"

    def add(self, name: str, hear: Callable[[Event], None]) -> Worker:
        """A new worker."""
        worker = self.workers[name] = Worker(name, hear)
        return worker

    def kill(self, name: str, now: float) -> None:
        """A worker dies; what it has sent and the shard has not read is lost."""
        del self.workers[name]
        self._to_shard = deque(item for item in self._to_shard if item[0] != name)
        self.exchange.gone(name, now)

    def send(self, worker: Worker, now: float) -> None:
        """What a worker has to say is on its way."""
        if worker.shard != self.shard_name:
            while worker.inbox:
                self.read(worker, now)
            worker.shard = self.shard_name
            self._to_shard.append((worker.name, encode(Hello(worker.name, worker.ledger.declaration(now)))))
        batch = worker.ledger.batch()
        if batch is not None:
            self._to_shard.append((worker.name, encode(batch)))

    def receipt(self, worker: Worker) -> None:
        """A worker says how much it has dealt with."""
        if worker.shard == self.shard_name:
            self._to_shard.append((worker.name, encode(Beat(worker.name, worker.ledger.received, None))))

    def turn(self, now: float, orders: int | None = None, heard: int | None = None, replies: int | None = None) -> None:
        """The shard reads what has come, of the store so much, and sends what follows."""
        while self._to_shard:
            self.exchange.receive(self._to_shard.popleft()[1], now)
        self.exchange.report(self.end.take(now, orders, heard, replies), now)
        for receiver, data in self.exchange.take(now):
            self.workers[receiver].inbox.append(data)
        self.end.order(self.exchange.orders())
        for failure in self.exchange.failures():
            raise failure
        self.notices += self.exchange.notices()

    def read(self, worker: Worker, now: float) -> None:
        """A worker reads one parcel."""
        parcel = decode(worker.inbox.popleft())
        assert isinstance(parcel, Parcel)
        if parcel.shard == worker.shard:  # else it comes too late
            for event in worker.ledger.receive(parcel, now):
                worker.hear(event)

    def read_all(self, now: float) -> None:
        """All workers read all."""
        for worker in self.workers.values():
            while worker.inbox:
                self.read(worker, now)


def settle(hosts: Iterable[Host], now: float, rounds: int = 12) -> float:
    """Everybody says and reads everything, until nothing is under way. The time by then."""
    hosts = list(hosts)
    for number in range(rounds):
        for host in hosts:
            for worker in host.workers.values():
                host.send(worker, now)
                host.receipt(worker)
        for _ in range(8):
            for host in hosts:
                host.turn(now)
                host.read_all(now)
                for worker in host.workers.values():
                    host.send(worker, now)
        if number % 3 == 2:
            now += 1
            for host in hosts:
                host.exchange.beat(now)
    return now


def ask(worker: Worker, *requests: Request) -> None:
    """A worker's clients ask for that."""
    for request in requests:
        worker.ledger.add(request)
