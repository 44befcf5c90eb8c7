"""What stands between clients and several servers: each connection goes to the next of them, bytes pass both ways.

It runs as a process of its own, as a proxy does, and hides nothing: the end of one direction is passed on as that, a
reset as a reset, and who reads slowly is waited for. With a delay it is a long wire instead.

    python -m tests.support.balancer HOST PORT TARGET...      commands come by standard input: `delay SECONDS`
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

ROOT: Final = Path(__file__).parents[2]
#: Bytes read at a time, and bytes on their way in one direction before the sender has to wait.
CHUNK: Final = 65536
ON_THE_WAY: Final = 2**20
#: Connections waiting to be accepted.
BACKLOG: Final = 2048
_RESET: Final = struct.pack("ii", 1, 0)


class Balancer:
    """The handle: a context manager that leaves no process behind. `targets` are `address:port`."""

    def __init__(
        self, port: int, targets: Sequence[str], *, host: str = "127.0.0.1", prefix: Sequence[str] = ()
    ) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.support.balancer", host, str(port), *targets],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise AssertionError(f"no balancer on port {port}")

    def delay(self, seconds: float) -> None:
        """How long each byte takes from now on, one way."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"delay {seconds}\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Balancer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


# --- the process ------------------------------------------------------------------------------------------------------


class Wire:
    """One direction of a connection. What is on its way is bounded; without a delay, nothing is but one chunk."""

    def __init__(self, relay: Relay, source: socket.socket, target: socket.socket) -> None:
        self._relay, self._source, self._target = relay, source, target
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until the source has ended and all has been passed on. OSError when either side is reset."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take())
            group.create_task(self._give())

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        data = b"."
        while data:
            data = await loop.sock_recv(self._source, CHUNK)
            self._under_way.append((loop.time() + self._relay.delay_s, data))
            self._size += len(data)
            self._changed.set()
            while self._size > (ON_THE_WAY if self._relay.delay_s else 0):
                await self._wait()

    async def _give(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._under_way:
                await self._wait()
            due, data = self._under_way.popleft()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if not data:
                self._target.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(self._target, data)
            self._size -= len(data)
            self._changed.set()

    async def _wait(self) -> None:
        """For the other half of this wire: each wakes the other, and nobody else does."""
        self._changed.clear()
        await self._changed.wait()


class Relay:
    """All connections. `delay_s` may change at any time."""

    def __init__(self, targets: Sequence[str]) -> None:
        self.delay_s = 0.0
        self._targets = [(host, int(port)) for host, _, port in (each.rpartition(":") for each in targets)]
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            self._next = (self._next + 1) % len(self._targets)
            task = loop.create_task(self._pass(client, self._targets[self._next]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, client: socket.socket, target: tuple[str, int]) -> None:
        server = socket.socket()
        try:
            for each in (client, server):
                each.setblocking(False)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(server, target)
            async with asyncio.TaskGroup() as group:
                group.create_task(Wire(self, client, server).run())
                group.create_task(Wire(self, server, client).run())
        except* OSError:
            for each in (client, server):  # whoever is left has its connection reset, too
                with contextlib.suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        finally:
            client.close()
            server.close()

    def command(self) -> None:
        """A line of standard input."""
        words = sys.stdin.readline().split()
        if not words:
            raise SystemExit
        if words[0] == "delay":
            self.delay_s = float(words[1])


async def main(host: str, port: str, *targets: str) -> None:
    """Until standard input ends: the balancer does not survive a test that dies."""
    relay = Relay(targets)
    listener = socket.create_server((host, int(port)), backlog=BACKLOG)
    listener.setblocking(False)
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), relay.command)
    print("ready", flush=True)
    await relay.serve(listener)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
