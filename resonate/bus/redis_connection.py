"""One connection that redis-py makes: with TLS, users and passwords, over whatever leads there. It blocks."""

from __future__ import annotations

import socket
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from resonate.bus.redis_address import AddressError, Place, Sentinels, address, sentinels


class Connection:
    """`options` are those of `address`. Made by `connect`, it can be asked; nothing is tried twice.

    What is asked raises redis.RedisError or OSError; the connection is to be closed then.
    """

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        rest = dict(options)
        path, tls = rest.pop("unix_socket_path", None), rest.pop("ssl", False)
        rest |= {"socket_timeout": place.patience, "retry": Retry(NoBackoff(), 0), "protocol": 2}
        kind: Any = redis.Connection
        if path is not None:
            kind = redis.UnixDomainSocketConnection
            del rest["host"], rest["port"]
            rest["path"] = path
        else:
            rest["socket_connect_timeout"] = place.patience
            if tls:
                kind = redis.SSLConnection
                rest |= {"ssl_ca_certs": place.ca_file, "ssl_check_hostname": True}
        self._made = kind(**rest)

    def connect(self) -> Connection:
        """Make it, and be known to the server. Raises redis.RedisError, OSError."""
        self._made.connect()
        return self

    @property
    def socket(self) -> socket.socket:
        """What it is made over. redis-py has no other way to it that all its versions share."""
        found: socket.socket = self._made._sock
        return found

    def ask(self, *words: str | bytes) -> Any:
        """What Redis replies to a command. Raises redis.RedisError."""
        self._made.send_command(*words, check_health=False)
        return self._made.read_response()

    def close(self) -> None:
        """Close it; may be called again."""
        self._made.disconnect()


def locate(place: Place) -> dict[str, Any]:
    """Where the Redis is, or one node of it. Sentinels are asked. Raises AddressError, redis.RedisError, OSError."""
    if place.by_sentinel:
        return _located(place, sentinels(place))
    return address(place.url, place.host, place.port, place.username, place.password, place.database)


def _located(place: Place, asked: Sentinels) -> dict[str, Any]:
    """By the first Sentinel that knows."""
    failure: Exception = AddressError("no Sentinel is configured")
    for host, port in asked.hosts:
        options = {"host": host, "port": port, "db": 0, "ssl": asked.options.get("ssl", False)}
        options |= {"username": place.sentinel_username, "password": place.sentinel_password}
        sentinel = Connection(options, place)
        try:
            found = sentinel.connect().ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", asked.master)
        except (redis.RedisError, OSError) as error:
            failure = error
        else:
            if found:
                return {**asked.options, "host": found[0].decode(), "port": int(found[1])}
            failure = AddressError(f"the Sentinel at {host}:{port} knows no master of the name {asked.master}")
        finally:
            sentinel.close()
    raise failure
