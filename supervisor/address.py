"""The address to listen on: what it means, and whether anybody can listen there."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from resonate.errors import ConfigurationError

UNIX: Final = "unix:"


@dataclass(frozen=True)
class Address:
    """A family, and a name as `bind` takes it: a path for AF_UNIX, otherwise a tuple."""

    family: socket.AddressFamily
    name: Any


def resolve(host: str, port: int) -> Address:
    """Where `host` and `port` are; `unix:/path` is a unix socket, and the port is ignored then.

    Raises ConfigurationError.
    """
    if host.startswith(UNIX):
        return Address(socket.AF_UNIX, host.removeprefix(UNIX))
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigurationError("host", f"is no address: {error.strerror}", value=host) from None
    family, _, _, _, name = found[0]
    return Address(family, name)


def text(host: str, port: int) -> str:
    """As gunicorn writes it."""
    if host.startswith(UNIX):
        return host
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """As it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def same_port(host: str, port: int, other_host: str, other_port: int) -> bool:
    """Whether both are the same port of TCP, though perhaps of other addresses."""
    return port == other_port and not (host.startswith(UNIX) or other_host.startswith(UNIX))


def check_address(host: str, port: int, environ: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigurationError when nobody can listen there: nothing has been started yet.

    A socket that was handed down by systemd is not tried. TCP is tried without SO_REUSEPORT: with it, another server of
    the same user would go unnoticed and get half of the connections.
    """
    if "LISTEN_FDS" in environ:
        return
    address = resolve(host, port)
    if address.family is socket.AF_UNIX:
        _check_path(address.name)
        return
    with socket.socket(address.family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address.name)
            probe.listen(1)
        except OSError as error:
            raise refusal(error, host, port) from None


def refusal(error: OSError, host: str, port: int) -> ConfigurationError:
    """What an operator should be told when listening has failed."""
    if host.startswith(UNIX):
        return ConfigurationError("host", f"cannot be listened on: {error.strerror or error}", value=host)
    return ConfigurationError("port", _REMEDIES.get(error.errno or 0, str(error)), value=port)


_REMEDIES: Final = {
    errno.EADDRINUSE: "another process listens there; stop it or choose another port (--port, REVERB_SERVER_PORT)",
    errno.EACCES: "only root may listen there; choose a port from 1024 on",
    errno.EADDRNOTAVAIL: "this machine does not have that address; choose another host (--host, REVERB_SERVER_HOST)",
}

_PATH_ROOM: Final = 107  # bytes of sun_path, less the zero at its end


def _check_path(path: str) -> None:
    """A socket that a dead server has left there may be replaced; anything else may not."""
    host, directory = UNIX + path, os.path.dirname(path) or "."
    if not path or len(os.fsencode(path)) > _PATH_ROOM:
        raise ConfigurationError("host", f"the path must have from 1 to {_PATH_ROOM} bytes", value=host)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigurationError("host", f"the folder {directory} is missing or may not be written to", value=host)
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ConfigurationError("host", "that file is no socket; choose another path, or remove it", value=host)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise refusal(error, host, 0) from None
    raise ConfigurationError("host", "another process listens there; stop it or choose another path", value=host)
