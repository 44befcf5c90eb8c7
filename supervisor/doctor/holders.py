"""Who listens at an address, as far as /proc tells."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from resonate.supervisor.address import Address

_LISTENING: Final = "0A"
_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def holders(proc: Path, address: Address) -> dict[int, str]:
    """The processes that have a socket there, by pid, with their names; none where that may not be seen."""
    inodes = set(_unix(proc, address.name) if address.family is socket.AF_UNIX else _tcp(proc, address.name))
    if not inodes:
        return {}
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return {pid: _name(proc, pid) for pid in _processes(proc) if _has(proc, pid, wanted)}


def _tcp(proc: Path, name: tuple[str, int]) -> Iterator[str]:
    """The sockets that are in the way of one with this name."""
    wanted = ipaddress.ip_address(name[0].partition("%")[0])
    for file in ("tcp", "tcp6"):
        for line in _lines(proc / "net" / file):
            fields = line.split()
            if len(fields) < 10 or fields[3] != _LISTENING:
                continue
            host, _, port = fields[1].rpartition(":")
            if int(port, 16) == name[1] and _meet(_ip(host), wanted):
                yield fields[9]


def _ip(text: str) -> _IP:
    """The kernel prints words of 32 bits, each in the order of the machine."""
    words = re.findall(".{8}", text)
    return ipaddress.ip_address(b"".join(bytes.fromhex(word)[::-1] for word in words))


def _meet(one: _IP, other: _IP) -> bool:
    return one == other or one.is_unspecified or other.is_unspecified


def _unix(proc: Path, path: str) -> Iterator[str]:
    for line in _lines(proc / "net" / "unix"):
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == path:
            yield fields[6]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()[1:]
    except OSError:
        return []


def _processes(proc: Path) -> Iterator[int]:
    return (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())


def _has(proc: Path, pid: int, wanted: Iterable[str]) -> bool:
    with suppress(OSError):  # it has ended, or is somebody else's
        for descriptor in (proc / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()) in wanted:
                    return True
    return False


def _name(proc: Path, pid: int) -> str:
    try:
        return (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return "?"
