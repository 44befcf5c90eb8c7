"""The gunicorn worker: `gunicorn -k resonate.worker`, and what `resonate start` forks."""

from __future__ import annotations

import gc
import itertools
import logging
import signal
import socket
import sys
import time
from _socket import SocketType
from typing import Any, Final

import gevent
from gevent.event import Event
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from resonate import config
from resonate.api import Api
from resonate.errors import ConfigurationError
from resonate.server import logs, tls
from resonate.server.calls import Calls
from resonate.server.console import WorkerConsole
from resonate.server.context import Context, Health
from resonate.server.hosted_websocket import WEBSOCKET_DONE, WebSocketRoutes
from resonate.server.hosting import Hosting
from resonate.server.http_connection import HttpConnection
from resonate.server.hub import Hub
from resonate.server.link import LocalLink
from resonate.server.listener import Listener
from resonate.server.page import CONSOLE, StartPage
from resonate.server.trace import Tracer
from resonate.server.transport import Reactor, Transport
from resonate.settings import Settings
from resonate.shard import Shard

#: gunicorn's own default of 2 s suits short visits; a real-time server's back ends and proxies keep connections.
KEEP_ALIVE_S: Final = 75
GUNICORN_KEEP_ALIVE_S: Final = 2

#: Objects to allocate before the garbage collector looks: what connections leave behind is freed by reference counts.
GC_THRESHOLD: Final = 50_000
#: Seconds between the housekeeping of caches, and between the lines that count connections in debug.
HOUSEKEEPING_S: Final = 60
#: Seconds before a worker that cannot start gives the arbiter the chance to try another one.
CRASH_PAUSE_S: Final = 1
#: All three close the clients properly.
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
#: Connections told to go in one turn of a shutdown.
DRAIN_BATCH: Final = 100


class Worker(GeventWorker):  # type: ignore[misc]
    """Serves the Pusher protocol and the hosted WSGI application on gunicorn's listening sockets.

    The settings are those of the application that the arbiter runs (`resonate start`).
    """

    # --- the life of the process -------------------------------------------------------------------------------------

    def init_signals(self) -> None:
        """As gunicorn's, but the ways to stop are taken up by the loop at once, and all mean a proper end.

        What came between the fork and this has been put into this process's copy of the master's queue, where nobody
        would look for it.
        """
        master = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        super().init_signals()
        for number in STOP_SIGNALS:
            gevent.signal_handler(number, self._stop)
        queue = getattr(master, "SIG_QUEUE", None)
        while queue is not None and not queue.empty():
            if queue.get() in STOP_SIGNALS:
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
        settings = self._settings
        context = self._context(settings)
        self.wsgi = self._hosted(context, settings)
        opened = self._opener(context, settings)
        listeners = [Listener(_raw(sock), context.reactor, opened) for sock in self.sockets]
        timers = self._timers(context)
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        while self.alive:
            self.notify()
            self._stopping.wait(1.0)
        context.health.stop()
        for listener in listeners:
            listener.close()
        self._drain(context.reactor, settings.server.drain_timeout)
        for timer in timers:
            timer.stop()

    def _drain(self, reactor: Reactor, timeout: int) -> None:
        """Tell every connection to come to an end, and wait for it `timeout` seconds at most."""
        self.log.info("closing %d connections", len(reactor.transports))
        for index, transport in enumerate(list(reactor.transports)):
            transport.protocol.drain()
            if index % DRAIN_BATCH == DRAIN_BATCH - 1:
                gevent.sleep(0)
        until = time.monotonic() + timeout
        while reactor.transports and time.monotonic() < until:
            self.notify()
            gevent.sleep(0.05)
        for transport in list(reactor.transports):
            transport.abort()

    # --- putting it together -----------------------------------------------------------------------------------------

    def _context(self, settings: Settings) -> Context:
        loop = gevent.get_hub().loop
        log: logging.Logger = self.log.error_log
        reactor = Reactor(loop, log, settings.server.max_send_buffer)
        link = LocalLink(Shard(), lambda: float(reactor.wheel.now))
        calls = Calls(link.send, log)
        tracer = Tracer(log) if log.isEnabledFor(logging.DEBUG) else None
        hub = Hub(loop, log, link.send, calls.answer, tracer.broadcast if tracer else None)
        link.connect(hub.receive)
        keep_alive = self.cfg.keepalive
        return Context(
            settings=settings,
            log=log,
            reactor=reactor,
            link=link,
            hub=hub,
            calls=calls,
            api=Api(settings, itertools.count(1)),
            hosting=Hosting(self, self.cfg.worker_connections),
            health=Health(),
            tracer=tracer,
            keep_alive=KEEP_ALIVE_S if keep_alive == GUNICORN_KEEP_ALIVE_S else keep_alive,
        )

    def _hosted(self, context: Context, settings: Settings) -> Any:
        """The WSGI callable that the worker runs: the application with its WebSocket routes, or the start page."""
        application = self.wsgi
        if isinstance(application, StartPage):
            page, console = application, WorkerConsole(context, settings.server.console)

            def application(environ: dict[str, Any], start_response: Any) -> Any:
                return page({**environ, CONSOLE: console}, start_response)

        return WebSocketRoutes(application, self.log)

    def _opener(self, context: Context, settings: Settings) -> Any:
        """What is done with a new socket."""
        reactor, secure = context.reactor, self._tls(settings)

        def opened(sock: SocketType) -> None:
            transport = Transport(sock, reactor) if secure is None else tls.TlsTransport(sock, reactor, secure)
            connection = HttpConnection(context, transport)
            transport.start(connection)
            connection.open()

        return opened

    def _tls(self, settings: Settings) -> Any:
        if settings.server.tls is not None:
            return tls.context_of(settings.server.tls)
        return tls.gunicorn_context(self.cfg) if self.cfg.is_ssl else None

    def _timers(self, context: Context) -> list[Any]:
        """The clock of all deadlines, and housekeeping."""
        loop, wheel = context.reactor.loop, context.reactor.wheel
        clock, broom = loop.timer(1, 1), loop.timer(HOUSEKEEPING_S, HOUSEKEEPING_S)

        def housekeeping() -> None:
            context.link.prune()
            context.log.debug(
                "%d connections, %d WebSockets", len(context.reactor.transports), len(context.hub.clients)
            )

        clock.start(wheel.advance)
        broom.start(housekeeping)
        return [clock, broom]


class GunicornWorker(Worker):
    """`gunicorn -k resonate.worker`: the settings are those of the environment and the files."""

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """gunicorn's hook in the master, before anything is forked: a bad configuration ends it with status 2."""
        try:
            settings = config.load()
            if settings.server.tls is not None:
                tls.context_of(settings.server.tls)
        except ConfigurationError as error:
            log.critical("%s", error)
            sys.exit(2)
        if settings.server.log_format == "json":
            logs.use_json()
        for notice in settings.notices:
            log.warning("%s", notice)
        if cfg.workers > 1:
            log.critical("workers = %d: this version serves with one worker; start gunicorn with -w 1", cfg.workers)
            sys.exit(2)
        cfg.set("control_socket_disable", True)  # it is a thread, in a master that forks
        if cfg.max_requests:
            log.warning("--max-requests is ignored: a restart would disconnect the clients of a worker for nothing")

    def load_settings(self) -> Settings:
        """What to serve, read anew.

        It was checked in the master, but may have changed before a reload: then the arbiter, which starts a worker anew
        at once and for ever, is slowed down and told why. (Its exit codes 3 and 4 would make it give up.)
        """
        try:
            return config.load()
        except ConfigurationError as error:
            self.log.critical("the worker cannot start: %s", error)
            time.sleep(CRASH_PAUSE_S)
            sys.exit(1)


def _raw(listening: Any) -> SocketType:
    """gunicorn's socket without its wrappers."""
    family, kind, proto = listening.family, listening.type, listening.proto
    return SocketType(family, kind & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC), proto, fileno=listening.detach())
