"""What runs in a worker process, put together: made once, when it boots."""

from __future__ import annotations

import itertools
import logging
import socket
import time
from _socket import SocketType
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from logging import Logger
from typing import Any, Final, NamedTuple

from resonate.api import Api, Endpoint
from resonate.bus.directory import RunDirectory
from resonate.bus.starter import ShardStarter
from resonate.counters import Snapshot, add
from resonate.http import Response
from resonate.messages import Inspect
from resonate.scaling import Scaling
from resonate.server import tls
from resonate.server.balance import Figure
from resonate.server.balancer import Balancer
from resonate.server.calls import Calls
from resonate.server.context import Collect, Context, Health, Hosting, metrics_route
from resonate.server.descriptors import KEPT, KEPT_FOR_SHARD, Descriptors
from resonate.server.http_connection import HttpConnection
from resonate.server.hub import Hub
from resonate.server.line import Recipient, Sender
from resonate.server.listener import Listener, listen_for_metrics
from resonate.server.membership import Membership
from resonate.server.moving import Movers
from resonate.server.resharding import Resharding
from resonate.server.scoreboard import Scoreboard
from resonate.server.stats import Reason, Stats
from resonate.server.trace import Tracer
from resonate.server.transport import Reactor, Transport
from resonate.settings import Settings

#: Seconds between two looks whether the shards have answered, at the start.
BOOT_LOOK_S: Final = 0.05
#: Seconds between the lines that count connections in debug.
COUNTING_S: Final = 60


@dataclass(frozen=True)
class Shared:
    """What a master makes before it forks. `metrics` is the listening socket of `/metrics`, None for none.

    `shards` is their number, `scaling` what they are told of other hosts: neither may differ between workers and shards
    that live beside each other, whatever the configuration says by now.
    """

    directory: RunDirectory
    metrics: socket.socket | None
    shards: int
    scaling: Scaling


def share(settings: Settings, log: Any) -> Shared:
    """Make it, in the master. Raises ConfigurationError."""
    server = settings.server
    directory = RunDirectory.create(server.run_dir)
    return Shared(directory, listen_for_metrics(server, log), server.bus_shards, server.scaling)


class Slot(NamedTuple):
    """Where a worker reports itself to the master of `resonate start`."""

    scoreboard: Scoreboard
    row: int
    generation: int


class Service:
    """`hosting` serves what is not ours, `keep_alive` is how long HTTP connections may be idle, in seconds.

    `sharded` says that the shards are processes in any case; `starter` starts them where the master does not, `slot` is
    None where there is nobody to report to.
    """

    def __init__(
        self,
        loop: Any,
        log: Logger,
        settings: Settings,
        shared: Shared,
        hosting: Hosting,
        keep_alive: int,
        *,
        sharded: bool,
        starter: ShardStarter | None,
        slot: Slot | None,
    ) -> None:
        server = settings.server
        self._metrics = shared.metrics
        self._starter = starter
        self._slot = slot
        self._listeners: list[Listener] = []
        self._timers: list[Any] = []
        if slot is None and server.bus_shards != shared.shards:
            log.warning("bus_shards stays %d until the server is started again", shared.shards)
        reactor = Reactor(loop, log, server.max_send_buffer)
        self._membership = Membership(
            loop,
            log,
            shared.directory,
            sharded or shared.shards > 1 or shared.scaling.enabled,
            shared.shards,
            server.worker_timeout,
            lambda: float(reactor.wheel.now),
            starter.start if starter is not None else _wait,
        )
        self._directory = shared.directory
        self.context = _context(settings, log, reactor, self._membership, hosting, keep_alive)
        shards = max(shared.shards, server.bus_shards)  # so many there may be soon
        self._descriptors = Descriptors(KEPT + KEPT_FOR_SHARD * shards)
        self._movers = self.context.hub.movers = Movers(self.context, shared.shards)
        self._inherited: Snapshot = {}  # the counters of processes that have gone, and that only this one knows
        self._resharding = None if slot is None else self._reshardable(slot)
        name = self._membership.name
        self._recipient = Recipient(self._movers, shared.directory, name, log, self._ready, self._descriptors)
        self._balancer = Balancer(
            self.context, self._movers, name, lambda taker: self.sender(taker, "balance"), self._balanceable
        )

    def _reshardable(self, slot: Slot) -> Resharding:
        membership, collect = self._membership, self.context.collect
        loop = self.context.reactor.loop
        return Resharding(loop, membership, self._movers, slot.scoreboard, slot.row, collect, self._inherit)

    def open(self, sockets: Iterable[SocketType], secure: Any) -> None:
        """Accept on these listening sockets, over TLS where `secure` is a context; and let time pass."""
        reactor, descriptors = self.context.reactor, self._descriptors
        opened = self._opener(secure)
        self._listeners = [Listener(sock, reactor, descriptors, opened) for sock in sockets]
        if self._metrics is not None:
            sock = self._metrics
            raw = SocketType(sock.family, socket.SOCK_STREAM, sock.proto, fileno=sock.detach())
            self._listeners.append(Listener(raw, reactor, descriptors, self._opener(None, metrics_route)))
        for seconds, first, callback in ((1, 1, self._second), (COUNTING_S, COUNTING_S, self._count)):
            self._start_timer(first, seconds, callback)
        self._booting = self._start_timer(0, BOOT_LOOK_S, self._boot)
        self._recipient.open()
        if self.context.settings.server.balance and secure is None:  # what TLS keeps here cannot go
            self._balancer.start()

    def _ready(self) -> bool:
        return not self.context.health.reason and not self._membership.holding

    def _balanceable(self) -> bool:
        resharding = self._resharding is not None and self._resharding.wanted
        return self._ready() and not (resharding or self._membership.alone or self._going)

    @property
    def _going(self) -> bool:
        """Whether this worker goes, or may have to: an heir does until all of them are ready, and takes nobody yet."""
        if self._slot is not None and self._slot.generation != self._slot.scoreboard.serving:
            return True
        return self._recipient.leaving

    def sender(self, heir: str, reason: Reason) -> Sender:
        """What takes connections to that worker."""
        return Sender(self.context, self._movers, self._directory, self._membership.name, heir, reason)

    def leave(self) -> None:
        """Take no connections over from other workers: this one is about to go."""
        self._recipient.leaving = True

    def stay(self) -> None:
        """It is not."""
        self._recipient.leaving = False

    def finish_accepting(self) -> None:
        """Accept those who are waiting, then nobody any more."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.finish()
        for transport in list(self.context.reactor.transports):
            if isinstance(transport.protocol, HttpConnection) and not transport.protocol.public:
                transport.protocol.drain()  # who reads the metrics keeps nobody

    def refuse(self) -> None:
        """The connections that are left come to their end here."""
        self.finish_accepting()
        self.context.health.stop()

    @property
    def busy(self) -> bool:
        """Whether there are connections here, or on their way."""
        coming = self._movers.expecting or self._movers.origins
        return bool(self.context.reactor.transports or coming or self._balancer.giving)

    @property
    def settled(self) -> bool:
        """Whether everybody has heard of everything that this worker has asked for."""
        return self._membership.settled

    def hasten(self) -> None:
        """Somebody waits until that is so."""
        self._membership.hasten()

    def close(self) -> None:
        """All connections have gone."""
        for timer in self._timers:
            timer.stop()
        if self._resharding is not None:
            self._resharding.close()
        self._balancer.close()
        self._membership.beat(self._counted())  # what has been counted since the last second is not lost
        self._recipient.close()
        self._membership.close()

    def _opener(self, secure: Any, route: Any = None) -> Callable[[SocketType], None]:
        """What is done with a new socket."""
        context, reactor = self.context, self.context.reactor

        def opened(sock: SocketType) -> None:
            transport = Transport(sock, reactor) if secure is None else tls.TlsTransport(sock, reactor, secure)
            connection = HttpConnection(context, transport, route)
            transport.start(connection)
            connection.open()

        return opened

    # --- time --------------------------------------------------------------------------------------------------------

    def _start_timer(self, first_s: float, every_s: float, callback: Callable[[], None]) -> Any:
        timer = self.context.reactor.loop.timer(first_s, every_s)
        timer.start(callback)
        self._timers.append(timer)
        return timer

    def _boot(self) -> None:
        if not self.context.health.reason:
            self._booting.stop()
            self._report()

    def _second(self) -> None:
        """The clock of all deadlines, and what else is done each second."""
        context = self.context
        context.reactor.wheel.advance()
        context.calls.tick()
        context.stats.tick(time.monotonic())
        self._movers.tick()
        self._recipient.mend()
        if self._resharding is not None:
            self._resharding.look()
        self._membership.beat(self._counted())
        if self._starter is not None:
            self._starter.beat()
        self._report()

    def _counted(self) -> Snapshot:
        """What this worker has counted, and its master."""
        snapshot = self.context.stats.snapshot(len(self.context.reactor.transports))
        figure = Figure(self._membership.name, len(self.context.hub.clients), self._going, self._movers.moving)
        snapshot |= figure._asdict() | add(self._inherited, snapshot)
        if self._slot is not None:
            restarts = self._slot.scoreboard.restarts
            snapshot["restarts"] = {"worker": restarts.workers, "shard": restarts.shards}
        return snapshot

    def _inherit(self, counters: Snapshot) -> None:
        self._inherited = add(self._inherited, counters)

    def _report(self) -> None:
        """Let the master see how this worker is."""
        if self._slot is not None:
            board, row, generation = self._slot
            ready, connections = not self.context.health.reason, len(self.context.hub.clients)
            board.report(row, ready=ready, connections=connections, generation=generation)

    def _count(self) -> None:
        context = self.context
        context.log.debug("%d connections, %d WebSockets", len(context.reactor.transports), len(context.hub.clients))


def _wait(index: int) -> None:
    """The master will start that shard."""


def _context(
    settings: Settings, log: Logger, reactor: Reactor, membership: Membership, hosting: Hosting, keep_alive: int
) -> Context:
    """What the connections share; the hub hears what the shards say from now on."""
    stats, refs, link = Stats(), itertools.count(1), membership.link
    calls = Calls(link.send, log, stats, link.answers)
    tracer = Tracer(log) if log.isEnabledFor(logging.DEBUG) else None
    hub = Hub(reactor.loop, log, link.send, calls.answer, tracer.broadcast if tracer else None, stats)
    membership.connect(hub)
    return Context(
        settings=settings,
        log=log,
        reactor=reactor,
        link=link,
        hub=hub,
        calls=calls,
        api=Api(settings, refs),
        hosting=hosting,
        health=Health(lambda: link.trouble, hub.cut_off),
        tracer=tracer,
        stats=stats,
        collect=_collector(calls, refs),
        keep_alive=keep_alive,
    )


def _collector(calls: Calls, refs: Iterator[int]) -> Collect:
    """How the counters of all processes are gathered: from the shards, to which workers tell theirs each second."""

    def collect(done: Callable[[list[Snapshot] | None], None]) -> None:
        def asking() -> Endpoint:
            (snapshots,) = yield [Inspect(next(refs))]
            done(snapshots)
            return Response(200, b"")

        calls.start(asking(), lambda response: None if response.status == 200 else done(None))

    return collect
