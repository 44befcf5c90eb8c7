"""The master of `resonate start`: gunicorn's arbiter with our configuration, and errors that say what to do."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config

from resonate.errors import ConfigurationError
from resonate.settings import Settings

#: Seconds that a worker may take beyond its drain time-out before it is killed.
GRACE_S = 5


class Application(BaseApplication):  # type: ignore[misc]
    """gunicorn's view of our settings. `settings` is what the worker serves with; `debug` logs each message."""

    def __init__(self, settings: Settings, debug: bool) -> None:
        self.settings = settings
        self.debug = debug
        super().__init__()

    def load_default_config(self) -> None:
        """gunicorn's defaults, and none of its command line or environment."""
        self.cfg = Config(prog="resonate")

    def load_config(self) -> None:
        """What our settings mean in gunicorn's terms."""
        server = self.settings.server
        host = f"[{server.host}]" if ":" in server.host and not server.host.startswith("[") else server.host
        values: dict[str, Any] = {
            "bind": f"{host}:{server.port}",
            "worker_class": "resonate.server.worker.Worker",
            "workers": server.workers,
            "graceful_timeout": server.drain_timeout + GRACE_S,
            "proc_name": "resonate",
            "control_socket_disable": True,  # it runs a thread in the master, which forks
        }
        if server.log_format == "json":
            values["logger_class"] = "resonate.server.logs.JsonLogger"
        if server.tls is not None:
            values["certfile"] = server.tls.local_cert
            values["keyfile"] = server.tls.local_pk
        for name, value in values.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The hosted WSGI application: the start page."""
        from resonate import app

        return app

    def run(self) -> None:
        """Serve until a signal ends it; exits the process."""
        Master(self).run()


class Master(Arbiter):  # type: ignore[misc]
    """gunicorn's arbiter; its class attributes that are mutable are made this object's own."""

    def __init__(self, app: Application) -> None:
        self.LISTENERS: list[Any] = []
        self.WORKERS: dict[int, Any] = {}
        super().__init__(app)

    def setup(self, app: Application) -> None:
        """As gunicorn's; debug begins after its dump of hundreds of settings: ours are few and documented."""
        super().setup(app)
        if app.debug:
            self.log.error_log.setLevel(logging.DEBUG)

    def start(self) -> None:
        """Listen, and say where and how to stop."""
        super().start()
        server, apps = self.app.settings.server, self.app.settings.apps
        scheme = "https" if server.tls is not None else "http"
        host = server.hostname or ("127.0.0.1" if server.host in ("0.0.0.0", "::") else server.host)  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        port = self.LISTENERS[0].getsockname()[1]
        for notice in self.app.settings.notices:
            self.log.warning("%s", notice)
        keys = ", ".join(app.key for app in apps)
        self.log.info("Resonate is ready at %s://%s:%s%s", scheme, host, port, server.path)
        self.log.info("App key: %s. Stop with Ctrl-C or SIGTERM (pid %d).", keys, os.getpid())

    def handle_int(self) -> None:
        """Ctrl-C: stop as on SIGTERM. The worker has had the same signal from the terminal."""
        self.handle_term()

    handle_quit = handle_int

    def handle_hup(self) -> None:
        """A reload would disconnect everybody in this version: say so instead."""
        self.log.warning("SIGHUP is ignored: this version changes its configuration by a restart")

    def handle_ttin(self) -> None:
        """One worker holds all channels in this version."""
        self.log.warning("the number of workers stays 1 in this version")

    handle_ttou = handle_ttin

    def handle_usr2(self) -> None:
        """A second master would hold channels of its own beside the first one's."""
        self.log.warning("SIGUSR2 is ignored: this version is upgraded by a restart")


def check_address(host: str, port: int) -> None:
    """Raise ConfigurationError when nobody can listen there, before gunicorn tries five times and gives up.

    A socket that was handed down, by systemd or by another master, is not tried.
    """
    if "LISTEN_FDS" in os.environ or "GUNICORN_FD" in os.environ:
        return
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigurationError("host", f"is no address: {error.strerror}", value=host) from None
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise ConfigurationError("port", _REMEDIES.get(error.errno or 0, str(error)), value=port) from None


_REMEDIES = {
    errno.EADDRINUSE: "another process listens there; stop it or choose another port (--port, REVERB_SERVER_PORT)",
    errno.EACCES: "only root may listen there; choose a port from 1024 on",
    errno.EADDRNOTAVAIL: "this machine does not have that address; choose another host (--host, REVERB_SERVER_HOST)",
}


def exit_with(error: ConfigurationError) -> None:
    """One clear line, and exit status 2."""
    print(f"resonate: {error}", file=sys.stderr)
    sys.exit(2)
