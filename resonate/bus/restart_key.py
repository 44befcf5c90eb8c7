"""The key in Redis by which `php artisan reverb:restart` tells all servers of an application to restart.

Laravel's cache leaves the time there, below two prefixes: that of its Redis connections and that of the cache. Both are
made of the application's name, in two styles, according to the version that the application was begun with.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from resonate.bus.redis_address import address, where
from resonate.bus.resp import plain
from resonate.errors import ResonateError
from resonate.settings import Server

KEY: Final = "laravel:reverb:restart"
#: How long Redis may take to accept a connection, and to answer, in seconds.
PATIENCE_S: Final = 3.0
#: Bytes that are asked for: more than any value that is understood.
LONGEST_VALUE: Final = 32

#: What each key has said, by its name; None for nothing that is understood.
Values: TypeAlias = dict[str, int | None]


class RedisError(ResonateError):
    """Redis cannot be asked; the text says where it should be, and why."""


def names(server: Server) -> tuple[str, ...]:
    """The full names that Laravel may give to the key."""
    found = []
    for separator in ("_", "-"):
        app = slug(server.restart_app_name, separator)
        connection = server.restart_redis_prefix or f"{app}{separator}database{separator}"
        cache = server.restart_cache_prefix or f"{app}{separator}cache{separator}"
        found.append(connection + cache + KEY)
        if server.restart_cache_prefix is None:  # it may be set, and empty: an unchanged .env of Laravel 11 has that
            found.append(connection + KEY)
    return tuple(dict.fromkeys(found))


def slug(name: str, separator: str) -> str:
    """As Laravel's `Str::slug`, but that it transliterates more than accents."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char))
    joined = re.sub("[-_]+", separator, plain).replace("@", f"{separator}at{separator}")
    kept = re.sub(rf"[^{separator}\w\s]+", "", joined.lower())
    return re.sub(rf"[{separator}\s]+", separator, kept).strip(separator)


_NUMBER: Final = re.compile(rb'([0-9]{1,18})|i:([0-9]{1,18});|s:[0-9]{1,2}:"([0-9]{1,18})";')


def number(value: bytes) -> int | None:
    """A time, plain or as PHP serializes it; None for anything else."""
    matched = _NUMBER.fullmatch(value)
    return int(matched[matched.lastindex or 0]) if matched else None


def compare(known: Mapping[str, int | None], seen: Mapping[str, int | None]) -> tuple[bool, Values]:
    """Whether somebody has asked for a restart since, and what is known from now on.

    A key that is seen for the first time says nothing new, nor does one that has gone: caches are cleared.
    """
    changed = any(value is not None and name in known and value != known[name] for name, value in seen.items())
    kept = {name: value if value is not None else known.get(name) for name, value in seen.items()}
    return changed, kept


class RestartKey:
    """In the Redis of these settings. Not to be used by two threads or greenlets at a time."""

    def __init__(self, server: Server) -> None:
        self.names = names(server)
        options = address(server.scaling.redis, server.restart_database)
        self.place = f"Redis at {where(options)}, database {options['db']}"
        self._redis = redis.Redis(
            **options,
            socket_timeout=PATIENCE_S,
            socket_connect_timeout=PATIENCE_S,
            retry=Retry(NoBackoff(), 0),  # who asks decides when to try again
            protocol=2,
        )

    def read(self) -> Values:
        """What it says. Raises RedisError."""
        with _Told(self):
            pipeline = self._redis.pipeline(transaction=False)
            for name in self.names:
                pipeline.getrange(name, 0, LONGEST_VALUE - 1)
            answers = pipeline.execute(raise_on_error=False)
            return {name: _understood(answer) for name, answer in zip(self.names, answers, strict=True)}

    def write(self, time: int) -> Values:
        """Ask everybody to restart: where Laravel has done so before, otherwise where it most likely would.

        `time` is in seconds, as Laravel's; later than what is there already, so that it is news. Returns what the keys
        say now. Raises RedisError.
        """
        said = self.read()
        time = max([time, *(value + 1 for value in said.values() if value is not None)])
        chosen = [name for name, value in said.items() if value is not None] or [self.names[0]]
        written = dict.fromkeys(chosen, time)
        with _Told(self):
            self._redis.mset(written)
        return {**said, **written}

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._redis.close()


class _Told:
    """What goes wrong with Redis, in our words; the connection is made anew after it."""

    def __init__(self, key: RestartKey) -> None:
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, redis.RedisError | OSError):
            self._key.close()
            raise RedisError(f"{self._key.place}: {plain(str(error))}") from None


def _understood(answer: Any) -> int | None:
    if isinstance(answer, redis.ResponseError) and str(answer).startswith("WRONGTYPE"):
        return None
    if isinstance(answer, Exception):
        raise answer
    return number(answer)
