"""Where a server lives: run directory and listening sockets, and what a new configuration may change of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from resonate.supervisor.address import same_port
from resonate.supervisor.listeners import Listeners, listen

from resonate.server.listener import listen_for_metrics
from resonate.server.service import Shared
from resonate.settings import Server, Settings

#: What no worker can change that is started beside others.
SHARED: Final = ("run_dir", "bus_shards")
#: Where the server listens.
ADDRESS: Final = ("host", "port")
METRICS_ADDRESS: Final = ("metrics_host", "metrics_port")


@dataclass(frozen=True)
class Premises:
    """`server` is what they were made with."""

    server: Server
    shared: Shared
    listeners: Listeners

    def adapted(self, settings: Settings, fixed: Collection[str], log: Any) -> tuple[Settings, Premises]:
        """What can be had of `settings` while this server lives, `fixed` staying as it is; sockets that did not change
        are the same ones.

        Raises ConfigurationError where nobody can listen.
        """
        fixed = (*fixed, *ADDRESS) if self.listeners.handed_down else fixed
        present = self.server
        for name in _changed(present, settings.server, fixed):
            log.warning("%s stays %s until the server is started again", name, getattr(present, name))
        scaling = self.shared.scaling.kept(settings.server.scaling)
        if scaling != settings.server.scaling:
            log.warning("scaling stays as it is until the server is started again")
        server = dataclasses.replace(
            settings.server, **{name: getattr(present, name) for name in fixed}, scaling=scaling
        )
        shared, listeners = self.shared, self.listeners
        if _changed(present, server, ADDRESS):
            ours = same_port(server.host, server.port, present.host, present.port)
            listeners = listen(server.host, server.port, taken=ours)
            log.info("Listening at: %s as well, from when the heirs are ready", ", ".join(listeners.names()))
        missing = server.metrics_port and shared.metrics is None  # somebody else had the port: perhaps no more
        if missing or _changed(present, server, METRICS_ADDRESS):
            shared = dataclasses.replace(shared, metrics=listen_for_metrics(server, log))
        return dataclasses.replace(settings, server=server), Premises(server, shared, listeners)


def _changed(present: Server, wanted: Server, names: Iterable[str]) -> list[str]:
    """Those of the settings that differ."""
    return [name for name in names if getattr(present, name) != getattr(wanted, name)]
