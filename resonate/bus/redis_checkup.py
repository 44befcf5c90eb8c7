"""What a Redis is, how fast it answers, and what its user may do there. Nothing is changed in it.

Who asks judges; here are facts only. A Redis that hides something from this user is asked for the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import redis

from resonate.bus.redis_address import address, where
from resonate.bus.redis_connection import Connection, locate
from resonate.bus.redis_orders import Orders
from resonate.bus.resp import plain
from resonate.errors import ResonateError
from resonate.scaling import Scaling
from resonate.settings import Server

#: How long Redis may take for anything before it counts as away, in seconds: longer than is good.
PATIENCE_S: Final = 5.0
PINGS: Final = 20

Words: TypeAlias = tuple[str, ...]

#: Commands that have commands of their own.
_CONTAINERS: Final = ("SCRIPT", "CLUSTER")
#: Those that may be done to see whether they may.
_HARMLESS: Final = ("PING", "TIME", "SCRIPT")
#: What CONFIG is asked for.
_SETTINGS: Final = ("maxmemory-policy", "client-output-buffer-limit", "save", "appendonly")


class CheckupError(ResonateError):
    """It cannot be asked. `refused`: it is there, and does not let us in."""

    def __init__(self, reason: str, refused: bool) -> None:
        self.refused = refused
        super().__init__(reason)


@dataclass(frozen=True)
class Checkup:
    """`name` is Redis or Valkey with its version; `version` that of Redis which it has or can do, () if unknown.

    `info` and `settings` are as INFO and CONFIG say, without what is hidden. `waits_s` are the times of PINGs;
    `ahead_s` is how far its clock is before ours, None if unknown. `denied` are commands, each with what Redis says.
    """

    name: str
    version: tuple[int, ...]
    info: Mapping[str, str]
    settings: Mapping[str, str]
    waits_s: tuple[float, ...]
    ahead_s: float | None
    denied: Mapping[str, str]


def words_of_hosts(scaling: Scaling) -> list[Words]:
    """What several hosts need of it: commands with keys such as those that are used."""
    log = Orders(scaling, scaling.redis.cluster).channel("doctor/doctor").decode()
    base, parties = log.removesuffix("log"), f"{log.partition(':{')[0]}:parties"
    told = [("SSUBSCRIBE", log), ("SUNSUBSCRIBE", log), ("SPUBLISH", log, ""), ("CLUSTER", "SLOTS")]
    if not scaling.redis.cluster:
        told = [("SUBSCRIBE", log), ("UNSUBSCRIBE", log), ("PUBLISH", log, "")]
    return [
        ("PING",),
        ("TIME",),
        ("SCRIPT", "LOAD", "return 0"),
        ("EVALSHA", "0" * 40, "1", log),
        *told,
        ("XADD", log, "MAXLEN", "~", "1", "*", "e", ""),
        ("XSETID", log, "1-1"),
        ("XRANGE", log, "-", "+"),
        ("XREVRANGE", log, "+", "-"),
        ("PEXPIRE", log, "1"),
        ("PTTL", f"{base}cached"),
        ("SET", f"{base}cached", "", "EX", "1"),
        ("GET", f"{base}cached"),
        ("DEL", f"{base}index"),
        ("UNLINK", f"{base}subscriptions"),
        ("HSET", f"{base}members", "", ""),
        ("HDEL", f"{base}members", ""),
        ("HGETALL", f"{base}members"),
        ("HVALS", f"{base}counts"),
        ("HGET", f"{base}subscriptions", ""),
        ("HMGET", f"{base}subscriptions", ""),
        ("HLEN", f"{base}subscriptions"),
        ("HSCAN", f"{base}subscriptions", "0"),
        ("HRANDFIELD", f"{base}channels:", "1"),
        ("SADD", f"{base}index", ""),
        ("SREM", f"{base}index", ""),
        ("SMEMBERS", f"{base}index"),
        ("ZADD", parties, "0", ""),
        ("ZSCORE", parties, ""),
        ("ZRANGE", parties, "0", "0"),
        ("ZREM", parties, ""),
    ]


def words_of_restarts(names: Iterable[str]) -> list[Words]:
    """What the restart key needs."""
    return [words for name in names for words in (("GETRANGE", name, "0", "0"), ("MSET", name, ""))]


def connection(server: Server, shared: bool) -> tuple[Connection, str]:
    """One to where hosts meet (`shared`) or the restart key is; not made yet. And where that is, for people.

    Sentinels are asked here. Raises CheckupError.
    """
    told = server.scaling.redis
    try:
        options = locate(told, PATIENCE_S) if shared else address(told, server.restart_database)
    except (ResonateError, redis.RedisError, OSError) as error:
        reason = f"nobody says where it is: {plain(str(error))}"
        raise CheckupError(reason, isinstance(error, redis.AuthenticationError)) from None
    return Connection(options, PATIENCE_S), f"{where(options)}, database {options['db']}"


def examine(
    connection: Connection,
    needed: Sequence[Words],
    clock: Callable[[], float] = time.time,
    ticks: Callable[[], float] = time.perf_counter,
) -> Checkup:
    """Connect, ask, and close the connection. Raises CheckupError.

    `clock` tells the seconds since 1970, `ticks` seconds of which differences count.
    """
    try:
        connection.connect()
        return _Asked(connection).checkup(needed, clock, ticks)
    except redis.AuthenticationError as error:
        raise CheckupError(plain(str(error)), True) from None
    except redis.TimeoutError:
        raise CheckupError(f"no answer within {PATIENCE_S:g} s", False) from None
    except (redis.RedisError, OSError) as error:
        raise CheckupError(plain(str(error)), False) from None
    except (ValueError, LookupError):
        raise CheckupError("what answers there is no Redis that we know", False) from None
    finally:
        connection.close()


class _Asked:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def checkup(self, needed: Sequence[Words], clock: Callable[[], float], ticks: Callable[[], float]) -> Checkup:
        info, hello = self._info(), self._hello()
        words = ((key, value) for key in _SETTINGS for value in self._setting(key))
        return Checkup(
            name=_name(info, hello),
            version=_version(info.get("redis_version") or hello.get("version", "")),
            info={"cluster_enabled": str(int(hello.get("mode") == "cluster")), **info},
            settings=dict(words),
            waits_s=tuple(self._wait(ticks) for _ in range(PINGS)),
            ahead_s=self._ahead(clock),
            denied=self._denied(needed),  # the last: what was begun ends with the connection
        )

    def _ask(self, *words: str) -> Any:
        """None where the answer is an error: this user may not, or this Redis does not know."""
        answer = self._answer(*words)
        return None if isinstance(answer, Exception) else answer

    def _answer(self, *words: str) -> Any:
        try:
            return self._connection.ask(*words)
        except redis.AuthenticationError:
            raise
        except redis.ResponseError as error:
            return error

    def _info(self) -> dict[str, str]:
        lines = _text(self._ask("INFO") or b"").splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        state = _text(self._ask("CLUSTER", "INFO") or b"") if found.get("cluster_enabled") == "1" else ""
        return found | dict(line.split(":", 1) for line in state.splitlines() if ":" in line)

    def _hello(self) -> dict[str, str]:
        answer = self._ask("HELLO") or []
        return {_text(key): _text(value) for key, value in zip(answer[::2], answer[1::2], strict=True)}

    def _setting(self, name: str) -> list[str]:
        return [_text(value) for value in (self._ask("CONFIG", "GET", name) or [])[1:2]]

    def _wait(self, ticks: Callable[[], float]) -> float:
        began = ticks()
        self._ask("PING")
        return ticks() - began

    def _ahead(self, clock: Callable[[], float]) -> float | None:
        before = clock()
        answer = self._ask("TIME")
        ours = (before + clock()) / 2
        return None if answer is None else int(answer[0]) + int(answer[1]) / 1_000_000 - ours

    def _denied(self, needed: Sequence[Words]) -> dict[str, str]:
        """In a transaction that never comes to its end a command is checked, and not done."""
        begun = self._answer("MULTI")
        found: dict[str, str] = {}
        if isinstance(begun, Exception):
            found["MULTI"] = plain(str(begun))
            needed = [words for words in needed if words[0] in _HARMLESS]
        for words in needed:
            answer = self._answer(*words)
            if isinstance(answer, redis.exceptions.NoPermissionError) or "unknown command" in str(answer):
                found[" ".join(words[:2]) if words[0] in _CONTAINERS else words[0]] = plain(str(answer))
        return found


def _name(info: Mapping[str, str], hello: Mapping[str, str]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version') or hello.get('version', 'of an unknown version')}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
