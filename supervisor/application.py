"""What gunicorn's worker wants to see of us: an application with a configuration."""

from __future__ import annotations

from typing import Any, Final

from gunicorn.app.base import BaseApplication
from gunicorn.config import Config
from resonate.supervisor import address, signals
from resonate.supervisor.listeners import Listeners

from resonate.server.service import Shared
from resonate.settings import Settings

#: Seconds that a worker may take beyond its drain time-out before it is killed.
GRACE_S: Final = 5


class Application(BaseApplication):  # type: ignore[misc]
    """gunicorn's view of our settings.

    `settings` is what the worker serves with; `debug` logs each message. `shared` and `listeners` are the master's, who
    makes them before it starts a worker.
    """

    shared: Shared
    listeners: Listeners

    def __init__(self, settings: Settings, debug: bool) -> None:
        self.settings = settings
        self.debug = debug
        super().__init__()

    def successor(self, settings: Settings, shared: Shared, listeners: Listeners) -> Application:
        """One like this for those who are started from now on, after a reload."""
        successor = type(self)(settings, self.debug)
        successor.shared, successor.listeners = shared, listeners
        return successor

    def load_default_config(self) -> None:
        """gunicorn's defaults, and none of its command line or environment."""
        self.cfg = Config(prog="resonate")

    def load_config(self) -> None:
        """What our settings mean in gunicorn's terms."""
        server = self.settings.server
        values: dict[str, Any] = {
            "bind": address.text(server.host, server.port),
            "worker_class": "resonate.server.worker.Worker",
            "workers": server.workers,
            "timeout": server.worker_timeout,
            "graceful_timeout": server.drain_timeout + GRACE_S,
            "proc_name": "resonate",
            "control_socket_disable": True,  # it runs a thread in the master, which forks
            "post_worker_init": _booted,
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


def _booted(worker: object) -> None:
    """gunicorn's hook: the worker's own handlers are there, which the signals that stop it were held back for."""
    signals.release()
