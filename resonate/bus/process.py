"""A shard process: `python -m resonate.bus`. It carries frames between its workers and an Exchange.

It starts with nothing but its run directory, and leaves when the master has gone, or has asked it to, and no worker is
left: so it outlives every worker, whoever is told first to stop.
"""

from __future__ import annotations

import argparse
import errno
import gc
import logging
import os
import resource
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import zmq

from resonate.bus.directory import RunDirectory, alive, identity, is_worker, pid_of
from resonate.bus.sockets import Inbox, Outlet
from resonate.bus.spawn import told
from resonate.encoding import EncodingError
from resonate.jsonlog import JsonFormatter
from resonate.scaling import Scaling
from resonate.shard.cluster.cluster import Cluster, Terms
from resonate.shard.cluster.outside import Outside
from resonate.shard.exchange import Exchange
from resonate.version import PROTOCOL, VERSION

if TYPE_CHECKING:
    from resonate.bus.redis_store import RedisStore

#: Frames taken in one turn, before what they lead to is sent.
FRAMES: Final = 256
#: Seconds between two beats.
BEAT_S: Final = 1.0
#: How long to wait for workers to make their files anew, where the directory had vanished, in seconds.
SETTLE_S: Final = 2.5
#: How long the shard that is to be replaced may take to go, and between two looks whether it can be found, in seconds.
REPLACE_S: Final = 5.0
REPLACE_LOOK_S: Final = 0.02
#: Objects to allocate before the garbage collector looks.
GC_THRESHOLD: Final = 50_000


class ShardProcess:
    """`index` is its number, `timeout_s` how long a worker may take to say what it holds after a shard's death.

    `scaling` is what it is to know of other hosts; None where there are none. `cache_ttl` is how long an event of a
    cache channel is kept that comes in an envelope, in seconds.
    """

    def __init__(
        self,
        directory: RunDirectory,
        index: int,
        timeout_s: float,
        log: logging.Logger,
        scaling: Scaling | None,
        cache_ttl: int,
    ) -> None:
        self._directory = directory
        self._timeout_s = timeout_s
        self._log = log
        self._name = f"s{index}-{identity(os.getpid())}"
        self._leaving = False
        self._master = directory.master
        self._poll = select.epoll()
        self._watched: dict[int, str] = {}  # pidfd -> name
        self._outlets: dict[str, Outlet] = {}
        woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(woken, select.EPOLLIN | select.EPOLLET)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._asked_to_leave)
        expected = self._settled()  # before there is an inbox: who greets a shard has had its file before
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._inbox = Inbox(self._context, directory, self._name)
        self._poll.register(self._inbox.fileno(), select.EPOLLIN)
        self._store: RedisStore | None = None
        if scaling is None:
            self._exchange = Exchange(self._name, expected, time.monotonic(), is_worker)
        else:
            from resonate.bus.redis_store import RedisStore  # redis-py takes its time: only for who needs it

            self._store = RedisStore(scaling, log)
            self._poll.register(self._store.fileno(), select.EPOLLIN)
            outside = None if scaling.envelope is None else self._envelope(cache_ttl)
            cluster = Cluster(self._terms(index, scaling), outside)
            self._exchange = Exchange(self._name, expected, time.monotonic(), is_worker, cluster)
        self._watch(self._master)
        for worker in expected:
            self._watch(worker)

    def _terms(self, index: int, scaling: Scaling) -> Terms:
        return Terms(
            host=self._directory.host_id(),
            index=index,
            process=self._name,
            wall_ms=int((time.time() - time.monotonic()) * 1000),
            lease_s=scaling.lease,
            queue_bytes=scaling.queue_bytes,
            queue_s=scaling.queue_seconds,
            secret=scaling.secret,
        )

    def _envelope(self, cache_ttl: int) -> Outside:
        from resonate.bus.envelope import Envelope

        return Envelope(self._directory.host_id(), cache_ttl)

    def _settled(self) -> list[str]:
        """The workers that are there."""
        if not self._directory.path.exists():
            self._directory.ensure()
            time.sleep(SETTLE_S)
        self._directory.sweep()
        return self._directory.workers()

    def run(self) -> None:
        """Serve until nobody needs it."""
        beat_at = time.monotonic() + BEAT_S
        more = False
        while True:
            wait = 0.0 if more else max(0.0, beat_at - time.monotonic())
            more = self._turn(self._poll.poll(wait))
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + BEAT_S
                self._beat()
            self._send()
            if self._leaving and not self._exchange.workers and not self._directory.workers():
                break
        for outlet in self._outlets.values():
            outlet.close()
        if self._store is not None:
            self._store.close()
        self._directory.forget(self._name)
        if not alive(self._directory.master):
            self._directory.remove()

    def _asked_to_leave(self, number: int, frame: object) -> None:
        self._leaving = True

    def _turn(self, ready: list[tuple[int, int]]) -> bool:
        """Act upon deaths and frames; whether there may be more frames.

        What a worker had sent before it died is read first.
        """
        more = self._read()
        if self._store is not None:
            self._exchange.report(self._store.take(), time.monotonic())
        for descriptor, _ in ready:
            if descriptor in self._watched:
                self._ended(descriptor)
        return more

    def _read(self) -> bool:
        now = time.monotonic()
        for _ in range(FRAMES):
            data = self._inbox.receive()
            if data is None:
                return False
            try:
                worker = self._exchange.receive(data, now)
            except EncodingError as error:
                self._log.error("dropped a frame: %s", error)
            else:
                if worker not in self._outlets:
                    self._meet(worker)
            for failure in self._exchange.failures():
                self._log.error("a request could not be handled", exc_info=failure)
        return True

    def _send(self) -> None:
        for worker, data in self._exchange.take(time.monotonic()):
            outlet = self._outlets.get(worker)
            if outlet is not None:
                outlet.send(data)
        if self._store is not None and (orders := self._exchange.orders()):
            self._store.order(orders)

    # --- workers -----------------------------------------------------------------------------------------------------

    def _meet(self, worker: str) -> None:
        if not alive(worker):  # a frame that has come late
            self._exchange.gone(worker, time.monotonic())
            return
        try:
            self._outlets[worker] = Outlet(self._context, self._directory.address(worker))
            if worker not in self._watched.values():
                self._watch(worker)
        except OSError as error:  # it would never hear us, nor we of its end
            self._log.error("killing worker %d: %s", pid_of(worker), error)
            os.kill(pid_of(worker), signal.SIGKILL)
            self._gone(worker)

    def _watch(self, name: str) -> None:
        """Be told when that process ends."""
        try:
            descriptor = os.pidfd_open(pid_of(name))
        except ProcessLookupError:
            self._gone(name)
            return
        self._watched[descriptor] = name
        if alive(name):  # and not another process that has got its pid
            self._poll.register(descriptor, select.EPOLLIN)
        else:
            self._ended(descriptor)

    def _ended(self, descriptor: int) -> None:
        name = self._watched.pop(descriptor)
        os.close(descriptor)
        self._gone(name)

    def _gone(self, name: str) -> None:
        if name == self._master:
            self._bereaved()
            return
        outlet = self._outlets.pop(name, None)
        if outlet is not None:
            outlet.close(forget=True)
        self._directory.forget(name)
        self._exchange.gone(name, time.monotonic())

    def _bereaved(self) -> None:
        """The master has ended. Another may have taken its place."""
        before, self._master = self._master, self._directory.master
        if self._master == before:
            self._leaving = True
        else:
            self._watch(self._master)

    def _end(self, worker: str, reason: str) -> None:
        """Kill a worker that cannot be kept up with: half a worker would be worse than none."""
        for descriptor, name in self._watched.items():
            if name == worker:
                self._log.error("killing worker %d: %s", pid_of(worker), reason)
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)

    # --- each second -------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        now = time.monotonic()
        self._exchange.beat(now)
        if self._store is not None:
            dropped = self._store.counters["refused"] + self._store.counters["dropped_messages"]
            self._exchange.counters["scaling"]["refused"] += dropped
        for notice in self._exchange.notices():
            self._log.warning("%s", notice)
        for worker, reason in self._exchange.given_up(now, self._timeout_s).items():
            self._end(worker, reason)
        if self._exchange.workers or self._directory.workers():
            self._inbox.mend(self._log)


def main(arguments: list[str] | None = None) -> None:
    """The life of a shard process."""
    _close_inherited()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # four for each worker, and libzmq does without none
    parser = argparse.ArgumentParser(prog="python -m resonate.bus", description="A shard process; started by others.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("index", type=int)
    parser.add_argument("timeout_s", type=float)
    parser.add_argument("log_format", choices=["text", "json"])
    parser.add_argument("protocol", type=int)
    parser.add_argument("--replace", action="store_true", help="end the shard that is there, once this one can follow")
    parser.add_argument("--scaled", action="store_true", help="there are other hosts; read how on standard input")
    parser.add_argument("--cache-ttl", type=int, default=0, help="how long events are kept that come in an envelope")
    options = parser.parse_args(arguments)
    if options.protocol != PROTOCOL:
        _logger(options.log_format).critical(
            "shard %d cannot start: the version %s that is installed cannot work with the one that runs. Restart the "
            "server",
            options.index,
            VERSION,
        )
        sys.exit(1)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # a terminal's, or a whole group's: workers act upon them
    directory = RunDirectory(options.directory)
    log = _logger(options.log_format)
    try:
        scaling = told() if options.scaled else None
        seat = _seat(directory, options.index, options.replace, log)
        if seat is None:
            return  # somebody else is this shard
        shard = ShardProcess(directory, options.index, options.timeout_s, log, scaling, options.cache_ttl)
    except (OSError, ValueError) as error:
        log.critical("shard %d cannot start: %s", options.index, error)
        sys.exit(1)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    shard.run()


def _seat(directory: RunDirectory, index: int, replace: bool, log: logging.Logger) -> socket.socket | None:
    """What makes this process that shard; None where another one is. Raises OSError.

    The one that is to be replaced serves until here, and is ended as if it had crashed: its successor knows what to do
    then, and there is one way to follow a shard.
    """
    seat = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    until = time.monotonic() + REPLACE_S
    while True:
        try:
            seat.bind(directory.seat(index))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or (replace and time.monotonic() > until):
                raise
        else:
            return seat
        if not replace:
            return None
        present = directory.shard(index)  # it may have its seat and no inbox yet
        if present is None or not _gives_way(present, log):
            time.sleep(REPLACE_LOOK_S)


def _gives_way(shard: str, log: logging.Logger) -> bool:
    """End that shard; whether it has gone by now."""
    try:
        descriptor = os.pidfd_open(pid_of(shard))
    except ProcessLookupError:
        return True
    try:
        if alive(shard):  # and not another process that has got its pid
            log.info("shard %d takes the place of another (pid %d)", int(shard[1 : shard.index("-")]), pid_of(shard))
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return bool(select.select([descriptor], [], [], REPLACE_S)[0])
    finally:
        os.close(descriptor)


def _close_inherited() -> None:
    """Listening sockets are among them, and not ours."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                pass  # that of the listing itself


def _logger(log_format: str) -> logging.Logger:
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s [%(process)d] [%(levelname)s] %(message)s", "[%Y-%m-%d %H:%M:%S %z]")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    log = logging.getLogger("resonate.shard")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    return log
