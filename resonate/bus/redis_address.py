"""Where Redis is: what a configuration says, as redis-py wants it. No text that is made of it has a password."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from resonate.errors import ResonateError
from resonate.scaling import Scaling

#: Ports of a Redis and of a Sentinel that name none.
PORT: Final = 6379
SENTINEL_PORT: Final = 26379

_DATABASE: Final = re.compile("[0-9]{1,4}", re.ASCII)


class AddressError(ResonateError):
    """An address cannot be read; the text has nothing of it."""


@dataclass(frozen=True)
class Place:
    """The Redis that hosts share, and how it is used. What `url` says goes before what stands beside it.

    `sentinels` are (host, port); they know the `master` by its name. `cluster`: host and port, or the URL, are one node
    of many, which knows the others; `nodes` are more of them, to be asked when it is not there. `ca_file` has the
    authorities that TLS trusts; otherwise the system's. All keys begin with `prefix`. `log_length` entries of a log are
    kept, for `log_seconds` after the last. `patience` is how long Redis may take for anything, in seconds.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    url: str | None = field(default=None, repr=False)
    cluster: bool = False
    nodes: tuple[tuple[str, int], ...] = ()
    sentinels: tuple[tuple[str, int], ...] = ()
    master: str = "mymaster"
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    prefix: str = "reverb"
    log_length: int = Scaling.log_length
    log_seconds: int = Scaling.log_seconds
    patience: float = 2.0

    @classmethod
    def of(cls, scaling: Scaling) -> Place:
        """As configured."""
        redis = scaling.redis
        return cls(
            host=redis.host,
            port=redis.port,
            username=redis.username,
            password=redis.password,
            database=redis.database,
            url=redis.url,
            cluster=redis.cluster,
            sentinels=redis.sentinel_addresses if redis.by_sentinels else (),
            master=redis.master or cls.master,
            prefix=scaling.prefix,
            log_length=scaling.log_length,
            log_seconds=scaling.log_seconds,
            patience=scaling.patience,
        )

    @property
    def by_sentinel(self) -> bool:
        """Whether Sentinels are to be asked where it is."""
        return bool(self.sentinels) or "+sentinel:" in (self.url or "")

    def __str__(self) -> str:
        if self.by_sentinel:
            return "Redis by Sentinel"
        try:
            return f"Redis at {where(address(self.url, self.host, self.port, None, None, 0))}"
        except AddressError:
            return "Redis"


#: What Redis says after these words are our own arguments: a password, where AUTH has another name.
_QUOTE: Final = re.compile(r",? with args beginning with.*", re.DOTALL)
#: Characters of an error that are told.
_LONGEST_TEXT: Final = 200


def plain(text: str) -> str:
    """An error of Redis without anything of ours."""
    return _QUOTE.sub("", text)[:_LONGEST_TEXT]


def where(options: dict[str, Any]) -> str:
    """Host and port, or the path of a socket."""
    return options.get("unix_socket_path") or f"{options['host']}:{options['port']}"


def address(
    url: str | None, host: str, port: int, username: str | None, password: str | None, database: int
) -> dict[str, Any]:
    """Keywords of `redis.Redis`. `host` may be the path of a socket, or begin with `tls://`. Raises AddressError."""
    found: dict[str, Any] = {"host": host, "port": port, "db": database, "username": username, "password": password}
    if url is not None:
        found |= _of_url(url)
    elif host.startswith("/"):
        found["unix_socket_path"] = host
    elif host.startswith("tls://"):
        found |= {"host": host.removeprefix("tls://"), "ssl": True}
    return found


def _of_url(url: str) -> dict[str, Any]:
    """What it says; the rest is as configured beside it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text would quote what may be a password
        raise AddressError("the URL of Redis cannot be read: percent-encode its password") from None
    if parts.scheme == "unix":
        return {"unix_socket_path": unquote(parts.path)}
    said = {
        "host": parts.hostname,
        "port": port,
        "username": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "db": _database(parts.path.removeprefix("/")),
        "ssl": parts.scheme in ("rediss", "tls"),
    }
    return {name: value for name, value in said.items() if value or value == 0}


def _database(text: str) -> int | None:
    return int(text) if _DATABASE.fullmatch(text) else None


@dataclass(frozen=True)
class Sentinels:
    """Who knows where the Redis is that they call `master`. `options` are of the latter, but for where it is."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    options: dict[str, Any]


def sentinels(place: Place) -> Sentinels:
    """`redis+sentinel://user:password@host:port,host:port/master/database`, or the same from settings.

    Raises AddressError.
    """
    options: dict[str, Any] = {"db": place.database, "username": place.username, "password": place.password}
    if not place.url or "+sentinel:" not in place.url:
        return Sentinels(place.sentinels, place.master, options)
    scheme, _, rest = place.url.partition("://")
    before, _, path = rest.partition("/")
    user, _, hosts = before.rpartition("@")
    name, _, password = user.partition(":")
    master, _, database = path.partition("?")[0].partition("/")
    said = {"username": unquote(name), "password": unquote(password), "db": _database(database)}
    options |= {key: value for key, value in said.items() if value or value == 0}
    if scheme.startswith(("rediss", "tls")):
        options["ssl"] = True
    return Sentinels(tuple(map(_host_and_port, hosts.split(","))), unquote(master) or place.master, options)


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):  # an IPv6 address without a port
        host, port = text, str(SENTINEL_PORT)
    if not port.isdecimal():
        raise AddressError("the URL of Redis cannot be read: host:port,host:port is wanted, and an encoded password")
    return host.strip("[]"), int(port)
