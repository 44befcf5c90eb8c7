"""One connection that redis-py makes: with TLS, users and passwords, over whatever leads there. It blocks."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from resonate.bus.redis_address import AddressError, address
from resonate.scaling import Redis


class Connection:
    """`options` are those of `address`. Made by `connect`, it can be asked; nothing is tried twice.

    `patience_s` is how long anything may take.

    What is asked raises redis.RedisError or OSError; the connection is to be closed then.
    """

    def __init__(self, options: dict[str, Any], patience_s: float) -> None:
        rest = dict(options)
        path, tls = rest.pop("unix_socket_path", None), rest.pop("ssl", False)
        rest |= {"socket_timeout": patience_s, "retry": Retry(NoBackoff(), 0), "protocol": 2}
        kind: Any = redis.Connection
        if path is not None:
            kind = redis.UnixDomainSocketConnection
            del rest["host"], rest["port"]
            rest["path"] = path
        else:
            rest["socket_connect_timeout"] = patience_s
            if tls:
                kind = redis.SSLConnection
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


def locate(told: Redis, patience_s: float) -> dict[str, Any]:
    """Where it is, or one node of it. Sentinels are asked. Raises AddressError, redis.RedisError, OSError."""
    if not told.by_sentinels:
        return address(told, told.database)
    options = address(replace(told, host=Redis.host), told.database)  # theirs is where Laravel finds its own
    return _located(told, options, patience_s)


def _located(told: Redis, options: dict[str, Any], patience_s: float) -> dict[str, Any]:
    """By the first Sentinel that knows."""
    failure: Exception = AddressError("no Sentinel is configured")
    own = {"db": 0, "username": told.sentinel_username, "password": told.sentinel_password}
    for host, port in told.sentinel_addresses:
        sentinel = Connection({**options, **own, "host": host, "port": port}, patience_s)
        try:
            found = sentinel.connect().ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", told.master)
        except (redis.RedisError, OSError) as error:
            failure = error
        else:
            if found:
                return {**options, "host": found[0].decode(), "port": int(found[1])}
            failure = AddressError(f"the Sentinel at {host}:{port} knows no master of the name {told.master}")
        finally:
            sentinel.close()
    raise failure
