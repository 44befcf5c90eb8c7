"""A site whose workers note something at each connection that is opened, and show it: as a plugin would.

For gunicorn `-k tests.support.noting.Stock tests.support.noting:application`; `python -m tests.support.noting PORT` is
the same under our own master.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from resonate.supervisor.application import Application
from resonate.supervisor.program import serve

from resonate import config
from resonate.server.hub import Hub
from resonate.server.pusher_connection import PusherConnection
from resonate.server.service import Service
from resonate.server.worker import GunicornWorker, Worker

#: It stands in a value that cannot be handed over.
SECRET = "this is nobody's business"

_hubs: list[Hub] = []  # this worker's


def note(service: Service) -> Service:
    """From now on."""
    hub = service.context.hub
    add = hub.add

    def added(client: Any) -> None:
        if isinstance(client, PusherConnection) and "good" not in client.state:
            client.state["good"] = {"by": os.getpid(), "text": "löbby"}
            client.state["bad"] = {SECRET}
        add(client)

    hub.add = added  # type: ignore[method-assign]
    _hubs.append(hub)
    return service


class Stock(GunicornWorker):
    """Of gunicorn's master."""

    def _made(self) -> Service:
        return note(super()._made())


class Own(Worker):
    """Of ours."""

    def _made(self) -> Service:
        return note(super()._made())


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The connections of the worker that answers: socket id -> its pid, who has noted something, and the good note."""
    clients = {client.session.id: client for hub in _hubs for client in hub.clients.values()}
    shown = {
        name: [os.getpid(), sorted(client.state), client.state.get("good")]
        for name, client in clients.items()
        if isinstance(client, PusherConnection)
    }
    text = json.dumps(shown).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]


class Site(Application):
    """That, with such workers."""

    def load_config(self) -> None:
        super().load_config()
        self.cfg.set("worker_class", f"{NAME}.Own")

    def load(self) -> Any:
        from tests.support import noting  # the one in which the workers note

        return noting.application


NAME = "tests.support.noting"

if __name__ == "__main__":
    given = {"host": "127.0.0.1", "port": sys.argv[1], "workers": "2"}
    serve(lambda: config.load(given, None), lambda settings: Site(settings, False))
