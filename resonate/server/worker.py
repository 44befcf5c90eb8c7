"""The gunicorn worker: `gunicorn -k resonate.worker`, and what `resonate start` forks."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from _socket import SocketType
from dataclasses import replace
from types import FrameType
from typing import Any, ClassVar, Final, NoReturn

import gevent
from gevent.event import Event
from gunicorn.sock import create_sockets
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from resonate import config
from resonate.bus.asking import ask
from resonate.bus.starter import ShardStarter
from resonate.errors import ConfigurationError
from resonate.server import logs, tls
from resonate.server.console import WorkerConsole
from resonate.server.context import Context
from resonate.server.draining import Draining, lasting
from resonate.server.hosted_websocket import WEBSOCKET_DONE, WebSocketRoutes
from resonate.server.hosting import Hosting
from resonate.server.page import CONSOLE, StartPage
from resonate.server.restart_watch import watch_restarts
from resonate.server.retirement import Heirs, NamedHeir, NoHeirs, Retirement, YoungerSiblings
from resonate.server.scoreboard import Scoreboard
from resonate.server.service import Service, Shared, Slot, share
from resonate.server.stock_master import STOP_SIGNALS, Flag, StockMaster, pause_s
from resonate.server.transport import Transport
from resonate.settings import Settings

#: gunicorn's own default of 2 s suits short visits; a real-time server's back ends and proxies keep connections.
KEEP_ALIVE_S: Final = 75
GUNICORN_KEEP_ALIVE_S: Final = 2

#: Objects to allocate before the garbage collector looks: what connections leave behind is freed by reference counts.
GC_THRESHOLD: Final = 50_000
#: Seconds before a worker that cannot start gives the arbiter the chance to try another one.
CRASH_PAUSE_S: Final = 1
#: Seconds between two signs of life of a worker that pauses.
PAUSE_LOOK_S: Final = 0.1
#: How long a new worker waits for its shards to answer before it accepts anybody, and between two looks, in seconds.
AWAIT_S: Final = 0.25
AWAIT_LOOK_S: Final = 0.001
#: How long the master may take to answer, in seconds.
MASTER_S: Final = 5.0
#: Connections told to go in one turn of a shutdown.
DRAIN_BATCH: Final = 100


class Worker(GeventWorker):  # type: ignore[misc]
    """Serves the Pusher protocol and the hosted WSGI application on gunicorn's listening sockets.

    The settings are those of the application that the master runs (`resonate start`), which also sets `slot`,
    `generation`, `scoreboard` and the `row` in it, and starts the shards.
    """

    slot = 0
    row = 0  # of the scoreboard
    generation = 1
    sharded = False  # whether shards are processes although this worker may be the only one
    scoreboard: Scoreboard | None = None

    # --- the life of the process -------------------------------------------------------------------------------------

    def init_signals(self) -> None:
        """As gunicorn's, but the ways to stop are taken up by the loop at once, and all mean a proper end."""
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it is the master's, also where a whole group is sent it
        self.stoppable()

    def stoppable(self) -> None:
        """What stops a worker while it boots: here it is held back until it has booted."""
        self.take_stop_signals()

    def take_stop_signals(self) -> None:
        """From now on they end this worker properly."""
        for number in STOP_SIGNALS:
            gevent.signal_handler(number, self._stop)

    def notify(self) -> None:
        """A sign of life. Without a master nobody would replace this worker: then it comes to a proper end."""
        self.tmp.notify()
        if self.alive and self.ppid != os.getppid():
            self.log.warning("the master has gone: this worker ends")
            self._stop()

    def _stop(self) -> None:
        self.alive = False
        self._stopping.set()

    def init_process(self) -> None:
        """The first thing after the fork."""
        self._stopping = Event()
        self.max_requests = sys.maxsize
        self._settings = self.load_settings()
        super().init_process()

    def load_settings(self) -> Settings:
        """What to serve."""
        settings: Settings = self.app.settings
        return settings

    def shared(self) -> Shared:
        """What the master has made."""
        shared: Shared = self.app.shared
        return shared

    def starter(self) -> ShardStarter | None:
        """Who starts shards, where the master does not."""
        return None

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        """Answer one request with the hosted application; False when the connection cannot go on after it.

        gunicorn's gevent worker forgets that answer on the way.
        """
        try:
            return bool(AsyncWorker.handle_request(self, listener_name, req, sock, addr))
        except (gevent.GreenletExit, SystemExit):
            return False

    def is_already_handled(self, respiter: Any) -> bool:
        """Whether the application has answered on its own WebSocket: the connection is used up then."""
        return respiter is WEBSOCKET_DONE or bool(super().is_already_handled(respiter))

    def run(self) -> None:
        """Serve until told to stop, then close every connection properly."""
        service = self._service()
        self.wsgi = self._hosted(service.context)
        self._await_shards(service)
        service.open(map(_raw, self.sockets), self._tls(service.context.settings))
        log = self.log.error_log
        watch_restarts(self._settings.server, self.shared().directory, self.restart, lambda: self.alive, log)
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        while True:
            while self.alive:
                self.notify()
                self._stopping.wait(1.0)
            service.leave()
            if self._retire(service):
                break
            self.log.error("no new worker has come up: this one serves on. See above why, and reload again")
            service.stay()
            self.alive = True
            self._stopping.clear()
        service.refuse()
        self._drain(service, service.context.settings.server.drain_timeout)
        service.close()

    def _await_shards(self, service: Service) -> None:
        """Let the shards answer first, which takes milliseconds where they are there: who is accepted before that is
        told that they are not.
        """
        until = time.monotonic() + AWAIT_S
        while self.alive and service.context.health.reason and time.monotonic() < until:
            gevent.sleep(AWAIT_LOOK_S)

    def _retire(self, service: Service) -> bool:
        """Hand the connections over, if there is somebody to take them; False where this worker should serve on."""
        retirement = Retirement(service, self.heirs(), self.notify, self.log.error_log)
        return retirement.run(self._settings.server.drain_timeout)

    def heirs(self) -> Heirs:
        """Who may take the connections over."""
        if self.scoreboard is None:
            return NoHeirs()
        return NamedHeir(self.scoreboard, self.row, self.ppid)

    def restart(self) -> None:
        """Ask the master to restart the server; it does so once, whoever asks. Raises OSError or ValueError."""
        answer = ask(self.shared().directory.control, "restart", MASTER_S)
        if answer.get("ok") is False:  # not now
            raise ValueError(f"the master refuses: {answer.get('reason')}")

    def _service(self) -> Service:
        """What runs here. Where it cannot be made, the master, which tries again at once, is slowed down."""
        try:
            return self._made()
        except OSError as error:
            self.log.critical("the worker cannot start: %s", error.strerror or error)
            time.sleep(CRASH_PAUSE_S)
            sys.exit(1)

    def _made(self) -> Service:
        cfg = self.cfg
        return Service(
            gevent.get_hub().loop,
            self.log.error_log,
            self._settings,
            self.shared(),
            Hosting(self, cfg.worker_connections),
            KEEP_ALIVE_S if cfg.keepalive == GUNICORN_KEEP_ALIVE_S else cfg.keepalive,
            sharded=self.sharded or cfg.workers > 1,
            starter=self.starter(),
            slot=None if self.scoreboard is None else Slot(self.scoreboard, self.row, self.generation),
        )

    def _drain(self, service: Service, timeout: int) -> None:
        """Tell every connection to come to an end, and wait for it `timeout` seconds at most. All are told at once, but
        in a drain: there WebSockets are sent away in the course of that time.

        Some may still come from a worker that has begun to hand over before this one was told to go.
        """
        reactor = service.context.reactor
        self.log.info("closing %d connections", len(reactor.transports))
        until = time.monotonic() + timeout
        told: set[Transport] = set()
        gently = self.scoreboard is not None and self.scoreboard.drained
        draining = Draining(service.context, timeout) if gently else None
        while service.busy and time.monotonic() < until:
            if draining is not None:
                draining.step(lasting)
            transports = [it for it in reactor.transports if it not in told and not (draining and lasting(it))]
            for index, transport in enumerate(transports):
                told.add(transport)
                transport.protocol.drain()
                if index % DRAIN_BATCH == DRAIN_BATCH - 1:
                    gevent.sleep(0)
            self.notify()
            gevent.sleep(0.05)
        if draining is not None:
            draining.end()
        for transport in list(reactor.transports):
            transport.abort()

    def _hosted(self, context: Context) -> Any:
        """The WSGI callable that the worker runs: the application with its WebSocket routes, or the start page."""
        application = self.wsgi
        if isinstance(application, StartPage):
            page, console = application, WorkerConsole(context, context.settings.server.console)

            def application(environ: dict[str, Any], start_response: Any) -> Any:
                return page({**environ, CONSOLE: console}, start_response)

        return WebSocketRoutes(application, self.log)

    def _tls(self, settings: Settings) -> Any:
        if settings.server.tls is not None:
            return tls.context_of(settings.server.tls)
        return tls.gunicorn_context(self.cfg) if self.cfg.is_ssl else None


class GunicornWorker(Worker):
    """`gunicorn -k resonate.worker`: the settings are those of the environment and the files.

    What is shared is kept at the class, the only thing of ours that gunicorn's master knows before it forks.
    """

    _master: ClassVar[StockMaster]
    sockets: list[Any]

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """gunicorn's hook in the master, before anything is forked: a bad configuration ends it with status 2."""
        try:
            settings = config.load()
            if settings.server.tls is not None:
                tls.context_of(settings.server.tls)
            shared = share(settings, log)
            if cfg.uid != os.geteuid():  # workers become somebody else: it must be theirs
                os.chown(shared.directory.path, cfg.uid, cfg.gid)
        except ConfigurationError as error:
            log.critical("%s", error)
            sys.exit(2)
        if settings.server.log_format == "json":
            logs.use_json()
        for notice in settings.notices:
            log.warning("%s", notice)
        cls._master = StockMaster(shared)
        cfg.set("control_socket_disable", True)  # it is a thread, in a master that forks
        if cfg.max_requests:
            log.warning("--max-requests is ignored: a restart would disconnect the clients of a worker for nothing")

    def __init__(self, *args: Any) -> None:
        """In the master, just before the fork."""
        super().__init__(*args)
        self.served = Flag()
        self._master.spawns(self)

    def init_process(self) -> None:
        """The first thing after the fork.

        gunicorn ends the whole server when a worker cannot boot. That is right at the start, but not where others
        serve. With any other exit code it tries again.
        """
        self._pause()
        self.tmp.notify()  # the time-out of gunicorn begins with the first sign of life
        try:
            super().init_process()
        except ConfigurationError as error:  # it was right when the server started
            self._give_up(str(error))
        except (Exception, SystemExit) as error:
            if self.booted or not self.shared().directory.workers():
                raise
            self._give_up(repr(error), traceback=True)

    def _pause(self) -> None:
        """Let those that serve have the machine for a while, where others have tried in vain."""
        failures, most = self._master.failures, self.cfg.workers
        seconds = pause_s(failures, most)
        if not seconds:
            return
        self.log.info("%d workers in a row could not boot: the next try is in %g s", failures, seconds)
        if self.cfg.reuse_port:  # nobody should wait on a socket of this worker
            for listening in self.sockets:
                listening.close()
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.ppid == os.getppid():
            self.tmp.notify()
            time.sleep(PAUSE_LOOK_S)
        if self.cfg.reuse_port:
            self.sockets = create_sockets(self.cfg, self.log)

    def _give_up(self, reason: str, traceback: bool = False) -> NoReturn:
        self.log.critical("the worker cannot start: %s. Those that serve do so on", reason, exc_info=traceback)
        sys.exit(1)

    def stoppable(self) -> None:
        """Until it serves there is nothing to end properly: a site that hangs while it is imported delays nobody."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, _terminate)  # its default would leave a core dump

    def run(self) -> None:
        """Serve until told to stop, then close every connection properly."""
        self.served.hoist()
        self.take_stop_signals()
        super().run()

    def load_settings(self) -> Settings:
        """What to serve, read anew: it was checked in the master, but may have changed before a reload."""
        found = config.load()
        scaling = self.shared().scaling.kept(found.server.scaling)
        if scaling != found.server.scaling:
            self.log.warning("scaling stays as it is until the server is started again")
        return replace(found, server=replace(found.server, scaling=scaling))

    def shared(self) -> Shared:
        """What was made in the master."""
        return self._master.shared

    def heirs(self) -> Heirs:
        """Those whom the same master has started later."""
        return YoungerSiblings(self.ppid, self.cfg.workers, lambda: self._master.stopping)

    def restart(self) -> None:
        """gunicorn's master has no restart; a reload does the same for this package and its configuration."""
        if os.getppid() == self.ppid:
            os.kill(self.ppid, signal.SIGHUP)

    def starter(self) -> ShardStarter | None:
        """gunicorn's master knows of no shards: the workers start them."""
        shared, server = self.shared(), self._settings.server
        return ShardStarter(
            shared.directory,
            server.worker_timeout,
            server.log_format,
            shared.scaling,
            server.cache_ttl,
            self.log.error_log,
        )


def _terminate(number: int, frame: FrameType | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _raw(listening: Any) -> SocketType:
    """gunicorn's socket without its wrappers."""
    family, kind, proto = listening.family, listening.type, listening.proto
    return SocketType(family, kind & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC), proto, fileno=listening.detach())
