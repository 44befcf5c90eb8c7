"""A network between a store and its Redis, which can lose what goes one way."""

from __future__ import annotations

import socket
import threading
from types import TracebackType


class Proxy:
    """Carries connections to `target`; they are numbered as they come."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]
        self._muted: set[int] = set()
        self._number = 0

    def mute(self, number: int) -> None:
        """That connection's answers do not arrive any more; it stays open."""
        self._muted.add(number)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._open += [client, server]
            number, self._number = self._number, self._number + 1
            threading.Thread(target=self._carry, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, number), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, number: int | None) -> None:
        try:
            while data := source.recv(65536):
                if number not in self._muted:
                    target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for each in self._open:
            each.close()
