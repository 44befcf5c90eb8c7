"""What a master hands down to the program that takes its place in its process, in the letter of that errand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from resonate.supervisor import address
from resonate.supervisor.address import UNIX
from resonate.supervisor.listeners import Listeners, listen

from resonate.settings import Server


@dataclass(frozen=True, kw_only=True)
class Inheritance:
    """`listening` and `waiting` are descriptors: of sockets, and of clients that wait for the end of the restart.

    `host` and `port` are where the sockets listen, as it was configured; `foreign`: systemd has made them. `began_at`
    is by the steady clock.
    """

    host: str = ""
    port: int = 0
    foreign: bool = False
    listening: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    began_at: float = 0.0

    @classmethod
    def of(cls, letter: Mapping[str, Any]) -> Inheritance:
        """In the letter are the fields, by their names; a version with other ones leaves some out."""
        return cls(
            host=letter.get("host", ""),
            port=letter.get("port", 0),
            foreign=letter.get("foreign", False),
            listening=tuple(letter.get("listening", ())),
            waiting=tuple(letter.get("waiting", ())),
            began_at=letter.get("began_at", 0.0),
        )

    def check_address(self, server: Server) -> None:
        """Raise ConfigurationError when nobody could listen there but for the master that has asked."""
        ours = address.same_port(server.host, server.port, self.host, self.port)
        if not self._covers(server) and not ours:
            address.check_address(server.host, server.port)

    def listen(self, server: Server) -> Listeners:
        """On the sockets that are there, or others if the address is another by now. Raises ConfigurationError."""
        if self.listening and self._covers(server):
            here = address.resolve(server.host, server.port)
            return Listeners.inherited(here, self.listening, foreign=self.foreign, slots=server.workers)
        for descriptor in self.listening:
            os.close(descriptor)
        if self.listening and self.host.startswith(UNIX):
            with suppress(OSError):
                os.unlink(self.host.removeprefix(UNIX))
        return listen(server.host, server.port)

    def _covers(self, server: Server) -> bool:
        return self.foreign or (self.host, self.port) == (server.host, server.port)


NOTHING: Final = Inheritance()
