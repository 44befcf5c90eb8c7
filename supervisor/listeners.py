"""The listening sockets. The master owns them, so that what waits to be accepted outlives the worker that will do it.

Over TCP each worker slot has a socket of its own, and the kernel spreads connections over them (SO_REUSEPORT). A unix
socket, and what systemd hands down, is one for all.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gunicorn import systemd
from resonate.supervisor import address, steering
from resonate.supervisor.address import Address

BACKLOG: Final = 2048


@dataclass(frozen=True)
class Listening:
    """A socket as a gunicorn worker takes it: it asks for these, and detaches `sock` in its process."""

    sock: socket.socket

    @property
    def FAMILY(self) -> int:  # noqa: N802 - gunicorn's name
        """The address family."""
        return self.sock.family

    def fileno(self) -> int:
        """Its descriptor."""
        return self.sock.fileno()

    def close(self) -> None:
        """In this process only."""
        self.sock.close()


class Listeners:
    """The sockets of each slot. `shared` are those that all slots have; None: each has its own, on `address`."""

    def __init__(self, address: Address, shared: Iterable[socket.socket] | None = None) -> None:
        self._address = address
        self._shared = None if shared is None else [Listening(sock) for sock in shared]
        self._own: dict[int, Listening] = {}  # below 0: see `_left`
        self._order: list[int] = []  # slots, as the kernel numbers their sockets
        self._steered: frozenset[int] = frozenset()
        self._path: tuple[int, int] | None = None  # of a unix socket that we have made

    @classmethod
    def open(cls, address: Address) -> Listeners:
        """Listen. Sockets that systemd has handed down go before `address`. Raises OSError."""
        handed_down = systemd.listen_fds()
        if handed_down:  # once: they are not found again
            start = systemd.SD_LISTEN_FDS_START
            return cls(address, [_adopted(number) for number in range(start, start + handed_down)])
        if address.family is socket.AF_UNIX:
            listeners = cls(address, [_unix(address.name)])
            listeners._path = _identity(address.name)
            return listeners
        listeners = cls(address)
        listeners.sockets(0)  # an error shows now, and a port of 0 has become one for all
        return listeners

    @classmethod
    def restored(cls, plain: Mapping[str, Any]) -> Listeners:
        """Those of another process, which it has described by `plain` and passed to this one."""
        family, name = plain["address"]
        where = Address(socket.AddressFamily(family), name if isinstance(name, str) else tuple(name))
        listeners = cls(where, None if plain["shared"] is None else map(socket_of, plain["shared"]))
        listeners._own = {slot: Listening(socket_of(descriptor)) for slot, descriptor in plain["own"]}
        listeners._order, listeners._steered = plain["order"], frozenset(plain["steered"])
        listeners._path = None if plain["path"] is None else tuple(plain["path"])
        return listeners

    def plain(self) -> dict[str, Any]:
        """As values of JSON. The sockets are descriptors, see `descriptors`."""
        shared = None if self._shared is None else [listening.fileno() for listening in self._shared]
        return {
            "address": [self._address.family, self._address.name],
            "shared": shared,
            "own": [(slot, listening.fileno()) for slot, listening in self._own.items()],
            "order": self._order,
            "steered": sorted(self._steered),
            "path": self._path,
        }

    @property
    def descriptors(self) -> list[int]:
        """Of all sockets."""
        return [listening.fileno() for listening in [*(self._shared or ()), *self._own.values()]]

    @property
    def slots(self) -> list[int]:
        """Those that have a socket of their own."""
        return [slot for slot in self._own if slot >= 0]

    @property
    def handed_down(self) -> bool:
        """Whether they are systemd's, so that no setting says where they are."""
        return self._shared is not None and self._path is None

    @classmethod
    def inherited(cls, address: Address, descriptors: Sequence[int], *, foreign: bool, slots: int) -> Listeners:
        """Those that `hand_down` has returned before this program took the place of another in its process.

        `foreign` are those that systemd has made; otherwise they are on `address`. There are so many `slots` by now.
        """
        sockets = [_adopted(number) for number in descriptors]
        if foreign:
            return cls(address, sockets)
        if address.family is socket.AF_UNIX:
            listeners = cls(address, sockets)
            listeners._path = _identity(address.name)
            return listeners
        listeners = cls(Address(address.family, sockets[0].getsockname()))
        listeners._order = [index if index < slots else slots - index - 1 for index in range(len(sockets))]
        listeners._own = {slot: Listening(sock) for slot, sock in zip(listeners._order, sockets, strict=True)}
        return listeners

    def hand_down(self) -> list[int]:
        """Descriptors for `inherited`."""
        held = self._shared if self._shared is not None else [self._own[slot] for slot in self._order]
        return [listening.fileno() for listening in held]

    def sockets(self, slot: int) -> list[Listening]:
        """What the worker in `slot` accepts from; opened if it is the first time. Raises OSError."""
        if self._shared is not None:
            return self._shared
        if slot not in self._own:
            self._own[slot] = self._tcp()
            self._order.append(slot)
            self._choose()
        return [self._own[slot], *(self._left if slot == 0 else ())]

    @property
    def _left(self) -> list[Listening]:
        """Sockets of slots that are not there any more: who waits in their queues is accepted in slot 0."""
        return [listening for slot, listening in self._own.items() if slot < 0]

    def names(self) -> list[str]:
        """Where we listen: `host:port`, `[host]:port` or `unix:/path`."""
        first = self._shared if self._shared is not None else [self._own[slot] for slot in self._order[:1]]
        return list(dict.fromkeys(_name(listening.sock) for listening in first))

    def steer(self, slots: Collection[int]) -> None:
        """From now on new connections go to these only. Those that wait in other slots' queues stay there."""
        self._steered = frozenset(slots)
        self._choose()

    def release(self, slot: int) -> None:
        """Give up the slot's socket. Steer away from it first, and have its queue accepted empty."""
        listening = self._own.pop(slot, None)
        if listening is None:
            return
        # Before close: were a copy of it still open in some child, the kernel would keep it in the group.
        listening.sock.shutdown(socket.SHUT_RDWR)
        listening.close()
        self._forget(slot)
        self._choose()

    def keep_only(self, slot: int) -> None:
        """In a child: close what belongs to others."""
        kept = self.sockets(slot)
        for listening in self._own.values():
            if listening not in kept:
                listening.close()

    def close(self) -> None:
        """Close all: workers have copies, and when these are closed as well connections are refused."""
        path, self._path = self._path, None
        self.close_copies()
        if path is not None and _identity(self._address.name) == path:
            os.unlink(self._address.name)

    def close_copies(self) -> None:
        """Close all in this process: another one has them, and the path of a unix socket."""
        self._path = None
        for listening in [*(self._shared or ()), *self._own.values()]:
            listening.close()
        self._own.clear()
        self._order.clear()

    def _tcp(self) -> Listening:
        sock = socket.socket(self._address.family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is accepted inherits it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(self._address.name)
            sock.setblocking(False)
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        self._address = Address(self._address.family, sock.getsockname())
        return Listening(sock)

    def _forget(self, slot: int) -> None:
        """The kernel moves the last socket of a group into the place of one that is closed."""
        place, last = self._order.index(slot), self._order.pop()
        if place < len(self._order):
            self._order[place] = last

    def _choose(self) -> None:
        """Tell the kernel. One that is too old for it goes on spreading over all of them."""
        if not self._order:
            return
        sock = self._own[self._order[0]].sock
        excluded = [index for index, slot in enumerate(self._order) if slot not in self._steered]
        try:
            if 0 < len(excluded) < len(self._order):
                steering.attach(sock, steering.program(len(self._order), excluded))
            else:
                steering.detach(sock)
        except OSError:  # also where there is no program
            pass


def listen(host: str, port: int, *, taken: bool = False) -> Listeners:
    """Listen there, unless systemd has handed sockets down. Raises ConfigurationError.

    `taken`: this process has that port already, for another host.
    """
    if not taken:
        address.check_address(host, port)
    try:
        return Listeners.open(address.resolve(host, port))
    except OSError as error:
        raise address.refusal(error, host, port) from None


def socket_of(descriptor: int) -> socket.socket:
    """A socket that was passed to this process when it was executed."""
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    return sock


def _adopted(descriptor: int) -> socket.socket:
    sock = socket_of(descriptor)
    sock.setblocking(False)
    if sock.family is not socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.listen(BACKLOG)
    return sock


def _unix(path: str) -> socket.socket:
    """In place of what a dead server has left there. Anybody may connect, as to a port."""
    if _identity(path) is not None:
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0)
    try:
        sock.bind(path)
        sock.setblocking(False)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _name(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family is socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if sock.family is socket.AF_INET6 else f"{name[0]}:{name[1]}"
