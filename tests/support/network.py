"""A network of its own: a bridge of this machine with namespaces on it, whose wires can be cut one way or both ways.

All names begin with `rh` and the pid of the process that made them, so suites run side by side, and what a process that
has died has left behind is swept by the next. It needs root, `ip` and nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import ipaddress
import itertools
import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

_NAME: Final = re.compile(r"rh(\d+)n")
#: Where a packet goes that shall arrive nowhere: nobody has this address, and a sender is told of no error.
_NOBODY: Final = "02:00:00:00:00:ff"
_COUNTER: Final = itertools.count()
#: Namespaces on one network.
_ADDRESSES: Final = 200


def ip(*words: str, check: bool = True) -> str:
    """What `ip` prints. RuntimeError with what it says when it fails."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@functools.cache
def refused() -> str:
    """Why this process may not make networks; empty when it may. Tried once."""
    try:
        with Network() as network:
            network.add()
    except (OSError, RuntimeError) as error:
        return f"no network namespaces here: {error}"
    return ""


class Node:
    """A namespace with an address."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        #: Before the words of a command that runs here.
        self.prefix = ("ip", "netns", "exec", name)

    def mute(self, other: Node) -> None:
        """What this one sends to the other is lost from now on. The other's packets still arrive here."""
        self._ip("neigh", "replace", other.address, "lladdr", _NOBODY, "dev", "eth0", "nud", "permanent")

    def unmute(self, other: Node) -> None:
        """The wire is whole again, in this direction."""
        with contextlib.suppress(RuntimeError):  # it was
            self._ip("neigh", "del", other.address, "dev", "eth0")

    def _ip(self, *words: str) -> None:
        ip("-n", self.name, *words)


class Network:
    """A context manager that leaves nothing behind. The side of the tests has the first address."""

    def __init__(self) -> None:
        sweep()
        self.name = f"rh{os.getpid()}n{next(_COUNTER)}"
        self._free = _free_range().hosts()
        self.address = str(next(self._free))
        self._numbers = itertools.count()
        self._nodes: list[Node] = []

    def __enter__(self) -> Network:
        atexit.register(self.remove)
        try:
            ip("link", "add", self.name, "type", "bridge")
            ip("addr", "add", f"{self.address}/24", "dev", self.name)
            ip("link", "set", self.name, "up")
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def add(self) -> Node:
        """Another namespace, on the bridge."""
        number = next(self._numbers)
        assert number < _ADDRESSES
        node = Node(f"{self.name}p{number}", str(next(self._free)))
        self._nodes.append(node)
        ip("netns", "add", node.name)
        ip("link", "add", node.name, "type", "veth", "peer", "name", "eth0", "netns", node.name)
        ip("link", "set", node.name, "master", self.name, "up")
        ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", node.name, "link", "set", device, "up")
        return node

    def remove(self) -> None:
        """All of it. Harmless when repeated."""
        atexit.unregister(self.remove)
        for node in self._nodes:
            ip("link", "del", node.name, check=False)
            ip("netns", "del", node.name, check=False)
        ip("link", "del", self.name, check=False)


def _free_range() -> ipaddress.IPv4Network:
    """Addresses of a private range that this machine has no route to."""
    routes = [route["dst"] for route in json.loads(ip("-j", "-4", "route", "show") or "[]")]
    taken = [ipaddress.ip_network(each, strict=False) for each in routes if each[0].isdigit()]
    while True:
        found = ipaddress.IPv4Network(f"10.{random.randrange(64, 255)}.{random.randrange(256)}.0/24")
        if not any(found.overlaps(each) for each in taken if isinstance(each, ipaddress.IPv4Network)):
            return found


def sweep() -> None:
    """Remove what processes that live no more have left, and end what runs in it."""
    for name in _left(Path("/run/netns")):
        for pid in ip("netns", "pids", name, check=False).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        ip("netns", "del", name, check=False)
    for name in _left(Path("/sys/class/net")):
        ip("link", "del", name, check=False)


def _left(folder: Path) -> Iterator[str]:
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        found = _NAME.match(entry.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            yield entry.name
