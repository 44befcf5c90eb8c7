"""Where Redis is: what a configuration says, as redis-py wants it. No text that is made of it has a password."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from resonate.errors import ResonateError
from resonate.scaling import Redis

_DATABASE: Final = re.compile("[0-9]{1,4}", re.ASCII)


class AddressError(ResonateError):
    """An address cannot be read; the text has nothing of it."""


def described(told: Redis) -> str:
    """What people call it."""
    if told.by_sentinels:
        return "Redis by Sentinel"
    try:
        return f"Redis at {where(address(told, 0))}"
    except AddressError:
        return "Redis"


def where(options: dict[str, Any]) -> str:
    """Host and port, or the path of a socket."""
    return options.get("unix_socket_path") or f"{options['host']}:{options['port']}"


def address(told: Redis, database: int) -> dict[str, Any]:
    """Keywords of `redis.Redis`; where there are sentinels host and port are not known. Raises AddressError.

    `host` may be the path of a socket, or begin with `tls://`. A URL may name its own database.
    """
    found: dict[str, Any] = {"host": told.host, "port": told.port, "db": database}
    found |= {"username": told.username, "password": told.password}
    if told.url is not None:
        found |= _of_url(told.url, told.hidden)
    elif told.host.startswith("/"):
        found["unix_socket_path"] = told.host
    elif told.host.startswith("tls://"):
        found |= {"host": told.host.removeprefix("tls://"), "ssl": True}
    if found.get("ssl"):
        found |= {"ssl_ca_certs": told.ca_file, "ssl_check_hostname": True}
    return found


def _of_url(url: str, hidden: bool) -> dict[str, Any]:
    """What it says; the rest is as configured beside it. `hidden`: it names sentinels, its path a name first."""
    try:
        parts = urlsplit(url)
        port = None if hidden else parts.port
    except ValueError:  # its text would quote what may be a password
        raise AddressError("the URL of Redis cannot be read: percent-encode its password") from None
    if parts.scheme == "unix":
        return {"unix_socket_path": unquote(parts.path)}
    path = parts.path.removeprefix("/")
    said = {
        "host": None if hidden else parts.hostname,
        "port": port,
        "username": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "db": _database(path.partition("/")[2] if hidden else path),
        "ssl": parts.scheme.startswith(("rediss", "tls")),
    }
    return {name: value for name, value in said.items() if value or value == 0}


def _database(text: str) -> int | None:
    return int(text) if _DATABASE.fullmatch(text) else None
